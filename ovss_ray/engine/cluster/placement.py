"""Placement of worker pools on a cluster. Numbers replace "auto" for workers, CPUs, GPUs and images per batch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ovss_ray.config.run import Pool
from ovss_ray.engine.cluster import sharing
from ovss_ray.engine.cluster.nodes import Need, Room, Size, packed
from ovss_ray.engine.cluster.sharing import Share
from ovss_ray.io import processor
from ovss_ray.pipeline.stage import StageConfig


@dataclass(frozen=True)
class Placed:
    """A pool of workers with the same stages. Numbers that suit the cluster replace every "auto" of the config."""

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
    resources: Mapping[str, float] = field(default_factory=dict)
    """custom resources per worker, including the type of its GPU"""
    labels: Mapping[str, str] = field(default_factory=dict)
    """labels of Ray that a worker's node must have"""

    @property
    def need(self) -> Need:
        """Return the resources of one worker."""
        return Need(self.cpus, self.gpus, self.resources, self.labels)

    def options(self) -> dict[str, Any]:
        """Return Ray's options for a worker. All options except num_cpus are left out if they are zero or empty."""
        optional = {"num_gpus": self.gpus, "resources": dict(self.resources), "label_selector": dict(self.labels)}
        return {"num_cpus": self.cpus, **{name: value for name, value in optional.items() if value}}

    @property
    def threads(self) -> int:
        """Return the number of threads of a worker: its CPUs, rounded up."""
        return max(1, math.ceil(self.cpus))

    @cached_property
    def light(self) -> bool:
        """Return True if no stage of the pool can use a GPU. The workers of a light pool do not import torch.

        Unlike `is_light`, this property does not depend on the option `cpus` of the pool.
        """
        return not any(stage.kind().gpu for stage in self.stages)

    def computing(self) -> AbstractContextManager[None]:
        """Return a context manager that sets torch's number of threads to `threads` during its `with` block.

        Workers build and call their stages in such a block. If no stage of the pool can use a GPU, nothing is set.
        """
        if self.light:
            return nullcontext()
        from ovss_ray.models import runtime

        return runtime.computing(self.threads)


WRITING = 0.1
"""Value of Ray's option num_cpus for a task that writes records"""
HEAP = 1e9
"""Approximate bytes of a worker's memory for libraries, a few images and intermediate results, but not for weights"""
THREADS = 4.0
"""Maximum number of CPUs, and of threads, of a worker without a GPU. Only pools with `cpus: auto` have this limit."""
HEAVY = 100e6
"""Minimum bytes of one worker's weights for which `on_cpus` may warn that CPUs are slow."""
NETWORK_FILES = 4
"""Number of files above which the files of a stage are assumed to be label maps instead of weights."""
LIGHT = 0.25
"""CPUs of a worker that only decodes images or computes metrics, on a cluster with fewer than 8 CPUs"""


def fused(pools: Sequence[Pool], size: Size) -> list[Pool]:
    """Return the pools of a config. If the cluster has no GPU, light pools are merged into neighbouring pools.

    A light pool (see is_light) is merged only if all of its settings have their default values.
    """
    # With a GPU, separate processes for light stages keep the GPU busy. Without a GPU, they compete for the CPUs.
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
    """Return whether a pool may be merged into a neighbouring pool.

    It may be merged if no stage can use a GPU, and all settings have their default values.
    """
    placed = pool.resources or pool.labels or pool.accelerator
    return is_light(pool) and not placed and {pool.workers, pool.gpus, pool.batch} == {"auto"}


