"""Execution of many small, independent pieces of work on a cluster.

A piece of work that kills its process does not affect the results of the other pieces.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray

from ovss_ray.engine.cluster import connection
from ovss_ray.engine.watch import Lost, plain_errors

P = TypeVar("P")
R = TypeVar("R")

AT_ONCE = 8  # since Ray needs some milliseconds to start a task
"""Maximum number of pieces of work in one Ray task."""


def scattered(
    work: Callable[[P], R], pieces: Sequence[P], workers: int | None, killed: Callable[[P], R]
) -> Iterator[R]:
    """Yield `work(piece)` for every piece, in the order of completion. Ray tasks on the connected cluster do the work.

    `workers` is the maximum number of simultaneous tasks. If `workers` is None, the maximum is the number of CPUs of
    the cluster. If `work(piece)` kills the process of a task, `killed(piece)` is yielded in place of `work(piece)`.
    Raises OvssError if `work` raises OvssError.
    """
    task: Any = ray.remote(num_cpus=1, max_retries=0)(_all)
    most = workers or max(1, int(connection.size().cpus))
    waiting = deque(pieces[begin : begin + AT_ONCE] for begin in range(0, len(pieces), AT_ONCE))
    busy: dict[Any, Sequence[P]] = {}
    while waiting or busy:
        while waiting and len(busy) < most:
            batch = waiting.popleft()
            busy[task.remote(work, batch)] = batch
        (ready,), _ = ray.wait(list(busy), num_returns=1)
        batch = busy.pop(ready)
        try:
            with plain_errors():
                results: list[R] = ray.get(ready)
        except Lost:
            # repeat each piece of a larger task in a task of its own, to see which piece killed the process
            results = [killed(batch[0])] if len(batch) == 1 else []
            waiting.extend([piece] for piece in (batch if len(batch) > 1 else ()))
        yield from results


def _all(work: Callable[[P], R], pieces: Sequence[P]) -> list[R]:
    return [work(piece) for piece in pieces]
