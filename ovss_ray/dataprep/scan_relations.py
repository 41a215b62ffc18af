"""Extract tables of relations between classes from a checkout of SCAN's official code, for the option `--relations`.

The tables are CC BY-NC 4.0 and not part of this project. A comment above each table names its data set. The code of
the checkout is parsed, never executed.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovss_ray.benchmarks import catalog
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.structures.relations import Relations

REPOSITORY = "https://github.com/yongliu20/SCAN"
MODULE = "scan/evaluation/generalized_sem_seg_evaluation.py"
"""Path of the file with the tables, relative to the checkout."""
VARIABLE = "father_class"
"""Name of the variable in SCAN's code to which each table is assigned in turn.

A table maps child → father or fathers, all as label indices."""
COMMENTED_OUT = re.compile(rf"\s*#\s*{VARIABLE}\s*=")


@dataclass(frozen=True)
class Table:
    """Table of relations in the official code."""

    benchmark: str
    """name of this project's benchmark whose label indices the table uses"""
    heading: str
    """comment above the table"""


TABLES = {
    "ade20k_150": Table("ade20k:150", "# ADE-150"),
    "ade20k_847": Table("ade20k:847", "# ADE-847"),
    "pascal_context_459": Table("pascal_context:459", "# pc-459"),
}
"""Value of `--table` → table. The official code has no table for PASCAL-Context-59 and VOC."""


@dataclass(frozen=True)
class Extract:
    """Relations between classes, read from one table of SCAN's official code."""

    table: Table
    relations: Relations
    repeated: tuple[int, ...]
    """children that the table lists more than once; the last entry counts, as in Python"""

    def yaml(self) -> str:
        """Return the content of a file for `--relations`, with class names as comments."""
        labels = catalog.load(self.table.benchmark).labels
        fathers: dict[int, list[int]] = {}
        for child, father in self.relations.pairs:
            fathers.setdefault(child, []).append(father)
        lines = [f"# child: [fathers], read from {MODULE} of {REPOSITORY} (CC BY-NC 4.0)"]
        lines += [f"# {self.note}"] if self.note else []
        lines += [f"{self.table.benchmark}:"]
        for child, of in fathers.items():
            names = " and ".join(labels[father].strip() for father in of)
            lines.append(f"  {child}: {of}  # {labels[child].strip()} → {names}")
        return "\n".join(lines) + "\n"

    @property
    def note(self) -> str:
        """Remark on keys that occur twice in the table; empty if there are none."""
        if not self.repeated:
            return ""
        listed = ", ".join(map(str, self.repeated))
        return f"repeated keys of the table, of which the last entry counts, as in Python: {listed}"


def extract(checkout: str | Path, name: str) -> Extract:
    """Return the relations between classes in one table of SCAN's code. `name`: key of the table in TABLES.

    If the code has the table twice, the last table counts, as in Python. Raises UnknownName if TABLES lacks `name`.
    Raises OvssError if the file cannot be read, or if the table is missing or invalid.
    """
    if name not in TABLES:
        raise UnknownName("table", name, TABLES)
    table = TABLES[name]
    file, source = _source(checkout)
    lines = source.splitlines()
    live = {_heading(lines, node.lineno): node for node in _assignments(file, source)}
    if _plain(table.heading) not in live:
        raise OvssError(f"{file}: {_missing(name, lines, sorted(live))}")
    node = live[_plain(table.heading)]
    entries = list(_entries(file, node.value))
    fathers = {str(child): list(map(str, of)) for child, of in entries}
    counts = Counter(child for child, _ in entries)
    try:
        relations = Relations.of(fathers, catalog.load(table.benchmark).labels, MODULE)
    except OvssError as failure:
        raise OvssError(f"{file}: line {node.lineno}: {table.benchmark}: {failure}") from failure
    return Extract(table, relations, tuple(sorted(child for child, count in counts.items() if count > 1)))


def _source(checkout: str | Path) -> tuple[Path, str]:
    file = Path(checkout) / MODULE
    try:
        return file, file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as failure:
        raise OvssError(
            f"{file}: cannot be read: {failure}. Run `git clone {REPOSITORY}`, and set `--from-checkout` to the "
            "new folder"
        ) from failure


def _assignments(file: Path, source: str) -> Iterator[ast.Assign]:
    """Yield the tables that are not commented out, in the order of the file."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as failure:
        raise OvssError(
            f"{file}: invalid Python: {failure}. Correct the file, or run `git clone {REPOSITORY}` and set "
            "`--from-checkout` to the new folder"
        ) from failure
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [VARIABLE]:
            yield node


def _heading(lines: Sequence[str], number: int) -> str:
    """Return letters and digits of the comment above a line, in lower case; "" if none. The first line is number 1."""
    above = [line.strip() for line in lines[: number - 1] if line.strip()]
    return _plain(above[-1]) if above and above[-1].startswith("#") else ""


def _plain(heading: str) -> str:
    return re.sub(r"[^a-z0-9]", "", heading.lower())


def _entries(file: Path, value: ast.expr) -> Iterator[tuple[int, list[int]]]:
    """Yield (child, fathers) for each entry of a table such as {9: 17, 19: [31, 34]}, also for repeated keys.

    Raises OvssError if `value` is not such a table.
    """
    if not isinstance(value, ast.Dict):
        raise _unexpected(file, value)
    for key, of in zip(value.keys, value.values, strict=True):
        fathers = of.elts if isinstance(of, ast.List | ast.Tuple) else [of]
        numbers = [node.value for node in (key, *fathers) if isinstance(node, ast.Constant) and type(node.value) is int]
        if len(numbers) != 1 + len(fathers):
            raise _unexpected(file, of)
        yield numbers[0], numbers[1:]


def _unexpected(file: Path, node: ast.expr) -> OvssError:
    text = ast.unparse(node)[:80]
    return OvssError(f"{file}: line {node.lineno}: expected a dictionary such as {{9: 17, 19: [31, 34]}}, found {text}")


def _missing(name: str, lines: Sequence[str], live: Sequence[str]) -> str:
    """Return a sentence that states whether a table is commented out or absent, and what to do."""
    heading = TABLES[name].heading
    for number, line in enumerate(lines, 1):
        if COMMENTED_OUT.match(line) and _heading(lines, number) == _plain(heading):
            return (
                f"the table {name} is commented out in line {number}. Delete the `# ` at the beginning of this line, "
                f"leave the comment `{heading}` above it, and run the same command again"
            )
    known = [table for table, entry in TABLES.items() if _plain(entry.heading) in live]
    return (
        f"no table {name}: expected `{VARIABLE} = {{…}}` directly below the comment `{heading}`. Tables there: "
        f"{', '.join(known) or 'none'}"
    )
