"""Read class lists: the class names of a user's data set, and their label values if the file contains them.

Accepted formats:

- a text file with one class name per line, with or without a label value
- a table (CSV, TSV) with a column of names, with or without a column of label values
- labelme's labels.txt and CVAT's labelmap.txt
- a JSON or YAML file with a list of names, or with a mapping between names and label values

In JSON and YAML, the list or mapping may be the value of a key such as `classes` or `names`.
"""

import csv
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ovss_ray.datasets.folder import class_names
from ovss_ray.errors import OvssError
from ovss_ray.io import files, strict_yaml

Names = str | tuple[str, ...]
HEADINGS = frozenset(
    {"name", "names", "class", "classes", "class_name", "class_names", "classname", "label", "labels", "label_name"}
    | {"category", "categories", "category_name"}
)
"""Titles, in lower case, of a table's column of class names."""
NUMBERS = frozenset(
    {"id", "idx", "index", "number", "no", "nr", "value", "class_id", "label_id", "classid", "train_id", "trainid"}
    | {"category_id", "pixel", "pixel_value", "gray", "grey"}
)
"""Titles, in lower case, of a table's column of label values."""
DATA_KEYS = ("classes", "CLASSES", "names", "categories", "id2label", "label_map")
"""Keys of JSON or YAML files whose value is a class list."""
_NUMBERED = (
    re.compile(r"\s*(?P<number>-?\d{1,9})\s*[:;,.)=\t ]\s*(?P<name>\S.*)"),
    re.compile(r"(?P<name>\S.*?)\s*[:=\t]\s*(?P<number>-?\d{1,9})\s*"),
)
"""Patterns of lines with a label value and a name, such as `1: road` and `road: 1`."""
_COLOURED = (
    re.compile(r"\s*\d+[\s,;]+\d+[\s,;]+\d+[\s,;:]+(?P<name>[^\d\s].*)"),
    re.compile(r"(?P<name>[^\d\s,].*?)[\s,;:]+\d+[\s,;]+\d+[\s,;]+\d+\s*(::?.*)?"),
)
"""Patterns of lines with a colour and a name, such as `128 64 128 road` and CVAT's `road:128,64,128::`."""


@dataclass(frozen=True)
class Listed:
    """Class list: the names of each class, and the label value of each class if the list has label values."""

    names: tuple[Names, ...]
    numbers: tuple[int, ...] | None = None
    """label value of each class in the list; None if the list has no label values"""


@dataclass(frozen=True)
class Line:
    """Entry of a class list, with the position of the entry."""

    where: str
    """position, such as "classes.txt, line 3" or "classes, entry 3"; error messages begin with it"""
    text: str


def read(address: str) -> Listed:
    """Read a class list from a file. Raises OvssError that names the file and the invalid line."""
    try:
        text = files.read(address).decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise OvssError(f"{address}: not UTF-8 text: {failure}. Save the list of classes as UTF-8") from failure
    if address.lower().endswith((".yaml", ".yml")):
        return of_data(strict_yaml.load(text, address, DATA_KEYS), address)
    if text.lstrip().startswith(("[", "{")):
        return of_data(_parsed(text, address), address)
    lines = [Line(f"{address}, line {i}", line) for i, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1)]
    while len(lines) > 1 and not lines[-1].text.strip():
        lines.pop()
    if lines[0].text.strip().lower() in HEADINGS and len(lines) > 1:
        raise OvssError(f"{lines[0].where} is {lines[0].text!r}, the heading of a column, not a class. Remove the line")
    if len(lines) == 1 and re.search(r"[,;|]", lines[0].text):
        raise OvssError(f"{lines[0].where} is the only line, and has several names. Write one class per line")
    if lines[0].text.strip() == str(len(lines) - 1):
        raise OvssError(f"{lines[0].where} is {lines[0].text!r}, the number of classes, not a class. Remove the line")
    return of_lines(lines, address)


