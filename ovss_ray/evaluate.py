"""The main path: images in, records out, numbers at the end. This is where stages meet Ray Data."""

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy, Dataset

from ovss_ray import cluster, pipeline, placement, records, reduce, report
from ovss_ray import manifest as manifests
from ovss_ray.arrays import ArrayCache
from ovss_ray.columns import Batch
from ovss_ray.display import Display
from ovss_ray.errors import OvssError
from ovss_ray.placement import Placed
from ovss_ray.request import Request
from ovss_ray.run_folder import RunFolder, environment
from ovss_ray.stage import StageConfig
from ovss_ray.vocabulary import Vocabularies, Vocabulary

PARTS = 256
"""Part files that a run is cut into, about. A death costs one of them, not yet written, and what was in flight."""


def run(request: Request, display: Display) -> dict[str, Any]:
    """Do all that a run asks for and has not got yet; return its report, which is also in the folder.

    Raises OvssError if the folder holds another run, or if the trouble is not in single images.
    """
    folder = request.folder
    folder.claim(request.config, request.identity(), {**environment(), **request.weights()})
    for name, table in request.manifests.items():
        manifests.save(table, folder.manifest(name))
        folder.save_json(folder.card(name), request.card(name))
    todo = {name: records.missing(table, folder.records(name)) for name, table in request.manifests.items()}
    with cluster.connect() as size, display.watch(request, todo):
        if any(len(table) for table in todo.values()):
            cluster.preflight(request)
            pools = placement.place(request.pools, size)
            cluster.preflight_pools(pools, size)
            evaluate(pa.concat_tables(todo.values()), pools, request, display)
        with _plain_errors():
            return report.build(folder, reduce.fold)


def evaluate(manifest: pa.Table, pools: Sequence[Placed], request: Request, display: Display) -> None:
    """Give every image of the manifest a record, good or failed, in the folder of the run.

    Raises OvssError if more images fail than the config allows.
    """
    prepared = _prepare(pools, request.vocabularies)
    images: Dataset = ray.data.from_arrow(_blocks(manifest, pools[0].batch))
    for pool, keep in zip(pools, request.keeps, strict=True):
        worker = Recorder if pool is pools[-1] else Worker
        images = _map(images, worker, pool, keep=keep, vocabularies=request.vocabularies, prepared=prepared)
    size = min(PARTS, -(-len(manifest) // PARTS))
    write: Any = partial(_write, folder=request.folder)
    receipts = images.map_batches(write, batch_size=size, batch_format="pyarrow", num_cpus=placement.WRITING)
    with _plain_errors():
        for receipt in receipts.iter_rows():
            display.update(receipt)
            if display.failed > request.config.max_errors:
                raise OvssError(
                    f"{display.failed} images failed, more than max_errors ({request.config.max_errors}): the trouble "
                    f"is hardly in the images. The latest: {receipt['error'][0]}"
                )


class Worker:
    """The actor that Ray Data runs: it holds the stages of one pool and is called with many batches."""

    def __init__(self, pool: Placed, keep: set[str], vocabularies: Vocabularies, prepared: Mapping[str, Any]) -> None:
        os.environ["OMP_NUM_THREADS"] = str(pool.threads)
        shared = {key: ray.get(array) for key, array in prepared.items()}  # zero-copy: one mapped copy per node
        self.stages = {stage.use: stage.build(shared) for stage in pool.stages}
        self.keep, self.vocabularies = keep, vocabularies

    def __call__(self, batch: Batch) -> Batch:
        """Run the pool's stages over a batch, and hand on the columns that are still needed."""
        try:
            done = pipeline.run(self.stages, batch, self.vocabularies)
        except pipeline.Poisoned:
            os._exit(1)  # this process can compute no more; another one gets the batch, within the bounds of restarts
        return {name: column for name, column in done.items() if name in self.keep}


class Recorder(Worker):
    """The worker of the last pool, whose batches become records."""

    def __call__(self, batch: Batch) -> pa.Table:
        """Run the last stages over a batch, and keep the records alone."""
        return records.table(super().__call__(batch))


def _map(images: Dataset, worker: type[Worker], pool: Placed, **arguments: Any) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray 2.60 names no other way to bound the restarts
        return images.map_batches(
            worker,
            fn_constructor_kwargs={"pool": pool, **arguments},
            batch_size=pool.batch,
            compute=ActorPoolStrategy(min_size=pool.least, max_size=pool.most),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            max_restarts=2,  # the default is without end: one image that kills its worker would hang the run
            max_task_retries=2,
        )


def _write(table: pa.Table, folder: RunFolder) -> pa.Table:
    """Write records as one part file per benchmark, and give the driver a receipt for each."""
    receipts = []
    for name in table["benchmark"].unique().to_pylist():
        part = table.filter(pc.equal(table["benchmark"], name))
        uri = records.append(folder.records(name), part)
        errors = [error for error in part["error"].to_pylist() if error]
        receipts.append(
            {"benchmark": name, "part": uri, "images": len(part), "failed": len(errors), "error": errors[-1:]}
        )
    return pa.Table.from_pylist(receipts)


def _blocks(manifest: pa.Table, batch: int) -> list[pa.Table]:
    """Cut the manifest into the units that workers are given, of one batch each up to some thousands of them."""
    rows = batch * -(-len(manifest) // (batch * 10_000))
    return [manifest.slice(begin, rows) for begin in range(0, len(manifest), rows)]


def _prepare(pools: Sequence[Placed], vocabularies: Vocabularies) -> dict[str, Any]:
    """Find or do the once-per-run work of all stages: key → reference to an array in the object store.

    What is not cached is made by one task for each stage, where one of its workers could run.
    """
    cache = ArrayCache()
    ready: dict[str, Any] = {}
    for pool in pools:
        for stage in pool.stages:
            asked = {stage.key(one): one for one in vocabularies.values()}
            lacking = {key: one for key, one in asked.items() if key and cache.find(key) is None}
            task: Any = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus, max_retries=2)(_prepare_one)
            with _plain_errors():
                made = ray.get(task.remote(stage, pool.threads, list(lacking.values()))) if lacking else []
            new = dict(zip(lacking, made, strict=True))
            ready |= {key: ray.put(cache.get(key, partial(new.__getitem__, key))) for key in asked if key}
    return ready


def _prepare_one(stage: StageConfig, threads: int, vocabularies: Sequence[Vocabulary]) -> list[np.ndarray]:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    return stage.kind().prepare(stage.settings(), vocabularies)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Bring an OvssError that was raised in a worker to the user; Ray Data hands it on as text only."""
    try:
        yield
    except ray.exceptions.RayError as failure:
        *_, message = re.split(r"ovss_ray\.errors\.(?:OvssError|UnknownName): ", str(failure))
        if message != str(failure):
            raise OvssError(message.partition("\n\nThe above exception")[0].strip()) from None
        if isinstance(failure, ray.exceptions.RayActorError):
            raise OvssError(
                f"a worker died again and again ({str(failure).strip().splitlines()[-1]}); what is done is kept. "
                "Give the same command to go on"
            ) from failure
        raise
