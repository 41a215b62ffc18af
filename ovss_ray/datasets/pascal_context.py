"""PASCAL-Context: labels of 459 classes, or of the 59 most frequent, for photographs of PASCAL VOC 2010.

Data: http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar for the photographs (md5
da459979d0c395079b5c75ee67908abb). Labels: https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz, unpacked
inside VOCdevkit/VOC2010. A label file is the array LabelMap of `trainval/*.mat`, 16-bit. The value 0 means not
labelled; the values 1 to 459 are the classes in the order of the authors' labels.txt.

The split val has the 5104 images that papers evaluate; VOC's own list has 5105. Copy CAT-Seg's list of these images,
`datasets/pascalcontext_val.txt`, to VOC2010. If CAT-Seg's list is missing, the list of mmsegmentation's converter is
read: `ImageSets/SegmentationContext/val.txt`.

pascal_context:459        all classes, including "unknown". Only 345 of them occur in val, so the mIoU depends on the
                          treatment of the 114 absent classes
pascal_context:59         only the 59 classes, sorted by name (SAN, CAT-Seg, FC-CLIP). All other pixels are
                          ignored
pascal_context:59@ovseg   the same 59 classes in another order, VOC's 20 classes first (OVSeg, SCAN). A label map that
                          was predicted in one order has wrong classes in the other order
pascal_context:60         "background" first, then the 59 classes (mmsegmentation). All other pixels are background
pascal_context:59-json    the classes of pascal_context:59, with labels from trainval_merged.json
pascal_context:60-json    the classes of pascal_context:60, with labels from trainval_merged.json

SAN, CAT-Seg, FC-CLIP and mmsegmentation read trainval_merged.json for 59 and 60 classes. Compare the published figures
of these methods with `59-json` or `60-json`. Some labels in trainval_merged.json differ from the .mat files
(https://github.com/open-mmlab/mmsegmentation/pull/474). The effect of this difference was not measured here.

To use trainval_merged.json, copy https://codalabuser.blob.core.windows.net/public/trainval_merged.json to VOC2010. Then
run `ovss prepare pascal_context:59-json`, which draws 8-bit label files `annotations_detectron2/pc59_val/*.png`. The
values 0 to 58 are the classes. The value 255 marks all other pixels. Where masks overlap, the last mask in the JSON
counts. The conversion follows CAT-Seg's script, but was not compared with label files of CAT-Seg's script.

Paper: Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in the Wild", CVPR 2014.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from ovss_ray.benchmarks.class_lists import class_list, vocabulary
from ovss_ray.benchmarks.contract import Archive, Benchmark, Step
from ovss_ray.benchmarks.conversion import copy_image, encode
from ovss_ray.benchmarks.labels import indexed, look_up, value_table
from ovss_ray.benchmarks.layout import below, split_folder
from ovss_ray.benchmarks.listing import LABELS, Item, Items, inside, paired, paired_by_list, stems
from ovss_ray.errors import OvssError
from ovss_ray.io import files, images
from ovss_ray.io.arrays import mat
from ovss_ray.structures.masks import rle

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
    """List the images of a split. Raises OvssError if the data are missing."""
    split = split_folder(split, {"train": "train", "val": "val"})
    lists = (f"pascalcontext_{split}.txt", f"ImageSets/SegmentationContext/{split}.txt")
    layouts = [("JPEGImages", "trainval", ids) for ids in lists]
    photographs, truths, ids = below(root, FOLDER, layouts, GET)
    return paired_by_list(photographs, truths, ids, (".mat",))


def numbers(names: tuple[str, ...]) -> np.ndarray:
    """Return the label value of each class in `names`, (K,) integers for K names. The .mat files use these values."""
    # The authors' labels.txt calls the class "diningtable" "table".
    return np.array([1 + CLASSES.index("table" if name == "diningtable" else name) for name in names])


def table_of(names: tuple[str, ...], others: Literal[0] | None = None) -> np.ndarray:
    """Return a table (65536,) uint16: label value in the .mat files → label index or IGNORE.

    If `others` is None, the label indices of `names` begin at 0, and all other classes become IGNORE. If `others` is
    0, the label indices of `names` begin at 1, and all other classes become 0.
    """
    table = value_table(0, ignore=range(len(CLASSES) + 1))
    if others is not None:
        table[: len(CLASSES) + 1] = others
    table[numbers(names)] = np.arange(len(names)) + (others is not None)
    return table


def truth(table: np.ndarray, item: Item, data: bytes) -> np.ndarray:
    """Decode a .mat file to labels (H, W) uint16 by a table (see `table_of`). Raises OvssError for an invalid file."""
    return look_up(mat.label_map(data, "LabelMap", item.truth), table, item.truth)


def items_json(root: str, split: str) -> Items:
    """List the photographs that have a prepared label file of the split.

    Photographs without such a label file are left out, since the folder also contains the photographs of other splits.
    Raises OvssError if the folder of photographs or the folder of label files is missing.
    """
    split = split_folder(split, {"train": "train", "val": "val"})
    photographs, truths = below(root, FOLDER, [("JPEGImages", f"{PREPARED}_{split}")], GET_JSON)
    labelled = dict(stems(inside(truths), LABELS))
    return paired(((stem, uri) for stem, uri in stems(inside(photographs)) if stem in labelled), labelled)


def prepare_json(root: str, split: str, out: str | None) -> list[Step]:
    """Return the steps that draw label files from the masks in the JSON file.

    If `out` is None, the steps write label files to the folder of the data set. Otherwise the steps write label files
    and photographs to `out`. Raises OvssError if the data are missing.
    """
    split = split_folder(split, {"train": "train", "val": "val"})
    photographs, annotations = below(root, FOLDER, [("JPEGImages", JSON)], GET_JSON)
    base = files.join(out, FOLDER) if out else photographs.removesuffix("/JPEGImages")
    steps = []
    for name, size, masks in annotated(annotations, split):
        photo, label = files.join(photographs, name), f"{PurePosixPath(name).stem}.png"
        steps.append(Step(photo, files.join(base, "JPEGImages", name), copy_image))
        steps.append(Step(photo, files.join(base, f"{PREPARED}_{split}", label), partial(convert_masks, size, masks)))
    return [step for step in steps if step.source != step.target]


Masks = Sequence[tuple[int, str]]
"""(category id, run-length encoding) of each mask of an image. Later masks are painted over earlier ones."""


def annotated(uri: str, split: str) -> list[tuple[str, tuple[int, int], Masks]]:
    """Return (file name, (H, W), masks) of each image of a split from the JSON file `uri`.

    Raises OvssError if the file is invalid.
    """
    try:
        content = json.loads(files.read(uri))
        photographs = [photo for photo in content["images"] if photo["phase"] == split]
        masks: dict[int, list[tuple[int, str]]] = {photo["image_id"]: [] for photo in photographs}
        for mask in content["annos_segmentation"]:
            if mask["image_id"] in masks:
                masks[mask["image_id"]].append((int(mask["category_id"]), mask["segmentation"]["counts"]))
        return [
            (photo["file_name"], (photo["height"], photo["width"]), masks[photo["image_id"]]) for photo in photographs
        ]
    except (ValueError, KeyError, TypeError) as failure:
        raise OvssError(f"{uri}: not in the format of {JSON}: {failure!r}. {GET_JSON}") from failure


def convert_masks(size: tuple[int, int], masks: Masks, data: bytes, name: str) -> bytes:
    """Return the label file of a photograph: an 8-bit PNG with 0 to 58 for the classes, and 255 elsewhere.

    `size`: (H, W) of the masks. `data`: the photograph's file. Raises OvssError if the photograph has another size, or
    if a mask is invalid.
    """
    if images.size_of(data, name) != size:
        raise OvssError(
            f"{name}: the size of the photograph is {images.size_of(data, name)} pixels (height, width), but the size "
            f"of the masks in {JSON} is {size}. Use photographs of VOC 2010"
        )
    values = dict(zip(numbers(class_list("pascal_context_59")).tolist(), range(59), strict=True)) | {0: NOT_COUNTED}
    painted = np.full(size, NOT_COUNTED, np.uint8)
    for category, counts in masks:
        if category not in values:
            raise OvssError(
                f"{name}: {JSON} has a mask of category {category}, which is not one of the 59 classes. {GET_JSON}"
            )
        painted[rle.decode(counts, size, name)] = values[category]
    return encode(painted)


def _sixty() -> np.ndarray:
    """Return a table (65536,) uint16: 255 → 0 (background), and each n from 0 to 58 → n + 1."""
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
