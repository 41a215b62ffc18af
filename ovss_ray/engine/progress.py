"""Listeners of a run's progress: the protocol Progress, and the listener Counts, which prints nothing.

The listener for a terminal is in engine/display.py.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import pyarrow as pa

from ovss_ray.engine.ledger import Status
from ovss_ray.runs.plan import RunPlan


class Progress(Protocol):
    """Protocol of a listener, which is notified of a run's progress and keeps the numbers below."""

    done: int
    """number of images with a record, including records of earlier commands"""
    earlier: int
    """number of images that already had a record when the command began"""
    failed: int
    """number of images that failed in this command"""
    deaths: int
    """number of workers that have died"""
    redone: int
    """number of images that were started again because their worker had died"""

    def watch(self, plan: RunPlan, todo: pa.Table) -> AbstractContextManager[None]:
        """Return a context manager in which the whole run happens. `todo`: manifest rows of the images to evaluate."""

    def update(self, receipt: Mapping[str, Any]) -> None:
        """Receive the receipt of a newly written file of records, with its numbers of images and failures."""

    def pulse(self, status: Status) -> None:
        """Receive the state of the workers. The run calls this every few seconds."""

    def say(self, text: str) -> None:
        """Show a message that later output does not overwrite."""


class Counts:
    """Listener that counts but prints nothing. It logs messages as warnings of the logger "ovss_ray"."""

    def __init__(self) -> None:
        self.total = self.done = self.earlier = self.failed = self.deaths = self.redone = 0

    @contextmanager
    def watch(self, plan: RunPlan, todo: pa.Table) -> Iterator[None]:
        """Start the count with the number of images that already have a record."""
        self.total = sum(len(table) for table in plan.manifests.values())
        self.done = self.earlier = self.total - len(todo)
        self.failed = self.deaths = self.redone = 0
        yield

    def update(self, receipt: Mapping[str, Any]) -> None:
        """Increase the counts by the images and failures in a newly written file of records."""
        self.done += receipt["images"]
        self.failed += receipt["failed"]

    def pulse(self, status: Status) -> None:
        """Store the numbers of dead workers and of restarted images."""
        self.deaths, self.redone = status.deaths, status.redone

    def say(self, text: str) -> None:
        """Log a message as a warning."""
        logging.getLogger("ovss_ray").warning("%s", text)