def place(pools: Sequence[Pool], size: Size, weights: float = 0) -> list[Placed]:
    """Return the pools with "auto" replaced by numbers that fit the cluster. `weights`: bytes of one worker's weights.

    - A light pool (see is_light) gets at most one worker per four CPUs of the cluster. On a cluster with fewer than 8
      CPUs, a light pool gets one worker.
    - A pool that uses GPUs (see uses_gpu) gets one worker per GPU. If several pools use GPUs, each GPU is divided
      equally among these pools.
    - The remaining CPUs are divided equally among all pools that are not light. If a pool uses no GPU, the pool gets
      one worker per CPU of the pool's part. If the memory is too small for these workers, the pool gets fewer workers.
      Each worker then gets more CPUs, at most THREADS.

    If nodes may join the cluster, the maximum number of workers may be larger than the number that fits now.
    """
    computing = [pool for pool in pools if not is_light(pool)]
    fixed = sum(pool.cpus * _workers(pool, 1)[0] for pool in computing if pool.cpus != "auto")
    # one LIGHT for each light pool, and one for the tasks that write records
    cpus_left = max(WRITING, (size.cpus - fixed - LIGHT * (1 + len(pools) - len(computing))) / max(1, len(computing)))
    batch = 8 if size.gpus or not computing else 1
    fitting = workers_in_memory(pools, size, weights)
    on_gpus = [pool for pool in pools if uses_gpu(pool, size)]
    light = [_place_light(pool, size, batch) for pool in pools if is_light(pool)]
    reserve = LIGHT + sum(pool.least * pool.cpus for pool in light)
    lights, shares = iter(light), iter(sharing.shared(on_gpus, size, reserve, fitting))
    return [
        next(lights) if is_light(pool)
        else _place_on_gpus(pool, next(shares), size, batch) if uses_gpu(pool, size)
        else _place(pool, cpus_left, size, batch, fitting)
        for pool in pools
    ]  # fmt: skip


def workers_in_memory(pools: Sequence[Pool], size: Size, weights: float) -> float:
    """Return the number of workers per pool that fit into the memory of the cluster. Light pools are ignored.

    The memory of all nodes is divided equally among the pools that are not light. Each worker of these pools needs HEAP
    bytes, plus the bytes of the weights that the worker loads. `weights`: bytes of one worker's weights.
    """
    return size.memory / max(1, sum(not is_light(pool) for pool in pools)) / (HEAP + weights)


def weights_of(sources: Iterable[Sequence[Path]]) -> int:
    """Return the bytes of the weights of all stages. `sources`: files of each stage.

    A stage with more than NETWORK_FILES files is left out, since these files are assumed to be label maps. Callers use
    the sum as the bytes of one worker's weights, as if one worker held all stages.
    """
    return sum(
        file.stat().st_size for stage_files in sources if len(stage_files) <= NETWORK_FILES for file in stage_files
    )


def writers(cpus: float) -> int:
    """Return the maximum number of concurrent tasks that write records, for a cluster with `cpus` CPUs.

    Without this limit, Ray would give all idle CPUs to these tasks.
    """
    return max(2, int(cpus / 4))


def unmet(pools: Sequence[Placed], size: Size) -> str:
    """Return an error message if the cluster is too small for the pools, else "".

    Ray itself would wait for more nodes forever, without a message.
    """
    rooms = [Room(node) for node in size.nodes]
    for pool in sorted(pools, key=lambda pool: (pool.gpus, pool.cpus), reverse=True):
        if len(packed([pool.need], [pool.least], rooms)[0]) < pool.least:
            break
    else:
        if packed([Need(WRITING)], [1], rooms)[0]:
            return ""
    cpus = sum(pool.least * pool.cpus for pool in pools) + WRITING
    gpus = sum(pool.least * pool.gpus for pool in pools)
    other = sorted({f"{k}={v}" for pool in pools for k, v in (*pool.labels.items(), *pool.resources.items())})
    special = f", on nodes with {', '.join(other)}" if other else ""
    return (
        f"cluster too small: the pools need at least {cpus:g} CPUs and {gpus:g} GPUs{special}, each worker on one "
        f"node; the cluster has {size.cpus:g} CPUs and {size.gpus:g} GPUs, its largest node {size.node_cpus:g} CPUs "
        f"and {size.node_gpus:g} GPUs. There is no room for the workers of {', '.join(s.use for s in pool.stages)}. "
        "Lower `workers`, `cpus` or `gpus` of the pools, or omit them"
    )


def on_cpus(pools: Sequence[Placed], size: Size, weights: float) -> str:
    """Return a warning if stages that can use a GPU run on CPUs, else "". `weights`: bytes of one worker's weights.

    The warning advises to wait for nodes with GPUs. If no node can join the cluster, return "". If `weights` is less
    than HEAVY, CPUs are assumed to be fast enough, so return "".
    """
    slow = [stage.use for pool in pools if not pool.gpus for stage in pool.stages if stage.kind().gpu]
    if not (size.grows and slow and weights >= HEAVY):
        return ""
    present = "no GPU" if not size.gpus else f"{size.gpus:g} GPUs, but the config keeps these stages from them"
    return (
        f"{', '.join(slow)}: computed on CPUs, which is slow. The cluster has {present}. To wait for GPUs, pass "
        "--wait-for gpus=1"
    )


