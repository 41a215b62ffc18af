"""COCO: everyday scenes with 80 classes of things. The 5000 images of val2017 have three label maps and instance masks.

Data: http://images.cocodataset.org/zips/val2017.zip. All folders below are inside the folder `coco`.

coco:stuff      COCO-Stuff: 80 thing and 91 stuff classes. The label files are `stuffthingmaps/val2017/*.png` of
                stuffthingmaps_trainval2017.zip
                (http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset). They are 8-bit. A label value is
                a category id − 1; pixels of the value 255 are ignored. Caesar, Uijlings, Ferrari, CVPR 2018.
coco:object     COCO-Object: the first class is "background", the other 80 are things. The label files are those of
                coco:stuff, read as in GroupViT's convert_coco_object.py. All pixels outside things are background,
                including pixels of the value 255. In the vocabulary, "background" has 17 names of stuff, such as "sky".
coco:panoptic   the 133 classes of panoptic COCO, as a label map. `ovss prepare coco:panoptic` creates the label files
                `panoptic_semseg_val2017/*.png`, as in Mask2Former and FC-CLIP. The label files are 8-bit:
                0 to 132 = the classes, 255 = no segment (ignored). The sources are `panoptic_val2017/*.png` and
                `annotations/panoptic_val2017.json` of
                http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip.
                Kirillov et al., "Panoptic Segmentation", CVPR 2019.
coco:instances  a mask per thing, for methods that are prompted with a point or a box. The masks are read from the file
                `annotations/instances_val2017.json` of the archive
                http://images.cocodataset.org/annotations/annotations_trainval2017.zip. All 5000 images are evaluated.
                48 images show no thing. In these images, mask AP counts every detection as false.
coco:instances_48_17   the open-vocabulary split of OVR-CNN: 48 base and 17 novel classes. Things of the other 15
                classes are not counted, but the vocabulary has all 80 names. Only the 4836 images that show a thing of
                the 65 classes are evaluated. Zareian et al., CVPR 2021.

Groups of things (iscrowd) and invalid annotations are not counted as instances (see benchmarks/coco_json.py). In both
benchmarks of instances, the label of a pixel is the class of the smallest thing there. Pixels without a thing are
ignored.

Paper of the images: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ovss_ray.benchmarks import coco_json
from ovss_ray.benchmarks.class_lists import class_list, vocabulary
from ovss_ray.benchmarks.contract import Archive, Benchmark, Step
from ovss_ray.benchmarks.conversion import copy_image, encode
from ovss_ray.benchmarks.labels import indexed, value_table
from ovss_ray.benchmarks.layout import below, split_folder
from ovss_ray.benchmarks.listing import Item, Items, inside, logged, paired, stems
from ovss_ray.errors import OvssError
from ovss_ray.io import files, images
from ovss_ray.structures.vocabulary import Vocabulary

# Categories: street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush
DROPPED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Label values that never occur in stuffthingmaps, since COCO dropped their categories."""
STUFFTHINGS = [value for value in range(182) if value not in DROPPED]
"""Label values of the 171 classes of COCO-Stuff in stuffthingmaps, thing classes first."""
STUFFS = (
    *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151, 154),
    *(155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201)),
)
"""COCO category ids of the 53 stuff classes of panoptic COCO."""
PANOPTIC = (*(value + 1 for value in STUFFTHINGS[:80]), *STUFFS)
"""COCO category ids of the 133 classes of panoptic COCO: 80 things, then 53 stuff classes."""
THINGS = tuple(value + 1 for value in STUFFTHINGS[:80])
"""COCO category ids of the 80 things, in the order of their label indices."""
# Classes: airplane, bus, cat, dog, cow, elephant, umbrella, tie, snowboard, skateboard, cup, knife, cake, couch,
# keyboard, sink, scissors
NOVEL = (4, 5, 15, 16, 19, 20, 25, 27, 31, 36, 41, 43, 55, 57, 66, 71, 76)
"""Label indices of the 17 novel classes."""
NEITHER = (9, 10, 11, 12, 32, 34, 35, 38, 40, 52, 58, 60, 67, 77, 78)
"""Label indices of the 15 classes that are neither base nor novel."""
BASE = tuple(index for index in range(80) if index not in {*NOVEL, *NEITHER})
"""Label indices of the 48 base classes."""
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
    "panoptic_val2017.zip inside, whose folder goes next to the others; then type: ovss prepare coco:panoptic"
)
GET_INSTANCES = (
    "Get it: ovss download coco:instances, or http://images.cocodataset.org/zips/val2017.zip, and "
    "http://images.cocodataset.org/annotations/annotations_trainval2017.zip, unpacked next to it"
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
INSTANCES = Archive(
    "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
    to="coco/annotations/instances_val2017.json",
    inside="annotations/instances_val2017.json",
    digest="md5:f4bbac642086de4f52a3fdda2de5fa2c",  # MLCommons' loader
    size=252_907_541,
)


def items(root: str, split: str) -> Items:
    """List the images of a split with their label files in stuffthingmaps. Raises OvssError if the data are missing."""
    folder = split_folder(split, SPLITS)
    photographs, truths = below(root, "coco", [(folder, f"stuffthingmaps/{folder}")], GET)
    return paired(stems(inside(photographs)), stems(inside(truths)))


def items_panoptic(root: str, split: str) -> Items:
    """List the images of a split with their prepared label files. Raises OvssError if the data are missing."""
    folder = split_folder(split, SPLITS)
    photographs, truths = below(root, "coco", [(folder, f"panoptic_semseg_{folder}")], GET_PANOPTIC)
    return paired(stems(inside(photographs)), stems(inside(truths)))


def items_instances(labels: tuple[int, ...], empty: bool, root: str, split: str) -> Items:
    """List the images of a split that show a thing with one of `labels`. If `empty` is True, list all images.

    Raises OvssError if the data are missing.
    """
    folder = split_folder(split, SPLITS)
    photographs, annotations = below(root, "coco", [(folder, f"annotations/instances_{folder}.json")], GET_INSTANCES)
    categories = {THINGS[label] for label in labels}
    return coco_json.items(annotations, lambda image: files.join(photographs, image["file_name"]), categories, empty)


instances = partial(coco_json.decode, {category: label for label, category in enumerate(THINGS)})
"""Function that decodes the instances of an image. The arguments are an Item, and the bytes of the annotations."""


def truth_of_instances(item: Item, data: bytes) -> np.ndarray:
    """Return the label map of an image, (H, W) uint16. Raises OvssError for invalid annotations.

    A pixel gets the label of the smallest thing at this pixel. Pixels without a thing become IGNORE.
    """
    return instances(item, data).label_map()


def prepare_panoptic(root: str, split: str, out: str | None) -> list[Step]:
    """List the steps that convert panoptic PNGs to label files (see `contract.Plan`).

    If `out` is a path, further steps copy the photographs to `out`.
    """
    folder = split_folder(split, SPLITS)
    layout = (folder, f"panoptic_{folder}", f"annotations/panoptic_{folder}.json")
    photographs, segments, annotations = below(root, "coco", [layout], GET_PANOPTIC)
    base = files.join(out, "coco") if out else photographs.removesuffix(f"/{folder}")
    kinds = categories(annotations)
    labels = [
        Step(
            item.truth,
            files.join(base, f"panoptic_semseg_{folder}", f"{item.image_id}.png"),
            partial(convert_segments, kinds.get(item.image_id, {})),
        )
        for item in logged(paired(stems(inside(photographs)), stems(inside(segments))))
    ]
    copies = [
        Step(uri, files.join(base, folder, PurePosixPath(uri).name), copy_image) for uri in sorted(inside(photographs))
    ]
    return [step for step in (*copies, *labels) if step.source != step.target]


def categories(uri: str) -> dict[str, dict[int, int]]:
    """Read a panoptic JSON. Return a dict from image id to a dict from segment id to category id. Raises OvssError."""
    try:
        return {
            PurePosixPath(image["file_name"]).stem: {part["id"]: part["category_id"] for part in image["segments_info"]}
            for image in json.loads(files.read(uri))["annotations"]
        }
    except (ValueError, KeyError, TypeError) as failure:
        raise OvssError(f"{uri}: invalid panoptic annotations: {failure!r}. {GET_PANOPTIC}") from failure


def convert_segments(kinds: Mapping[int, int], data: bytes, name: str) -> bytes:
    """Convert a panoptic PNG to a label file, an 8-bit PNG. `kinds` maps segment id → category id.

    Raises OvssError for a segment without a known category.
    """
    # The segment id of a pixel is R + 256 · G + 65536 · B. The id 0 means no segment.
    colours = images.decode_colours(data, name).astype(np.int32)
    numbers, where = np.unique(colours @ np.array([1, 256, 65536], np.int32), return_inverse=True)
    categories_of = {number: kinds.get(number) for number in numbers.tolist() if number}
    if unknown := [number for number, kind in categories_of.items() if kind not in PANOPTIC]:
        raise OvssError(
            f"{name}: {len(unknown)} segments have none of COCO's 133 categories. The category of segment {unknown[0]} "
            f"is {categories_of[unknown[0]] or 'missing in the JSON file'}. Use PNG and JSON files of one split"
        )
    values = [VOID if number == 0 else PANOPTIC.index(kinds[number]) for number in numbers.tolist()]
    return encode(np.array(values, np.uint8)[where].reshape(colours.shape[:2]))


def _stuff() -> np.ndarray:
    table = value_table(0, ignore=[*DROPPED, VOID])
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
_INSTANCES: dict[str, Any] = {
    "vocabulary": Vocabulary(vocabulary("coco_object").classes[1:]),
    "truth": truth_of_instances,
    "instances": instances,
    "categories": THINGS,
    "archives": (PHOTOGRAPHS, INSTANCES),
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
    "instances": Benchmark(
        title="COCO, instances of 80 classes",
        items=partial(items_instances, tuple(range(80)), True),
        **{**_CARD, **_INSTANCES},
    ),
    "instances_48_17": Benchmark(
        title="COCO, instances of 48 base and 17 novel classes",
        items=partial(items_instances, (*BASE, *NOVEL), False),
        groups={"base": BASE, "novel": NOVEL},
        **{**_CARD, **_INSTANCES, "counts": {"val": 4836}},
    ),
}
