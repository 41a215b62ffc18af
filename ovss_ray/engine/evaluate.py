"""Evaluation of a run on Ray: from images to records to a report."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray.engine import interrupts, reduce
from ovss_ray.engine.cluster import connection, preflight, waiting
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.engine.pools import local
from ovss_ray.engine.pools.worker import prepare
from ovss_ray.engine.progress import Exported, Progress
from ovss_ray.engine.watch import STALL, Lost, Watch, plain_errors, watched
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.reports import report as reports
from ovss_ray.reports.schema import Report
from ovss_ray.runs import changes, records, relations
from ovss_ray.runs import lease as leases
from ovss_ray.runs import manifest as manifests
from ovss_ray.runs.folder import RunFolder, environment
from ovss_ray.runs.plan import RunPlan
from ovss_ray.structures.columns import MANIFEST

PARTS = 256
"""Maximum number of images in one file of records."""
ROUNDS = 3
"""Number of consecutive failed rounds that make a run fail.

A round attempts all images without a record. If a round writes no record, the round has failed."""


def run(plan: RunPlan, progress: Progress, conclude: Callable[[Report], Report] = lambda built: built) -> Report:
    """Evaluate all images of a run that have no result yet. Write and return the report of the run.

    `conclude` gets the report, may write further files into the run's folder, and returns the report. Raises OvssError
    if the evaluation fails, if the folder has a different run, or if another command uses the folder.
    """
    with leases.held(plan.folder, progress.say) as lease:
        folder = plan.folder
        folder.claim(plan.config, plan.identity(), {**environment(), **plan.weights()})
        plan = _with_changes(plan, plan.manifests, progress)
        for name in plan.manifests:
            folder.save_json(folder.card(name), plan.card(name))
        relations.save(folder, plan.relations)
        settled = {name: set(records.parts(folder.records(name))) for name in plan.manifests}
        todo = _todo(plan, settled)
        if len(todo):
            preflight.room(plan)
        with connection.connect():
            listener = Exported(progress, folder) if len(todo) and connection.collects_metrics() else progress
            with listener.watch(plan, todo):
                report = _report(plan, listener, settled, todo, lease)
        # before the lease is released, since `conclude` may write files
        return conclude(report)


def _report(
    plan: RunPlan, progress: Progress, settled: Mapping[str, set[str]], todo: pa.Table, lease: leases.Lease
) -> Report:
    """Evaluate the images `todo`, and return the report. Raises OvssError if this fails, or if the lease was lost."""
    if len(todo):
        waiting.until_reached(plan.config.wait_for, plan.config.patience, progress.say)
        preflight.run(plan)
        with plan.folder.command(lease.kept) as entry:
            _finish(plan, progress, settled, entry, lease)
        lease.kept()
        lease.check()
        _with_changes(plan, {k: changes.restamped(v) for k, v in plan.manifests.items()}, progress)
    with plain_errors():
        return reports.build(plan.folder, reduce.fold)


def _with_changes(plan: RunPlan, listed: Mapping[str, pa.Table], progress: Progress) -> RunPlan:
    """Add digests of photographs and label files to the manifests `listed`. Return the plan with these manifests.

    The manifests are saved in the run's folder. If a file of an image has another digest than in the image's record,
    the image is scored again.
    """
    tables = {}
    for name, table in listed.items():
        uri, folder = plan.folder.manifest(name), plan.folder.records(name)
        before = manifests.load(uri) if files.exists(uri) else None
        tables[name] = changes.looked_up(table, before, folder, progress.say)
        for image in changes.repainted(tables[name], before, folder):  # else it stays if this image fails now
            files.delete(files.join(plan.folder.predictions(name), f"{image}.png"))
        manifests.save(tables[name], uri)
        settled = records.settle(folder, tables[name])
        if settled.due:
            further = f", and {settled.together} images of the same compact files" if settled.together else ""
            progress.say(
                f"{name}: the photographs or label files of {settled.due - settled.together} images have changed since "
                f"they were scored: these images are scored again{further}"
            )
    return replace(plan, manifests=tables)


def _todo(plan: RunPlan, settled: Mapping[str, set[str]]) -> pa.Table:
    """Return the manifest rows of images that have no valid record and have not failed in this command."""
    left = [records.missing(table, plan.folder.records(name), settled[name]) for name, table in plan.manifests.items()]
    return pa.concat_tables(left)


def _finish(
    plan: RunPlan, progress: Progress, settled: Mapping[str, set[str]], entry: dict[str, Any], lease: leases.Lease
) -> None:
    """Evaluate the remaining images in rounds, until every image has a record.

    `entry`: this command's entry in the run's history. After each round, the function writes four numbers into `entry`:
    finished images, failed images, dead workers, and images processed again. Raises OvssError if several rounds in a
    row finish no image.
    """
    config = plan.config
    watch = Watch(len(_todo(plan, settled)), config.max_deaths, config.deadline, lease)
    if isinstance(progress, Exported):
        progress.ledger = watch.ledger
    patience, fruitless = 0.0, 0
    while len(left := _todo(plan, settled)):
        before, rounds = progress.done, ROUNDS
        try:
            evaluate(left, plan, progress, watch, patience)
            trouble = "images came back without a record"
        except Lost as failure:
            trouble = str(failure)
            if status := watch.note_death(failure):
                progress.pulse(status)
                trouble = "a worker died, and Ray did not restart it"
                rounds = max(ROUNDS, config.max_deaths + 2)  # at max_deaths + 1 the ledger stops the next one
            patience = STALL * config.deadline  # as nodes that a provider takes away are often replaced
            progress.say(f"{trouble}: continuing with the remaining images")
        finally:
            if not interrupts.left_connected():
                watch.end_round()
            entry |= {"images": progress.done - progress.earlier, "failed": progress.failed}
            entry |= {"deaths": progress.deaths, "begun_again": progress.redone}
        fruitless = fruitless + 1 if progress.done == before else 0
        if fruitless >= rounds:
            raise OvssError(f"{trouble}. Finished images are kept. Run the same command again to resume")
    if isinstance(progress, Exported):
        progress.send()


def evaluate(manifest: pa.Table, plan: RunPlan, progress: Progress, watch: Watch, patience: float = 0.0) -> None:
    """Write a record for each image of the manifest into the run folder. Failed images get a record, too.

    `patience`: maximum seconds to wait for nodes if the cluster is too small (see preflight.place). Raises OvssError if
    the cluster stays too small, or if more than `max_errors` images fail. Raises Lost if the run has lost workers or
    nodes.
    """
    pools = preflight.place(plan, patience, progress.say)
    stream = _stream(manifest, pools, plan, watch)
    for receipt in watched(stream, watch, progress.pulse):
        progress.update(receipt)
        if progress.failed > plan.config.max_errors:
            raise OvssError(
                f"{progress.failed} images failed, more than max_errors ({plan.config.max_errors}): probably all for "
                f"the same reason. The last error: {receipt['error'][0]}. Fix its cause and run the same command "
                "again, or allow more failures with --set max_errors=N"
            )


def _stream(manifest: pa.Table, pools: Sequence[Placed], plan: RunPlan, watch: Watch) -> Iterator[dict[str, Any]]:
    """Send the images of a manifest through the pools. Yield one receipt (see `_write`) per written file of records."""
    images, now = manifest.select(list(MANIFEST)), connection.size()
    pool = local.LocalPool(pools[0], now, len(images)) if local.suits(pools, now, len(images)) else None
    if not pool:
        local.release()
    with plain_errors():
        prepared = prepare(pools, plan.vocabularies, watch.ledger, pool.prepare if pool else None)
    shared: dict[str, Any] = {
        "vocabularies": plan.vocabularies,
        "words": plan.words,
        "prepared": prepared,
        "ledger": watch.ledger,
        "deadline": plan.config.deadline,
        "digests": preflight.weights_of(plan) if now.grows else {},  # else all workers read the files of this process
    }
    write: Any = partial(_write, folder=plan.folder)
    size = min(PARTS, -(-len(images) // PARTS))
    with plain_errors():
        if pool:
            arguments = {"pool": pools[0], "number": 0, "keep": plan.keeps[-1], **shared}
            yield from pool.receipts(images, arguments, write, size)
        else:
            from ovss_ray.engine.pools import ray_data  # Ray Data takes a second to import

            yield from ray_data.receipts(images, pools, plan.keeps, shared, write, size, plan.benchmarks)


def _write(table: pa.Table, folder: RunFolder) -> pa.Table:
    """Write one file of records per benchmark. Return one receipt per file.

    A receipt has the path of the file and the name of the benchmark. A receipt also has the number of images, the
    number of failed images, and the last error.
    """
    receipts = []
    for name in table["benchmark"].unique().to_pylist():
        part = table.filter(pc.equal(table["benchmark"], name))
        uri = records.append(folder.records(name), part)
        errors = [error for error in part["error"].to_pylist() if error]
        counts = {"images": len(part), "failed": len(errors), "error": errors[-1:]}
        receipts.append({"benchmark": name, "part": uri, **counts})
    return pa.Table.from_pylist(receipts)
