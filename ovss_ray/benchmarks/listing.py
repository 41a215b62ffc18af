"""Pairs of photographs and label files, listed in constant memory."""

import logging
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter, itemgetter
from posixpath import splitext
from typing import Any, NamedTuple

from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.sorted_rows import Rows, row
from ovss_ray.structures.findings import Fault

PHOTOGRAPHS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".j2k", ".jpx"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Supported extensions of photographs."""
LABELS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
"""Supported extensions of label files."""

UNREAD = (
    (
        *(".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw"),
        *(".exr", ".npy", ".dcm", ".nii", ".nii.gz"),
    ),
    (".npy", ".npz", ".mat", ".h5", ".exr", ".dcm", ".nii", ".nii.gz"),
)
"""Unsupported extensions. UNREAD[0] is for photographs, such as .heic; UNREAD[1] is for label files, such as .npy."""

Stems = Mapping[str, str] | Iterable[tuple[str, str]]
"""File name without extension (stem) → address, as a mapping, or as an iterable of pairs that is read lazily."""


@dataclass(frozen=True, slots=True)
class Item:
    """Image of a benchmark: id, addresses of photograph and label file, and part.

    `part` is the class to segment in a few-shot episode (see Benchmark.parts); empty: all classes.
    """

    image_id: str
    image: str
    truth: str
    part: str = ""


Items = Iterable[Item]
COLUMNS = "image_id, image, truth, part"
"""SQL columns that store the fields of an Item (see io.sorted_rows)."""


@dataclass(frozen=True)
class LeftOut:
    """Number and example of the unpaired files of one kind, such as photographs without a label file."""

    what: str
    """description in the plural, such as "photographs without a label file"; one of KINDS"""
    number: int
    example: str
    """address of the first file"""


class Paired(Rows[Item]):
    """Pairs of photographs and label files in a temporary file, and the faults of the data, such as unpaired files."""

    left_out: tuple[LeftOut, ...] = ()
    remarks: tuple[Fault, ...] = ()
    """faults of the data set other than unpaired files"""


def left_out(items: Items) -> tuple[LeftOut, ...]:
    """Return the unpaired files, one LeftOut per kind. If `items` is not a Paired, return ()."""
    return items.left_out if isinstance(items, Paired) else ()


def faults(items: Items) -> tuple[Fault, ...]:
    """Return `items.remarks`, followed by one fault per kind of unpaired files.

    If `items` is not a Paired, return ().
    """
    if not isinstance(items, Paired):
        return ()
    kinds = (
        Fault(f"{kind.number} {kind.what}, such as {kind.example}", cause=CAUSES.get(kind.what, INCOMPLETE))
        for kind in items.left_out
    )
    return (*items.remarks, *kinds)


def logged(items: Items) -> Items:
    """Log the faults of items as warnings, and return the items."""
    for fault in faults(items):
        logging.getLogger(__name__).warning("%s", fault.what)
    return items


def gathered(items: Items) -> Rows[Item]:
    """Write `items` to a temporary file, and return them as Rows (see io.sorted_rows). The order stays the same.

    If `items` already are Rows, return them unchanged.
    """
    if isinstance(items, Rows):
        return items
    rows = ((item.image_id, item.image, item.truth, item.part) for item in items)
    return Rows(Item, COLUMNS, rows)


def inside(folder: str) -> Iterator[str]:
    """Yield the addresses of the files in a folder, in arbitrary order."""
    return files.scan(folder)


def stems(uris: Iterable[str], endings: Collection[str] = PHOTOGRAPHS) -> Iterator[tuple[str, str]]:
    """Yield (stem, address) of each file whose lower-cased extension is in `endings`. Hidden files are left out."""
    for uri in uris:
        stem, ending = splitext(uri.rpartition("/")[2])
        if ending.lower() in endings and not stem.startswith("."):
            yield stem, uri


def by_stem(uris: Iterable[str], endings: Collection[str] = PHOTOGRAPHS) -> dict[str, str]:
    """Return the addresses of files by stem (see `stems`). Raises OvssError if two files have the same stem."""
    addresses: dict[str, str] = {}
    for stem, uri in stems(sorted(uris), endings):
        if stem in addresses:
            raise _alike(stem, addresses[stem], uri)
        addresses[stem] = uri
    return addresses


def _alike(stem: str, first: str, second: str) -> OvssError:
    advice = "Rename one of them"
    if first.rpartition("/")[0] != second.rpartition("/")[0]:
        advice += ", or write patterns whose wildcards stand for the same folders on both sides, such as */images/*.jpg"
    return OvssError(f"{first} and {second} both have the image id {stem!r}. {advice}")


class File(NamedTuple):
    """A photograph or a label file of a data set, before photographs and label files are paired."""

    stem: str
    path: str
    """stem, preceded by the folders that distinguish files of the same stem, such as seq1/0000"""
    side: int
    """0: photograph, 1: label file"""
    uri: str
    near: int = 0
    """0 if the file is usable; otherwise NEARLY, LOST or UNREADABLE"""


NEARLY, LOST, UNREADABLE = 1, 2, 3
"""Reasons why a file is unusable: an extension outside the user's pattern, a broken link, an unsupported format."""
KINDS = (
    "photographs without a label file",
    "label files without a photograph",
    "photographs that fit `images` except for their extension",
    "label files that fit `labels` except for their extension",
    "broken links to folders of photographs",
    "broken links to folders of label files",
    "photographs in an unsupported format",
    "label files in an unsupported format",
)
"""Descriptions of the kinds of unpaired files. The index of a file's kind is 2 * File.near + File.side."""
CAUSES = dict(
    zip(
        KINDS[2:],
        (
            "cameras use several extensions. Write * in place of the extension in `images`",
            "labels were saved in two formats. Write * in place of the extension in `labels`",
            *["a disk that is not mounted, or data of git-annex or DVC that were not fetched"] * 2,
            "phones and cameras write such files. Save them as JPEG or PNG",
            "an export for another program. Save them as PNG",
        ),
        strict=True,
    )
)
"""Kind of file in KINDS → usual cause. Kinds that are not in this mapping have the usual cause INCOMPLETE."""
INCOMPLETE = "an incomplete copy, or files of another data set in the same folder"
"""Usual cause of photographs without a label file, and of label files without a photograph."""
FILE = "stem, path, side, uri, near"
"""SQL columns that store the fields of a File (see io.sorted_rows)."""


