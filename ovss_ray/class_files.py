"""Lists of classes, in the forms in which people have them: read for sure, or refused with the line at fault.

Read are one name a line; the labels.txt of labelme; the labelmap.txt of CVAT; lines or tables that number their
classes; and in JSON or YAML a list of names, a table number → name or name → number, `classes:` or `names:`.
"""

import csv
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ovss_ray import class_names, files, strict_yaml
from ovss_ray.errors import OvssError

Names = str | tuple[str, ...]
HEADINGS = frozenset(
    {"name", "names", "class", "classes", "class_name", "class_names", "classname", "label", "labels", "label_name"}
    | {"category", "categories", "category_name"}
)
"""Titles of the column of names."""
NUMBERS = frozenset(
    {"id", "idx", "index", "number", "no", "nr", "value", "class_id", "label_id", "classid", "train_id", "trainid"}
    | {"category_id", "pixel", "pixel_value", "gray", "grey"}
)
"""Titles of the column of label values."""
DATA_KEYS = ("classes", "CLASSES", "names", "categories", "id2label", "label_map")
"""Keys below which files of settings in JSON or YAML have their classes."""
_NUMBERED = (
    re.compile(r"\s*(?P<number>-?\d{1,9})\s*[:;,.)=\t ]\s*(?P<name>\S.*)"),
    re.compile(r"(?P<name>\S.*?)\s*[:=\t]\s*(?P<number>-?\d{1,9})\s*"),
)
"""Lines such as `1: road`, and such as `road: 1`."""
_COLOURED = (
    re.compile(r"\s*\d+[\s,;]+\d+[\s,;]+\d+[\s,;:]+(?P<name>[^\d\s].*)"),
    re.compile(r"(?P<name>[^\d\s,].*?)[\s,;:]+\d+[\s,;]+\d+[\s,;]+\d+\s*(::?.*)?"),
)
"""Lines such as `128 64 128 road`, and such as `road:128,64,128::`, which CVAT writes."""


@dataclass(frozen=True)
class Listed:
    """The classes of a list, in its order."""

    names: tuple[Names, ...]
    numbers: tuple[int, ...] | None = None
    """the label value that the list gives to each class; None if it numbers none"""


@dataclass(frozen=True)
class Line:
    """A piece of a list of classes, and where it stands."""

    where: str
    """such as "classes.txt, line 3" """
    text: str

    def refused(self, why: str) -> OvssError:
        """The error that this piece is at fault for."""
        return OvssError(f"{self.where} {why}")


def read(address: str) -> Listed:
    """Read a file. Raises OvssError that names the file, and the line where there is one."""
    try:
        text = files.read(address).decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise OvssError(f"{address}: a list of classes is text in UTF-8, one class a line: {failure}") from failure
    if address.lower().endswith((".yaml", ".yml")):
        return of_data(strict_yaml.load(text, address, DATA_KEYS), address)
    if text.lstrip().startswith(("[", "{")):
        return of_data(_parsed(text, address), address)
    lines = [Line(f"{address}, line {i}", line) for i, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1)]
    while len(lines) > 1 and not lines[-1].text.strip():
        lines.pop()
    if lines[0].text.strip().lower() in HEADINGS and len(lines) > 1:
        raise lines[0].refused(f"is {lines[0].text!r}, the heading of a column, and no class. Take it out")
    if len(lines) == 1 and re.search(r"[,;|]", lines[0].text):
        raise lines[0].refused("is the only one, and has several names. Write one class a line")
    if lines[0].text.strip() == str(len(lines) - 1):
        raise lines[0].refused(f"is {lines[0].text!r}, the number of the classes, and no class. Take it out")
    return of_lines(lines, address)


def _parsed(text: str, address: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return strict_yaml.load(f"classes: {text.strip()}", address, DATA_KEYS)["classes"]


def of_data(raw: Any, source: str) -> Listed:
    """Take the classes out of what JSON or YAML holds. Raises OvssError."""
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
            f"{source}: no list of classes is found in it. Write one class a line, or `classes: [road, sky]` in the "
            "description itself"
        )
    return inline([tuple(name) if isinstance(name, list) else name for name in raw], source)


def _numbered(pairs: Sequence[tuple[Any, Any]], source: str) -> Listed:
    """Take classes with their label values, in the order of these. Raises OvssError for values that are none."""
    numbers = [number for number, _ in pairs]
    if odd := [number for number in numbers if type(number) is not int or number < 0 or numbers.count(number) > 1]:
        raise OvssError(
            f"{source}: {odd[0]!r} is no label value of a class of its own. Give each class another whole number from "
            "0, and write what is not labelled into `ignore`"
        )
    ordered = sorted(pairs, key=lambda pair: pair[0])
    return Listed(inline([str(name) for _, name in ordered], source).names, tuple(number for number, _ in ordered))


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def inline(names: Sequence[Names], source: str) -> Listed:
    """Take the classes of a list whose entries are names, or lists of names. Raises OvssError."""
    if not names:
        raise OvssError(f"{source}: the list of classes is empty. Write the name of each class, such as [road, sky]")
    if not all(isinstance(name, str) for name in names):
        return Listed(tuple(names))
    return of_lines([Line(f"{source}, entry {i}", str(name)) for i, name in enumerate(names, 1)], source)


def of_lines(lines: Sequence[Line], source: str) -> Listed:
    """Take the classes out of lines. Raises OvssError for lines that are no class, or may be none."""
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
        if len(matches) > 1 and len({match["name"] for _, match in matches}) == len(matches):  # and not 1 euro, 2 euro
            named = [Line(line.where, match["name"]) for line, match in matches]
            if all(_is_count(line.text.strip()) for line in named):
                raise lines[0].refused("has numbers only. Write one class a line, by its name")
            return _checked(named, source, tuple(int(match["number"]) for _, match in matches))
    return _checked(lines, source)


