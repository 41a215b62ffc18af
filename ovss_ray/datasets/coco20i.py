"""COCO-20i: COCO's val2014, one class at a time. The 80 classes form four folds of twenty, coco20i:0 to coco20i:3.

An episode is a photograph and one class to segment in it. The module pascal5i describes episodes and their metrics.

Data: http://images.cocodataset.org/zips/val2014.zip, and HSNet's masks, whose address is in the README of
https://github.com/juhongm999/hsnet. Photographs are `COCO2014/val2014/COCO_val2014_*.jpg`. Label files are
`COCO2014/annotations/val2014/COCO_val2014_*.png`, 8-bit: 1 to 80 = the classes, 0 = everything else, 255 = not counted.
Fold f has the classes f + 1, f + 5, … f + 77. The episodes are listed in `data/splits/coco/val/fold0.pkl` to
`fold3.pkl` of HSNet's repository. Copy the folder `data/splits` to the data root. Paper: Nguyen and Todorovic, "Feature
Weighting and Boosting for Few-Shot Segmentation", ICCV 2019.

The folds have 35783, 17912, 14563 and 14315 episodes, in 26052, 15305, 13138 and 12640 photographs. The vocabulary of
an episode is the class, such as "traffic light", and names of background, such as "sky". The names are those of
coco:object. If a method segments one class at a time, the vocabulary is only "background" and the class. The class then
has the name in Fusioner's lists, such as "trafficlight".

This project evaluates each episode of a fold once. Published evaluations differ from ours in these points:

- Fusioner evaluates the first 1000 episodes, sorted by photograph, then class. `--limit 1000` does the same.
- HSNet evaluates 1000 random episodes, about 50 per class.
- HSNet and LSeg resize images to a square, and count pixels of the value 255 as background.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath

from ovss_ray.benchmarks.class_lists import vocabulary
from ovss_ray.benchmarks.contract import Archive
from ovss_ray.benchmarks.episodes import (
    FOLDS,
    GET_LISTS,
    LISTS,
    REPOSITORY,
    benchmark_of,
    episodes,
    fold_list,
    pairs_of,
    training_pairs,
)
from ovss_ray.benchmarks.layout import below, split_folder
from ovss_ray.benchmarks.listing import Paired
from ovss_ray.errors import OvssError
from ovss_ray.io import files, plain_pickle
from ovss_ray.structures.vocabulary import Vocabulary

WORDS = vocabulary("coco_object")
"""Class names. The index of a class is its label value, 0 (background) to 80"""
LISTED = {
    **{"motorcycle": "motorbike", "airplane": "aeroplane", "couch": "sofa", "tv": "tvmonitor"},
    **{"potted plant": "pottedplant", "dining table": "diningtable"},
}
"""Name in coco:object → name in Fusioner's lists. In all other names, Fusioner only removes the spaces."""
SPELLED = Vocabulary.of(LISTED.get(name, name).replace(" ", "") for name in WORDS.names)
"""Class names, spelled as in Fusioner's lists. The index of a class is its label value, 0 (background) to 80"""
EPISODES = (35783, 17912, 14563, 14315)
GET = (
    "Get it: http://images.cocodataset.org/zips/val2014.zip, and the masks of COCO's val2014 that the README of "
    f"{REPOSITORY} links to, unpacked into COCO2014/annotations"
)

ARCHIVES = (
    Archive(
        "http://images.cocodataset.org/zips/val2014.zip",
        to="COCO2014/val2014",
        inside="val2014",
        digest="sha256:fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",  # tensorflow_datasets
        size=6_645_013_297,
    ),
    LISTS,
    Archive(
        REPOSITORY,
        to="COCO2014/annotations/val2014",
        inside="val2014",
        file="masks/val2014.zip",
        note="its README links to Google Drive: the annotations of COCO2014, not the photographs",
    ),
)


