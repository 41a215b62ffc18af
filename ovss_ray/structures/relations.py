"""Relations between the labels of a benchmark, such as grass → plant: an input of SG-IoU (metrics/sg_iou.py)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from ovss_ray.errors import OvssError, nearest


@dataclass(frozen=True)
class Relations:
    """Pairs of a child and a father, both label indices. Two synonyms form two pairs, one for each direction."""

    pairs: tuple[tuple[int, int], ...]
    """(child, father), sorted, without repetition; a label is not its own father"""
    file: str = ""
    """name of the file with these pairs"""

    @classmethod
    def of(cls, fathers: Mapping[str, Sequence[str]], labels: Sequence[str], file: str = "") -> Self:
        """Return the relations in the table `fathers`, which maps each child to a list of fathers.

        Each child and each father is a word for one of `labels` (see `index_of`). A word may be a whole label, such as
        "road, route". It may also be a name in a label, such as "road", or an index, such as "7".

        Raises OvssError for an unknown or ambiguous word, and for a child that is listed twice. Raises OvssError if a
        child has no father, is its own father, or has the same father twice.
        """
        named = places(labels)
        indices: dict[int, list[int]] = {}
        for child, words in fathers.items():
            index = index_of(child, named, len(labels))
            if index in indices:
                raise OvssError(
                    f"class {index} is listed twice as a child, the second time as {child!r}. Merge the entries"
                )
            indices[index] = [index_of(word, named, len(labels)) for word in words]
            _check_fathers(child, index, indices[index])
        return cls(tuple(sorted((child, father) for child, of in indices.items() for father in of)), file)

    def fits(self, labels: int) -> bool:
        """Return whether all child and father indices are below `labels`, the number of labels."""
        return all(0 <= index < labels for pair in self.pairs for index in pair)

    @cached_property
    def children(self) -> np.ndarray:
        """(P,) int64: the child of each pair."""
        return np.array([child for child, _ in self.pairs], np.int64)

    @cached_property
    def fathers(self) -> np.ndarray:
        """(P,) int64: the father of each pair."""
        return np.array([father for _, father in self.pairs], np.int64)

    @property
    def sha256(self) -> str:
        """SHA-256 of `pairs`, in hex digits. It does not depend on the file format from which the pairs were read."""
        return hashlib.sha256(repr(self.pairs).encode()).hexdigest()


def places(labels: Sequence[str]) -> dict[str, list[int]]:
    """Return word → indices of labels. A word is a whole label, such as "road, route", or a name in it, such as "road".

    If "road" is also a whole label, the word "road" does not refer to "road, route".
    """
    whole: dict[str, list[int]] = {}
    names: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        whole.setdefault(label.strip(), []).append(index)
        for name in dict.fromkeys(part.strip() for part in label.split(",")):
            names.setdefault(name, []).append(index)
    return {**names, **whole}


def index_of(word: str, named: Mapping[str, Sequence[int]], labels: int) -> int:
    """Return the index of the label that `word` refers to. Raises OvssError for an unknown or ambiguous word.

    `named` is the result of `places`. `word` is a key of `named`, or an index below `labels`, such as "7".
    """
    indices = named.get(word.strip(), ())
    if len(indices) > 1:
        listed = ", ".join(map(str, indices))
        raise OvssError(f"{word!r} is the name of {len(indices)} classes. Write the index of one of them: {listed}")
    if indices:
        return indices[0]
    if not word.strip().isdecimal():
        raise OvssError(
            f"unknown class {word!r}.{nearest(word.strip(), named)} Write a class name of the benchmark, or an index "
            f"from 0 to {labels - 1}"
        )
    if int(word) >= labels:
        raise OvssError(
            f"unknown class {word}: the benchmark has {labels} classes, 0 to {labels - 1}. Perhaps the "
            "index belongs to another benchmark"
        )
    return int(word)


def _check_fathers(child: str, index: int, fathers: Sequence[int]) -> None:
    """Raise OvssError if a class has no father, is its own father, or has the same father twice."""
    if not fathers:
        raise OvssError(f"the class {child!r} has no father. Write one, or delete the entry")
    if index in fathers:
        raise OvssError(f"the class {child!r} ({index}) is listed as its own father. Delete this father")
    if len(set(fathers)) < len(fathers):
        raise OvssError(
            f"the class {child!r} has the same father twice: its fathers are the classes "
            f"{', '.join(map(str, fathers))}. Delete the repeated father"
        )
