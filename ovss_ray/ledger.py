"""Who is busy with which images, and what is known of those whose worker died over them. Nothing here knows about Ray.

A worker notes its images before it starts them. If it dies, only these are suspect: they are run again one by one, and
one that goes on to kill its workers is given up (design §6). The notes are hints and hold no result.
"""

import re
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

ENOUGH = 2
"""Deaths with a known cause, such as a deadline or a segmentation fault, after which an image is given up."""
ENOUGH_UNKNOWN = 3
"""Deaths of any cause. One more, because a worker that is killed from outside says nothing, as with a lost node."""

UNKNOWN = "its process was killed, as happens for lack of memory"


@dataclass
class Busy:
    """A worker, and what it has in hand."""

    pool: int
    node: str
    handle: object = None
    """by which Ray can end it"""
    images: tuple[str, ...] = ()
    ready: bool = False


@dataclass(frozen=True)
class Status:
    """What the driver asks for now and then."""

    idle: float
    """seconds since anything was last begun or ended"""
    deaths: int
    redone: int
    """images that were begun more than once, in the pool where that was most often"""
    busy: dict[str, tuple[str, ...]]
    """worker → its images"""
    nodes: dict[str, str]
    """worker → its node"""


@dataclass
class Ledger:
    """The notes of all workers of a run. Every method is a short call."""

    images: int
    """how many the run has to do"""
    max_deaths: int
    """workers that may die one after another without an image being finished in between"""
    workers: dict[str, Busy] = field(default_factory=dict)
    causes: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    begun: Counter[int] = field(default_factory=Counter)
    deaths: int = 0
    in_a_row: int = 0
    latest: str = ""
    changed: float = field(default_factory=time.monotonic)

    def start(self, worker: str, pool: int, node: str, evidence: str, handle: object = None) -> str:
        """Take note that a worker's process begins; `evidence` is what its last one left behind, if it had one.

        Returns why it should give up, or nothing.
        """
        if before := self.workers.get(worker):
            self._died(before, evidence)
        self.workers[worker] = Busy(pool, node, handle)
        return self._tick()

    def ready(self, worker: str) -> None:
        """Take note that a worker has built its stages."""
        self._of(worker).ready = True
        self._tick()

    def begin(self, worker: str, images: Sequence[str], alone: bool = False) -> tuple[str, dict[str, str]]:
        """Take note of what a worker starts now; `alone` if it is a suspect of a batch that was noted before.

        Returns why the run should stop, or nothing, and what is known of those images that workers have died over:
        the cause for which an image is to be given up, or "" for one that is to be tried alone.
        """
        one = self._of(worker)
        one.images = tuple(images)
        if not alone:
            self.begun[one.pool] += len(images)
        return self._tick(), {image: verdict(self.causes[image]) for image in images if image in self.causes}

    def end(self, worker: str, good: bool = True) -> None:
        """Take note that a worker has finished what it had in hand; not `good` if all of it was given up."""
        self._of(worker).images = ()
        if good:
            self.in_a_row = 0
        self._tick()

    def handles(self) -> list[object]:
        """By what the workers can be ended."""
        return [one.handle for one in self.workers.values() if one.handle]

    def forget(self) -> None:
        """Take note that all workers have been ended on purpose."""
        self.workers.clear()
        self._tick()

    def status(self) -> Status:
        """What is going on."""
        return Status(
            idle=time.monotonic() - self.changed,
            deaths=self.deaths,
            redone=max(0, *self.begun.values(), self.images) - self.images,
            busy={name: one.images for name, one in self.workers.items() if one.images},
            nodes={name: one.node for name, one in self.workers.items() if one.node},
        )

    def _of(self, worker: str) -> Busy:
        """The notes of a worker, which are blank if the ledger itself has died and was started anew."""
        return self.workers.setdefault(worker, Busy(pool=-1, node="", ready=True))

    def _died(self, one: Busy, evidence: str) -> None:
        self.deaths += 1
        self.in_a_row += 1
        cause = explain(evidence)
        for image in one.images:
            self.causes[image].append(cause)
        doing = f"over {', '.join(one.images[:3])}" if one.images else "between two batches"
        self.latest = f"{cause or UNKNOWN}, {doing if one.ready else 'while it was starting'}"

    def _tick(self) -> str:
        self.changed = time.monotonic()
        if self.in_a_row <= self.max_deaths:
            return ""
        return (
            f"{self.in_a_row} workers died without an image being finished in between, more than max_deaths "
            f"({self.max_deaths}): the trouble is hardly in the images. The latest: {self.latest}"
        )


def verdict(causes: Collection[str]) -> str:
    """Say for which cause an image is to be given up; "" if it gets another chance."""
    known = [cause for cause in causes if cause]
    if len(known) < ENOUGH and len(causes) < ENOUGH_UNKNOWN:
        return ""
    why = known[-1] if known else UNKNOWN
    return f"killed its worker {len(causes)} times: {why}"


def explain(evidence: str) -> str:
    """Put what Python's faulthandler wrote when a process died into a few words; "" if it wrote nothing."""
    if not evidence.strip():
        return ""
    threads = re.split(r"^(?=Thread |Current thread )", evidence, flags=re.MULTILINE)
    ours = next((text for text in threads if "pipeline.py" in text), threads[-1])
    where = re.search(r'File "(?:.*/)?([^"/]+)", line (\d+)', ours)
    at = f" ({where[1]}, line {where[2]})" if where else ""
    if found := re.match(r"Timeout \(([\d:.]+)\)", evidence):
        return f"it took longer than the deadline of {found[1]}{at}"
    if found := re.search(r"Fatal Python error: (.*)", evidence):
        return f"{found[1].strip()}{at}"
    return f"{evidence.strip().splitlines()[0]}{at}"
