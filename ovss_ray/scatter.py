"""Small pieces of work that know nothing of one another, done by a cluster; one that kills its process stands alone."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray

from ovss_ray import cluster
from ovss_ray.supervise import Lost, plain_errors

P = TypeVar("P")
R = TypeVar("R")

AT_ONCE = 8
"""Pieces that a process is given together: the way there takes milliseconds."""


def scattered(
    work: Callable[[P], R], pieces: Sequence[P], workers: int | None, killed: Callable[[P], R]
) -> Iterator[R]:
    """Do each piece of work on the cluster that we are connected to; yield what comes of it, as it comes.

    So many processes at most are busy, one for each processor of the cluster if `workers` is None, and no more than
    AT_ONCE pieces are on their way to each. What a process had in hand when it died is done again, each piece by
    itself; where its process dies again, `killed` says what comes of the piece. Raises an OvssError that `work` raises.
    """
    task: Any = ray.remote(num_cpus=1, max_retries=0)(_all)
    most = workers or max(1, int(cluster.size().cpus))
    left = deque(pieces[begin : begin + AT_ONCE] for begin in range(0, len(pieces), AT_ONCE))
    busy: dict[Any, Sequence[P]] = {}
    while left or busy:
        while left and len(busy) < most:
            some = left.popleft()
            busy[task.remote(work, some)] = some
        (ready,), _ = ray.wait(list(busy), num_returns=1)
        some = busy.pop(ready)
        try:
            with plain_errors():
                done: list[R] = ray.get(ready)
        except Lost:
            done = [killed(some[0])] if len(some) == 1 else []
            left.extend([piece] for piece in (some if len(some) > 1 else ()))
        yield from done


def _all(work: Callable[[P], R], pieces: Sequence[P]) -> list[R]:
    return [work(piece) for piece in pieces]
