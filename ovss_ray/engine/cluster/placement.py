"""Placement of worker pools on a cluster: numbers of workers, CPUs, GPUs and images that replace "auto" in a config."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

from ovss_ray.config.run import Auto, Pool
from ovss_ray.pipeline.stage import StageConfig


@dataclass(frozen=True)
class Placed:
    """A pool: workers that hold the same stages. Every "auto" in its config is replaced by a number for one cluster."""

    stages: tuple[StageConfig, ...]
    least: int
    """minimum number of workers"""
    most: int
    """maximum number of workers"""
    cpus: float
    """CPUs per worker"""
    gpus: float
    """GPUs per worker"""
    batch: int
    """number of images per batch"""
    first: int = 1
    """initial number of workers; under load, Ray adds workers until there are `most`"""

    @property
    def threads(self) -> int:
        """Return the number of threads of a worker."""
        return max(1, math.ceil(self.cpus))

    @cached_property
    def light(self) -> bool:
        """Return True if no stage of the pool can use a GPU.

        Workers of such a pool do not import torch, which would take seconds.
        """
        return not any(stage.kind().gpu for stage in self.stages)

    def computing(self) -> AbstractContextManager[None]:
        """Return a context manager that sets torch's number of threads. Workers build and call the stages inside it."""
        if self.light:
            return nullcontext()
        from ovss_ray.models import runtime

        return runtime.computing(self.threads)


@dataclass(frozen=True)
class Size:
    """The resources of a cluster in total, and the most CPUs and GPUs that a single node has (`node_…`)."""

    cpus: float
    gpus: float
    node_cpus: float
    node_gpus: float
    memory: float = math.inf
    """bytes of memory for all workers together"""


WRITING = 0.1
"""CPUs that a task for writing records requests from Ray"""
HEAP = 1e9
"""Approximate bytes of a worker's memory for libraries, a few images and intermediate results, but not for weights"""
THREADS = 4.0
"""Maximum number of CPUs (and threads) of a worker with `cpus: auto` that runs networks without a GPU"""
LIGHT = 0.25
"""CPUs of a worker that only decodes images or computes metrics, on a cluster with fewer than 8 CPUs"""


def fused(pools: Sequence[Pool], size: Size) -> list[Pool]:
    """Return the pools of a config. On a cluster without GPUs, light pools are merged into neighbouring pools.

    A pool is light if no stage can use a GPU, for example if it only decodes images. A light pool is merged only if its
    workers, CPUs, GPUs and batch size are all "auto".

    With a GPU, light pools run in processes of their own, which keeps the GPU busy. Without a GPU, these processes
    would compete with the networks for the CPUs. Each process also costs its start, its idle time, and the transfer of
    images.
    """
    if size.gpus:
        return list(pools)
    fused_pools: list[Pool] = []
    waiting: tuple[StageConfig, ...] = ()
    for pool in pools:
        if not _spare(pool):
            fused_pools.append(pool.model_copy(update={"stages": (*waiting, *pool.stages)}))
            waiting = ()
        elif fused_pools:
            fused_pools[-1] = fused_pools[-1].model_copy(update={"stages": (*fused_pools[-1].stages, *pool.stages)})
        else:
            waiting += pool.stages
    return fused_pools or list(pools)


def _spare(pool: Pool) -> bool:
    """Return whether a pool may be merged: no stage can use a GPU, and all its settings are "auto"."""
    return _light(pool) and {pool.workers, pool.gpus, pool.batch} == {"auto"}


