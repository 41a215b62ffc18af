"""Division of a cluster's GPUs among the pools that use them. This module does not import Ray."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ovss_ray.config.run import Pool
from ovss_ray.engine.cluster.nodes import UNIT, Need, Room, Size, packed

MOST = 100_000
"""Largest number of workers of a pool"""
SCRAP = 0.01
"""Minimum CPUs of a worker with `cpus: auto`, even if the CPUs of its node are all in use"""


@dataclass(frozen=True)
class Share:
    """The resources of one worker of a pool, and the number of such workers that fit the cluster now."""

    gpus: float
    cpus: float
    workers: int


def shared(pools: Sequence[Pool], size: Size, reserve: float, fitting: float) -> list[Share]:
    """Return the share of each pool. `pools`: the pools of a run that use GPUs.

    Pools with `gpus: auto` get equal parts of each GPU. Ray uses these parts only to select a GPU for each worker. The
    parts do not limit how much a worker computes on its GPU.

    `reserve`: number of CPUs to leave free for other work, such as decoding images. `fitting`: maximum number of
    workers per pool that fit into the memory of the cluster.
    """
    shares: list[Share] = []
    for part in _parts(pools):
        shares = _placed(pools, part, size, reserve, fitting)
        if all(share.workers for share in shares):
            break
    return shares


def need(pool: Pool, cpus: float, gpus: float) -> Need:
    """Return the resources that one worker of a pool needs. `cpus` and `gpus` replace "auto" in the config."""
    kind = {f"accelerator_type:{pool.accelerator}": 0.001} if pool.accelerator and gpus else {}
    cpus, gpus = (cpus if pool.cpus == "auto" else pool.cpus), (gpus if pool.gpus == "auto" else pool.gpus)
    return Need(cpus, gpus, {**pool.resources, **kind}, pool.labels)


def _parts(pools: Sequence[Pool]) -> Iterator[float]:
    """Yield the fractions of a GPU to try for a worker with `gpus: auto`, the largest first.

    The first fraction is a whole GPU, divided by the number of pools with `gpus: auto`. For the second
    fraction, the parts of a GPU that other pools set are subtracted before the division. For example, if two pools have
    `gpus: auto` and one pool has `gpus: 0.4`, yield 1 / 2 = 0.5 and (1 - 0.4) / 2 = 0.3.
    """
    automatic = sum(pool.gpus == "auto" for pool in pools) or 1
    yield _floor(1 / automatic)
    # The caller tries a smaller part if a pool gets no worker with the first part.
    rest = 1 - sum(pool.gpus for pool in pools if pool.gpus != "auto" and pool.gpus < 1)
    if (part := _floor(rest / automatic)) > 0:
        yield part


def _placed(pools: Sequence[Pool], part: float, size: Size, reserve: float, fitting: float) -> list[Share]:
    needs, rooms = [need(pool, 0.0, part) for pool in pools], [Room(node) for node in size.nodes]
    # pools whose config sets the number of workers first, then one worker of each other pool in turn
    numbered = packed(needs, [_least(pool) for pool in pools], rooms)
    most = max(1, min(MOST, fitting))
    others = packed(needs, [most if pool.workers == "auto" else 0 for pool in pools], rooms)
    on_nodes = [[*first, *more] for first, more in zip(numbered, others, strict=True)]
    cpus = _cpus([nodes for nodes, pool in zip(on_nodes, pools, strict=True) if pool.cpus == "auto"], rooms, reserve)
    return [
        Share(of.gpus, cpus if pool.cpus == "auto" else of.cpus, len(nodes))
        for of, pool, nodes in zip(needs, pools, on_nodes, strict=True)
    ]


def _least(pool: Pool) -> int:
    if pool.workers == "auto":
        return 0
    return pool.workers[0] if isinstance(pool.workers, tuple) else pool.workers


def _cpus(on_nodes: Sequence[Sequence[int]], rooms: Sequence[Room], reserve: float) -> float:
    """Return the CPUs per worker for pools with `cpus: auto`. All workers of these pools get the same number.

    On each node, the free CPUs minus `reserve` are divided equally among the workers of these pools. The number is the
    smallest quotient of all nodes, but at least SCRAP and at most 1.

    `on_nodes`: for each pool with `cpus: auto`, the index of each worker's node. `rooms`: free resources of each node.
    `reserve`: CPUs to leave free for other work. If the nodes without GPUs have enough free CPUs for the other work,
    no CPU is reserved.
    """
    # If the nodes without GPUs have enough CPUs for the other work, no CPU of a GPU node is reserved.
    apart = sum(room.cpus for room in rooms if not room.gpus) / UNIT
    reserve = 0.0 if apart >= reserve else reserve
    workers = [0] * len(rooms)
    for node in (node for nodes in on_nodes for node in nodes):
        workers[node] += 1
    free = [(room.cpus / UNIT - reserve) / count for room, count in zip(rooms, workers, strict=True) if count]
    return max(SCRAP, _floor(min(1.0, *free))) if free else 1.0


def _floor(value: float) -> float:
    """Round down to hundredths."""
    return math.floor(value * 100 + 1e-9) / 100
