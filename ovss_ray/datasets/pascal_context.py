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

SAN and CAT-Seg have the labels of the 59 from a JSON file (trainval_merged.json) instead; it is not read here. Paper:
Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in the Wild", CVPR 2014.
"""

from functools import partial
from typing import Any, Literal

import numpy as np

from ovss_ray import mat
from ovss_ray.archives import Archive
from ovss_ray.datasets.benchmark import (
    Benchmark,
    Item,
    below,
    class_list,
    look_up,
    split_folder,
    value_table,
    vocabulary,
)
from ovss_ray.datasets.voc import listed

CLASSES = class_list("pascal_context_459")
GET = (
    "Get it: ovss download pascal_context:59, or VOCtrainval_03-May-2010.tar of "
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2010; in its VOC2010, unpack "
    "https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz, and put there pascalcontext_val.txt of "
    "https://github.com/cvlab-kaist/CAT-Seg/tree/main/datasets"
)
FOLDER = "VOCdevkit/VOC2010"
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


def items(root: str, split: str) -> list[Item]:
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


_CARD: dict[str, Any] = {
    "domain": "scenes",
    "licence": "photographs: Flickr's terms of use; labels: none stated",
    "source": "https://www.cs.stanford.edu/~roozbeh/pascal-context",
    "counts": {"val": 5104},
    "items": items,
    "archives": ARCHIVES,
}
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
}
