"""A run in the process of the test, without Ray: for tests of what a run records, not of its workers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ovss_ray.benchmarks import catalog
from ovss_ray.engine import evaluate
from ovss_ray.engine.cluster import connection, preflight
from ovss_ray.engine.cluster.nodes import Size, even
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.engine.ledger import Ledger, Names, Status
from ovss_ray.engine.pools import local, worker
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig, build_all
from ovss_ray.runs import records
from ovss_ray.structures.vocabulary import Vocabulary


class Pool:
    """What LocalPool does, without processes: their start takes longer than a few small images."""

    def __init__(self, pool: Placed, size: Size, images: int) -> None:
        self.pool = pool

    def prepare(self, stage: StageConfig, vocabularies: Sequence[Vocabulary], listener: Names) -> list[np.ndarray]:
        return worker.prepared(stage, self.pool.threads, vocabularies, listener)

    def receipts(
        self, manifest: pa.Table, arguments: Mapping[str, Any], write: Callable[[pa.Table], pa.Table], size: int
    ) -> Iterator[dict[str, Any]]:
        stages = build_all(self.pool.stages, arguments["prepared"], catalog.Benchmarks(arguments["words"]))
        for begin in range(0, len(manifest), self.pool.batch):
            rows = manifest.slice(begin, self.pool.batch)
            batch = {name: rows[name].to_numpy() for name in rows.column_names}
            columns = execution.run(stages, batch, arguments["vocabularies"])
            kept = {name: values for name, values in columns.items() if name in arguments["keep"]}
            yield from write(records.table(kept)).to_pylist()


class Watch:
    """The monitor of a run that has no workers, with a ledger that is no actor."""

    def __init__(self, images: int, max_deaths: int, *rest: Any) -> None:
        notes = Ledger(images, max_deaths)
        names = ("start_names", "add_names", "end_names", "status")
        self.ledger = SimpleNamespace(**{name: SimpleNamespace(remote=getattr(notes, name)) for name in names})

    def end_round(self) -> None:
        """There are no workers."""


def watched(stream: Iterator[Any], watch: Watch, report: Callable[[Status], None]) -> Iterator[Any]:
    """Yield the items of a stream, then report the state of the run."""
    yield from stream
    report(watch.ledger.status.remote())


@contextmanager
def pools() -> Iterator[None]:
    """Have runs compute in this process during the block, in one pool: no cluster, no actors, nothing is sent."""

    def place(*given: Any) -> list[Placed]:
        placed = places(*given)
        return [replace(placed[0], stages=tuple(stage for pool in placed for stage in pool.stages))]

    places = preflight.place
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "connect", nullcontext)
        patch.setattr(connection, "size", lambda: even(1, 2))
        patch.setattr(connection, "collects_metrics", lambda: False)
        patch.setattr(preflight, "run", lambda plan: None)  # of what the nodes of a cluster see
        patch.setattr(preflight, "place", place)
        patch.setattr(evaluate, "Watch", Watch)
        patch.setattr(evaluate, "watched", watched)
        patch.setattr(local, "LocalPool", Pool)
        patch.setattr(worker, "ray", SimpleNamespace(put=lambda array: array))
        yield
