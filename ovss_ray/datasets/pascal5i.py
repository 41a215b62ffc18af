"""PASCAL-5i: PASCAL VOC 2012 one class at a time, its 20 classes in four folds of five; pascal5i:0 to pascal5i:3.

Data: http://host.robots.ox.ac.uk/pascal/VOC/voc2012, and SegmentationClassAug, whose files have the classes' numbers, 1
to 20, 0 for all else, and 255 for outlines, which are not counted. SegmentationClass is read where that is all there
is: of VOC's own photographs it is said to hold the same (see voc.py). The folds are the lists
`splits/pascal/val/fold0.txt` to `fold3.txt` in the folder `data` of https://github.com/juhongm999/hsnet, which is put
into the data root; LSeg and Fusioner have the same. Fold f has the classes 5f + 1 to 5f + 5. Paper: Shaban et al.,
"One-Shot Learning for Semantic Segmentation", BMVC 2017.

An episode is a photograph and one class in it, `2007_000033__01`: 346, 451, 725, 346 of them in 345, 433, 587, 326
photographs. It is asked in words: "background", the class, and the 39 stuffs by which background goes in voc:21, all of
which count as background. So in label maps 1 is the class and 0 background, as few-shot methods write them: those of
others are called as the episode, and need no options of the stage `predictions`. The truth is that class against all
else, other things too. As in Fusioner, an episode whose truth has no pixel of its class is not counted.

What papers call mIoU is the mean IoU of the fold's classes, over all its episodes; here it is the group "foreground".
FB-IoU is the mean of the pooled IoU of all classes and of background's (metrics.confusion.Partial.pooled_iou). The
metric `miou` of our report has background as one label more, and is in no paper.

Every episode is scored once, at the size of its label file, and in whatever order: the numbers are sums. This is what
Fusioner does, if told to test at the original size (--test_with_org_resolution). HSNet and LSeg run 1000 episodes,
going through the list again from its start, so that some count once more often than others, and they resize photographs
and labels to a square of 400 or 480; HSNet is shown another photograph of the class, too. Their numbers can be held
against ours with that said. What a paper gives for the whole is the mean of its four folds.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ovss_ray import files, images
from ovss_ray.archives import Archive
from ovss_ray.columns import IGNORE
from ovss_ray.datasets import voc
from ovss_ray.datasets.benchmark import Benchmark, below, look_up, split_folder, value_table, vocabulary
from ovss_ray.errors import OvssError
from ovss_ray.listing import LABELS, Item, by_stem, inside
from ovss_ray.vocabulary import Vocabulary

FOLDS = range(4)
EPISODES = (346, 451, 725, 346)
NOT_COUNTED = 255
REPOSITORY = "https://github.com/juhongm999/hsnet"
GET = f"{voc.GET}; in its VOC2012, unpack SegmentationClassAug.zip (https://www.dropbox.com/s/oeu149j8qtbs1x0)"
GET_LISTS = f"Get it: copy the folder data/splits of {REPOSITORY} into the data root"
LISTS = Archive(
    f"{REPOSITORY}/archive/refs/heads/main.zip", to="hsnet/splits", inside="hsnet-main/data/splits", file="hsnet.zip"
)


def items(fold: int, root: str, split: str) -> list[Item]:
    """List the episodes of a fold. Raises OvssError if the data or the list are not there."""
    split_folder(split, {"val": "val"})
    folders = ("SegmentationClassAug", "SegmentationClass")
    layouts = [(f"{base}JPEGImages", f"{base}{labels}") for labels in folders for base in ("", "VOC2012/")]
    photographs, truths = below(root, "VOCdevkit/VOC2012", layouts, GET)
    uri = fold_list(root, f"pascal/val/fold{fold}.txt")
    pairs = _pairs(files.read(uri).decode("utf-8", "replace"), uri, numbers(fold))
    return episodes(pairs, BENCHMARKS[str(fold)].labels, numbers(fold), photographs, truths)


def numbers(fold: int) -> range:
    """The values in label files of a fold's classes."""
    return range(5 * fold + 1, 5 * fold + 6)


def fold_list(root: str, name: str) -> str:
    """The address of one of HSNet's lists. Raises OvssError if it is not there."""
    layouts = [(f"{base}splits/{name}",) for base in ("", "data/", "dataset/")]
    return below(root, "hsnet", layouts, GET_LISTS)[0]


