"""What a run shows of itself: images done, speed, seconds per stage, failures, and the mIoU so far."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ovss_ray import files, records
from ovss_ray.ledger import Status
from ovss_ray.metrics.confusion import Partial
from ovss_ray.request import Request

EVERY = 10.0
"""Seconds between two lines when the output is not a terminal."""


class Display:
    """Counts what has been written, from the part files themselves, and shows it.

    On a terminal it is a live block; elsewhere a plain line now and then. The mIoU is provisional: it is a fold over
    the records that are there.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.total = self.done = self.failed = self.earlier = self.deaths = self.redone = 0
        self.seconds: Counter[str] = Counter()
        self.partials: dict[str, Partial] = {}
        self.first: tuple[float, int] | None = None
        self.shown = 0.0
        self.live: Live | None = None

    @contextmanager
    def watch(self, request: Request, todo: pa.Table) -> Iterator[None]:
        """Show the run while it goes on."""
        self.folder = request.folder
        self.labels = {name: len(one.labels) for name, one in request.benchmarks.items()}
        self.total = sum(len(table) for table in request.manifests.values())
        self.done = self.earlier = self.total - len(todo)
        self._begin(request)
        if not self.console.is_terminal:
            yield
            return
        with Live(self, console=self.console, refresh_per_second=2, transient=True) as self.live:
            yield

    def _begin(self, request: Request) -> None:
        for name, table in request.manifests.items():
            for part in records.read(self.folder.records(name), table):
                self._count(name, part.filter(pa.compute.equal(part["error"], "")))
        if self.earlier:
            self.console.print(f"{self.earlier} of {self.total} images have a record already: going on with the rest")

    def update(self, receipt: Mapping[str, Any]) -> None:
        """Take note of a part file that was written."""
        name = receipt["benchmark"]
        part = records.read_part(files.join(self.folder.records(name), receipt["part"]))
        self.done += receipt["images"]
        self.failed += receipt["failed"]
        self.first = self.first or (time.monotonic(), self.done)
        for spent in part["seconds"].to_pylist():
            self.seconds.update(dict(spent))
        self._count(name, part)
        if not self.console.is_terminal and (time.monotonic() - self.shown > EVERY or self.done == self.total):
            self.shown = time.monotonic()
            self.say(self._line())

    def pulse(self, status: Status) -> None:
        """Take note of how the workers are."""
        self.deaths, self.redone = status.deaths, status.redone

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _count(self, name: str, part: pa.Table) -> None:
        partial = Partial.of(part["confusion"], self.labels[name])
        self.partials[name] = self.partials[name] + partial if name in self.partials else partial

    def _rate(self) -> str:
        """Images a second since the first records came, so that the start of the workers does not count."""
        if self.first is None or self.done == self.first[1]:
            return "–"
        return f"{(self.done - self.first[1]) / (time.monotonic() - self.first[0]):.2f}"

    def _mious(self) -> str:
        """The mIoU of each benchmark so far; "–" if no pixel has counted yet."""
        means = {name: partial.miou for name, partial in list(self.partials.items())}
        return ", ".join(f"{name} {'–' if np.isnan(miou) else f'{miou:.2f}'}" for name, miou in means.items())

    def _line(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        deaths = f", {self.deaths} deaths of workers ({self.redone} images begun again)" if self.deaths else ""
        counted = f"{self.done}/{self.total} images, {self._rate()}/s{failed}{deaths}"
        return f"{counted}; provisional mIoU: {self._mious() or '–'}"

    def __rich__(self) -> Group:
        now = self.done - self.earlier
        table = Table.grid(padding=(0, 2))
        table.add_row("stage", *(f"[bold]{escape(name)}[/]" for name in list(self.seconds)))
        table.add_row("s/image", *(f"{spent / max(1, now):.3f}" for spent in list(self.seconds.values())))
        waiting = "" if now else " (workers are starting)"
        bar = Table.grid(expand=True)  # a bare ProgressBar ends without a new line and swallows what follows
        bar.add_row(ProgressBar(total=max(1, self.total), completed=self.done))
        return Group(bar, Text(self._line() + waiting), table)
