"""Where stages run: the pools that a run needs beside its own, and what "auto" means on a given cluster."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ovss_ray.config import Auto, Pool, RunConfig
from ovss_ray.stage import StageConfig


@dataclass(frozen=True)
class Placed:
    """A pool with every "auto" decided for one cluster."""

    stages: tuple[StageConfig, ...]
    least: int
    most: int
    """workers"""
    cpus: float
    gpus: float
    """of one worker"""
    batch: int
    first: int = 1
    """workers that are started at once; the rest, up to `most`, when these have more to do than they can"""

    @property
    def threads(self) -> int:
        """How many threads a worker uses."""
        return max(1, math.ceil(self.cpus))


@dataclass(frozen=True)
class Size:
    """What a cluster has: in all, and on the node that has most."""

    cpus: float
    gpus: float
    node_cpus: float
    node_gpus: float
    memory: float = math.inf
    """bytes for the heaps of workers, in all"""


WRITING = 0.1
"""Processors of a task that writes records."""
HEAP = 1e9
"""Bytes of memory that a worker needs beside its weights, about: the libraries, a few images, what is computed."""
THREADS = 4.0
"""Processors of a worker that computes, at most."""
LIGHT = 0.25
"""Processors of a worker that decodes or measures on a machine with few of them."""


def complete(config: RunConfig, save: StageConfig | None = None) -> list[Pool]:
    """Add the pools that every run needs and the config does not name.

    `decode` comes first if a stage looks at pixels, `truth` just before its first reader, then `measure`, likewise
    `measure_regions` if a stage proposes regions, and the stage that saves label maps, if given. A config that lists
    one of them among its stages decides its place itself.
    """
    named = {stage.use for stage in config.stages()}
    reads = {name for stage in config.stages() for name in stage.kind().reads}
    writes = {name for stage in config.stages() for name in stage.kind().writes}
    pools = list(config.pools)
    measures = ["measure", "measure_regions"] if "boxes" in writes else ["measure"]
    tail = [StageConfig(use=use) for use in measures if use not in named]
    if "truth" not in named:
        if "truth" in reads:
            pools = _before(pools, StageConfig(use="truth"))
        else:
            tail.insert(0, StageConfig(use="truth"))
    if save and "save" not in named:
        tail.append(save)
    if reads & {"image", "size"} and "decode" not in named:
        pools.insert(0, Pool(stages=(StageConfig(use="decode"),)))
    return [*pools, Pool(stages=tuple(tail))] if tail else pools


def _before(pools: Sequence[Pool], stage: StageConfig) -> list[Pool]:
    """Put a stage directly before the first one that reads what it writes."""
    wanted = set(stage.kind().writes)
    placed: list[Pool] = []
    for i, pool in enumerate(pools):
        for j, other in enumerate(pool.stages):
            if wanted & set(other.kind().reads):
                stages = (*pool.stages[:j], stage, *pool.stages[j:])
                return [*placed, pool.model_copy(update={"stages": stages}), *pools[i + 1 :]]
        placed.append(pool)
    return placed


def fused(pools: Sequence[Pool], size: Size) -> list[Pool]:
    """Without GPUs, put what is light and left to "auto" into the computing pool beside it.

    Decoding and counting in processes of their own keep a GPU busy. Where all share the processors, each process more
    costs its start and its idle time, and each image the way from one to the next.
    """
    if size.gpus:
        return list(pools)
    made: list[Pool] = []
    waiting: tuple[StageConfig, ...] = ()
    for pool in pools:
        if not _spare(pool):
            made.append(pool.model_copy(update={"stages": (*waiting, *pool.stages)}))
            waiting = ()
        elif made:
            made[-1] = made[-1].model_copy(update={"stages": (*made[-1].stages, *pool.stages)})
        else:
            waiting += pool.stages
    return made or list(pools)


def _spare(pool: Pool) -> bool:
    """Whether a pool is light and the config says nothing of where it runs."""
    return _light(pool) and {pool.workers, pool.gpus, pool.batch} == {"auto"}


def place(pools: Sequence[Pool], size: Size, weights: float = 0) -> list[Placed]:
    """Replace every "auto" by numbers that fit a cluster; `weights` are the bytes that a computing worker loads.

    Pools without a stage that can use a GPU are light (decode, measure): a quarter processor each on a small machine,
    up to a quarter of the processors each on a large one. What remains is shared by the pools that compute, but for one
    quarter that writes records: one worker per GPU, or without GPUs one for each processor, of a single thread, as
    threads wait for one another; where the memory holds fewer, or the config wants fewer, they have up to four threads.
    """
    computing = [pool for pool in pools if not _light(pool)]
    fixed = sum(pool.cpus * _workers(pool, 1)[0] for pool in computing if pool.cpus != "auto")
    rest = max(WRITING, (size.cpus - fixed - LIGHT * (1 + len(pools) - len(computing))) / max(1, len(computing)))
    batch = 8 if size.gpus or not computing else 1
    held = size.memory / max(1, len(computing)) / (HEAP + weights)
    return [_place_light(p, size.cpus, batch) if _light(p) else _place(p, rest, size, batch, held) for p in pools]


def writers(cpus: float) -> int:
    """How many tasks may write records at once. Ray Data hands spare processors first to tasks without a bound."""
    return max(2, int(cpus / 4))


def unmet(pools: Sequence[Placed], size: Size) -> str:
    """Say what the pools need at least and the cluster has not, or nothing: Ray would wait for it without a word."""
    cpus = sum(pool.least * pool.cpus for pool in pools) + WRITING
    gpus = sum(pool.least * pool.gpus for pool in pools)
    alone = any(pool.cpus > size.node_cpus or pool.gpus > size.node_gpus for pool in pools)
    if cpus <= size.cpus and gpus <= size.gpus and not alone:
        return ""
    return (
        f"the pools need {cpus:g} processors and {gpus:g} GPUs at least, each worker on one node; the cluster has "
        f"{size.cpus:g} and {size.gpus:g}, its largest node {size.node_cpus:g} and {size.node_gpus:g}. Lower "
        "`workers`, `cpus` or `gpus` of the pools, or leave them out"
    )


def _light(pool: Pool) -> bool:
    return pool.cpus == "auto" and not _can_use_gpu(pool)


def _can_use_gpu(pool: Pool) -> bool:
    return any(stage.kind().gpu for stage in pool.stages)


def _place_light(pool: Pool, cpus: float, batch: int) -> Placed:
    each = LIGHT if cpus < 8 else 1.0
    least, most = _workers(pool, int(cpus / 4) if cpus >= 8 else 1)
    gpus = 0.0 if pool.gpus == "auto" else pool.gpus
    return Placed(pool.stages, least, most, each, gpus, _number(pool.batch, batch), least)


def _place(pool: Pool, rest: float, size: Size, batch: int, held: float) -> Placed:
    gpus = (1.0 if size.gpus and _can_use_gpu(pool) else 0.0) if pool.gpus == "auto" else pool.gpus
    each = 1.0 if pool.cpus == "auto" else pool.cpus
    least, most = _workers(pool, int(min(size.gpus / gpus if gpus else math.ceil(rest / each), held)))
    cpus = min(1.0 if gpus else THREADS, rest / (1 if gpus else most), size.node_cpus)
    first = most if pool.workers == "auto" else least  # these fit; a range may be meant for nodes to come
    each = cpus if pool.cpus == "auto" else each
    return Placed(pool.stages, least, most, each, gpus, _number(pool.batch, batch), first)


def _workers(pool: Pool, most: int) -> tuple[int, int]:
    """The least and the most workers of a pool; `most` is what "auto" allows."""
    if pool.workers == "auto":
        return 1, max(1, most)
    return pool.workers if isinstance(pool.workers, tuple) else (pool.workers, pool.workers)


def _number(asked: int | Auto, otherwise: int) -> int:
    return otherwise if asked == "auto" else asked
