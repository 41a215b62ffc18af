"""Probe of a run: compute a few images in this process, without Ray, to measure stage times and column sizes."""

import pickle
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from ovss_ray.benchmarks import catalog
from ovss_ray.engine.cluster.estimate import Probed
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.engine.display import EVERY
from ovss_ray.errors import OvssError
from ovss_ray.pipeline import execution, preparation
from ovss_ray.pipeline.stage import Stage, StageConfig, build_all
from ovss_ray.runs.plan import RunPlan
from ovss_ray.structures import words
from ovss_ray.structures.columns import MANIFEST, Batch, column
from ovss_ray.structures.vocabulary import Vocabulary

IMAGES = 16
"""Number of images of a probe, spread evenly over all images of the run"""


def probe(plan: RunPlan, pools: Sequence[Placed], say: Callable[[str], None]) -> Probed:
    """Run IMAGES images through all stages, and return the measurements. The run's folder is not changed.

    `say` prints messages. Raises OvssError if all images fail. Raises OvssError if a stage exports files, as the
    stage sam_features does.
    """
    if exporting := [stage.use for stage in plan.config.stages() if stage.kind().exports]:
        raise OvssError(
            f"--probe: the stage {exporting[0]} writes files, so it runs in `ovss evaluate` only. Omit --probe"
        )
    with tempfile.TemporaryDirectory() as folder:
        pools = [_writing_to(folder, pool) for pool in pools]
        shared = _prepared(plan, pools, say)
        begun, benchmarks = time.perf_counter(), catalog.Benchmarks(plan.words)
        built = []
        for pool in pools:
            with pool.computing():
                built.append(build_all(pool.stages, shared, benchmarks))
        start = time.perf_counter() - begun
        rows = _spread(plan)
        seconds: dict[str, float] = {}
        sizes = _sizes(rows)
        ends = accumulate(len(pool.stages) for pool in pools)
        for pool, stages, end in zip(pools, built, ends, strict=True):
            rows, times = _through(pool, stages, rows, plan)
            seconds |= times
            rows = {name: values for name, values in rows.items() if name in plan.keeps[end - 1]}
            sizes |= _sizes(rows)
    errors = [error for error in rows["error"] if error]
    if errors:
        say(f"{len(errors)} of {len(rows['error'])} images of the probe failed. The last error: {errors[-1]}")
    if len(errors) == len(rows["error"]):
        raise OvssError("--probe: all images failed, so there is no estimate. Fix the error above, or omit --probe")
    prepared = sum(array.nbytes for array in shared.values())
    return Probed(len(rows["error"]), seconds, sizes, start, prepared)


def _writing_to(folder: str, pool: Placed) -> Placed:
    """Return a copy of the pool, in which the stage `save` (if present) writes label maps to `folder`."""
    stages = [
        StageConfig(use=stage.use, options={**stage.options, "folder": folder}) if stage.use == "save" else stage
        for stage in pool.stages
    ]
    return replace(pool, stages=tuple(stages))


def _prepared(plan: RunPlan, pools: Sequence[Placed], say: Callable[[str], None]) -> dict[str, np.ndarray]:
    """Return the arrays that the stages need before the first image, such as text embeddings.

    The key of each array is the key under which the array cache stores the array. `say` prints lines of progress, with
    at least EVERY seconds between two lines.
    """
    due = time.monotonic() + EVERY

    def listener(done: float, names: int) -> None:
        nonlocal due
        if time.monotonic() > due:
            due = time.monotonic() + EVERY
            say(f"preparing names: {int(done)}/{names}")

    def computed(pool: Placed, stage: StageConfig, missing: Sequence[Vocabulary]) -> list[np.ndarray]:
        from ovss_ray.models import text  # imports torch, which other stages do without

        with pool.computing(), text.reported(listener):
            return stage.kind().prepare(stage.settings(), missing)

    stages = [(pool, stage) for pool in pools for stage in pool.stages]
    return dict(preparation.arrays(stages, plan.vocabularies, computed))


def _spread(plan: RunPlan) -> Batch:
    """Return up to IMAGES rows of the manifests, spread evenly over all rows."""
    table = pa.concat_tables(list(plan.manifests.values())).select(list(MANIFEST))
    places = np.unique(np.linspace(0, len(table) - 1, IMAGES).round().astype(int))
    return {name: column(table[name].take(places).to_pylist()) for name in MANIFEST}


def _through(pool: Placed, stages: Mapping[str, Stage], rows: Batch, plan: RunPlan) -> tuple[Batch, dict[str, float]]:
    """Run the rows through a pool's stages. Return the resulting rows, and the seconds per image of each stage."""
    number = len(rows["image_id"])
    done: list[Batch] = []
    for begin in range(0, number, pool.batch):
        batch = {name: values[begin : begin + pool.batch] for name, values in rows.items()}
        with pool.computing():
            done.append(words.packed(execution.run(stages, batch, plan.vocabularies)))
    # The first batch warms up the stages. Its times count only if there is no other batch.
    counted = [times for batch in (done[1:] or done) for times in batch["seconds"]]
    seconds = {name: float(np.mean([times.get(name, 0.0) for times in counted])) for name in stages}
    return {name: column(value for batch in done for value in batch[name]) for name in done[0]}, seconds


def _sizes(rows: Batch) -> dict[str, float]:
    """Return the mean bytes per image of each column."""
    return {name: float(np.mean([_size(value) for value in values])) for name, values in rows.items()}


def _size(value: Any) -> int:
    return int(value.nbytes) if isinstance(value, np.ndarray | np.generic) else len(pickle.dumps(value))
