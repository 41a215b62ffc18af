"""PASCAL-Context: every pixel of the photographs of PASCAL VOC 2010, in 459 classes, or in the 59 most frequent.

Data: http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar (md5 da459979d0c395079b5c75ee67908abb);
https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz, unpacked inside VOCdevkit/VOC2010, which gives
`trainval/*.mat`: LabelMap, 16 bit, 1 to 459 in the order of their labels.txt, 0 = not labelled. They are read as they
are. The 5104 images of val are those that the field scores, which are not the 5105 of VOC's own lists: put CAT-Seg's
`pascalcontext_val.txt` (in its folder `datasets`) into VOC2010, or have mmsegmentation's converter write
`ImageSets/SegmentationContext/val.txt`.

pascal_context:459        all classes, "unknown" among them; 345 occur in val, so the two conventions of mIoU differ
pascal_context:59         the 59 alone, sorted by name (SAN, CAT-Seg, FC-CLIP); others are not counted
pascal_context:59@ovseg   the same in another order, the 20 classes of VOC first (OVSeg, SCAN): label files and
                          predictions of one are nonsense in the other
pascal_context:60         all else is one class more, "background", which comes first (mmsegmentation)
pascal_context:59-json, pascal_context:60-json   the same of another source, see below

SAN, CAT-Seg, FC-CLIP and mmsegmentation have the labels of the 59 and 60 from a JSON file instead, trainval_merged.json
of https://codalabuser.blob.core.windows.net/public, which is put into VOC2010. Its masks are painted one over the other
in the order of the file, and categories are the numbers of labels.txt. They are not the same labels: mmsegmentation's
authors (https://github.com/open-mmlab/mmsegmentation/pull/474) made them both ways and found them to differ; by how
much was not measured here, for want of the file. So what is to stand beside the numbers of those papers is `59-json`.
`ovss prepare pascal_context:59-json` makes `annotations_detectron2/pc59_val/*.png`, as CAT-Seg's script does: 8 bit, 0
to 58, 255 = not counted, or background in `60-json`. The rule is that of these scripts; no file that they made was here
to compare with.

Paper: Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in the Wild", CVPR 2014.
"""

import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from ovss_ray import files, images, mat
from ovss_ray.archives import Archive
from ovss_ray.datasets.ade20k import copy_image
from ovss_ray.datasets.benchmark import (
    Benchmark,
    Step,
    below,
    class_list,
    look_up,
    split_folder,
    value_table,
    vocabulary,
)
from ovss_ray.datasets.folder import indexed
from ovss_ray.datasets.voc import listed
from ovss_ray.errors import OvssError
from ovss_ray.listing import LABELS, Item, Items, inside, paired, stems
from ovss_ray.run_lengths import decode_runs

CLASSES = class_list("pascal_context_459")
GET = (
    "Get it: ovss download pascal_context:59, or VOCtrainval_03-May-2010.tar of "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2010; in its VOC2010, unpack "
    "https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz, and put there pascalcontext_val.txt of "
    "https://github.com/cvlab-kaist/CAT-Seg/tree/main/datasets"
)
FOLDER = "VOCdevkit/VOC2010"
JSON, PREPARED = "trainval_merged.json", "annotations_detectron2/pc59"
NOT_COUNTED = 255
GET_JSON = (
    "Get it: ovss download pascal_context:59-json, or VOCtrainval_03-May-2010.tar of "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2010, and in its VOC2010 "
    f"https://codalabuser.blob.core.windows.net/public/{JSON}; then type: ovss prepare pascal_context:59-json"
)
ARCHIVE_JSON = Archive(f"https://codalabuser.blob.core.windows.net/public/{JSON}", to=f"{FOLDER}/{JSON}", inside=JSON)
ARCHIVES = (
    Archive(
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
        to=FOLDER,
        inside=FOLDER,
        digest="md5:da459979d0c395079b5c75ee67908abb",  # torchvision
        size=1_300_000_000,
    ),
    Archive(
        "https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz",
        to=f"{FOLDER}/trainval",
        inside="trainval",
        file="pascal_context_trainval.tar.gz",
        size=31_000_000,
    ),
    Archive(
        "https://raw.githubusercontent.com/cvlab-kaist/CAT-Seg/dc295eeb751821dfdbe49fc19285d588c8a5b71f/datasets/"
        "pascalcontext_val.txt",
        to=f"{FOLDER}/pascalcontext_val.txt",
        inside="pascalcontext_val.txt",
    ),
)


def items(root: str, split: str) -> Items:
    """List the images of a split. Raises OvssError if they are not there."""
    split = split_folder(split, {"train": "train", "val": "val"})
    lists = (f"pascalcontext_{split}.txt", f"ImageSets/SegmentationContext/{split}.txt")
    layouts = [("JPEGImages", "trainval", ids) for ids in lists]
    photographs, truths, ids = below(root, FOLDER, layouts, GET)
    return listed(photographs, truths, ids, (".mat",))


def numbers(names: tuple[str, ...]) -> np.ndarray:
    """The numbers in the .mat files, (K,), of classes; "diningtable" is what the authors' labels.txt calls table."""
    return np.array([1 + CLASSES.index("table" if name == "diningtable" else name) for name in names])


def table_of(names: tuple[str, ...], others: Literal[0] | None = None) -> np.ndarray:
    """Say what the numbers in the .mat files mean (see value_table), of the classes named, in their order.

    Pixels of the others are the label `others`, which has to be 0, before those named, or if None are not counted.
    """
    made = value_table(0, ignore=range(len(CLASSES) + 1))
    if others is not None:
        made[: len(CLASSES) + 1] = others
    made[numbers(names)] = np.arange(len(names)) + (others is not None)
    return made


