"""LVIS v1: masks of things in COCO's photographs, in 1203 classes, many of them rare.

The benchmark is for methods that are prompted. Data: https://www.lvisdataset.org/dataset, and COCO's photographs. The
annotations are the unchanged file `lvis/annotations/lvis_v1_val.json` or `lvis/lvis_v1_val.json`. The photographs of
val are in `lvis/val2017` and `lvis/train2017`. If one of these folders is missing, the folder of the
same name in `coco` is read.

All 19809 images of val are evaluated, also the images without an annotation. Class names are LVIS's, with spaces for
underscores. The groups of classes are:

- "rare": 337 classes with 1 to 10 training images
- "common": 461 classes with 11 to 100 training images
- "frequent": 405 classes with more than 100 training images
- "base": the common and frequent classes, as in ViLD and OVSAM
- "novel": the rare classes

The label map has the class of the smallest thing at each pixel; other pixels are ignored. LVIS annotates each class in
some images only. Only LVIS's own AP (see metrics/instance_ap_lvis.py) takes this into account.

Paper: Gupta, Dollár, Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ovss_ray.benchmarks import coco_json
from ovss_ray.benchmarks.class_lists import class_list, vocabulary
from ovss_ray.benchmarks.contract import Archive, Benchmark
from ovss_ray.benchmarks.layout import below, split_folder
from ovss_ray.benchmarks.listing import Item, Items
from ovss_ray.io import files

CLASSES = 1203
SPLITS = {"val": "lvis_v1_val.json", "train": "lvis_v1_train.json"}
FOLDERS = {"val": ("val2017", "train2017"), "train": ("train2017",)}
"""Folders of the photographs of each split."""
GET = (
    "Get it: ovss download lvis, or lvis_v1_val.json and COCO's photographs from https://www.lvisdataset.org/dataset, "
    "unpacked into lvis/annotations, lvis/val2017 and lvis/train2017"
)
ARCHIVES = (
    Archive(
        "https://dl.fbaipublicfiles.com/LVIS/lvis_v1_val.json.zip",
        to="lvis/annotations/lvis_v1_val.json",
        inside="lvis_v1_val.json",
        size=200_000_000,
    ),
    *(
        Archive(f"http://images.cocodataset.org/zips/{folder}.zip", to=f"lvis/{folder}", inside=folder, size=size)
        for folder, size in (("val2017", 815_585_330), ("train2017", 19_336_861_798))
    ),
)


def items(root: str, split: str) -> Items:
    """List the images of a split. Raises OvssError if the data are missing."""
    file = split_folder(split, SPLITS)
    (annotations,) = below(root, "lvis", [(f"annotations/{file}",), (file,)], GET)
    base = annotations.rpartition("/")[0].removesuffix("/annotations")
    folders = {name: _folder(root, base, name) for name in FOLDERS[split]}
    photograph, categories = partial(_photograph, folders), range(1, CLASSES + 1)
    return coco_json.items(annotations, photograph, categories, empty=True, kept=coco_json.SEARCHED)


def _folder(root: str, base: str, name: str) -> str:
    """Return the address of the folder `name`, from `base` if `base` contains the folder, else from the data set COCO.

    Raises OvssError if COCO does not contain the folder either.
    """
    if files.is_folder(files.join(base, name)):
        return files.join(base, name)
    (address,) = below(root, "coco", [(name,)], GET)
    return address


def _photograph(folders: Mapping[str, str], image: Mapping[str, Any]) -> str:
    """Return the address of a photograph.

    `image`: the photograph's entry in the annotations. `image["coco_url"]` ends in a folder and a file name, such as
    "val2017/000000397133.jpg". `folders`: name of a folder, such as "val2017" → address of the folder.
    """
    folder, name = image["coco_url"].split("/")[-2:]
    return files.join(folders[folder], name)


instances = partial(coco_json.decode, {number: number - 1 for number in range(1, CLASSES + 1)})
"""Function that decodes the instances of an image. The arguments are an Item, and the bytes of the annotations."""


def truth(item: Item, data: bytes) -> np.ndarray:
    """Return the label map of an image, (H, W) uint16. Raises OvssError for invalid annotations.

    A pixel gets the label of the smallest thing at this pixel. Pixels without a thing become IGNORE.
    """
    return instances(item, data).label_map()


def _groups() -> dict[str, tuple[int, ...]]:
    rare, common = (set(class_list(f"lvis_{name}")) for name in ("rare", "common"))
    names = dict(enumerate(class_list("lvis")))
    groups = {
        "base": set(names.values()) - rare,
        "novel": rare,
        "rare": rare,
        "common": common,
        "frequent": set(names.values()) - rare - common,
    }
    return {group: tuple(index for index, name in names.items() if name in of) for group, of in groups.items()}


BENCHMARKS = {
    "": Benchmark(
        title="LVIS v1, instances of 1203 classes",
        domain="everyday scenes",
        licence="photographs: Flickr's terms of use; annotations: CC BY 4.0",
        source="https://www.lvisdataset.org",
        counts={"val": 19809},
        vocabulary=vocabulary("lvis"),
        items=items,
        truth=truth,
        instances=instances,
        groups=_groups(),
        federated=True,
        archives=ARCHIVES,
    )
}
