"""COCO-20i: COCO's val2014 one class at a time, its 80 classes in four folds of twenty; coco20i:0 to coco20i:3.

Data: http://images.cocodataset.org/zips/val2014.zip, and HSNet's masks of it, of which
https://github.com/juhongm999/hsnet says where they are; in a folder COCO2014 they are `val2014/COCO_val2014_*.jpg` and
`annotations/val2014/COCO_val2014_*.png`, 8 bit: the number of the class among the 80, from 1 on, 0 for all else. 255 is
not counted. The folds are that repository's `data/splits/coco/val/fold0.pkl` to `fold3.pkl`, put into the data root as
for pascal5i; they are read by hand, nothing is unpickled. Fold f has the classes f + 1, f + 5, … f + 77. Paper: Nguyen
and Todorovic, "Feature Weighting and Boosting for Few-Shot Segmentation", ICCV 2019.

fold                        0       1       2       3
episodes                35783   17912   14563   14315
photographs             26052   15305   13138   12640

Episodes, words and numbers are as pascal5i has them; background goes by the 17 stuffs of coco:object, of which "sky" is
the first, but for "bed" where that is the class. Here all episodes are scored, each once. No paper does that:

Fusioner    scores the first 1000, sorted by photograph, then class: with `--limit 1000` we do the same
HSNet       draws 1000: a class, all being alike likely, then a photograph with it. Its number is an estimate of ours,
            from fifty episodes or so for each class

HSNet and LSeg resize to a square as for pascal5i, and 255 would be background to them.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath

from ovss_ray import files, plain_pickle
from ovss_ray.archives import Archive
from ovss_ray.datasets.benchmark import below, split_folder, vocabulary
from ovss_ray.datasets.pascal5i import FOLDS, GET_LISTS, LISTS, REPOSITORY, benchmark_of, episodes, fold_list
from ovss_ray.errors import OvssError
from ovss_ray.listing import Item

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


def items(fold: int, root: str, split: str) -> list[Item]:
    """List the episodes of a fold. Raises OvssError if the data or the list are not there."""
    split_folder(split, {"val": "val"})
    layouts = [(f"{base}val2014", f"{base}annotations/val2014") for base in ("", "coco/")]
    photographs, truths = below(root, "COCO2014", layouts, GET)
    uri = fold_list(root, f"coco/val/fold{fold}.pkl")
    pairs = _pairs(files.read(uri), uri, numbers(fold))
    return episodes(pairs, BENCHMARKS[str(fold)].labels, numbers(fold), photographs, truths)


def numbers(fold: int) -> range:
    """The values in label files of a fold's classes."""
    return range(fold + 1, 81, 4)


def _pairs(data: bytes, uri: str, known: Sequence[int]) -> list[tuple[str, int]]:
    """Stem and class number of each photograph listed: {number − 1: ["val2014/COCO_….jpg", …], …}. Raises OvssError."""
    told = plain_pickle.read(data, uri)
    if not isinstance(told, dict) or not all(isinstance(names, list) for names in told.values()):
        raise OvssError(f"{uri}: not one list of photographs for each class. {GET_LISTS}")
    if odd := [number for number, names in told.items() if names and number not in [one - 1 for one in known]]:
        raise OvssError(f"{uri}: it has photographs of the class {odd[0]!r}, which is in another fold. {GET_LISTS}")
    pairs = []
    for number, names in told.items():
        if odd := [name for name in names if not isinstance(name, str)]:
            raise OvssError(f"{uri}: class {number}: a {type(odd[0]).__name__} among the photographs. {GET_LISTS}")
        pairs += [(PurePosixPath(name).stem, number + 1) for name in names]
    return pairs


BENCHMARKS = {
    str(fold): benchmark_of(
        vocabulary("coco_object"),
        numbers(fold),
        title=f"COCO-20i, fold {fold}",
        domain="everyday things, one at a time",
        licence="photographs: Flickr's terms of use; labels: CC BY 4.0",
        source="https://cocodataset.org",
        counts={"val": EPISODES[fold]},
        items=partial(items, fold),
        archives=ARCHIVES,
    )
    for fold in FOLDS
}