def _refuse_gaps(lines: Sequence[Line]) -> None:
    """Raise OvssError for an empty line, and for ends of lines that hide the others."""
    for line in lines:
        if not line.text.strip():
            raise line.refused(
                "is empty, and the lines below it would move up by one. Take the empty line out; if its number is one "
                "that no class has, write the label value of each class into the description, such as `values: [0, 2]`"
            )
        if "\r" in line.text:
            raise line.refused("ends in CR alone, as on old Macs. Save the file with LF or CR LF")


def _all(pattern: re.Pattern[str], lines: Sequence[Line]) -> list[tuple[Line, re.Match[str]]]:
    """Each line with its match, if all of them fit a pattern; else nothing."""
    matches = [(line, match) for line in lines if (match := pattern.fullmatch(line.text))]
    return matches if len(matches) == len(lines) else []


def _table(lines: Sequence[Line], source: str) -> list[list[str]] | None:
    """The cells of lines that are a table: as many in each, and a column of numbers or one with a title for names.

    Raises OvssError if only the ending of the file says that it is one.
    """
    stated = source.lower().endswith((".csv", ".tsv"))
    for mark in ("\t", ";", ","):
        cells = _cells(lines, mark)
        width = len(cells[0]) if len(cells) == len(lines) > 0 else 0
        if width < 2 or any(len(row) != width for row in cells):
            continue
        body = cells[1:] if len(cells) > 2 else cells
        numbered = any(all(_is_count(row[i]) for row in body) for i in range(width))
        if stated or numbered or _titled(cells[0], HEADINGS):
            return cells
    if stated and any(mark in line.text for line in lines for mark in "\t;,"):
        raise lines[0].refused("begins a table of which not all lines have as many cells. Write one class a line")
    return None


def _cells(lines: Sequence[Line], mark: str) -> list[list[str]]:
    try:
        return [[cell.strip() for cell in row] for row in csv.reader((line.text for line in lines), delimiter=mark)]
    except csv.Error:  # such as a field without end
        return []


def _titled(titles: Sequence[str], known: frozenset[str]) -> list[int]:
    """The columns with one of some titles."""
    return [i for i, title in enumerate(titles) if title.lower().replace(" ", "_").replace("-", "_") in known]


def _of_table(cells: list[list[str]], lines: Sequence[Line], source: str) -> Listed:
    """Take names and numbers out of the columns of a table. Raises OvssError if it is not plain which they are."""
    titles = cells[0] if _titled(cells[0], HEADINGS) else []
    rows = cells[1:] if titles else cells
    texts = [i for i in range(len(cells[0])) if not all(_is_number(row[i]) for row in rows)]
    named = [i for i in texts if i in _titled(titles, HEADINGS)] or ([] if titles else texts)
    named = [i for i in named if titles and titles[i].lower() == "name"] or named
    if len(named) != 1 or not rows:
        raise lines[0].refused("begins a table whose column of names is not plain. Write one class a line")
    numbered = [i for i in _titled(titles, NUMBERS | HEADINGS) if i not in texts or i in _titled(titles, NUMBERS)]
    if not titles and (len(cells[0]) != 4 or named[0] in (1, 2)):  # three numbers alone are a colour
        numbered = [0 if named[0] else 1]
    kept = [Line(line.where, row[named[0]]) for line, row in zip(lines[-len(rows) :], rows, strict=True)]
    for line, row in zip(kept, rows, strict=True):
        if numbered and not _is_count(row[numbered[0]]):
            raise line.refused(f"has {row[numbered[0]]!r} where other lines have a label value")
    listed = _checked(kept, source, tuple(int(row[numbered[0]]) for row in rows) if numbered else None)
    return Listed(tuple(map(_synonyms, listed.names)), listed.numbers)


def _synonyms(name: Names) -> Names:
    """The names of one class in a cell, which tables such as ADE20K's separate by commas or semicolons."""
    parts = [part.strip() for part in re.split("[;,]", name) if part.strip()] if isinstance(name, str) else name
    return tuple(parts) if len(parts) > 1 else name


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+(\.\d*)?", text) is not None


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) < 10


def _checked(lines: Sequence[Line], source: str, numbers: tuple[int, ...] | None = None) -> Listed:
    """Drop labelme's marks, and refuse lines that are no names. Logs a warning for names of what is not labelled."""
    if lines and lines[0].text == "__ignore__":  # labelme: -1, and its labels begin at 0 with the next line
        lines, numbers = lines[1:], numbers and numbers[1:]
    for i, (line, number) in enumerate(zip(lines, numbers or (), strict=False)):
        if numbers and number in numbers[:i]:
            raise line.refused(f"has the label value {number}, which another line has, too. Give each class its own")
        if number < 0:
            raise line.refused(f"has the label value {number}, which no class has. Take it out: see `ignore: {number}`")
    names = []
    for line in lines:
        name = "background" if line.text == "_background_" else line.text
        if why := class_names.fault(name):
            raise line.refused(f"is {name!r}, which {why}")
        names.append(name)
    if names and all(name.strip().isdecimal() for name in names):
        text = "%s: every class is called by a number, such as %r, which says nothing. Write what it is"
        logging.getLogger(__name__).warning(text, source, names[0])
    if uncounted := [name for name in names if name.strip().lower() in class_names.UNCOUNTED]:
        logging.getLogger(__name__).warning(
            "%s: %s asked for like any class. If those pixels are not to be counted, take it out of the classes, write "
            "its label value into `ignore`, and `offset` or `values` for the others",
            *(source, ", ".join(map(repr, uncounted)) + (" is" if len(uncounted) == 1 else " are")),
        )
    return Listed(tuple(names), numbers)
