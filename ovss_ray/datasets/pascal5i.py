"""PASCAL-5i: PASCAL VOC 2012, one class at a time. The 20 classes form four folds of five, pascal5i:0 to pascal5i:3.

An episode is a photograph and one class to segment in it. `2007_000033__01` is class 1 in photograph 2007_000033.

Data: http://host.robots.ox.ac.uk/pascal/VOC/voc2012, and the label files SegmentationClassAug. If SegmentationClassAug
is missing, SegmentationClass is read. For the photographs of the episodes, both folders have the same labels (see
voc.py). Label values are 1 to 20 for the classes, 0 for everything else, and 255 for outlines. Outlines are not
counted. Fold f has the classes 5f + 1 to 5f + 5. The episodes are listed in `data/splits/pascal/val/fold0.txt` to
`fold3.txt` of https://github.com/juhongm999/hsnet. Copy the folder `data/splits` to the data root. LSeg and Fusioner
use the same lists. Paper: Shaban et al., "One-Shot Learning for Semantic Segmentation", BMVC 2017.

The folds have 346, 451, 725 and 346 episodes, in 345, 433, 587 and 326 photographs. In the truth, everything but the
class is background, including objects of other classes. If no pixel of the truth has the class, all pixels of the
episode are ignored, as in Fusioner.

The vocabulary of an episode is "background", the class, and 39 names of stuff, such as "sky". A pixel that is
predicted as stuff counts as background. A method that segments one class at a time gets only "background" and the
class. The stage `predictions` reads label maps that are named like the episodes: 1 is the class, 0 is background.

The mIoU in papers is the mean IoU of the fold's classes over all episodes. metrics/episodes.py computes this mIoU and
FB-IoU. The metric `miou` of our report also averages over background; papers do not report this figure.

Every episode is evaluated once, at the size of its label file, as in Fusioner with the option
--test_with_org_resolution. A paper's figure for the whole data set is the mean of its four folds. Figures of HSNet and
LSeg can be compared with ours, although their evaluations differ in these points:

- HSNet and LSeg evaluate 1000 episodes per fold. A fold has fewer, so some episodes are evaluated more often.
- HSNet and LSeg resize photographs and labels to a square of 400 or 480 pixels.
- For each episode, HSNet also receives another photograph that shows the class.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from ovss_ray.benchmarks.class_lists import vocabulary
from ovss_ray.benchmarks.episodes import (
    FOLDS,
    LISTS,
    benchmark_of,
    episodes,
    fold_list,
    fusioner_list,
    pairs_of,
    training_pairs,
)
from ovss_ray.benchmarks.layout import below, split_folder
from ovss_ray.benchmarks.listing import Paired
from ovss_ray.datasets import voc
from ovss_ray.io import files

WORDS = vocabulary("voc_21")
"""Class names. The index of a class is its label value, 0 (background) to 20"""
AUGMENTED = "SegmentationClassAug"
"""Folder of VOC's and SBD's label files; VOC's own folder SegmentationClass has only 2,913 files"""
EPISODES = (346, 451, 725, 346)
GET = f"{voc.GET}; in its VOC2012, unpack SegmentationClassAug.zip (https://www.dropbox.com/s/oeu149j8qtbs1x0)"


def items(fold: int, root: str, split: str, ids: Sequence[str] | None = None) -> Paired:
    """List the episodes of a fold.

    If `ids` is None, HSNet's list names the episodes. Otherwise `ids` names the episodes, such as "2007_000033__01".
    Raises OvssError if a folder is missing, if HSNet's list is needed but missing, or if an episode is invalid.
    """
    split_folder(split, {"val": "val"})
    photographs, truths = _folders(root)
    if ids is None:
        uri = fold_list(root, f"pascal/val/fold{fold}.txt")
        pairs = pairs_of(files.read(uri).decode("utf-8", "replace").split(), uri, numbers(fold))
    else:
        pairs = pairs_of(ids, "ids", numbers(fold))
    return episodes(pairs, BENCHMARKS[str(fold)].labels, numbers(fold), photographs, truths)


def training_items(fold: int, root: str, lists: Literal["hsnet", "fusioner"] = "hsnet") -> Paired:
    """List the training pairs of a fold, which are the pairs in the training lists of the other three folds.

    `lists` names the project, HSNet or Fusioner, whose training lists are read. A pair is a photograph and a class in
    the photograph. Pixels of all other classes are background. Label files are read only from SegmentationClassAug.
    Raises OvssError if a list, a photograph or a label file is missing.
    """
    # For all four folds, Fusioner's lists have 15,555 pairs, which include the 13,680 pairs of HSNet's lists.
    find = {"hsnet": fold_list, "fusioner": fusioner_list}[lists]
    photographs, truths = _folders(root, (AUGMENTED,))  # most pairs have no label file in SegmentationClass
    pairs: list[tuple[str, int]] = []
    for other in FOLDS:
        if other != fold:
            uri = find(root, f"pascal/trn/fold{other}.txt")
            pairs += pairs_of(files.read(uri).decode("utf-8", "replace").split(), uri, numbers(other))
    return training_pairs(pairs, dict(enumerate(WORDS.names)), photographs, truths, GET)


def _folders(root: str, folders: Sequence[str] = (AUGMENTED, "SegmentationClass")) -> list[str]:
    """Return the folder of photographs and the folder of label files.

    `folders`: possible names of the folder of label files. The first of these folders that exists is returned. Raises
    OvssError if the folder of photographs is missing, or if all `folders` are missing.
    """
    layouts = [(f"{base}JPEGImages", f"{base}{labels}") for labels in folders for base in ("", "VOC2012/")]
    return below(root, "VOCdevkit/VOC2012", layouts, GET)


def numbers(fold: int) -> range:
    """Return the label values of a fold's classes."""
    return range(5 * fold + 1, 5 * fold + 6)


BENCHMARKS = {
    str(fold): benchmark_of(
        WORDS,
        numbers(fold),
        title=f"PASCAL-5i, fold {fold}",
        domain="things, one at a time",
        licence="photographs: Flickr's terms of use; labels: none stated",
        source="http://host.robots.ox.ac.uk/pascal/VOC/voc2012",
        counts={"val": EPISODES[fold]},
        items=partial(items, fold),
        listed=partial(items, fold),
        archives=(voc.ARCHIVE, LISTS),
    )
    for fold in FOLDS
}