def _pairs(text: str, uri: str, known: Sequence[int]) -> list[tuple[str, int]]:
    """Stem and class number of each line, such as 2007_000033__01. Raises OvssError for a line of another kind."""
    pairs = []
    for line in text.split():
        found = re.fullmatch(r"(.+)__(\d{1,2})", line)
        if not found or int(found[2]) not in known:
            raise OvssError(
                f"{uri}: {line!r} is no episode of this fold: a photograph, two underscores, and one of the classes "
                f"{known[0]} to {known[-1]}. Is it the list of another fold? {GET_LISTS}"
            )
        pairs.append((found[1], int(found[2])))
    return pairs


def episodes(
    pairs: Iterable[tuple[str, int]], labels: Sequence[str], numbers: Sequence[int], photographs: str, truths: str
) -> list[Item]:
    """Make an item of each pair of stem and class number whose files are in the two folders, sorted by its id.

    Each pair counts once, however often it is listed. Those without files are logged with their number.
    """
    images_of, truths_of = by_stem(inside(photographs)), by_stem(inside(truths), LABELS)
    whole = images_of.keys() & truths_of.keys()
    asked = set(pairs)
    made = [
        Item(f"{stem}__{number:02}", images_of[stem], truths_of[stem], labels[numbers.index(number)])
        for stem, number in asked
        if stem in whole
    ]
    if alone := sorted({stem for stem, _ in asked} - whole):
        text = "%d photographs of the fold lack their file in %s or %s, such as %s"
        logging.getLogger(__name__).warning(text, len(alone), photographs, truths, alone[0])
    return sorted(made, key=lambda item: item.image_id)


def benchmark_of(words: Vocabulary, numbers: Sequence[int], **card: Any) -> Benchmark:
    """Make the benchmark of a fold from the names of all label values, background being the first, and its own values.

    Its labels are the classes of the fold, and background.
    """
    classes, last = tuple(words.classes[number] for number in numbers), len(numbers)
    labels = tuple(names[0] for names in classes)
    stuffs = _stuffs(words, classes)
    return Benchmark(
        vocabulary=Vocabulary((*classes, *stuffs)),
        index=(*range(last), *[last] * len(stuffs)),
        labels=(*labels, "background"),
        asked={names[0]: _question(words, names, label, last) for label, names in enumerate(classes)},
        truth=partial(truth, dict(zip(labels, numbers, strict=True)), len(words) - 1),
        groups={"foreground": tuple(range(last)), "background": (last,)},
        **card,
    )


def _question(
    words: Vocabulary, names: tuple[str, ...], label: int, background: int
) -> tuple[Vocabulary, tuple[int, ...]]:
    """The vocabulary of an episode, whose class is its second, and the labels that its classes count as."""
    first, *others = _stuffs(words, [names])
    return Vocabulary((first, names, *others)), (background, label, *[background] * len(others))


def _stuffs(words: Vocabulary, classes: Sequence[tuple[str, ...]]) -> list[tuple[str]]:
    """The names of background that are no class's, each a class of its own ("bed" is a thing of COCO as well)."""
    taken = {name for names in classes for name in names}
    return [(name,) for name in words.classes[0] if name not in taken]


def truth(numbers: Mapping[str, int], highest: int, item: Item, data: bytes) -> np.ndarray:
    """Decode a label file to (H, W) uint16: the label of the class that `item.part` names, that of background, IGNORE.

    All is IGNORE if there is no pixel of the class. Label values go up to `highest`. Raises OvssError.
    """
    table = value_table(0, ignore=[NOT_COUNTED])
    table[: highest + 1] = len(numbers)
    label = list(numbers).index(item.part)
    table[numbers[item.part]] = label
    found = look_up(images.decode_labels(data, item.truth), table, item.truth)
    return found if (found == label).any() else np.full_like(found, IGNORE)


BENCHMARKS = {
    str(fold): benchmark_of(
        vocabulary("voc_21"),
        numbers(fold),
        title=f"PASCAL-5i, fold {fold}",
        domain="things, one at a time",
        licence="photographs: Flickr's terms of use; labels: none stated",
        source="http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
        counts={"val": EPISODES[fold]},
        items=partial(items, fold),
        archives=(voc.ARCHIVE, LISTS),
    )
    for fold in FOLDS
}
