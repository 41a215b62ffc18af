"""A pool of a run in the process of the test: for tests of what a run records, not of its workers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from ovss_ray.benchmarks import catalog
from ovss_ray.engine.cluster.nodes import Size
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.engine.ledger import Names
from ovss_ray.engine.pools import worker
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
        shared = {key: ray.get(array) for key, array in arguments["prepared"].items()}
        stages = build_all(self.pool.stages, shared, catalog.Benchmarks(arguments["words"]))
        for begin in range(0, len(manifest), self.pool.batch):
            rows = manifest.slice(begin, self.pool.batch)
            batch = {name: rows[name].to_numpy() for name in rows.column_names}
            columns = execution.run(stages, batch, arguments["vocabularies"])
            kept = {name: values for name, values in columns.items() if name in arguments["keep"]}
            yield from write(records.table(kept)).to_pylist()