def paired(photographs: Stems, truths: Stems) -> Paired:
    """Return pairs of photographs and label files of the same stem, sorted by stem (see `paired_files`).

    Raises OvssError if two photographs or two label files have the same stem.
    """
    return paired_files(
        File(stem, stem, side, uri)
        for side, uris in enumerate((photographs, truths))
        for stem, uri in (uris.items() if isinstance(uris, Mapping) else uris)
    )


def paired_by_list(photographs: str, truths: str, ids: str, endings: Collection[str] = LABELS) -> Paired:
    """Return pairs of files in two folders, for the stems in the text file `ids`.

    Raises OvssError if two photographs or two label files have the same stem.
    """
    wanted = set(files.read(ids).decode("utf-8", "replace").split())
    sides = stems(inside(photographs)), stems(inside(truths), endings)
    return paired(*(((stem, uri) for stem, uri in side if stem in wanted) for side in sides))


def paired_files(every: Iterable[File]) -> Paired:
    """Return pairs of photographs and label files, sorted by id. Raises OvssError if two images have the same id.

    Files of the same stem may form a pair. A stem is repeated if several photographs or several label files have it.

    - If no stem of the data set is repeated, there is no further condition. The id is the stem.
    - If the stem is repeated, the paths (File.path) must be equal. The id is the path: "a/0" for images/a/0.jpg.
    - If only other stems are repeated, the paths must be equal, or one path must have no folder. The id is the stem.
    - Remaining files form pairs if their names differ only in case or Unicode form.
    """
    rows = every if isinstance(every, Rows) else Rows(File, FILE, every)
    by_path = rows.repeats("stem, side", "near = 0")
    lonely = Rows(row, "fold, kind, name, uri", ())
    left: dict[int, LeftOut] = {}
    items = chain(_exact(rows, by_path, lonely), _close(lonely, left))
    pairs = Paired(Item, COLUMNS, items, order="image_id")
    pairs.left_out = tuple(left[kind] for kind in sorted(left))
    return pairs


def _exact(every: Rows[File], by_path: bool, lonely: Rows[Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield the fields of an Item for each pair of files of the same stem. Append unpaired files to `lonely`.

    `by_path`: whether the files of a pair must also agree in File.path.
    """
    for stem, group in groupby(every.in_order("stem, path, side, uri"), itemgetter(0)):
        of_stem = list(group)
        exact = [file for file in of_stem if not file.near]
        unpaired = []
        for files_of_one in _groups(stem, exact, by_path):
            if len(files_of_one) == 2:
                photograph, truth = files_of_one
                yield photograph.path if len(exact) > 2 else stem, photograph.uri, truth.uri, ""
            else:
                unpaired += files_of_one
        if len(exact) < len(of_stem):
            exact_names = {(file.side, file.path) for file in exact}
            both = len({file.side for file in of_stem}) == 2  # else a file of another kind, such as 0_depth.png
            near = [file for file in of_stem if file.near == LOST or (file.near and both)]
            unpaired += [file for file in near if (file.side, file.path) not in exact_names]
        for file in unpaired:
            name = file.path if by_path else stem
            lonely.add(_folded(name), 2 * file.near + file.side, name, file.uri)


def _groups(stem: str, exact: list[File], by_path: bool) -> list[list[File]]:
    """Divide `exact`, the usable files of a stem, into groups: [photograph, label file] or [single file].

    `by_path`: whether the files of a pair must agree in File.path. Raises OvssError if two images have the same id.
    """
    if len(exact) == 2 and exact[0].side < exact[1].side and (not by_path or exact[0].path == exact[1].path):
        return [exact]
    numbers = [sum(file.side == side for file in exact) for side in (0, 1)]
    # a path without a folder agrees with any path, unless the stem is repeated
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
    """Return the addresses of two photographs in `group`. If there are no two photographs, return two label files."""
    return next(uris[:2] for side in (0, 1) if len(uris := [file.uri for file in group if file.side == side]) > 1)


def _folded(name: str) -> str:
    """Return a name in lower case and in Unicode's form NFC, to find similar names."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).lower())


def _close(lonely: Rows[Any], left: dict[int, LeftOut]) -> Iterator[tuple[str, str, str, str]]:
    """Yield the fields of an Item for each pair of files whose names differ only in case or Unicode form.

    `lonely`: unpaired files, as rows (folded name, index in KINDS, name, address). The folded name is the result of
    `_folded`. A usable photograph and a usable label file form a pair if no third file has the same folded name. All
    other files are counted in `left`, a mapping from an index in KINDS to a LeftOut.
    """
    for _, group in groupby(lonely.in_order("fold, kind, name"), itemgetter(0)):
        similar = list(group)
        if [kind for _, kind, _, _ in similar] == [0, 1]:
            yield similar[0][2], similar[0][3], similar[1][3], ""
            continue
        for _, kind, _, uri in similar:
            known = left.get(kind, LeftOut(KINDS[kind], 0, uri))
            left[kind] = LeftOut(known.what, known.number + 1, known.example)
