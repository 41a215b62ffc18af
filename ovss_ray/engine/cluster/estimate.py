"""Estimate of a run before the run starts: workers, memory, object store, speed and duration.

The workers are placed as in a run. This module does not import Ray.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import psutil

from ovss_ray.config.run import Pool
from ovss_ray.engine.cluster import placement
from ovss_ray.engine.cluster.nodes import STORE, Node, Size
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.engine.pools.blocks import Blocks, sized
from ovss_ray.errors import OvssError
from ovss_ray.runs import records
from ovss_ray.runs.plan import RunPlan
from ovss_ray.structures.columns import MANIFEST

STORE_SHARE = 0.3
"""Fraction of a machine's memory that Ray takes for its object store by default"""
IN_FLIGHT = 2
"""Blocks that Ray Data sends to a worker at a time: the block in progress, and the next one"""
DRIVER = 0.010
"""Assumed CPU seconds of the driver process per block that a worker receives; `perf scale` measured 0.010 to 0.017"""


@dataclass(frozen=True)
class Probed:
    """Measurements of a probe, which runs all stages for a few images in one process."""

    images: int
    seconds: Mapping[str, float]
    """stage → seconds per image"""
    bytes: Mapping[str, float]
    """column → bytes per image"""
    start: float
    """seconds to build all stages"""
    prepared: int
    """bytes of the arrays that every node holds, such as text embeddings"""


@dataclass(frozen=True)
class Step:
    """Pool of workers in the estimate of a run."""

    pool: Placed
    workers: int
    """number of workers at the start"""
    reach: int
    """largest number of workers that Ray starts under load, if no further nodes join the cluster"""
    columns: tuple[str, ...]
    """columns that the workers of the pool send to the next pool, or into the records"""
    reads: tuple[str, ...]
    """columns that the workers of the pool receive"""
    seconds: float | None
    """seconds per image in one worker; None: not measured"""

    @property
    def name(self) -> str:
        """Return the names of the pool's stages, separated by commas."""
        return ", ".join(stage.use for stage in self.pool.stages)


@dataclass(frozen=True)
class Estimate:
    """Estimate of a run on a cluster.

    `probed`: times and sizes measured by a probe, which computes a few images. Without a probe, `probed` is None.
    """

    plan: RunPlan
    size: Size
    steps: tuple[Step, ...]
    weights: int
    """bytes of the weights of all stages

    Workers of a light pool (see Placed.light) are assumed to load no weights. All other workers are assumed to load the
    weights of all stages.
    """
    left: int
    """number of images without a record"""
    shortage: str
    """error message if the cluster is too small for the pools, else "" """
    probed: Probed | None = None

    @property
    def images(self) -> int:
        """Return the number of images of the run, including those that already have a record."""
        return sum(map(len, self.plan.manifests.values()))

    def warnings(self) -> list[str]:
        """Return the warnings that a run would print, such as GPUs without a worker."""
        return warnings(self.plan.pools, [step.pool for step in self.steps], self.size, self.weights)

    def memory(self, step: Step) -> float:
        """Return the bytes of memory, including weights, that one worker of a pool is assumed to need."""
        return placement.HEAP + (0 if step.pool.light else self.weights)

    def sent(self, step: Step) -> float | None:
        """Return the bytes per image that a pool sends; None without a probe.

        The last pool sends the bytes into the records. Each other pool sends the bytes to the next pool.
        """
        return None if self.probed is None else sum(self.probed.bytes.get(name, 0.0) for name in step.columns)

    def store(self) -> float | None:
        """Return the bytes of object store that are needed to keep all workers busy; None without a probe."""
        if self.probed is None:
            return None
        sizes = self.probed.bytes
        blocks = 0.0
        for step in self.steps:  # a worker needs space for IN_FLIGHT blocks of images and one block of results
            received, sent = (sum(sizes.get(name, 0.0) for name in names) for names in (step.reads, step.columns))
            blocks += step.reach * self.travel().call(step.pool) * (IN_FLIGHT * received + sent)
        return blocks + len(self.size.nodes) * self.probed.prepared

    def capacity(self) -> float:
        """Return the bytes of the object stores of all nodes."""
        return self.size.store

    def limits(self) -> dict[str, float]:
        """Return name of a part of the cluster → maximum images per second of this part; {} without a probe.

        The names are "the GPUs", "the CPUs", "the driver process", and "the workers of ..." for each pool.
        """
        if self.probed is None:
            return {}
        spent = [(step, step.seconds or 0.0) for step in self.steps]
        rates = {f"the workers of {step.name}": _rate(step.reach, seconds) for step, seconds in spent}
        on_gpus = sum(seconds * max(1.0, step.pool.gpus) for step, seconds in spent if step.pool.gpus)
        on_cpus = sum(seconds * step.pool.threads for step, seconds in spent if not step.pool.gpus)
        rates |= {"the GPUs": _rate(self.size.gpus, on_gpus), "the CPUs": _rate(self.size.cpus, on_cpus)}
        blocks = sum(1 / self.travel().call(step.pool) for step in self.steps)
        return rates | {"the driver process": 1 / (DRIVER * blocks)}

    def travel(self) -> Blocks:
        """Return the sizes of the blocks in which images travel between the pools (see pools/blocks.py)."""
        photograph = self.probed.bytes.get("image", 0.0) if self.probed else 0.0
        return sized([step.pool for step in self.steps], self.left, photograph, self.size.store)

    def rate(self) -> tuple[float, str] | None:
        """Return (images per second, name of the slowest part of the cluster); None without a probe."""
        limits = self.limits()
        return min((rate, name) for name, rate in limits.items()) if limits else None

    def batches(self) -> float | None:
        """Return the batches per second of all pools together; None without a probe."""
        rate = self.rate()
        return None if rate is None else rate[0] * sum(1 / step.pool.batch for step in self.steps)

    def seconds(self) -> float | None:
        """Return the expected duration of the run in seconds; None without a probe.

        The duration is the time to build all stages, plus the time for the images without a record.
        """
        rate = self.rate()
        return self.probed.start + self.left / rate[0] if self.probed and rate else None


