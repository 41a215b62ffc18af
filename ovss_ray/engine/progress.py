"""Listeners of a run's progress. They count finished images and lost workers, but print nothing.

The listener that prints to a terminal is in engine/display.py.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ovss_ray.engine.ledger import Status
from ovss_ray.engine.pools.gauges import Sample
from ovss_ray.engine.provisional import Running
from ovss_ray.runs.folder import RunFolder
from ovss_ray.runs.plan import RunPlan

EVERY = 5.0
"""Seconds between two messages to the ledger (see Exported)."""


class Progress(Protocol):
    """Protocol of a listener. A run calls the methods to report progress, and reads the numbers in the attributes."""

    done: int
    """number of images with a record, including records of earlier commands"""
    earlier: int
    """number of images that already had a record when the command began"""
    failed: int
    """number of images that failed in this command"""
    deaths: int
    """number of workers that have died"""
    redone: int
    """number of times that an image was processed again because a worker had died (see Status.redone)"""

    def watch(self, plan: RunPlan, todo: pa.Table) -> AbstractContextManager[None]:
        """Return a context manager that encloses the whole run. `todo`: manifest rows of the images to evaluate."""

    def update(self, receipt: Mapping[str, Any]) -> None:
        """Receive the receipt of a newly written file of records (see evaluate._write).

        `receipt["images"]`: number of images in the file. `receipt["failed"]`: number of failed images in the file.
        """

    def pulse(self, status: Status) -> None:
        """Receive the state of the workers. The run calls this every few seconds."""

    def say(self, text: str) -> None:
        """Show a message that later output does not overwrite."""


class Counts:
    """Listener that counts images, failures and dead workers, but displays no progress.

    The listener logs the messages of a run as warnings of the logger "ovss_ray".
    """

    running: Running | None = None
    """sums of metrics and stage times over the records written so far; None if this listener does not need them"""
    preparing: str = ""
    """message while names are embedded, before the first image, such as "preparing names: 12/847"; "" at other times"""

    def __init__(self) -> None:
        self.total = self.done = self.earlier = self.failed = self.deaths = self.redone = 0
        self.first: tuple[float, int] | None = None

    @contextmanager
    def watch(self, plan: RunPlan, todo: pa.Table) -> Iterator[None]:
        """Start the count with the number of images that already have a record."""
        self.total = sum(len(table) for table in plan.manifests.values())
        self.done = self.earlier = self.total - len(todo)
        self.failed = self.deaths = self.redone = 0
        self.first = None
        if self.running is not None:
            self.running.begin(plan)
        yield

    def update(self, receipt: Mapping[str, Any]) -> None:
        """Add the images and failures of a newly written file of records to the counts.

        `receipt` is the receipt of this file (see Progress.update).
        """
        self.done += receipt["images"]
        self.failed += receipt["failed"]
        self.first = self.first or (time.monotonic(), self.done)
        if self.running is not None:
            self.running.add(receipt)

    def pulse(self, status: Status) -> None:
        """Store two counts from `status`, and how many class names have a text embedding.

        The counts are the number of dead workers, and how often an image was processed again (see Status.redone).
        """
        self.deaths, self.redone = status.deaths, status.redone
        self.preparing = f"preparing names: {status.named}/{status.names}" if status.names else ""

    def say(self, text: str) -> None:
        """Log a message as a warning."""
        logging.getLogger("ovss_ray").warning("%s", text)

    @property
    def rate(self) -> float | None:
        """Images per second since the first file of records was written; None before the second file is written."""
        if self.first is None or self.done == self.first[1]:
            return None
        return (self.done - self.first[1]) / (time.monotonic() - self.first[0])


class Relay(Counts):
    """Listener that counts, and passes all calls on to another listener, `inner`.

    The attribute `sums` is a Running object, which sums metrics and stage times over the records written so far. If
    `inner` has a Running object, `sums` is the same object. Otherwise, `sums` is a new Running object.
    """

    def __init__(self, inner: Progress) -> None:
        super().__init__()
        self.inner = inner
        # With shared sums, each file of records is read only once.
        shared = inner.sums if isinstance(inner, Relay) else inner.running if isinstance(inner, Counts) else None
        self.sums: Running = shared or Running()
        self.running = None if shared else self.sums

    @contextmanager
    def watch(self, plan: RunPlan, todo: pa.Table) -> Iterator[None]:
        """Watch the run with both listeners."""
        with self.inner.watch(plan, todo), super().watch(plan, todo):
            self.changed()
            yield

    def update(self, receipt: Mapping[str, Any]) -> None:
        """Pass a receipt on, and add its numbers of images to the counts."""
        self.inner.update(receipt)
        super().update(receipt)
        self.changed()

    def pulse(self, status: Status) -> None:
        """Pass the state of the workers on, and store it."""
        self.inner.pulse(status)
        super().pulse(status)
        self.changed()

    def say(self, text: str) -> None:
        """Pass a message on."""
        self.inner.say(text)

    def changed(self) -> None:
        """React to changed numbers. Subclasses override this method."""


class Exported(Relay):
    """Listener that sends its counts and sums to the run's ledger, and passes all calls on to another listener.

    `ledger` is the Ray actor of the ledger, or None before the run has started this actor.
    """

    def __init__(self, inner: Progress, folder: RunFolder) -> None:
        super().__init__(inner)
        self.run = folder.uri.rstrip("/").rpartition("/")[2]
        self.ledger: Any = None
        self.sent = 0.0

    def changed(self) -> None:
        """Send the counts and sums to the ledger if at least EVERY seconds have passed since the previous message.

        If `ledger` is None, do nothing.
        """
        if self.ledger is not None and time.monotonic() - self.sent >= EVERY:
            self.send()

    def send(self) -> None:
        """Send the numbers to the ledger."""
        self.sent = time.monotonic()
        self.ledger.publish.remote(self.run, list(self._samples()))

    def _samples(self) -> Iterator[Sample]:
        yield Sample("images", self.total)
        yield Sample("images_done", self.done)
        outcomes: Mapping[str, int] = {"failed": self.failed, "good": self.done - self.earlier - self.failed}
        yield from (Sample("images_finished", number, (outcome,)) for outcome, number in outcomes.items())
        yield from (Sample("stage_seconds", spent, (stage,)) for stage, spent in list(self.sums.seconds.items()))
        for value in self.sums.values():
            labels = value.benchmark, value.key
            if not np.isnan(value.percent):
                yield Sample("provisional", value.percent, labels)
            if value.half is not None:
                yield Sample("provisional_half", value.half, labels)
