"""Ledger of a run: which images each worker is processing, and why workers have died. This module does not import Ray.

If a worker dies, its images are processed again, one by one. An image is skipped after several workers have died while
processing it.
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

# The cause is known if faulthandler left a trace: a missed deadline, a segmentation fault, or another fatal error.
ENOUGH = 2
"""An image is skipped after this number of workers have died from a known cause while processing the image."""
ENOUGH_UNKNOWN = 3
"""An image is skipped after this number of workers have died while processing the image, from any cause."""

UNKNOWN = "its process was killed, as happens for lack of memory"


@dataclass
class Busy:
    """A worker and its images in progress."""

    pool: int
    node: str
    handle: bytes = b""
    """pickled Ray actor handle of the worker, with which it can be killed"""
    images: tuple[str, ...] = ()
    ready: bool = False


@dataclass(frozen=True)
class Status:
    """The state of a run, which the driver process requests every few seconds."""

    idle: float
    """seconds since the latest sign of progress, such as an image that was started or finished"""
    deaths: int
    redone: int
    """number of repeated starts of images, in the pool with the most repeated starts

    For example, if the workers of this pool have made 103 starts for 100 images, `redone` is 3.
    """
    busy: dict[str, tuple[str, ...]]
    """id of a worker → names of its images in progress"""
    nodes: dict[str, str]
    """id of a worker → id of its node"""
    named: int = 0
    """number of names whose text embeddings have been computed so far (embeddings are computed before any image)"""
    names: int = 0
    """number of names to embed; 0 if there are no names to embed, or if all names are embedded"""


@dataclass
class Ledger:
    """Register of the workers of a run: their images in progress, and the workers that have died. No method blocks."""

    images: int
    """number of images to evaluate"""
    max_deaths: int
    """maximum number of workers that may die in succession, without a successful image in between"""
    workers: dict[str, Busy] = field(default_factory=dict)
    causes: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    begun: Counter[int] = field(default_factory=Counter)
    deaths: int = 0
    in_a_row: int = 0
    latest: str = ""
    named: int = 0
    names: int = 0
    changed: float = field(default_factory=time.monotonic)
    gauges: Any = None
    """metrics that this process exports (see pools/gauges.py); None if there are none"""

    def start_names(self, names: int) -> None:
        """Register that text embeddings of about `names` names are to be computed before the next image."""
        self.named, self.names = 0, names
        self._tick()

    def add_names(self, done: int, names: int) -> None:
        """Register that `done` of `names` names are embedded. After `end_names`, these numbers are ignored."""
        if self.names:
            self.named, self.names = done, names
        self._tick()

    def end_names(self) -> None:
        """Register that all names are embedded."""
        self.named = self.names = 0
        self._tick()

    def start(self, worker: str, pool: int, node: str, evidence: str, handle: bytes = b"") -> str:
        """Register that a worker starts. Return the reason why the run should stop, or "" if the run should continue.

        If the worker is already registered, its previous process has died. `evidence`: faulthandler's trace of that
        death, or "" if there is no trace.
        """
        if previous := self.workers.get(worker):
            self._died(previous, evidence)
        self.workers[worker] = Busy(pool, node, handle)
        return self._tick()

    def ready(self, worker: str) -> None:
        """Register that a worker has built its stages."""
        self._of(worker).ready = True
        self._tick()

    def begin(
        self, worker: str, images: Sequence[str], again: bool = False, good: bool = False
    ) -> tuple[str, dict[str, str]]:
        """Register the images that a worker will process now. Return (stop, image → verdict).

        `stop`: the reason why the run should stop, or "". If a worker has died while processing an image, the image has
        a verdict. The verdict is the reason to skip the image, or "" to process the image separately.

        `again`: True if the worker has registered the same images before. If `again` is False, all images are added to
        the pool's number of started images, from which Status.redone is computed.

        `good`: True if at least one of the worker's previous images has no error.
        """
        notes = self._of(worker)
        notes.images = tuple(images)
        if good:
            self.in_a_row = 0
        if not again:
            self.begun[notes.pool] += len(images)
        return self._tick(), {image: verdict(self.causes[image]) for image in images if image in self.causes}

    def end(self, worker: str, good: bool = True) -> None:
        """Register that a worker has finished its images. `good`: True if at least one image has no error."""
        self._of(worker).images = ()
        if good:
            self.in_a_row = 0
        self._tick()

    def handles(self) -> list[bytes]:
        """Return the pickled actor handles of the workers."""
        return [notes.handle for notes in self.workers.values() if notes.handle]

    def forget(self) -> None:
        """Remove all workers, for example after they were killed on purpose. No deaths are counted for their images."""
        self.workers.clear()
        self._tick()

    def bury(self, worker: str, evidence: str) -> None:
        """Register that a worker has died and is not restarted.

        `evidence`: trace that faulthandler wrote when the worker died, or "" if there is no trace.
        """
        if dead := self.workers.pop(worker, None):
            self._died(dead, evidence)
        self._tick()

    def publish(self, run: str, samples: Sequence[Any]) -> None:
        """Export values of a run and of its workers as metrics of Ray (see pools/gauges.py)."""
        from ovss_ray.engine.pools.gauges import Gauges, Sample  # most runs have no metrics

        self.gauges = self.gauges or Gauges(run)
        busy = sum(len(notes.images) for notes in self.workers.values())
        workers = {"workers": len(self.workers), "images_in_progress": busy, "deaths": self.deaths}
        self.gauges.set([*samples, *(Sample(name, value) for name, value in workers.items())])

    def status(self) -> Status:
        """Return the state of the run."""
        return Status(
            idle=time.monotonic() - self.changed,
            deaths=self.deaths,
            redone=max(0, *self.begun.values(), self.images) - self.images,
            busy={name: notes.images for name, notes in self.workers.items() if notes.images},
            nodes={name: notes.node for name, notes in self.workers.items() if notes.node},
            named=self.named,
            names=self.names,
        )

    def _of(self, worker: str) -> Busy:
        """Return the entry of a worker. If the entry is missing, add an empty one."""
        # missing after the ledger's own process has died and was restarted
        return self.workers.setdefault(worker, Busy(pool=-1, node="", ready=True))

    def _died(self, notes: Busy, evidence: str) -> None:
        self.deaths += 1
        self.in_a_row += 1
        cause = explain(evidence)
        for image in notes.images:
            self.causes[image].append(cause)
        doing = f"over {', '.join(notes.images[:3])}" if notes.images else "between two batches"
        self.latest = f"{cause or UNKNOWN}, {doing if notes.ready else 'while it was starting'}"

    def _tick(self) -> str:
        self.changed = time.monotonic()
        if self.in_a_row <= self.max_deaths:
            return ""
        return (
            f"{self.in_a_row} workers died without an image finished in between, more than max_deaths "
            f"({self.max_deaths}): the images are probably not the cause. The latest death: {self.latest}"
        )


class Names:
    """Callback that reports to the ledger how many class names have a text embedding.

    The computation of the text embeddings calls this object. At most one message per second is sent.
    """

    def __init__(self, ledger: Any, expected: int) -> None:
        self.ledger, self.expected = ledger, expected
        self.before = self.total = 0
        self.done = self.sent = 0.0

    def __call__(self, done: float, total: int) -> None:
        """Receive the progress of the current call of text.embed: `done` of its `total` names are embedded."""
        if done <= self.done:  # the next call
            self.before += self.total
        self.done, self.total = done, total
        if time.monotonic() - self.sent > 1:
            self.sent = time.monotonic()
            self.ledger.add_names.remote(int(self.before + done), max(self.expected, self.before + total))


def verdict(causes: Collection[str]) -> str:
    """Return the reason to skip an image, or "" to process it again.

    `causes`: causes of death of the workers that died while processing this image. An unknown cause is "".
    """
    known_causes = [cause for cause in causes if cause]
    if len(known_causes) < ENOUGH and len(causes) < ENOUGH_UNKNOWN:
        return ""
    why = known_causes[-1] if known_causes else UNKNOWN
    return f"killed its worker {len(causes)} times: {why}"


def explain(evidence: str) -> str:
    """Return a summary of the trace that Python's faulthandler wrote when a process died; "" for an empty trace."""
    if not evidence.strip():
        return ""
    threads = re.split(r"^(?=Thread |Current thread )", evidence, flags=re.MULTILINE)
    ours = next((text for text in threads if "pipeline/execution.py" in text), threads[-1])
    where = re.search(r'File "(?:.*/)?([^"/]+)", line (\d+)', ours)
    at = f" ({where[1]}, line {where[2]})" if where else ""
    if matched := re.match(r"Timeout \(([\d:.]+)\)", evidence):
        return f"it took longer than the deadline of {matched[1]}{at}"
    if matched := re.search(r"Fatal Python error: (.*)", evidence):
        return f"{matched[1].strip()}{at}"
    return f"{evidence.strip().splitlines()[0]}{at}"
