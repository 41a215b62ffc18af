"""The files of a data set: which photograph belongs to which label file. In little memory, however many they are."""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from posixpath import splitext

from ovss_ray import files
from ovss_ray.errors import OvssError
from ovss_ray.spill import Rows, row

PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".jp2")
LABELS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm")
"""Endings by which photographs and label files are told from their neighbours."""

Stems = Mapping[str, str] | Iterable[tuple[str, str]]
"""Stem → address of files; as pairs, they are looked at one by one, and never all at once."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a benchmark: its id, where photograph and label file lie, and which part is asked for, if any."""

    image_id: str
    image: str
    truth: str
    part: str = ""


Items = Iterable[Item]


@dataclass(frozen=True)
class LeftOut:
    """Files of a data set that are on the disk, and that no item of it is made of."""

    what: str
    """such as "photographs without a label file"; it follows the number"""
    number: int
    example: str
    """the first of them, as an address"""


class Paired(Rows[Item]):
    """Items, and the files that were left over when they were paired."""

    left_out: tuple[LeftOut, ...] = ()


def left_out(items: Items) -> tuple[LeftOut, ...]:
    """The files that were left over when items were paired; none for items that were not."""
    return items.left_out if isinstance(items, Paired) else ()


def gathered(items: Items) -> Rows[Item]:
    """Keep items where they take no memory, in their order."""
    if isinstance(items, Rows):
        return items
    rows = ((item.image_id, item.image, item.truth, item.part) for item in items)
    return Rows(Item, "image_id, image, truth, part", rows)


def inside(folder: str) -> Iterator[str]:
    """The addresses of the files directly in a folder, in no order."""
    return files.scan(folder)


def stems(uris: Iterable[str], endings: Collection[str] = PHOTOGRAPHS) -> Iterator[tuple[str, str]]:
    """Stem and address of the files with one of the endings that are not hidden, one by one."""
    for uri in uris:
        stem, ending = splitext(uri.rpartition("/")[2])
        if ending.lower() in endings and not stem.startswith("."):
            yield stem, uri


def by_stem(uris: Iterable[str], endings: Collection[str] = PHOTOGRAPHS) -> dict[str, str]:
    """Stem → address, of few files (see `stems`). Raises OvssError if two of them share a stem."""
    found: dict[str, str] = {}
    for stem, uri in stems(sorted(uris), endings):
        if stem in found:
            raise _alike(stem, found[stem], uri)
        found[stem] = uri
    return found


def _alike(stem: str, first: str, second: str) -> OvssError:
    return OvssError(f"{first} and {second} would both be the image {stem!r}. Rename one of them")


def paired(photographs: Stems, truths: Stems) -> Rows[Item]:
    """Pair photographs and label files of one stem, sorted by it, as detectron2's load_sem_seg does.

    What is left over on either side is logged with its number; the counts of a benchmark make it an error. Raises
    OvssError if two photographs or two label files share a stem.
    """
    alone: dict[str, tuple[int, str]] = {}
    found = _both(photographs, truths)
    made = Paired(Item, "image_id, image, truth, part", _pairs(found, alone))
    made.left_out = tuple(LeftOut(what, number, example) for what, (number, example) in alone.items())
    for what, (number, example) in alone.items():
        logging.getLogger(__name__).warning("%d %s, such as %s", number, what, example)
    return made


def _both(photographs: Stems, truths: Stems) -> Rows[tuple[str, int, str]]:
    """Stem, side and address of all files: side 0 are photographs, side 1 label files."""
    rows = (
        (stem, side, uri)
        for side, some in enumerate((photographs, truths))
        for stem, uri in (some.items() if isinstance(some, Mapping) else some)
    )
    return Rows(row, "stem, side, uri", rows)


def _pairs(found: Rows[tuple[str, int, str]], alone: dict[str, tuple[int, str]]) -> Iterator[tuple[str, str, str, str]]:
    """The values of each item; `alone` is told what has no other half: its number, and the first."""
    for stem, some in groupby(found.in_order("stem, side, uri"), itemgetter(0)):
        sides: tuple[list[str], list[str]] = [], []
        for _, side, uri in some:
            if uri not in sides[side]:  # a file that two patterns fit
                sides[side].append(uri)
            if len(sides[side]) > 1:
                raise _alike(stem, *sides[side])
        if all(sides):
            yield stem, sides[0][0], sides[1][0], ""
        else:
            what = "photographs without a label file" if sides[0] else "label files without a photograph"
            number, example = alone.get(what, (0, (sides[0] or sides[1])[0]))
            alone[what] = number + 1, example
