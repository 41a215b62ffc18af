"""The files of a data set: which photograph belongs to which label file. In little memory, however many they are."""

import logging
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter, itemgetter
from posixpath import splitext
from typing import Any, NamedTuple

from ovss_ray import files
from ovss_ray.errors import OvssError
from ovss_ray.spill import Rows, row

PHOTOGRAPHS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".j2k", ".jpx"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
LABELS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
"""Endings by which photographs and label files are told from their neighbours."""

UNREAD = (
    (
        *(".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw"),
        *(".exr", ".npy", ".dcm", ".nii", ".nii.gz"),
    ),
    (".npy", ".npz", ".mat", ".h5", ".exr", ".dcm", ".nii", ".nii.gz"),
)
"""Endings of photographs, and of label files, that people have and that are not read."""

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
    advice = "Rename one of them"
    if first.rpartition("/")[0] != second.rpartition("/")[0]:
        advice += ", or write patterns whose wildcards stand for the same folders on both sides, such as */images/*.jpg"
    return OvssError(f"{first} and {second} would both be the image {stem!r}. {advice}")


class File(NamedTuple):
    """A file of a data set that may become half of an item."""

    stem: str
    path: str
    """the folders that tell it from files of the same stem, and the stem"""
    side: int
    """0: photograph, 1: label file"""
    uri: str
    near: int = 0
    """0, or why it is not of the set: NEARLY for its ending, LOST for a link to no folder, UNREADABLE for its format"""


NEARLY, LOST, UNREADABLE = 1, 2, 3
"""Values of `File.near`."""
KINDS = (
    "photographs without a label file",
    "label files without a photograph",
    "photographs that only their ending keeps from fitting `images`",
    "label files that only their ending keeps from fitting `labels`",
    "links to folders of photographs that are not there",
    "links to folders of label files that are not there",
    "photographs in a format that is not read",
    "label files in a format that is not read",
)
"""Description of files without a partner, by 2 · near + side."""
CAUSES = dict(
    zip(
        KINDS[2:],
        (
            "cameras write several endings. Write * in the place of the ending in `images`",
            "labels were saved in two formats. Write * in the place of the ending in `labels`",
            *["a disk that is not mounted, or data of git-annex or DVC that were not fetched"] * 2,
            "phones and cameras write such files. Save them as JPEG or PNG",
            "an export for another program. Save them as PNG",
        ),
        strict=True,
    )
)
"""Description of files without a partner → usual cause; the first two kinds have too many causes."""
FILE = "stem, path, side, uri, near"
"""The columns of a File."""


def paired(photographs: Stems, truths: Stems) -> Rows[Item]:
    """Pair photographs and label files of one stem, sorted by it, as detectron2's load_sem_seg does.

    What is left over on either side is logged with its number; the counts of a benchmark make it an error. Raises
    OvssError if two photographs or two label files share a stem.
    """
    return paired_files(
        File(stem, stem, side, uri)
        for side, some in enumerate((photographs, truths))
        for stem, uri in (some.items() if isinstance(some, Mapping) else some)
    )


def paired_files(every: Iterable[File]) -> Paired:
    """Pair photographs and label files of one stem, and of one path where a stem stands for several files.

    The id of an image is its stem, or its path if its stem stands for several. Files without a partner are paired if
    their names are equal but for case and Unicode form, and no third is. What is left over is logged, and kept in
    `left_out`. Raises OvssError if two files would be the same image.
    """
    rows = every if isinstance(every, Rows) else Rows(File, FILE, every)
    by_path = rows.repeats("stem, side", "near = 0")
    lonely = Rows(row, "fold, kind, name, uri", ())
    left: dict[int, LeftOut] = {}
    items = chain(_exact(rows, by_path, lonely), _close(lonely, left))
    pairs = Paired(Item, "image_id, image, truth, part", items, order="image_id")
    pairs.left_out = tuple(left[kind] for kind in sorted(left))
    for kind in pairs.left_out:
        logging.getLogger(__name__).warning(
            "%d %s, such as %s", kind.number, kind.what, kind.example, extra={"cause": CAUSES.get(kind.what)}
        )
    return pairs


def _exact(every: Rows[File], by_path: bool, lonely: Rows[Any]) -> Iterator[tuple[str, str, str, str]]:
    """The values of each item whose names are equal; `lonely` is given the files without a partner."""
    for stem, group in groupby(every.in_order("stem, path, side, uri"), itemgetter(0)):
        alike = list(group)
        exact = [file for file in alike if not file.near]
        alone = []
        for files_of_one in _groups(stem, exact, by_path):
            if len(files_of_one) == 2:
                photograph, truth = files_of_one
                yield photograph.path if len(exact) > 2 else stem, photograph.uri, truth.uri, ""
            else:
                alone += files_of_one
        if len(exact) < len(alike):
            taken = {(file.side, file.path) for file in exact}
            both = len({file.side for file in alike}) == 2  # else a file of another kind, such as 0_depth.png
            near = [file for file in alike if file.near == LOST or (file.near and both)]
            alone += [file for file in near if (file.side, file.path) not in taken]
        for file in alone:
            name = file.path if by_path else stem
            lonely.add(_folded(name), 2 * file.near + file.side, name, file.uri)


def _groups(stem: str, exact: list[File], by_path: bool) -> list[list[File]]:
    """The files of one stem that belong together: two of them are photograph and label file."""
    if len(exact) == 2 and exact[0].side < exact[1].side and (not by_path or exact[0].path == exact[1].path):
        return [exact]
    numbers = [sum(file.side == side for file in exact) for side in (0, 1)]
    if max(numbers) <= 1 and (not by_path or stem in {file.path for file in exact}):
        return [sorted(exact, key=attrgetter("side"))] if exact else []
    groups = [list(group) for _, group in groupby(exact, attrgetter("path"))]
    for group in groups:
        if len(group) > len({file.side for file in group}):
            raise _alike(group[0].path, *_doubled(group))
    if max(numbers) > 1 and min(numbers) and all(len(group) == 1 for group in groups):
        raise _alike(stem, *_doubled(exact))
    return groups


def _doubled(group: list[File]) -> list[str]:
    """The addresses of two files of one side."""
    return next(uris[:2] for side in (0, 1) if len(uris := [file.uri for file in group if file.side == side]) > 1)


def _folded(name: str) -> str:
    """A name without what a person does not see: case, and how accents are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).lower())


def _close(lonely: Rows[Any], left: dict[int, LeftOut]) -> Iterator[tuple[str, str, str, str]]:
    """The values of each item whose names are nearly equal; `left` is given what has no partner, by its kind."""
    for _, group in groupby(lonely.in_order("fold, kind, name"), itemgetter(0)):
        alike = list(group)
        if [kind for _, kind, _, _ in alike] == [0, 1]:
            yield alike[0][2], alike[0][3], alike[1][3], ""
            continue
        for _, kind, _, uri in alike:
            known = left.get(kind, LeftOut(KINDS[kind], 0, uri))
            left[kind] = LeftOut(known.what, known.number + 1, known.example)