def items(fold: int, root: str, split: str, ids: Sequence[str] | None = None) -> Paired:
    """List the episodes of a fold.

    If `ids` is None, HSNet's list names the episodes. Otherwise `ids` names the episodes. The id
    "COCO_val2014_000000000042__17" means class 17 in the photograph COCO_val2014_000000000042.

    Raises OvssError if a folder is missing, if HSNet's list is needed but missing, or if an episode is invalid.
    """
    split_folder(split, {"val": "val"})
    photographs, truths = _folders(root, "val2014")
    if ids is None:
        uri = fold_list(root, f"coco/val/fold{fold}.pkl")
        pairs = _pairs(files.read(uri), uri, numbers(fold))
    else:
        pairs = pairs_of(ids, "ids", numbers(fold))
    return episodes(pairs, BENCHMARKS[str(fold)].labels, numbers(fold), photographs, truths)


def training_items(fold: int, root: str) -> Paired:
    """List the training pairs of a fold: a photograph of train2014, and one of the 60 classes of the other folds.

    Names of classes are those of SPELLED. Raises OvssError if a photograph, a label file or HSNet's list of training
    pairs is missing.
    """
    photographs, truths = _folders(root, "train2014")
    uri = fold_list(root, f"coco/trn/fold{fold}.pkl")  # equal to Fusioner's list
    values = [value for value in range(1, 81) if value not in numbers(fold)]
    pairs, names = _pairs(files.read(uri), uri, values), dict(enumerate(SPELLED.names))
    return training_pairs(pairs, names, photographs, truths, GET.replace("val2014", "train2014"))


def _folders(root: str, name: str) -> list[str]:
    """Return the folder of photographs and the folder of label files. `name`: "val2014" or "train2014".

    Raises OvssError if one of the folders is missing.
    """
    layouts = [(f"{base}{name}", f"{base}annotations/{name}") for base in ("", "coco/")]
    return below(root, "COCO2014", layouts, GET.replace("val2014", name))


def numbers(fold: int) -> range:
    """Return the label values of a fold's classes."""
    return range(fold + 1, 81, 4)


def _pairs(data: bytes, uri: str, known: Sequence[int]) -> list[tuple[str, int]]:
    """Return (file stem of a photograph, class number from 1 to 80) of each entry in one of HSNet's lists.

    `data`: the content of the list. `uri`: the address of the list. `known`: class numbers that may occur in the list.
    Raises OvssError if the list is invalid, or has a class number that is not in `known`.
    """
    # The pickled list has the form {class number − 1: ["val2014/COCO_….jpg", …], …}.
    lists = plain_pickle.read(data, uri)
    if not isinstance(lists, dict) or not all(isinstance(names, list) for names in lists.values()):
        raise OvssError(f"{uri}: expected one list of photographs per class. Replace the file. {GET_LISTS}")
    if invalid := [number for number, names in lists.items() if names and number not in [value - 1 for value in known]]:
        raise OvssError(
            f"{uri}: photographs are listed under the key {invalid[0]!r}. The keys of this list must be class numbers "
            f"minus 1, here {', '.join(str(value - 1) for value in known)}. Perhaps the file is the list of another "
            f"fold. Replace the file. {GET_LISTS}"
        )
    pairs = []
    for number, names in lists.items():
        if invalid := [name for name in names if not isinstance(name, str)]:
            raise OvssError(
                f"{uri}: the list under the key {number} contains a value of type {type(invalid[0]).__name__} in place "
                f"of a photograph's name. Replace the file. {GET_LISTS}"
            )
        pairs += [(PurePosixPath(name).stem, number + 1) for name in names]
    return pairs


BENCHMARKS = {
    str(fold): benchmark_of(
        WORDS,
        numbers(fold),
        SPELLED,
        title=f"COCO-20i, fold {fold}",
        domain="everyday things, one at a time",
        licence="photographs: Flickr's terms of use; labels: CC BY 4.0",
        source="https://cocodataset.org",
        counts={"val": EPISODES[fold]},
        items=partial(items, fold),
        listed=partial(items, fold),
        archives=ARCHIVES,
    )
    for fold in FOLDS
}