def _rate(number: float, seconds: float) -> float:
    return number / seconds if seconds else math.inf


def estimate(plan: RunPlan, size: Size, probed: Probed | None = None) -> Estimate:
    """Return the estimate of a run on a cluster. Raises OvssError if the run's folder has damaged records."""
    weights = placement.weights_of(plan.sources)
    pools = placed(plan, size)
    left = sum(len(records.missing(table, plan.folder.records(name))) for name, table in plan.manifests.items())
    steps: list[Step] = []
    reads = set(MANIFEST)
    for pool, end in zip(pools, accumulate(len(pool.stages) for pool in pools), strict=True):
        keep = plan.keeps[end - 1]
        batches = math.ceil(left / pool.batch)
        first = max(pool.least, min(pool.first, batches))
        fitting = first if pool.gpus else int(size.cpus / max(pool.cpus, placement.WRITING))
        reach = max(first, min(pool.most, batches, fitting))
        seconds = None if probed is None else sum(probed.seconds.get(stage.use, 0.0) for stage in pool.stages)
        steps.append(Step(pool, first, reach, tuple(sorted(keep)), tuple(sorted(reads)), seconds))
        reads = keep
    return Estimate(plan, size, tuple(steps), weights, left, placement.unmet(pools, size), probed)


def warnings(pools: Sequence[Pool], placed_pools: Sequence[Placed], size: Size, weights: float) -> list[str]:
    """Return warnings about pools that can run, but use the cluster badly, such as GPUs without a worker.

    `pools`: pools of the config. `placed_pools`: placement of `pools` on the cluster. `weights`: bytes of the weights
    of one worker.
    """
    texts = (
        placement.on_cpus(placed_pools, size, weights),
        placement.bf16_on_cpus(placed_pools),
        _idle_gpus(pools, placed_pools, size, weights),
    )
    return [text for text in texts if text]


def _idle_gpus(pools: Sequence[Pool], placed_pools: Sequence[Placed], size: Size, weights: float) -> str:
    """Return a warning if GPUs have no worker because the nodes have too little memory, else ""."""
    idle = size.gpus - sum(pool.first * pool.gpus for pool in placed_pools)
    if idle < 1:
        return ""
    most = placement.workers_in_memory(pools, size, weights)
    both = zip(pools, placed_pools, strict=True)
    automatic = [on_gpu for pool, on_gpu in both if pool.workers == "auto" and on_gpu.gpus]
    if not any(pool.first + 1 > most for pool in automatic):
        return ""
    return (
        f"{idle:g} of {size.gpus:g} GPUs have no worker: the nodes offer Ray {size.memory / 1e9:.1f} GB of memory, and "
        f"a worker is expected to need {(placement.HEAP + weights) / 1e9:.1f} GB. Set `workers` of the pool, or start "
        "the nodes with `ray start --memory BYTES`"
    )


def placed(plan: RunPlan, size: Size) -> list[Placed]:
    """Return the pools of a run, with their numbers of workers, CPUs and GPUs on a cluster of this size.

    Call placement.unmet to test whether the cluster is large enough.
    """
    return placement.place(placement.fused(plan.pools, size), size, placement.weights_of(plan.sources))


def this_machine(gpus: int) -> Size:
    """Return this machine as a cluster of one node with `gpus` GPUs.

    The object store gets STORE_SHARE of all memory. The workers get the available memory, minus the object store.
    """
    memory = psutil.virtual_memory()
    store = STORE_SHARE * memory.total
    return Size((Node(os.cpu_count() or 1, gpus, max(0.0, memory.available - store), {STORE: store}),))


def imagined(text: str) -> Size:
    """Return a cluster of equal nodes from a text such as "nodes=8,cpus=96,gpus=8,memory=500".

    `cpus`, `gpus` and `memory` (GB) are per node. Only `nodes` (default 1) and `gpus` (default 0) may be missing.
    Raises OvssError for an invalid text.
    """
    pairs = dict(part.partition("=")[::2] for part in text.replace(" ", "").split(","))
    numbers = {"nodes": 1.0, "gpus": 0.0, "memory": -1.0} | {key: _number(value) for key, value in pairs.items()}
    if not set(numbers) == {"nodes", "cpus", "gpus", "memory"} or min(numbers.values()) < 0:
        raise OvssError(
            f"--on {text}: not a cluster. Type a text such as nodes=8,cpus=96,gpus=8,memory=500: the number of nodes, "
            "then CPUs, GPUs and GB of memory per node"
        )
    memory = 1e9 * numbers["memory"]
    node = Node(numbers["cpus"], numbers["gpus"], (1 - STORE_SHARE) * memory, {STORE: STORE_SHARE * memory})
    return Size((node,) * int(numbers["nodes"]))


def _number(text: str) -> float:
    return float(text) if text.isdecimal() else -1.0