def bf16_on_cpus(pools: Sequence[Placed]) -> str:
    """Return a warning if a stage computes in bfloat16 on CPUs that lack bfloat16 instructions, else "".

    Only the CPU of this machine is checked.
    """
    stages = [
        stage.use for pool in pools if not pool.gpus for stage in pool.stages
        if getattr(stage.settings(), "precision", "") == "bf16"
    ]  # fmt: skip
    if not (stages and processor.lacks_bf16()):
        return ""
    changes = " ".join(f"--set {stage}.precision=fp32" for stage in stages)
    return processor.slow_bf16(", ".join(stages), f"On CPUs, type {changes}")


def is_light(pool: Pool) -> bool:
    """Return whether a pool is light: no stage can use a GPU, and `cpus` is "auto"."""
    return pool.cpus == "auto" and not _can_use_gpu(pool)


def _can_use_gpu(pool: Pool) -> bool:
    return any(stage.kind().gpu for stage in pool.stages)


def uses_gpu(pool: Pool, size: Size) -> bool:
    """Return whether the workers of a pool get GPUs, or a part of a GPU, on this cluster."""
    return not is_light(pool) and bool(size.gpus and _can_use_gpu(pool) if pool.gpus == "auto" else pool.gpus)


def _place_light(pool: Pool, size: Size, batch: int) -> Placed:
    cpus_each = LIGHT if size.cpus < 8 else 1.0
    need = sharing.need(pool, cpus_each, 0.0)
    most = int(size.cpus / 4) if size.cpus >= 8 else 1
    if need.labels or need.resources:
        most = len(packed([need], [most], [Room(node) for node in size.nodes])[0])
    least, most = _workers(pool, most)
    return _placed(pool, need, (least, _growing(pool, most, size), least), batch)


def _place_on_gpus(pool: Pool, share: Share, size: Size, batch: int) -> Placed:
    least, fitting = _workers(pool, share.workers)
    first = fitting if pool.workers == "auto" else least
    whole = share.gpus >= 1 or 1 - int(1 / share.gpus) * share.gpus < 0.05  # else Ray would add workers to the rests
    most = _growing(pool, fitting, size) if whole else fitting
    return _placed(pool, sharing.need(pool, share.cpus, share.gpus), (least, most, first), batch)


def _place(pool: Pool, cpus_left: float, size: Size, batch: int, fitting: float) -> Placed:
    cpus_each = 1.0 if pool.cpus == "auto" else pool.cpus
    wanted = math.ceil(cpus_left / cpus_each) if cpus_each else 1
    least, most = _workers(pool, int(min(wanted, fitting)))
    cpus = min(THREADS, cpus_left / most, size.node_cpus)
    need = sharing.need(pool, cpus, 0.0)
    if pool.workers == "auto" and (need.labels or need.resources):
        most = max(1, len(packed([need], [most], [Room(node) for node in size.nodes])[0]))
    first = most if pool.workers == "auto" else least  # these fit; a range may be meant for nodes to come
    return _placed(pool, need, (least, _growing(pool, most, size) if wanted <= fitting else most, first), batch)


def _placed(pool: Pool, need: Need, workers: tuple[int, int, int], batch: int) -> Placed:
    """Return a pool with its minimum, maximum and initial numbers of workers."""
    batch = batch if pool.batch == "auto" else pool.batch
    least, most, first = workers
    return Placed(pool.stages, least, most, need.cpus, need.gpus, batch, first, need.resources, need.labels)


def _growing(pool: Pool, most: int, size: Size) -> int:
    """Return the maximum number of workers of a pool. `most`: maximum number of workers if no node joins the cluster.

    If the pool has `workers: auto`, and nodes may join the cluster, return sharing.MOST. Otherwise, return `most`.
    """
    return sharing.MOST if size.grows and pool.workers == "auto" else most


def _workers(pool: Pool, most: int) -> tuple[int, int]:
    """Return the minimum and maximum number of workers from a pool's config. `workers: auto` means 1 to `most`."""
    if pool.workers == "auto":
        return 1, max(1, most)
    return pool.workers if isinstance(pool.workers, tuple) else (pool.workers, pool.workers)
