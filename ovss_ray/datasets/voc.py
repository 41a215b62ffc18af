"""PASCAL VOC 2012: labels of 20 classes of things in photographs, with an outline around each thing.

Data: http://host.robots.ox.ac.uk/pascal/VOC/voc2012, VOCtrainval_11-May-2012.tar, md5 6cd6e144f989b92b3379bac3b3de84fd.
Label files are palette PNGs. The palette index of a pixel is the label value: 0 = background, 1 to 20 = the classes,
255 = outlines, which are ignored. `ImageSets/Segmentation` lists the images of each split.

Labels are read from `SegmentationClass`, as in FC-CLIP and ODISE. If `SegmentationClass` is missing, labels are read
from `SegmentationClassAug`, as in SAN, OVSeg and CAT-Seg. The author of `SegmentationClassAug` states that both folders
have the same labels (https://github.com/DrSleep/tensorflow-deeplab-resnet/issues/186). If both folders exist,
`ovss check voc:20` compares the labels of both folders. The .mat files of SBD (Semantic Boundaries Dataset) have other
labels of VOC's photographs, without outlines. Results with SBD's labels are not comparable. Three vocabularies are
common:

voc:20     things only: background pixels are ignored (SAN, OVSeg, CAT-Seg, FC-CLIP: "PAS-20", "VOC-20")
voc:20b    background is the 21st label, and the vocabulary is the 59 names of PASCAL-Context. The 39 names that are not
           VOC classes count as background (OVSeg, CAT-Seg: "PAS-20b")
voc:21     background is the first label. The synonyms of background are the same 39 names as in voc:20b (ODISE,
           FC-CLIP: "PAS-21")

Paper: Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 2015.
"""

from functools import partial
from typing import Any

from ovss_ray.benchmarks.class_lists import class_list, vocabulary
from ovss_ray.benchmarks.contract import Archive, Benchmark
from ovss_ray.benchmarks.labels import indexed, value_table
from ovss_ray.benchmarks.layout import below, split_folder
from ovss_ray.benchmarks.listing import Item, Items, paired_by_list

THINGS = class_list("voc_20@catseg")
"""Names of the 20 classes as the data set's authors spell them."""
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
    """List the images of a split. Raises OvssError if the data are missing."""
    ids = f"ImageSets/Segmentation/{split_folder(split, {name: name for name in SPLITS})}.txt"
    layouts = [("JPEGImages", labels, ids) for labels in ("SegmentationClass", "SegmentationClassAug")]
    photographs, truths, ids = below(root, "VOCdevkit/VOC2012", layouts, GET)
    return paired_by_list(photographs, truths, ids)


def augmented(item: Item) -> str:
    """Return the address of an image's label file in `SegmentationClassAug`. This file may not exist."""
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
