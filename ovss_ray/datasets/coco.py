"""COCO: everyday scenes around 80 kinds of things. Three vocabularies of the same 5000 images of val2017.

Data: http://images.cocodataset.org/zips/val2017.zip; below are the folders inside `coco`.

coco:stuff      COCO-Stuff: 80 things and 91 stuffs. `stuffthingmaps/val2017/*.png` of stuffthingmaps_trainval2017.zip
                (http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset): 8 bit, COCO's number − 1; 255 and
                the 11 numbers that COCO gave up are not counted. Caesar, Uijlings, Ferrari, CVPR 2018.
coco:object     COCO-Object: the same files, read as GroupViT's convert_coco_object.py does: 80 things, and all that is
                none, 255 too, is "background", the first class, asked for by names of stuffs. Every pixel is counted.
coco:panoptic   the 133 classes of panoptic COCO, as a label map. `panoptic_val2017/*.png` says which pixels are one
                segment, and `annotations/panoptic_val2017.json` what it is; both are in
                http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip. `ovss prepare
                coco:panoptic` makes of them `panoptic_semseg_val2017/*.png`, as Mask2Former and FC-CLIP do: 8 bit, 0 to
                132, 255 = no segment, which is not counted. Kirillov et al., "Panoptic Segmentation", CVPR 2019.

Paper of the images: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
"""

import io
import json
from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ovss_ray import files, images
from ovss_ray.archives import Archive
from ovss_ray.datasets.ade20k import copy_image
from ovss_ray.datasets.benchmark import Benchmark, Step, below, class_list, split_folder, value_table, vocabulary
from ovss_ray.datasets.folder import indexed
from ovss_ray.errors import OvssError
from ovss_ray.listing import Items, inside, paired, stems

