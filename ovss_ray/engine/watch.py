"""Monitor of a run in the driver process. It raises an error if the run hangs, or if workers or nodes are lost."""

import pickle
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError, UserCodeException
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ovss_ray.engine.cluster import connection, ray_internals
from ovss_ray.engine.ledger import Ledger, Status
from ovss_ray.engine.pools.worker import evidence
from ovss_ray.errors import OvssError
from ovss_ray.runs.lease import Lease

T = TypeVar("T")

PULSE = 2.0
"""Seconds between two checks of the cluster"""
GONE = 30.0
"""Seconds that the cluster may take to answer, or to restart the workers of a dead node"""
STALL = 3
"""Time without progress after which a run counts as hung, as a multiple of the deadline of a batch

For example, if the deadline is 600 s, a run counts as hung after 1800 s without progress. If this time is shorter than
START seconds, START seconds apply. A sign of progress is, for example, an image that is started or finished."""
READER = 5.0
"""Maximum seconds that Watch.end_round waits for the thread that reads the results of the workers"""
# on a busy machine, workers need this time to start
START = 60.0
"""Minimum seconds without progress before a run counts as hung (see STALL)"""


class Lost(Exception):
    """Error for a failure of Ray, such as a lost worker, node or ledger. Another attempt may succeed."""


class Watch:
    """Monitor of a run. Each call checks the cluster and the progress, and raises an error if the run cannot go on."""

    def __init__(self, images: int, max_deaths: int, deadline: float, lease: Lease) -> None:
        this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Ledger)
        self.ledger = actor.options(scheduling_strategy=this_node).remote(images, max_deaths)
        self.deadline, self.lease = deadline, lease
        self.answered = time.monotonic()
        self.missed: float | None = None
        self.reader: threading.Thread | None = None

    def __call__(self) -> Status | None:
        """Return the state of the run; None while the cluster does not answer.

        Raises OvssError if the cluster has not answered for more than GONE seconds. Also raises OvssError if the run
        hangs, or if another command has taken over the run folder. Raises Lost if the ledger was lost or does not
        answer. Also raises Lost if Ray has not restarted the workers of a dead node within GONE seconds.
        """
        self.lease.check()
        if not connection.answers():
            if time.monotonic() - self.answered > GONE:
                raise OvssError(
                    f"the cluster has not answered for {GONE:.0f} s: it has shut down or cannot be reached. Finished "
                    "images are kept. Start a cluster and run the same command again to resume"
                )
            return None
        self.answered = time.monotonic()
        status: Status | None = self._answer(self.ledger.status.remote())
        if status:
            self._standing(status)
            self._nodes(status)
        return status

    def _answer(self, call: Any) -> Any:
        """Return the result of a call of the ledger; None if the cluster's head node accepts no connections.

        `call`: Ray's reference to the result. Raises Lost if the ledger was lost, or has not answered for `patience`
        seconds. Raises OvssError if another command has taken over the run folder.
        """
        # on a busy machine, or while many workers start, an answer may take minutes
        begun = time.monotonic()
        while True:
            try:
                return ray.get(call, timeout=GONE)
            except GetTimeoutError as failure:
                if time.monotonic() - begun > self.patience:
                    raise Lost("the Ray actor that tracks the workers does not answer") from failure
            except RayError as failure:
                raise Lost(f"the Ray actor that tracks the workers was lost ({type(failure).__name__})") from failure
            self.lease.check()
            if not connection.answers():
                return None

    @property
    def patience(self) -> float:
        """Seconds without progress (see STALL) after which a run counts as hung."""
        return max(STALL * self.deadline, START)

    def end_round(self) -> None:
        """Kill the workers that are left after a failed round (see evaluate.ROUNDS).

        Then wait up to READER seconds for the thread that reads the results of the workers.
        """
        if not connection.answers():
            return
        with suppress(Lost):  # the ledger was lost, and with it the list of the workers
            for worker in self._answer(self.ledger.handles.remote()) or ():
                ray.kill(pickle.loads(worker))
            self._answer(self.ledger.forget.remote())
        # calls that wait for killed workers fail at once, which ends the thread; if the thread still called Ray during
        # Ray's shutdown, Ray would end this process with status 1
        if self.reader:
            self.reader.join(READER)

    def note_death(self, lost: Lost) -> Status | None:
        """Register the death of a worker in the ledger, if this death caused the error `lost`.

        Return the state of the run; None if no death was registered.
        """
        worker = getattr(lost.__cause__, "actor_id", None)
        if not worker or not connection.answers():
            return None
        with suppress(Lost):  # the ledger may be lost as well
            status: Status | None = self._answer(self.ledger.status.remote())
            if status and worker in status.nodes:
                self._answer(self.ledger.bury.remote(worker, _left_by(worker, status.nodes[worker])))
                return self._answer(self.ledger.status.remote())
        return None

    def _standing(self, status: Status) -> None:
        if status.idle > self.patience:
            busy = [image for images in status.busy.values() for image in images]
            raise OvssError(
                f"no image was started or finished for {status.idle:.0f} s (deadline: {self.deadline:g} s per batch). "
                f"In progress: {', '.join(busy[:5]) or 'none, the workers cannot start'}. Finished images are kept. "
                "If you started the cluster before this command, run `ray status` to check the nodes. Run the same "
                "command again to resume"
            )

    def _nodes(self, status: Status) -> None:
        """Raise Lost if Ray has not restarted the workers of a dead node within GONE seconds."""
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if set(status.nodes.values()) <= alive:
            self.missed = None
        elif self.missed is None:
            self.missed = time.monotonic()
        elif time.monotonic() - self.missed > GONE:  # Ray would wait forever for a node with room for the workers
            raise Lost("a node was lost, and no other node has room for the workers of the lost node")