def place(pools: Sequence[Pool], size: Size, weights: float = 0) -> list[Placed]:
    """Return the pools with "auto" replaced by numbers that fit the cluster.

    `weights`: bytes of the weights that one worker loads.

    - Light pool (no stage can use a GPU), cluster with fewer than 8 CPUs: one worker with 0.25 CPU.
    - Light pool, cluster with 8 CPUs or more: up to one worker per four CPUs, each with one CPU.
    - Other pools, cluster with GPUs: one worker per GPU.
    - Other pools, cluster without GPUs: they share the remaining CPUs, one single-threaded worker per CPU.
    - Tasks that write records: 0.25 CPU is reserved.

    If memory or the config allows fewer workers than CPUs, each worker without a GPU gets up to four threads.
    """
    computing = [pool for pool in pools if not _light(pool)]
    fixed = sum(pool.cpus * _workers(pool, 1)[0] for pool in computing if pool.cpus != "auto")
    cpus_left = max(WRITING, (size.cpus - fixed - LIGHT * (1 + len(pools) - len(computing))) / max(1, len(computing)))
    batch = 8 if size.gpus or not computing else 1
    fitting = size.memory / max(1, len(computing)) / (HEAP + weights)
    return [
        _place_light(p, size.cpus, batch) if _light(p) else _place(p, cpus_left, size, batch, fitting) for p in pools
    ]


def writers(cpus: float) -> int:
    """Return the maximum number of concurrent tasks that write records, for a cluster with `cpus` CPUs.

    Without this limit, Ray would give all idle CPUs to these tasks.
    """
    return max(2, int(cpus / 4))


def unmet(pools: Sequence[Placed], size: Size) -> str:
    """Return an error message if the cluster is too small for the pools, else "".

    Ray itself would wait for more nodes forever, without a message.
    """
    cpus = sum(pool.least * pool.cpus for pool in pools) + WRITING
    gpus = sum(pool.least * pool.gpus for pool in pools)
    alone = any(pool.cpus > size.node_cpus or pool.gpus > size.node_gpus for pool in pools)
    if cpus <= size.cpus and gpus <= size.gpus and not alone:
        return ""
    return (
        f"cluster too small: the pools need at least {cpus:g} CPUs and {gpus:g} GPUs, each worker on one node; the "
        f"cluster has {size.cpus:g} CPUs and {size.gpus:g} GPUs, its largest node {size.node_cpus:g} CPUs and "
        f"{size.node_gpus:g} GPUs. Lower `workers`, `cpus` or `gpus` of the pools, or omit them"
    )


def _light(pool: Pool) -> bool:
    return pool.cpus == "auto" and not _can_use_gpu(pool)


def _can_use_gpu(pool: Pool) -> bool:
    return any(stage.kind().gpu for stage in pool.stages)


def _place_light(pool: Pool, cpus: float, batch: int) -> Placed:
    cpus_each = LIGHT if cpus < 8 else 1.0
    least, most = _workers(pool, int(cpus / 4) if cpus >= 8 else 1)
    gpus = 0.0 if pool.gpus == "auto" else pool.gpus
    return Placed(pool.stages, least, most, cpus_each, gpus, _number(pool.batch, batch), least)


def _place(pool: Pool, cpus_left: float, size: Size, batch: int, fitting: float) -> Placed:
    gpus = (1.0 if size.gpus and _can_use_gpu(pool) else 0.0) if pool.gpus == "auto" else pool.gpus
    cpus_each = 1.0 if pool.cpus == "auto" else pool.cpus
    least, most = _workers(pool, int(min(size.gpus / gpus if gpus else math.ceil(cpus_left / cpus_each), fitting)))
    cpus = min(1.0 if gpus else THREADS, cpus_left / (1 if gpus else most), size.node_cpus)
    first = most if pool.workers == "auto" else least  # these fit; a range may be meant for nodes to come
    cpus_each = cpus if pool.cpus == "auto" else cpus_each
    return Placed(pool.stages, least, most, cpus_each, gpus, _number(pool.batch, batch), first)


def _workers(pool: Pool, most: int) -> tuple[int, int]:
    """Return the minimum and maximum number of workers of a pool: 1 and `most` if the config says "auto"."""
    if pool.workers == "auto":
        return 1, max(1, most)
    return pool.workers if isinstance(pool.workers, tuple) else (pool.workers, pool.workers)


def _number(requested: int | Auto, otherwise: int) -> int:
    return otherwise if requested == "auto" else requested