GIVEN_UP = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Values that never occur in stuffthingmaps: street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door,
blender, hair brush"""
STUFFTHINGS = [value for value in range(182) if value not in GIVEN_UP]
"""Values of the 171 classes of COCO-Stuff, the first 80 being things"""
STUFFS = (
    *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151, 154),
    *(155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201)),
)
PANOPTIC = (*(value + 1 for value in STUFFTHINGS[:80]), *STUFFS)
"""Category ids of the 133 classes: 80 things, 53 stuffs"""
VOID = 255
SPLITS = {"val": "val2017", "train": "train2017"}
GET = (
    "Get it: ovss download coco:stuff, or http://images.cocodataset.org/zips/val2017.zip, and "
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip, "
    "unpacked into a folder stuffthingmaps"
)
GET_PANOPTIC = (
    "Get it: ovss download coco:panoptic, or http://images.cocodataset.org/zips/val2017.zip, and "
    "http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip with "
    "panoptic_val2017.zip inside, whose folder is put beside; then type: ovss prepare coco:panoptic"
)
PHOTOGRAPHS = Archive(
    "http://images.cocodataset.org/zips/val2017.zip",
    to="coco/val2017",
    inside="val2017",
    digest="sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",  # tensorflow_datasets
    size=815_585_330,
)
STUFFTHINGMAPS = Archive(
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
    to="coco/stuffthingmaps/val2017",
    inside="val2017",
    size=659_000_000,
)
PANOPTICS = (
    *(
        Archive(
            "http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip",
            to=f"coco/annotations/{file}",
            inside=f"annotations/{file}",
            digest="sha256:c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",  # tensorflow_datasets
            size=860_725_834,
        )
        for file in ("panoptic_val2017.json", "panoptic_val2017.zip")
    ),
    Archive("coco/annotations/panoptic_val2017.zip", to="coco/panoptic_val2017", inside="panoptic_val2017"),
)


def items(root: str, split: str) -> Items:
    """List the images of a split with their stuffthingmaps. Raises OvssError if they are not there."""
    folder = split_folder(split, SPLITS)
    photographs, truths = below(root, "coco", [(folder, f"stuffthingmaps/{folder}")], GET)
    return paired(stems(inside(photographs)), stems(inside(truths)))


def items_panoptic(root: str, split: str) -> Items:
    """List the images of a split with their prepared labels. Raises OvssError if they are not there."""
    folder = split_folder(split, SPLITS)
    photographs, truths = below(root, "coco", [(folder, f"panoptic_semseg_{folder}")], GET_PANOPTIC)
    return paired(stems(inside(photographs)), stems(inside(truths)))


def prepare_panoptic(root: str, split: str, out: str | None) -> list[Step]:
    """Make a label map of the segments of each image; photographs are copied if they are wanted elsewhere."""
    folder = split_folder(split, SPLITS)
    layout = (folder, f"panoptic_{folder}", f"annotations/panoptic_{folder}.json")
    photographs, segments, told = below(root, "coco", [layout], GET_PANOPTIC)
    base = files.join(out, "coco") if out else photographs.removesuffix(f"/{folder}")
    kinds = categories(told)
    labels = [
        Step(
            item.truth,
            files.join(base, f"panoptic_semseg_{folder}", f"{item.image_id}.png"),
            partial(convert_segments, kinds.get(item.image_id, {})),
        )
        for item in paired(stems(inside(photographs)), stems(inside(segments)))
    ]
    copies = [
        Step(uri, files.join(base, folder, PurePosixPath(uri).name), copy_image) for uri in sorted(inside(photographs))
    ]
    return [step for step in (*copies, *labels) if step.source != step.target]


def categories(uri: str) -> dict[str, dict[int, int]]:
    """Image id → segment → its category, from a panoptic JSON. Raises OvssError if it is damaged."""
    try:
        return {
            PurePosixPath(image["file_name"]).stem: {one["id"]: one["category_id"] for one in image["segments_info"]}
            for image in json.loads(files.read(uri))["annotations"]
        }
    except (ValueError, KeyError, TypeError) as failure:
        raise OvssError(f"{uri}: no panoptic annotations of COCO's form: {failure!r}. {GET_PANOPTIC}") from failure


def convert_segments(kinds: Mapping[int, int], data: bytes, name: str) -> bytes:
    """Make the label file of a file of segments, R + 256 · G + 65536 · B, 0 = none: 8-bit PNG. Raises OvssError."""
    colours = images.decode_colours(data, name).astype(np.int32)
    numbers, where = np.unique(colours @ np.array([1, 256, 65536], np.int32), return_inverse=True)
    found = {number: kinds.get(number) for number in numbers.tolist() if number}
    if unknown := [number for number, kind in found.items() if kind not in PANOPTIC]:
        raise OvssError(
            f"{name}: {len(unknown)} segments, such as {unknown[0]}, are not in the JSON file, or have a category that "
            f"is none of COCO's 133: {found[unknown[0]]}. Do file and JSON belong to one split?"
        )
    values = [VOID if number == 0 else PANOPTIC.index(kinds[number]) for number in numbers.tolist()]
    sink = io.BytesIO()
    Image.fromarray(np.array(values, np.uint8)[where].reshape(colours.shape[:2])).save(sink, "PNG")
    return sink.getvalue()


def _stuff() -> np.ndarray:
    table = value_table(0, ignore=[*GIVEN_UP, VOID])
    table[STUFFTHINGS] = np.arange(171)
    return table


def _object() -> np.ndarray:
    table = value_table(0)
    table[[*STUFFTHINGS[80:], VOID]] = 0
    table[STUFFTHINGS[:80]] = np.arange(1, 81)
    return table


_CARD: dict[str, Any] = {
    "domain": "everyday scenes",
    "licence": "photographs: Flickr's terms of use; labels: CC BY 4.0",
    "source": "https://cocodataset.org",
    "counts": {"val": 5000},
}
BENCHMARKS = {
    "stuff": Benchmark(
        title="COCO-Stuff-171",
        vocabulary=vocabulary("coco_stuff"),
        items=items,
        truth=partial(indexed, _stuff()),
        groups={"things": tuple(range(80)), "stuff": tuple(range(80, 171))},
        archives=(PHOTOGRAPHS, STUFFTHINGMAPS),
        **_CARD,
    ),
    "object": Benchmark(
        title="COCO-Object",
        vocabulary=vocabulary("coco_object"),
        labels=("background", *class_list("coco_object")[1:]),
        items=items,
        truth=partial(indexed, _object()),
        archives=(PHOTOGRAPHS, STUFFTHINGMAPS),
        **_CARD,
    ),
    "panoptic": Benchmark(
        title="COCO panoptic's 133 classes",
        vocabulary=vocabulary("coco_panoptic"),
        items=items_panoptic,
        truth=partial(indexed, value_table(133, ignore=[VOID])),
        prepare=prepare_panoptic,
        groups={"things": tuple(range(80)), "stuff": tuple(range(80, 133))},
        archives=(PHOTOGRAPHS, *PANOPTICS),
        **_CARD,
    ),
}
