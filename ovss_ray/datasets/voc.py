"""PASCAL VOC 2012: photographs of 20 kinds of things, which an outline parts from what is behind them.

Data: http://host.robots.ox.ac.uk/pascal/VOC/voc2012, VOCtrainval_11-May-2012.tar, md5 6cd6e144f989b92b3379bac3b3de84fd.
Labels are palette PNGs whose indices count: 0 = background, 1 to 20, 255 = the outlines, which are not counted. The
images of a split are those that `ImageSets/Segmentation` lists.

Read is `SegmentationClass`, as FC-CLIP and ODISE do, and `SegmentationClassAug` only where there is no such folder. The
second is what SAN, OVSeg and CAT-Seg name: labels of 9118 photographs more, for training. Of VOC's own photographs,
which all of val are, it has VOC's labels without the palette, says who made it
(https://github.com/DrSleep/tensorflow-deeplab-resnet/issues/186). Where both folders lie there, `ovss check voc:20`
compares them, as far as it looks at files. Labels that were made of SBD's .mat files instead are others, without
outlines, and numbers of theirs are not comparable. Three ways of asking are in use:

voc:20     things alone: background is not counted (SAN, OVSeg, CAT-Seg, FC-CLIP: "PAS-20", "VOC-20")
voc:20b    background is the 21st label, and the 59 names of PASCAL-Context are asked for: whatever is called by one
           of the 39 that are no VOC thing counts as background (OVSeg, CAT-Seg: "PAS-20b")
voc:21     background is the first label, and asked for by the names of 39 stuffs (ODISE, FC-CLIP: "PAS-21")

Paper: Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 2015.
"""

from functools import partial
from typing import Any

from ovss_ray import files
from ovss_ray.archives import Archive
from ovss_ray.datasets.benchmark import Benchmark, below, class_list, split_folder, value_table, vocabulary
from ovss_ray.datasets.folder import indexed
from ovss_ray.listing import LABELS, Item, Items, inside, paired, stems

THINGS = class_list("voc_20@catseg")
"""The names that the data set's authors give"""
OUTLINE = 255
SPLITS = ("train", "val", "trainval")
GET = (
    "Get it: ovss download voc:20, or http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar, and "
    "unpack it there"
)
ARCHIVE = Archive(
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    to="VOCdevkit/VOC2012",
    inside="VOCdevkit/VOC2012",
    digest="md5:6cd6e144f989b92b3379bac3b3de84fd",  # torchvision
    size=1_999_639_040,
)


def items(root: str, split: str) -> Items:
    """List the images of a split. Raises OvssError if they are not there."""
    ids = f"ImageSets/Segmentation/{split_folder(split, {name: name for name in SPLITS})}.txt"
    layouts = [("JPEGImages", labels, ids) for labels in ("SegmentationClass", "SegmentationClassAug")]
    photographs, truths, ids = below(root, "VOCdevkit/VOC2012", layouts, GET)
    return listed(photographs, truths, ids)


def listed(photographs: str, truths: str, ids: str, endings: tuple[str, ...] = LABELS) -> Items:
    """Pair the files of two folders, those alone whose stems are in a text file. Raises OvssError."""
    wanted = set(files.read(ids).decode("utf-8", "replace").split())
    kinds = stems(inside(photographs)), stems(inside(truths), endings)
    return paired(*(((stem, uri) for stem, uri in kind if stem in wanted) for kind in kinds))


def augmented(item: Item) -> str:
    """Where the other label file of an image lies, if it is there at all."""
    return item.truth.replace("/SegmentationClass/", "/SegmentationClassAug/")


_BACKGROUND_LAST = value_table(20, offset=1, ignore=[OUTLINE])
_BACKGROUND_LAST[0] = len(THINGS)
_CARD: dict[str, Any] = {
    "domain": "things",
    "licence": "photographs: Flickr's terms of use; labels: none stated",
    "source": "http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
    "counts": {"train": 1464, "val": 1449, "trainval": 2913},
    "items": items,
    "twin": augmented,
    "archives": (ARCHIVE,),
}
BENCHMARKS = {
    "20": Benchmark(
        title="PASCAL VOC-20",
        vocabulary=vocabulary("voc_20"),
        truth=partial(indexed, value_table(20, offset=1, ignore=[0, OUTLINE])),
        unlabelled=True,
        **_CARD,
    ),
    "20b": Benchmark(
        title="PASCAL VOC-20b",
        vocabulary=vocabulary("voc_20b"),
        labels=(*THINGS, "background"),
        index=(*range(20), *[20] * 39),
        truth=partial(indexed, _BACKGROUND_LAST),
        unlabelled=True,
        **_CARD,
    ),
    "21": Benchmark(
        title="PASCAL VOC-21",
        vocabulary=vocabulary("voc_21"),
        truth=partial(indexed, value_table(21, ignore=[OUTLINE])),
        unlabelled=True,
        **_CARD,
    ),
}
