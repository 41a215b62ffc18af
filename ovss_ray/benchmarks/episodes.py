"""Few-shot folds, as defined by HSNet's lists. An episode is a photograph and one class to segment in it.

The vocabulary of an episode has "background", the class, and further names that count as background. The ground truth
has two labels, the class and background.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ovss_ray.benchmarks.contract import Archive, Benchmark
from ovss_ray.benchmarks.labels import look_up, value_table
from ovss_ray.benchmarks.layout import below
from ovss_ray.benchmarks.listing import COLUMNS, INCOMPLETE, LABELS, Item, Paired, by_stem, inside
from ovss_ray.errors import OvssError
from ovss_ray.io import files, images
from ovss_ray.structures.columns import IGNORE
from ovss_ray.structures.findings import Fault
from ovss_ray.structures.vocabulary import Vocabulary

FOLDS = range(4)
BACKGROUND = ("background",)
"""Name of the first class in an episode for a method that segments one class at a time"""
NOT_COUNTED = 255
REPOSITORY = "https://github.com/juhongm999/hsnet"
GET_LISTS = f"Get it: copy the folder data/splits of {REPOSITORY} into the data root"
LISTS = Archive(
    f"{REPOSITORY}/archive/refs/heads/main.zip", to="hsnet/splits", inside="hsnet-main/data/splits", file="hsnet.zip"
)


def fold_list(root: str, name: str) -> str:
    """Return the address of one of HSNet's lists. Raises OvssError if the list is missing."""
    layouts = [(f"{base}splits/{name}",) for base in ("", "data/", "dataset/")]
    return below(root, "hsnet", layouts, GET_LISTS)[0]


def fusioner_list(root: str, name: str) -> str:
    """Return the address of one of the lists of Fusioner's code. Raises OvssError if the list is missing."""
    # Fusioner's training lists of PASCAL are longer than HSNet's. All other lists of Fusioner equal HSNet's lists.
    addresses = [files.join(files.absolute(root), f"fusioner/{base}splits/{name}") for base in ("", "dataset/")]
    for address in addresses:
        if files.exists(address):
            return address
    raise OvssError(
        f"Fusioner's list not found. Searched: {', '.join(addresses)}. Get it: copy the folder dataset/splits of "
        "https://github.com/chaofanma/Fusioner into the folder fusioner of the data root"
    )


def pairs_of(lines: Iterable[str], uri: str, known: Sequence[int]) -> list[tuple[str, int]]:
    """Return file stem and class number of each line, such as ("2007_000033", 1) for the line "2007_000033__01".

    `known`: class numbers of the fold. Raises OvssError for an invalid line.
    """
    pairs = []
    for line in lines:
        match = re.fullmatch(r"(.+)__(\d{1,2})", line)
        if not match or int(match[2]) not in known:
            classes = f"{known[0]} to {known[-1]}" if len(known) == known[-1] - known[0] + 1 else str(list(known))
            raise OvssError(
                f"{uri}: invalid episode {line!r}: expected PHOTOGRAPH__CLASS, with one of the classes {classes}. "
                f"Perhaps this is the list of another fold. {GET_LISTS}"
            )
        pairs.append((match[1], int(match[2])))
    return pairs


def episodes(
    pairs: Iterable[tuple[str, int]], labels: Sequence[str], numbers: Sequence[int], photographs: str, truths: str
) -> Paired:
    """Return one Item per pair (file stem, class number), sorted by id. Repeated pairs count once.

    A pair without a photograph or label file is left out, and reported in `Paired.remarks`.
    """
    images_of, truths_of = by_stem(inside(photographs)), by_stem(inside(truths), LABELS)
    whole, listed = images_of.keys() & truths_of.keys(), set(pairs)
    rows = (
        (f"{stem}__{number:02}", images_of[stem], truths_of[stem], labels[numbers.index(number)])
        for stem, number in listed
        if stem in whole
    )
    items = Paired(Item, COLUMNS, rows, order="image_id")
    if incomplete := sorted({stem for stem, _ in listed} - whole):
        lack = f"photographs of the fold lack their file in {photographs} or {truths}, such as {incomplete[0]}"
        items.remarks = (Fault(f"{len(incomplete)} {lack}", cause=INCOMPLETE),)
    return items


