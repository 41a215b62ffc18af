"""Run images through any number of pools of workers with Ray Data, on clusters of any size."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.engine.cluster import connection, lean_start, placement, ray_internals
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.engine.pools.blocks import photograph, sized
from ovss_ray.engine.pools.worker import Recorder, Worker


def receipts(
    images: pa.Table,
    pools: Sequence[Placed],
    keeps: Sequence[set[str]],
    shared: Mapping[str, Any],
    write: Callable[[pa.Table], pa.Table],
    size: int,
    benchmarks: Mapping[str, Benchmark],
) -> Iterator[dict[str, Any]]:
    """Send `images` (rows of a manifest) through the pools. Yield one receipt per written file of records.

    `keeps`: columns to keep after each stage. `shared`: arguments for the workers of all pools. `write`: function that
    writes a table of records, and returns the receipts of the written files. `size`: desired number of records per call
    of `write`. `benchmarks`: name → benchmark.
    """
    ray_internals.quiet_data([lean_start.Seldom])
    travel = sized(pools, len(images))
    if travel.images:
        travel = sized(pools, len(images), photograph(images, benchmarks), connection.size().store)
    blocks = [images.slice(begin, travel.rows) for begin in range(0, len(images), travel.rows)]
    stream: Dataset = ray_internals.dataset(blocks)
    alone = size <= travel.call(pools[-1])  # then its worker writes the part: no task on the way
    if alone and len(pools) == 1 and not connection.size().grows:  # else the budget keeps a growing pool in bounds
        ray_internals.keep_pool_undivided(stream)
    ends = accumulate(len(pool.stages) for pool in pools)
    for number, (pool, end) in enumerate(zip(pools, ends, strict=True)):
        arguments = {"number": number, "keep": keeps[end - 1], **shared}
        if pool is pools[-1]:
            arguments["write"] = write if alone else None
        first = max(pool.least, min(pool.first, len(blocks)))
        workers = first, max(first, min(pool.most, len(blocks)))
        stream = _map(stream, pool, travel.call(pool), workers, arguments)
    if not alone:
        writers = TaskPoolStrategy(size=placement.writers(connection.size().cpus))
        stream = stream.map_batches(
            write, batch_size=size, batch_format="pyarrow", compute=writers, num_cpus=placement.WRITING
        )
    yield from stream.iter_rows()


def _map(images: Dataset, pool: Placed, rows: int, workers: tuple[int, int], arguments: Mapping[str, Any]) -> Dataset:
    """Return the dataset that a pool of workers computes from the images.

    `rows`: number of images that a worker receives per call. `workers`: initial and maximum number of workers.
    """
    # Ray Data restarts dead workers without limit, but the run's ledger skips images and stops after too many deaths.
    return images.map_batches(
        Recorder if "write" in arguments else Worker,
        fn_constructor_kwargs={"pool": pool, **arguments},
        batch_size=rows,
        compute=ActorPoolStrategy(min_size=pool.least, max_size=workers[1], initial_size=workers[0]),
        **pool.options(),
    )
