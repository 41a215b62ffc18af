"""The driver's watch over a round of work: one that stands still or has lost its nodes is ended, not waited for."""

import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import ray
from ray.exceptions import RayError, RayTaskError, UserCodeException
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ovss_ray import cluster
from ovss_ray.errors import OvssError
from ovss_ray.ledger import Ledger, Status

T = TypeVar("T")

PULSE = 2.0
"""Seconds between two looks at the cluster."""
GONE = 30.0
"""Seconds after which a cluster that does not answer has ended, and a worker whose node has died is not coming back."""
STALL = 3
"""Deadlines in which something has to be begun or ended somewhere."""
START = 60.0
"""Seconds that workers may take to start on a busy machine, however short the deadline is."""


class Lost(Exception):
    """The round has lost something that it cannot go on without; another one may do the rest."""


class Watch:
    """Looks at the cluster and at the ledger whenever it is called, and raises if there is no use in waiting."""

    def __init__(self, images: int, max_deaths: int, deadline: float) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Ledger)
        self.ledger = actor.options(scheduling_strategy=here).remote(images, max_deaths)
        self.deadline = deadline
        self.answered = time.monotonic()
        self.missed: float | None = None

    def __call__(self) -> Status | None:
        """Return what is going on; None if the cluster does not answer just now.

        Raises OvssError if it has ended or the run stands still, and Lost if nodes were lost with their workers.
        """
        if not cluster.answers():
            if time.monotonic() - self.answered > GONE:
                raise OvssError(
                    f"the cluster has not answered for {GONE:.0f} s: it has ended, or this machine has lost it. What "
                    "is done is kept. Start a cluster and give the same command to go on"
                )
            return None
        self.answered = time.monotonic()
        try:
            status: Status = ray.get(self.ledger.status.remote(), timeout=GONE)
        except RayError as failure:
            raise Lost(f"the notes of the run were lost ({type(failure).__name__})") from failure
        self._standing(status)
        self._nodes(status)
        return status

    def end_round(self) -> None:
        """End all workers on purpose, so that what waits for them fails at once; a round that is over has none."""
        if not cluster.answers():
            return
        for worker in ray.get(self.ledger.handles.remote(), timeout=GONE):
            ray.kill(worker)
        ray.get(self.ledger.forget.remote(), timeout=GONE)

    def _standing(self, status: Status) -> None:
        if status.idle > max(STALL * self.deadline, START):
            busy = [image for images in status.busy.values() for image in images]
            raise OvssError(
                f"nothing was begun or finished for {status.idle:.0f} s, with a deadline of {self.deadline:g} s for "
                f"each batch. In hand: {', '.join(busy[:5]) or 'nothing, the workers cannot start'}. What is "
                "done is kept; look at the cluster (`ray status`, if it is not this command's own), and give the same "
                "command to go on"
            )

    def _nodes(self, status: Status) -> None:
        """Workers of a lost node that Ray has not started elsewhere would be waited for without end."""
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if set(status.nodes.values()) <= alive:
            self.missed = None
        elif self.missed is None:
            self.missed = time.monotonic()
        elif time.monotonic() - self.missed > GONE:
            raise Lost("a node was lost, and there is no room for its workers elsewhere")


def watched(stream: Iterator[T], watch: Watch, seen: Callable[[Status], None]) -> Iterator[T]:
    """Hand on what the stream yields, which is waited for in a thread; the watch is asked meanwhile.

    Raises what the stream raises, Lost, or OvssError (see Watch).
    """
    items: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1000)
    threading.Thread(target=_drain, args=(stream, items), daemon=True).start()
    due = time.monotonic() + PULSE
    kind, item = "", cast(Any, None)
    while kind not in ("end", "failed"):
        try:
            kind, item = items.get(timeout=PULSE)
        except queue.Empty:
            kind = ""
        if kind == "item":
            yield item
        if time.monotonic() > due and kind not in ("end", "failed"):
            due = time.monotonic() + PULSE
            if status := watch():
                seen(status)
    with suppress(RayError):
        seen(ray.get(watch.ledger.status.remote(), timeout=GONE))
    if kind == "failed":
        raise item


def _drain(stream: Iterator[Any], items: queue.Queue[tuple[str, Any]]) -> None:
    try:
        for item in stream:
            items.put(("item", item))
        items.put(("end", None))
    except BaseException as failure:  # noqa: BLE001 - raised again where it is waited for
        items.put(("failed", failure))


def _of_ray(cause: object) -> bool:
    """Whether it is trouble of Ray's own that a task has ended with; what user code raises, Ray wraps in its errors."""
    return isinstance(cause, RayError) and not isinstance(cause, UserCodeException)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Bring an OvssError that was raised in a worker to the user; Ray Data hands it on as text only.

    Raises Lost for what Ray could not keep alive.
    """
    try:
        yield
    except RayError as failure:
        *_, message = re.split(r"ovss_ray\.errors\.(?:OvssError|UnknownName): ", str(failure))
        if message != str(failure):
            raise OvssError(message.partition("\n\nThe above exception")[0].strip()) from None
        if isinstance(failure, RayTaskError) and not _of_ray(failure.cause):
            raise  # a bug in a stage
        raise Lost(str(failure).strip().splitlines()[-1]) from failure
