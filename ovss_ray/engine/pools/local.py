"""Run images through a single pool of workers without Ray Data, on a cluster that this command has started.

In a small run, the actors and imports of Ray Data would take a third of the CPU time. The function `suits` selects the
runs for this module.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError

from ovss_ray.engine.cluster.nodes import Room, Size, packed
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.engine.ledger import Names
from ovss_ray.engine.pools.worker import RETRIES, Recorder, prepared
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures.columns import Batch
from ovss_ray.structures.vocabulary import Vocabulary

SMALL = 2000
"""Maximum number of images that are evaluated without Ray Data"""


_idle: list["LocalPool"] | None = None
"""list with the pool whose workers wait for the next run; empty if no workers wait

Outside a `with reused()` block, the value is None, and the workers of a run end with the run."""


@contextmanager
def reused() -> Iterator[None]:
    """Let the workers of a run wait for the next run, if both runs are in this `with` block.

    The next run then starts sooner, unless its workers need other Ray options.
    """
    global _idle
    _idle = []
    try:
        yield
    finally:
        _idle = None


def release(options: Mapping[str, Any] | None = None) -> list[Any]:
    """Return the workers that wait for the next run (see reused), if their Ray options equal `options`.

    If their options differ, or if `options` is None, kill these workers and return [].
    """
    pools = list(_idle or ())
    (_idle or []).clear()
    workers = [worker for pool in pools for worker in pool.workers]
    if pools and pools[0].pool.options() == options:
        return workers
    for worker in workers:
        ray.kill(worker)
    return []


def suits(pools: Sequence[Placed], size: Size, images: int) -> bool:
    """Return whether this module runs the pools: the run is small, there is only one pool, and no nodes can join."""
    return images <= SMALL and len(pools) == 1 and not size.grows


class LocalPool:
    """Workers of a pool. The constructor does not wait until the workers have started.

    While a worker starts, the worker imports the modules of the pool's stages.
    """

    def __init__(self, pool: Placed, size: Size, images: int) -> None:
        actor: Any = ray.remote(max_restarts=-1, max_task_retries=-1, **pool.options())(_Process)
        batches, rooms = -(-images // pool.batch), [Room(node) for node in size.nodes]
        fitting = max(1, len(packed([pool.need], [min(pool.most, batches)], rooms)[0]))
        idle = release(pool.options())
        for worker in idle[fitting:]:
            ray.kill(worker)
        self.workers = idle[:fitting] + [actor.remote(pool) for _ in range(fitting - len(idle))]
        self.pool = pool

    def prepare(self, stage: StageConfig, vocabularies: Sequence[Vocabulary], listener: Names) -> list[np.ndarray]:
        """Compute the arrays of a stage for these vocabularies, in one of the workers. Raises the errors of Ray.

        `listener` receives the number of names whose text embeddings are computed so far.
        """
        method = self.workers[0].prepare.options(max_task_retries=RETRIES)
        arrays: list[np.ndarray] = ray.get(method.remote(stage, self.pool.threads, vocabularies, listener))
        return arrays

    def receipts(
        self,
        manifest: pa.Table,
        arguments: Mapping[str, Any],
        write: Callable[[pa.Table], pa.Table],
        size: int,
    ) -> Iterator[dict[str, Any]]:
        """Send the images of a manifest through the workers. Yield one receipt per written file of records.

        `arguments`: arguments of Recorder, except `write`. `write`: function that writes a table of records, and
        returns the receipts of the written files. `size`: minimum number of records that a call of `write` gets. If
        fewer than `size` records remain at the end, one call gets the remaining records. Raises the errors of Ray.
        """
        alone = size <= self.pool.batch  # then the workers call `write`, otherwise this process does
        setup = ray.put({**arguments, "write": write if alone else None})
        waiting: list[pa.Table] = []
        for table in self._results(manifest, setup):
            if alone:
                yield from table.to_pylist()
                continue
            waiting.append(table)
            if sum(map(len, waiting)) >= size:
                yield from write(pa.concat_tables(waiting)).to_pylist()
                waiting = []
        if waiting:
            yield from write(pa.concat_tables(waiting)).to_pylist()
        self._rest(arguments)

    def _rest(self, arguments: Mapping[str, Any]) -> None:
        """Let the workers wait for the next run, if this run is in a `with reused()` block."""
        if (idle := _idle) is not None:
            with suppress(RayError):  # then the workers end with this run
                ray.get([worker.finish.remote() for worker in self.workers])
                ray.get(arguments["ledger"].forget.remote())  # otherwise, Watch.end_round would kill the workers
                idle.append(self)

    def _results(self, manifest: pa.Table, setup: Any) -> Iterator[pa.Table]:
        """Yield the results of the batches in the order of completion.

        `setup`: Ray object reference to the arguments of Recorder.
        """
        rows, begin = self.pool.batch, 0
        busy: dict[Any, Any] = {}
        idle = list(self.workers)
        while idle or busy:
            for worker in idle:
                if begin < len(manifest):
                    batch = manifest.slice(begin, rows)
                    columns = {name: batch[name].to_numpy() for name in batch.column_names}  # a slice would send all
                    busy[worker.compute.remote([setup], columns)] = worker
                    begin += rows
            if not busy:
                return
            (ready,), _ = ray.wait(list(busy), num_returns=1)
            worker = busy.pop(ready)
            yield ray.get(ready)
            # a worker gets a second batch, which waits, except near the end of the manifest
            many = len(manifest) - begin > rows * len(self.workers)
            idle = [worker] * ((2 if many else 1) - list(busy.values()).count(worker))


class _Process:
    """Ray actor of a pool: a process that builds its Recorder for the first batch, and keeps it."""

    def __init__(self, pool: Placed) -> None:
        self.recorder: Recorder | None = None
        with suppress(Exception):  # raised again for the first batch, and then shown as an error of the run
            for stage in pool.stages:
                stage.kind()
            pool.computing()

    def prepare(
        self, stage: StageConfig, threads: int, vocabularies: Sequence[Vocabulary], listener: Names
    ) -> list[np.ndarray]:
        """Return the arrays of a stage for these vocabularies."""
        return prepared(stage, threads, vocabularies, listener)

    def compute(self, setup: Sequence[Any], batch: Batch) -> pa.Table:
        """Return the records or receipts that Recorder returns for a batch.

        `setup`: list with one Ray object reference to the arguments of Recorder.
        """
        # `setup` is a list, since Ray would fetch the arguments in every call if the reference itself were passed
        if self.recorder is None:
            self.recorder = Recorder(**ray.get(setup[0]))
        return self.recorder(batch)

    def finish(self) -> None:
        """Free the networks of a run that has ended."""
        self.recorder = None
        gc.collect()
