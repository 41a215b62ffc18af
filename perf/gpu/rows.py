"""Rows of the kit's table: printed when they are measured, and kept in a JSON file that a killed run leaves behind."""

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from perf.timing import titled

COLUMNS = ("stage", "network", "case", "figure", "unit", "goal", "met", "share of peak", "MB")
"""Headings of the table, as in RESULTS.md."""


@dataclass(frozen=True)
class Row:
    """One figure. A goal is "<= 20" or ">= 600": the comparison and the bound in the unit of the figure."""

    stage: str
    network: str
    case: str
    figure: float
    unit: str
    goal: str = ""
    share: float | None = None
    """operations per second, as a part of the peak that the same call has measured in the same precision"""
    peak_bytes: int | None = None
    """memory at the peak of the measured call, beyond what there was before it"""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        if not self.goal:
            return None
        sign, bound = self.goal.split()
        return self.figure <= float(bound) if sign == "<=" else self.figure >= float(bound)

    def cells(self) -> tuple[str, ...]:
        """The cells of the table, in the order of COLUMNS."""
        return (
            *(self.stage, self.network, self.case, f"{self.figure:.4g}", self.unit, self.goal),
            {None: "", True: "yes", False: "NO"}[self.met],
            "" if self.share is None else f"{self.share:.1%}",
            "" if self.peak_bytes is None else f"{self.peak_bytes / 1e6:,.0f}",
        )


@dataclass
class Sheet:
    """The rows of a call, and the file that is rewritten with each of them."""

    path: Path
    about: dict[str, Any]
    """the machine, versions and settings"""
    limit: float = float("inf")
    """seconds after which nothing new is begun"""
    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Print a line at once."""
        print(text, flush=True)

    def add(self, row: Row) -> Row:
        """Print a row, and write all rows so far."""
        self.rows.append(row)
        self.say(f"{time.monotonic() - self.begun:6.1f} s  " + " | ".join(row.cells()) + f"  {row.note}".rstrip())
        self.write()
        return row

    def due(self, what: str) -> bool:
        """Whether there is time for `what`; if not, it is noted as not measured."""
        if time.monotonic() - self.begun < self.limit:
            return True
        self.skip(what, f"the limit of {self.limit:.0f} s is over")
        return False

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Note what fails in the block, so that the minutes on a machine that nobody has tried serve the rest."""
        try:
            yield
        except Exception as failure:  # noqa: BLE001 - whatever a network meets there, memory that is full among it
            traceback.print_exc()
            self.skip(what, f"{type(failure).__name__}: {str(failure)[:500]}")

    def skip(self, what: str, reason: str) -> None:
        """Note what was not measured, and why."""
        self.left_out.append(f"{what}: {reason}")
        self.say(f"not measured: {what}: {reason}")
        self.write()

    def write(self) -> None:
        """Write the JSON file."""
        rows = [asdict(row) | {"met": row.met} for row in self.rows]
        content = {"about": self.about, "rows": rows, "not_measured": self.left_out}
        self.path.write_text(json.dumps(content, indent=1, allow_nan=True) + "\n")

    def table(self) -> None:
        """Print the table, and write it as Markdown next to the JSON file."""
        shown = titled("The GPU kit", *COLUMNS)
        lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
        for row in self.rows:
            shown.add_row(*row.cells())
            lines.append(f"| {' | '.join(row.cells())} |")
        Console(width=200, highlight=False, markup=False).print(shown)
        about = "\n".join(f"- {name}: {value}" for name, value in self.about.items())
        rest = "".join(f"- not measured: {what}\n" for what in self.left_out)
        self.path.with_suffix(".md").write_text(f"{about}\n{rest}\n" + "\n".join(lines) + "\n")
