"""The main path: images in, records out, numbers at the end. This is where stages meet Ray Data."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from ovss_ray import changes, cluster, files, placement, records, reduce, report
from ovss_ray import manifest as manifests
from ovss_ray.arrays import ArrayCache
from ovss_ray.columns import MANIFEST
from ovss_ray.display import Display
from ovss_ray.errors import OvssError
from ovss_ray.placement import Placed
from ovss_ray.request import Request
from ovss_ray.run_folder import RunFolder, environment
from ovss_ray.stage import StageConfig
from ovss_ray.supervise import STALL, Lost, Watch, plain_errors, watched
from ovss_ray.vocabulary import Vocabularies, Vocabulary
from ovss_ray.worker import Recorder, Worker

PARTS = 256
"""Part files that a run is cut into, about. A death costs one of them, not yet written, and what was in flight."""
ROUNDS = 3
"""Rounds, one after another, that may be lost with their nodes before an image is done."""
RESTARTS = 1000
"""How often Ray starts one worker anew. The ledger sets the true bounds, which know an image's fault from a node's."""


def run(request: Request, display: Display) -> dict[str, Any]:
    """Do all that a run asks for and has not got yet; return its report, which is also in the folder.

    Raises OvssError if the folder holds another run, or if the trouble is not in single images.
    """
    folder = request.folder
    folder.claim(request.config, request.identity(), {**environment(), **request.weights()})
    request = _with_changes(request, request.manifests, display)
    for name in request.manifests:
        folder.save_json(folder.card(name), request.card(name))
    settled = {name: set(records.parts(folder.records(name))) for name in request.manifests}
    todo = _todo(request, settled)
    with cluster.connect(), display.watch(request, todo):
        if len(todo):
            cluster.preflight(request)
            with folder.command() as entry:
                _finish(request, display, settled, entry)
            _with_changes(request, {k: changes.restamped(v) for k, v in request.manifests.items()}, display)
        with plain_errors():
            return report.build(folder, reduce.fold)


def _with_changes(request: Request, listed: Mapping[str, pa.Table], display: Display) -> Request:
    """Save the manifests with the digests of files that have changed since they were scored; say how many have."""
    tables = {}
    for name, table in listed.items():
        uri, folder = request.folder.manifest(name), request.folder.records(name)
        before = manifests.load(uri) if files.exists(uri) else None
        tables[name] = changes.looked_up(table, before, folder, display.say)
        for image in changes.repainted(tables[name], before, folder):  # else it stays if this image fails now
            files.delete(files.join(request.folder.predictions(name), f"{image}.png"))
        manifests.save(tables[name], uri)
        if due := records.settle(folder, tables[name]).due:
            display.say(
                f"{name}: the photographs or label files of {due} images have changed since they were scored: these "
                "images are due again"
            )
    return replace(request, manifests=tables)


def _todo(request: Request, settled: Mapping[str, set[str]]) -> pa.Table:
    """The images of all manifests that have neither a good record nor, in this run of the command, a failed one."""
    left = [
        records.missing(table, request.folder.records(name), settled[name]) for name, table in request.manifests.items()
    ]
    return pa.concat_tables(left)


def _finish(request: Request, display: Display, settled: Mapping[str, set[str]], entry: dict[str, Any]) -> None:
    """Go round after round until every image has a record: one is enough, unless the cluster loses nodes.

    `entry` is told how often workers died, and what was begun again for it.
    """
    config = request.config
    watch = Watch(len(_todo(request, settled)), config.max_deaths, config.deadline)
    patience, fruitless = 0.0, 0
    while len(left := _todo(request, settled)):
        before = display.done
        try:
            evaluate(left, request, display, watch, patience)
            trouble = "images came back without a record"
        except Lost as failure:
            trouble = str(failure)
            patience = STALL * config.deadline  # as nodes that a provider takes away are often replaced
            display.say(f"{trouble}: going on with what is left")
        finally:
            watch.end_round()
            entry |= {"images": display.done - display.earlier, "failed": display.failed}
            entry |= {"deaths": display.deaths, "begun_again": display.redone}
        fruitless = fruitless + 1 if display.done == before else 0
        if fruitless == ROUNDS:
            raise OvssError(f"{trouble}. What is done is kept; give the same command to go on")


def evaluate(manifest: pa.Table, request: Request, display: Display, watch: Watch, patience: float = 0.0) -> None:
    """Give every image of the manifest a record, good or failed, in the folder of the run.

    It waits `patience` seconds for a cluster that is large enough.

    Raises OvssError if more images fail than the config allows, and Lost if the cluster has lost what this needs.
    """
    pools = cluster.place(request, patience)
    stream = _stream(manifest, pools, request, watch)
    for receipt in watched(stream, watch, display.pulse):
        display.update(receipt)
        if display.failed > request.config.max_errors:
            raise OvssError(
                f"{display.failed} images failed, more than max_errors ({request.config.max_errors}): the trouble "
                f"is hardly in the images. The latest: {receipt['error'][0]}"
            )


def _stream(manifest: pa.Table, pools: Sequence[Placed], request: Request, watch: Watch) -> Iterator[dict[str, Any]]:
    """Send the manifest through the pools; what comes out are the receipts of the part files written."""
    given: dict[str, Any] = {
        "vocabularies": request.vocabularies,
        "prepared": _prepare(pools, request.vocabularies),
        "ledger": watch.ledger,
        "deadline": request.config.deadline,
    }
    blocks = _blocks(manifest.select(list(MANIFEST)), pools[0].batch)
    images: Dataset = ray.data.from_blocks(blocks)  # from_arrow would start a task for each, to count its rows
    size = min(PARTS, -(-len(manifest) // PARTS))
    write: Any = partial(_write, folder=request.folder)
    alone = size <= pools[-1].batch  # then a batch is a part, and its worker writes it: no task on the way
    if alone and len(pools) == 1:  # only stages apart share memory, and how is worked out ten times a second
        images.context.op_resource_reservation_enabled = False
        images.context.downstream_capacity_backpressure_ratio = None
    ends = accumulate(len(pool.stages) for pool in pools)
    for number, (pool, end) in enumerate(zip(pools, ends, strict=True)):
        arguments = {"number": number, "keep": request.keeps[end - 1], **given}
        if pool is pools[-1]:
            arguments["write"] = write if alone else None
        images = _map(images, pool, max(pool.least, min(pool.first, len(blocks))), arguments)
    if not alone:
        writers = TaskPoolStrategy(size=placement.writers(cluster.size().cpus))
        images = images.map_batches(
            write, batch_size=size, batch_format="pyarrow", compute=writers, num_cpus=placement.WRITING
        )
    with plain_errors():
        yield from images.iter_rows()


def _map(images: Dataset, pool: Placed, first: int, arguments: Mapping[str, Any]) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray 2.60 names no other way to bound the restarts
        return images.map_batches(
            Recorder if "write" in arguments else Worker,
            fn_constructor_kwargs={"pool": pool, **arguments},
            batch_size=pool.batch,
            compute=ActorPoolStrategy(min_size=pool.least, max_size=pool.most, initial_size=first),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            max_restarts=RESTARTS,
            max_task_retries=RESTARTS,
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
            with plain_errors():
                made = ray.get(task.remote(stage, pool.threads, list(lacking.values()))) if lacking else []
            new = dict(zip(lacking, made, strict=True))
            ready |= {key: ray.put(cache.get(key, partial(new.__getitem__, key))) for key in asked if key}
    return ready


def _prepare_one(stage: StageConfig, threads: int, vocabularies: Sequence[Vocabulary]) -> list[np.ndarray]:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    return stage.kind().prepare(stage.settings(), vocabularies)