def training_pairs(
    pairs: Iterable[tuple[str, int]], names: Mapping[int, str], photographs: str, truths: str, advice: str
) -> Paired:
    """Return one Item per pair (file stem, class number), sorted by id. Repeated pairs count once.

    `names`: class number → name. Raises OvssError if there is no pair. Raises OvssError with `advice` if a photograph
    or label file is missing.
    """
    listed = sorted(set(pairs))
    if not listed:
        raise OvssError(f"the training lists have no pair of a photograph and a class. {GET_LISTS}")
    items = episodes(listed, list(names.values()), list(names), photographs, truths)
    if len(items) < len(listed):
        usable = {item.image_id for item in items}
        lacking = next(stem for stem, number in listed if f"{stem}__{number:02}" not in usable)
        raise OvssError(
            f"{len(listed)} training pairs are listed, but only {len(items)} of them have both a photograph in "
            f"{photographs} and a label file in {truths}. Example of a pair that lacks a file: {lacking}. {advice}"
        )
    return items


def benchmark_of(
    words: Vocabulary, numbers: Sequence[int], spelled: Vocabulary | None = None, **card: Any
) -> Benchmark:
    """Return the benchmark of a fold. The labels of the benchmark are the classes of the fold, then background.

    `words`: names of each label value. The label value 0 is background. `numbers`: label values of the fold's classes.
    `spelled`: names of each label value for methods that segment one class at a time; by default, `words`. `card`:
    further fields of the Benchmark.
    """
    requests = [(spelled or words).classes[number] for number in numbers]
    classes, last = tuple(words.classes[number] for number in numbers), len(numbers)
    labels = tuple(names[0] for names in classes)
    stuffs = _stuffs(words, classes)
    return Benchmark(
        vocabulary=Vocabulary((*classes, *stuffs)),
        index=(*range(last), *[last] * len(stuffs)),
        labels=(*labels, "background"),
        parts={names[0]: _question(words, names, label, last) for label, names in enumerate(classes)},
        alone={
            name: (Vocabulary((BACKGROUND, request)), (last, label))
            for label, (name, request) in enumerate(zip(labels, requests, strict=True))
        },
        truth=partial(truth, dict(zip(labels, numbers, strict=True)), len(words) - 1),
        groups={"foreground": tuple(range(last)), "background": (last,)},
        **card,
    )


def _question(
    words: Vocabulary, names: tuple[str, ...], label: int, background: int
) -> tuple[Vocabulary, tuple[int, ...]]:
    """Return (vocabulary, label index of each class) of an episode. The second class is the one to segment."""
    first, *others = _stuffs(words, [names])
    return Vocabulary((first, names, *others)), (background, label, *[background] * len(others))


def _stuffs(words: Vocabulary, classes: Sequence[tuple[str, ...]]) -> list[tuple[str]]:
    """Return one class for each name that counts as background, such as ("sky",) for the name "sky".

    Names that count as background are the names of class 0 of `words`. Names that also occur in `classes` are left out.
    """
    class_names = {name for names in classes for name in names}
    return [(name,) for name in words.classes[0] if name not in class_names]


def truth(numbers: Mapping[str, int], highest: int, item: Item, data: bytes) -> np.ndarray:
    """Decode a label file to labels (H, W) uint16: the class in `item.part`, background, or IGNORE.

    `numbers`: class name → label value. If no pixel has the class, all pixels are IGNORE. The label value 255 is
    IGNORE. Any other label value above `highest` raises OvssError.
    """
    table = value_table(0, ignore=[NOT_COUNTED])
    table[: highest + 1] = len(numbers)
    label = list(numbers).index(item.part)
    table[numbers[item.part]] = label
    episode_labels = look_up(images.decode_labels(data, item.truth), table, item.truth)
    return episode_labels if (episode_labels == label).any() else np.full_like(episode_labels, IGNORE)