def _parsed(text: str, address: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return strict_yaml.load(f"classes: {text.strip()}", address, DATA_KEYS)["classes"]


def of_data(raw: Any, source: str) -> Listed:
    """Return the classes in decoded JSON or YAML. Raises OvssError if `raw` has no class list."""
    if isinstance(raw, dict) and (keys := [key for key in DATA_KEYS if key in raw]):
        return of_data(raw[keys[0]], source)
    if isinstance(raw, list) and raw and all(isinstance(entry, dict) and {"id", "name"} <= set(entry) for entry in raw):
        return _numbered([(entry["id"], entry["name"]) for entry in raw], source)
    if isinstance(raw, dict) and len(raw) > 1 and all(type(number) is int for number in raw.values()):
        return _numbered([(number, name) for name, number in raw.items()], source)
    if isinstance(raw, dict) and raw and all(key.isdecimal() and isinstance(name, str) for key, name in raw.items()):
        return _numbered([(int(number), name) for number, name in raw.items()], source)
    if not isinstance(raw, list) or not raw or not all(isinstance(name, str) or _is_names(name) for name in raw):
        raise OvssError(
            f"{source}: no list of classes found. Write a list of class names in this file, such as "
            '["road", "sky"]. Or write `classes: [road, sky]` in the YAML file that describes the data set'
        )
    return inline([tuple(name) if isinstance(name, list) else name for name in raw], source)


def _numbered(pairs: Sequence[tuple[Any, Any]], source: str) -> Listed:
    """Return the classes of (label value, name) pairs, sorted by label value. Raises OvssError for invalid pairs."""
    numbers = [number for number, _ in pairs]
    if invalid := [number for number in numbers if type(number) is not int or number < 0 or numbers.count(number) > 1]:
        raise OvssError(
            f"{source}: {invalid[0]!r} is an invalid or repeated label value. Each class needs a different whole "
            "number of at least 0. Correct the label value. If this value marks unlabelled pixels, remove its class "
            "from the list, and add the value to `ignore` in the YAML file of the data set"
        )
    ordered = sorted(pairs, key=lambda pair: pair[0])
    return Listed(inline([str(name) for _, name in ordered], source).names, tuple(number for number, _ in ordered))


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def inline(names: Sequence[Names], source: str) -> Listed:
    """Return the class list of `names`. A tuple in `names` has the synonyms of one class.

    Raises OvssError if `names` is empty, and for an invalid name.
    """
    if not names:
        raise OvssError(f"{source}: the list of classes is empty. Write the name of each class, such as [road, sky]")
    if not all(isinstance(name, str) for name in names):
        return Listed(tuple(names))
    return of_lines([Line(f"{source}, entry {i}", str(name)) for i, name in enumerate(names, 1)], source)


def of_lines(lines: Sequence[Line], source: str) -> Listed:
    """Return the classes in the lines of a list. Raises OvssError for a line that is ambiguous or not a class."""
    if not lines:
        return Listed(())
    _refuse_gaps(lines)
    if lines[0].text.lstrip("# ").startswith("label:color_rgb"):  # CVAT
        lines = lines[1:]
    for pattern in _COLOURED:
        if matches := _all(pattern, lines):
            return _checked([Line(line.where, match["name"]) for line, match in matches], source)
    if cells := _table(lines, source):
        return _of_table(cells, lines, source)
    for pattern in _NUMBERED:
        matches = _all(pattern, lines)
        if len(matches) > 1 and len({match["name"] for _, match in matches}) == len(matches):  # else: 1 euro, 2 euro
            named = [Line(line.where, match["name"]) for line, match in matches]
            if all(_is_count(line.text.strip()) for line in named):
                raise OvssError(f"{lines[0].where} has only numbers. Write the name of one class per line")
            return _checked(named, source, tuple(int(match["number"]) for _, match in matches))
    return _checked(lines, source)


def _refuse_gaps(lines: Sequence[Line]) -> None:
    """Raise OvssError for an empty line, and for a line end of CR without LF."""
    for line in lines:
        if not line.text.strip():
            raise OvssError(
                f"{line.where} is empty. Remove the empty line. If this changes the label values of the classes below "
                "it, write the old values in the YAML file of the data set, such as `values: [0, 2]`"
            )
        if "\r" in line.text:
            raise OvssError(
                f"{line.where} ends in CR without LF, as on old Macs. Save the file with line ends LF or CR LF"
            )


def _all(pattern: re.Pattern[str], lines: Sequence[Line]) -> list[tuple[Line, re.Match[str]]]:
    """Return a pair (line, match) for each line. If the pattern does not match all lines, return an empty list."""
    matches = [(line, match) for line in lines if (match := pattern.fullmatch(line.text))]
    return matches if len(matches) == len(lines) else []


def _table(lines: Sequence[Line], source: str) -> list[list[str]] | None:
    """Return the rows of cells if the lines form a table, else None.

    Raises OvssError for a .csv or .tsv whose lines have different numbers of cells.
    """
    stated = source.lower().endswith((".csv", ".tsv"))
    for mark in ("\t", ";", ","):
        cells = _cells(lines, mark)
        width = len(cells[0]) if len(cells) == len(lines) > 0 else 0
        if width < 2 or any(len(row) != width for row in cells):
            continue
        body = cells[1:] if len(cells) > 2 else cells
        numbered = any(all(_is_count(row[i]) for row in body) for i in range(width))
        # Outside .csv and .tsv, a comma may be part of a name. So a table must also have numbers or titles.
        if stated or numbered or _titled(cells[0], HEADINGS):
            return cells
    if stated and any(mark in line.text for line in lines for mark in "\t;,"):
        raise OvssError(
            f"{lines[0].where} begins a table whose lines have different numbers of cells. Write equally many cells in "
            "every line, or only one class name per line"
        )
    return None


def _cells(lines: Sequence[Line], mark: str) -> list[list[str]]:
    try:
        return [[cell.strip() for cell in row] for row in csv.reader((line.text for line in lines), delimiter=mark)]
    except csv.Error:  # such as a field without end
        return []


def _titled(titles: Sequence[str], known: frozenset[str]) -> list[int]:
    """Return the indices of the columns whose title is in `known`."""
    return [i for i, title in enumerate(titles) if title.lower().replace(" ", "_").replace("-", "_") in known]


def _of_table(cells: list[list[str]], lines: Sequence[Line], source: str) -> Listed:
    """Return class names and label values in the columns of a table. Raises OvssError for ambiguous columns."""
    titles = cells[0] if _titled(cells[0], HEADINGS) else []
    rows = cells[1:] if titles else cells
    texts = [i for i in range(len(cells[0])) if not all(_is_number(row[i]) for row in rows)]
    named = [i for i in texts if i in _titled(titles, HEADINGS)] or ([] if titles else texts)
    named = [i for i in named if titles and titles[i].lower() == "name"] or named
    if len(named) != 1 or not rows:
        raise OvssError(
            f"{lines[0].where} begins a table, but it is ambiguous which column has the class names. Give the column "
            "of class names the title `name`, or write only one class name per line"
        )
    numbered = [i for i in _titled(titles, NUMBERS | HEADINGS) if i not in texts or i in _titled(titles, NUMBERS)]
    if not titles and (len(cells[0]) != 4 or named[0] in (1, 2)):  # a name and three numbers: a colour
        numbered = [0 if named[0] else 1]
    kept = [Line(line.where, row[named[0]]) for line, row in zip(lines[-len(rows) :], rows, strict=True)]
    for line, row in zip(kept, rows, strict=True):
        if numbered and not _is_count(row[numbered[0]]):
            raise OvssError(
                f"{line.where} has {row[numbered[0]]!r} where other lines have a label value. Write a number"
            )
    listed = _checked(kept, source, tuple(int(row[numbered[0]]) for row in rows) if numbered else None)
    return Listed(tuple(map(_synonyms, listed.names)), listed.numbers)


def _synonyms(name: Names) -> Names:
    """Return the synonyms in a class name such as "car, auto". A single name is returned unchanged."""
    parts = [part.strip() for part in re.split("[;,]", name) if part.strip()] if isinstance(name, str) else name
    return tuple(parts) if len(parts) > 1 else name


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+(\.\d*)?", text) is not None


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) < 10