def _left_by(worker: str, node: str) -> str:
    """Return the trace that faulthandler wrote on `node` at a worker's latest death; "" if the node is dead."""
    on_node = NodeAffinitySchedulingStrategy(node, soft=False)
    task: Any = ray.remote(num_cpus=0, max_retries=0)(evidence).options(scheduling_strategy=on_node)
    with suppress(RayError):
        return ray.get(task.remote(worker), timeout=GONE)
    return ""


def watched(stream: Iterator[T], watch: Watch, report: Callable[[Status], None]) -> Iterator[T]:
    """Yield the items of `stream`. Meanwhile, call `watch` every PULSE seconds.

    `report` is called with each state that `watch` returns. Raises the exceptions of `stream` and of `watch`.
    """
    items: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1000)
    watch.reader = threading.Thread(target=_drain, args=(stream, items), daemon=True)
    watch.reader.start()
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
                report(status)
    with suppress(RayError):
        report(ray.get(watch.ledger.status.remote(), timeout=GONE))
    if kind == "failed":
        raise item


def _drain(stream: Iterator[Any], items: queue.Queue[tuple[str, Any]]) -> None:
    try:
        for item in stream:
            items.put(("item", item))
        items.put(("end", None))
    except BaseException as failure:  # noqa: BLE001 - raised again in `watched`
        items.put(("failed", failure))


def _of_ray(cause: object) -> bool:
    """Return whether `cause`, the cause of a failed Ray task, is an error of Ray itself.

    If `cause` is an exception that the code of the task has raised, return False.
    """
    return isinstance(cause, RayError) and not isinstance(cause, UserCodeException)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Convert errors of Ray in the block to OvssError or Lost.

    Raises OvssError, with the same message, if the code of a worker raised OvssError. Raises RayTaskError if the code
    of a worker raised another exception. Raises Lost for other errors of Ray, such as the death of a worker.
    """
    try:
        yield
    except RayError as failure:
        if message := ray_internals.user_error(failure):
            raise OvssError(message) from None
        if isinstance(failure, RayTaskError) and not _of_ray(failure.cause):
            raise  # a bug in a stage
        raise Lost(str(failure).strip().splitlines()[-1]) from failure
