"""The progress of a run on a terminal: images done, speed, seconds per stage, failures, and the mIoU so far."""

import time
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
from ovss_ray.engine.ledger import Status
from ovss_ray.engine.progress import Counts, Progress
from ovss_ray.engine.provisional import Running, Value
from ovss_ray.runs.plan import RunPlan

EVERY = 10.0
"""Minimum seconds between two lines of progress if the output is not a terminal."""


class Display(Counts):
    """Display of a run's progress, with a provisional mIoU of the images so far.

    On a terminal, the display is redrawn in place. Otherwise, a line is printed about every EVERY seconds.
    """

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.console = console or Console(stderr=True)
        self.running: Running = Running()
        self.shown = 0.0
        self.live: Live | None = None

    @contextmanager
    def watch(self, plan: RunPlan, todo: pa.Table) -> Iterator[None]:
        """Show the progress during the block."""
        self.shown = 0.0
        with super().watch(plan, todo):
            if self.earlier:
                self.console.print(
                    f"{self.earlier} of {self.total} images have a record already: continuing with the others"
                )
            if not self.console.is_terminal:
                yield
                return
            with Live(self, console=self.console, refresh_per_second=2, transient=True) as self.live:
                yield

    def update(self, receipt: Mapping[str, Any]) -> None:
        """Add the records of a newly written file to the displayed numbers. `receipt` describes the file."""
        super().update(receipt)
        if not self.console.is_terminal and (time.monotonic() - self.shown > EVERY or self.done == self.total):
            self.shown = time.monotonic()
            self.say(self._line())

    def pulse(self, status: Status) -> None:
        """Receive the state of the workers, and store the numbers that the display shows.

        On a terminal, the numbers appear when the display is redrawn. If the output is not a terminal, this method may
        print a line such as "preparing names: 12/847". It prints this line only while class names are embedded. If the
        latest line of progress is at most EVERY seconds old, nothing is printed.
        """
        super().pulse(status)
        if self.preparing and not self.console.is_terminal and time.monotonic() - self.shown > EVERY:
            self.shown = time.monotonic()
            self.say(self.preparing)

    def say(self, text: str) -> None:
        """Print a line that stays on the terminal."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _provisional(self) -> str:
        """Return the current metric values of each benchmark as text; "–" for a missing value."""
        known = self.running.values()
        main = metrics.load(metrics.MAIN).live
        shown: dict[str, list[str]] = {words: [] for words in main.values()} if not known else {}
        for value in sorted(known, key=lambda value: value.key not in main):
            shown.setdefault(value.words, []).append(f"{value.benchmark} {_percent(value)}")
        return "; ".join(f"provisional {words}: {', '.join(of) or '–'}" for words, of in shown.items())

    def _line(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        deaths = f", {self.deaths} deaths of workers ({self.redone} images begun again)" if self.deaths else ""
        counted = (
            f"{self.done}/{self.total} images, {'–' if self.rate is None else f'{self.rate:.2f}'}/s{failed}{deaths}"
        )
        return f"{counted}; {self._provisional()}"

    def __rich__(self) -> Group:
        now = self.done - self.earlier
        table = Table.grid(padding=(0, 2))
        table.add_row("stage", *(f"[bold]{escape(name)}[/]" for name in list(self.running.seconds)))
        table.add_row("s/image", *(f"{spent / max(1, now):.3f}" for spent in list(self.running.seconds.values())))
        waiting = "" if now else f" ({self.preparing or 'workers are starting'})"
        bar = Table.grid(expand=True)  # a bare ProgressBar ends without a new line and swallows what follows
        bar.add_row(ProgressBar(total=max(1, self.total), completed=self.done))
        return Group(bar, Text(self._line() + waiting), table)


def _percent(value: Value) -> str:
    """Return the value of a metric as text, with half the width of its confidence interval: "41.20 ± 0.35".

    If the interval is not defined, return only the value. If the metric is not measured yet, return "–".
    """
    if np.isnan(value.percent):
        return "–"
    return f"{value.percent:.2f}" + ("" if value.half is None else f" ± {value.half:.2f}")


def listener(progress: bool | Progress) -> Progress:
    """Return a Display if `progress` is True, a silent Counts if it is False, otherwise `progress` itself."""
    return (Display() if progress else Counts()) if isinstance(progress, bool) else progress