def _checked(lines: Sequence[Line], source: str, numbers: tuple[int, ...] | None = None) -> Listed:
    """Return the class list with the names in `lines` and the label values `numbers`.

    Raises OvssError for an invalid line.
    """
    if lines and lines[0].text == "__ignore__":  # labelme: -1, and its labels begin at 0 with the next line
        lines, numbers = lines[1:], numbers and numbers[1:]
    for i, (line, number) in enumerate(zip(lines, numbers or (), strict=False)):
        if numbers and number in numbers[:i]:
            raise OvssError(f"{line.where} has the same label value {number} as another line. Use different values")
        if number < 0:
            raise OvssError(
                f"{line.where} has the invalid label value {number}. Remove the line. If {number} marks ignored "
                f"pixels, write `ignore: {number}` in the YAML file of the data set"
            )
    names = []
    for line in lines:
        name = "background" if line.text == "_background_" else line.text
        if reason := class_names.fault(name):
            raise OvssError(f"{line.where} is {name!r}, which {reason}")
        names.append(name)
    if names and all(name.strip().isdecimal() for name in names):
        text = "%s: every class has a number as its name, such as %r. Write meaningful names"
        logging.getLogger(__name__).warning(text, source, names[0])
    if uncounted := [name for name in names if name.strip().lower() in class_names.UNCOUNTED]:
        logging.getLogger(__name__).warning(
            "%s: %s treated like any other class. If those pixels should not be counted, remove it from the classes, "
            "add its label value to `ignore`, and write `offset` or `values` for the others",
            *(source, ", ".join(map(repr, uncounted)) + (" is" if len(uncounted) == 1 else " are")),
        )
    return Listed(tuple(names), numbers)