def truth(table: np.ndarray, item: Item, data: bytes) -> np.ndarray:
    """Decode a .mat file to (H, W) uint16 by a table. Raises OvssError."""
    return look_up(mat.label_map(data, "LabelMap", item.truth), table, item.truth)


def items_json(root: str, split: str) -> Items:
    """List the images of a split that have a prepared label file. Raises OvssError if there are none."""
    split = split_folder(split, {"train": "train", "val": "val"})
    photographs, truths = below(root, FOLDER, [("JPEGImages", f"{PREPARED}_{split}")], GET_JSON)
    labelled = dict(stems(inside(truths), LABELS))
    return paired((one for one in stems(inside(photographs)) if one[0] in labelled), labelled)


def prepare_json(root: str, split: str, out: str | None) -> list[Step]:
    """Make a label map of the masks of each image of the JSON; photographs are copied if they are wanted elsewhere."""
    split = split_folder(split, {"train": "train", "val": "val"})
    photographs, told = below(root, FOLDER, [("JPEGImages", JSON)], GET_JSON)
    base = files.join(out, FOLDER) if out else photographs.removesuffix("/JPEGImages")
    steps = []
    for name, size, masks in annotated(told, split):
        photo, label = files.join(photographs, name), f"{PurePosixPath(name).stem}.png"
        steps.append(Step(photo, files.join(base, "JPEGImages", name), copy_image))
        steps.append(Step(photo, files.join(base, f"{PREPARED}_{split}", label), partial(convert_masks, size, masks)))
    return [step for step in steps if step.source != step.target]


Masks = Sequence[tuple[int, str]]
"""Category and run lengths of each mask, in the order of painting."""


def annotated(uri: str, split: str) -> list[tuple[str, tuple[int, int], Masks]]:
    """File name, H and W, and masks of each image of a split. Raises OvssError if it is no such JSON file."""
    try:
        told = json.loads(files.read(uri))
        masks: dict[int, list[tuple[int, str]]] = {
            one["image_id"]: [] for one in told["images"] if one["phase"] == split
        }
        for one in told["annos_segmentation"]:
            if one["image_id"] in masks:
                masks[one["image_id"]].append((int(one["category_id"]), one["segmentation"]["counts"]))
        chosen = (one for one in told["images"] if one["phase"] == split)
        return [(one["file_name"], (one["height"], one["width"]), masks[one["image_id"]]) for one in chosen]
    except (ValueError, KeyError, TypeError) as failure:
        raise OvssError(f"{uri}: not what {JSON} has: {failure!r}. {GET_JSON}") from failure


def convert_masks(size: tuple[int, int], masks: Masks, data: bytes, name: str) -> bytes:
    """Make the label file of an image, 0 to 58 and 255, of its masks. Raises OvssError."""
    if images.size_of(data, name) != size:
        raise OvssError(f"{name}: {images.size_of(data, name)} pixels, and {JSON} has masks of {size}")
    values = dict(zip(numbers(class_list("pascal_context_59")).tolist(), range(59), strict=True)) | {0: NOT_COUNTED}
    painted = np.full(size, NOT_COUNTED, np.uint8)
    for category, counts in masks:
        if category not in values:
            raise OvssError(f"{name}: {JSON} has a mask of category {category}, which is none of the 59")
        painted[decode_runs(counts, *size, name)] = values[category]
    sink = io.BytesIO()
    Image.fromarray(painted).save(sink, "PNG")
    return sink.getvalue()


def _sixty() -> np.ndarray:
    """What the values of the prepared label files mean where background is a class, the first."""
    table = value_table(60, offset=-1)
    table[NOT_COUNTED] = 0
    return table


_CARD: dict[str, Any] = {
    "domain": "scenes",
    "licence": "photographs: Flickr's terms of use; labels: none stated",
    "source": "https://www.cs.stanford.edu/~roozbeh/pascal-context",
    "counts": {"val": 5104},
    "items": items,
    "archives": ARCHIVES,
}
_CARD_JSON = _CARD | {"items": items_json, "prepare": prepare_json, "archives": (ARCHIVES[0], ARCHIVE_JSON)}
BENCHMARKS = {
    "59": Benchmark(
        title="PASCAL-Context-59",
        vocabulary=vocabulary("pascal_context_59"),
        truth=partial(truth, table_of(class_list("pascal_context_59"))),
        **_CARD,
    ),
    "59@ovseg": Benchmark(
        title="PASCAL-Context-59, VOC's classes first",
        vocabulary=vocabulary("pascal_context_59@ovseg"),
        truth=partial(truth, table_of(class_list("pascal_context_59@ovseg"))),
        **_CARD,
    ),
    "60": Benchmark(
        title="PASCAL-Context-60",
        vocabulary=vocabulary("pascal_context_60"),
        truth=partial(truth, table_of(class_list("pascal_context_60")[1:], others=0)),
        **_CARD,
    ),
    "459": Benchmark(
        title="PASCAL-Context-459",
        vocabulary=vocabulary("pascal_context_459"),
        truth=partial(truth, value_table(len(CLASSES), offset=1, ignore=[0])),
        **_CARD,
    ),
    "59-json": Benchmark(
        title="PASCAL-Context-59, labels of trainval_merged.json",
        vocabulary=vocabulary("pascal_context_59"),
        truth=partial(indexed, value_table(59, ignore=[NOT_COUNTED])),
        **_CARD_JSON,
    ),
    "60-json": Benchmark(
        title="PASCAL-Context-60, labels of trainval_merged.json",
        vocabulary=vocabulary("pascal_context_60"),
        truth=partial(indexed, _sixty()),
        **_CARD_JSON,
    ),
}
