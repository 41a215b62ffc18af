"""The progress of a run on a terminal: images done, speed, seconds per stage, failures, and the mIoU so far."""

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

from ovss_ray import metrics
from ovss_ray.engine.progress import Counts, Progress
from ovss_ray.io import files
from ovss_ray.runs import records
from ovss_ray.runs.plan import RunPlan

EVERY = 10.0
"""Seconds between two lines of progress if the output is not a terminal."""


class Display(Counts):
    """Display of a run's progress, updated whenever a file of records has been written.

    On a terminal, the display is redrawn in place. Otherwise a plain line is printed every EVERY seconds. The mIoU is
    provisional, since it is computed from the records written so far.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.console = console or Console(stderr=True)
        self.seconds: Counter[str] = Counter()
        self.partials: dict[tuple[str, str], Any] = {}
        self.first: tuple[float, int] | None = None
        self.shown = 0.0
        self.live: Live | None = None

    @contextmanager
    def watch(self, plan: RunPlan, todo: pa.Table) -> Iterator[None]:
        """Show the progress during the block."""
        self.folder = plan.folder
        self.labels = {name: len(benchmark.labels) for name, benchmark in plan.benchmarks.items()}
        self.seconds, self.partials, self.first, self.shown = Counter(), {}, None, 0.0
        with super().watch(plan, todo):
            self._begin(plan)
            if not self.console.is_terminal:
                yield
                return
            with Live(self, console=self.console, refresh_per_second=2, transient=True) as self.live:
                yield

    def _begin(self, plan: RunPlan) -> None:
        for name, table in plan.manifests.items():
            for part in records.read(self.folder.records(name), table):
                self._count(name, part.filter(pa.compute.equal(part["error"], "")))
        if self.earlier:
            self.console.print(
                f"{self.earlier} of {self.total} images have a record already: continuing with the others"
            )

    def update(self, receipt: Mapping[str, Any]) -> None:
        """Add the records of a newly written file to the displayed numbers. `receipt` describes the file."""
        name = receipt["benchmark"]
        part = records.read_part(files.join(self.folder.records(name), receipt["part"]))
        super().update(receipt)
        self.first = self.first or (time.monotonic(), self.done)
        for spent in part["seconds"].to_pylist():
            self.seconds.update(dict(spent))
        self._count(name, part)
        if not self.console.is_terminal and (time.monotonic() - self.shown > EVERY or self.done == self.total):
            self.shown = time.monotonic()
            self.say(self._line())

    def say(self, text: str) -> None:
        """Print a line that stays on the terminal."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _count(self, name: str, part: pa.Table) -> None:
        """Add a benchmark's records to the displayed metrics."""
        for metric in map(metrics.load, metrics.columns(part.column_names)):
            if metric.live and part[metric.name].null_count < len(part):
                partial, key = metric.partial(part[metric.name], self.labels[name]), (metric.name, name)
                self.partials[key] = self.partials[key] + partial if key in self.partials else partial

    def _rate(self) -> str:
        """Return the images per second as text, measured from the first written records; "–" if unknown.

        The time in which the workers start is not included.
        """
        if self.first is None or self.done == self.first[1]:
            return "–"
        return f"{(self.done - self.first[1]) / (time.monotonic() - self.first[0]):.2f}"

    def _provisional(self) -> str:
        """Return the current metric values of each benchmark as text; "–" for a missing value."""
        shown = {metric for metric, _ in self.partials}
        main = metrics.load(metrics.MAIN).live if not shown or metrics.MAIN in shown else {}
        values: dict[str, list[str]] = {words: [] for words in main.values()}
        for (metric, benchmark), partial in list(self.partials.items()):
            result = partial.result()
            for key, words in metrics.load(metric).live.items():
                value = result.get(key, np.nan)
                values.setdefault(words, []).append(f"{benchmark} {'–' if np.isnan(value) else f'{value:.2f}'}")
        return "; ".join(f"provisional {words}: {', '.join(shown) or '–'}" for words, shown in values.items())

    def _line(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        deaths = f", {self.deaths} deaths of workers ({self.redone} images begun again)" if self.deaths else ""
        counted = f"{self.done}/{self.total} images, {self._rate()}/s{failed}{deaths}"
        return f"{counted}; {self._provisional()}"

    def __rich__(self) -> Group:
        now = self.done - self.earlier
        table = Table.grid(padding=(0, 2))
        table.add_row("stage", *(f"[bold]{escape(name)}[/]" for name in list(self.seconds)))
        table.add_row("s/image", *(f"{spent / max(1, now):.3f}" for spent in list(self.seconds.values())))
        waiting = "" if now else " (workers are starting)"
        bar = Table.grid(expand=True)  # a bare ProgressBar ends without a new line and swallows what follows
        bar.add_row(ProgressBar(total=max(1, self.total), completed=self.done))
        return Group(bar, Text(self._line() + waiting), table)


def listener(progress: bool | Progress) -> Progress:
    """Return a new Display for True, and a new Counts, which prints nothing, for False. Return a listener unchanged."""
    return (Display() if progress else Counts()) if isinstance(progress, bool) else progress
