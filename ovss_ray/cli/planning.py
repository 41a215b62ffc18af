"""The command `ovss plan`: pools, columns, memory and time of a run, before anything starts."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ovss_ray.cli.evaluation import Words
from ovss_ray.cli.exit_status import resumable
from ovss_ray.errors import OvssError

if TYPE_CHECKING:
    from rich.table import Table

    from ovss_ray.engine.cluster.estimate import Estimate, Step
    from ovss_ray.engine.cluster.nodes import Size
    from ovss_ray.runs.plan import RunPlan


On = Annotated[
    str | None, typer.Option(help="plan for equal nodes, such as nodes=8,cpus=96,gpus=8,memory=500 (GB of each)")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="KEY.SUB=VALUE, such as pools.0.batch=4")]


def plan(
    config: Annotated[str, typer.Argument(help="a YAML file, or a name, as for `ovss evaluate`")] = "default",
    benchmarks: Annotated[list[str] | None, typer.Option("--benchmark", help="may be given several times")] = None,
    data_root: Annotated[str | None, typer.Option(help="the folder of the data sets [default: $OVSS_DATA]")] = None,
    out: Annotated[str | None, typer.Option(help="the run's folder; its finished images are subtracted")] = None,
    split: Annotated[str | None, typer.Option(help="another split than the benchmark's own")] = None,
    ids: Annotated[str | None, typer.Option(help="only the images in this file, one id per line")] = None,
    limit: Annotated[int | None, typer.Option(help="only the first N images, in the order of their ids")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="as for `ovss evaluate`")] = False,
    vocabulary: Words = None,
    cluster: Annotated[bool, typer.Option("--cluster", help="plan for the running Ray cluster")] = False,
    on: On = None,
    probe: Annotated[bool, typer.Option("--probe", help="time 16 images in this process")] = False,
    overrides: Set = None,
) -> None:
    """Print pools, columns, memory, object store, batches per second and time of a run. Nothing is started."""
    from ovss_ray.config.word_list import of_options
    from ovss_ray.runs.sources import plan_runs

    if cluster and on:
        raise OvssError(
            "--cluster and --on exclude each other. Pass --cluster for the running cluster, or --on for nodes that you "
            "describe"
        )
    selection = {"data_root": data_root, "split": split, "ids": ids, "limit": limit, "exact": exact or None}
    settings = {"benchmarks": benchmarks, "vocabulary": of_options(vocabulary), **selection}
    plans = plan_runs(config, out, overrides or (), settings)
    gpus = _gpus() if any(stage.kind().gpu for run in plans.values() for stage in run.config.stages()) else 0
    size = _size(cluster, on, gpus)
    with resumable("Nothing was started"):
        for name, run in plans.items():
            _show(name, run, size, gpus, probe)


def _show(name: str, run: "RunPlan", size: "Size", gpus: int, probe: bool) -> None:
    """Print the estimate of one run. Raises OvssError if the cluster is too small for the run."""
    from ovss_ray.engine.cluster import probe as probing
    from ovss_ray.engine.cluster.estimate import estimate, placed
    from ovss_ray.reports import terminal

    console = terminal.console()
    planned = estimate(run, size, probing.probe(run, placed(run, size), _say) if probe else None)
    console.print(_pools(planned, name))
    for line in _lines(planned, gpus):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if planned.shortage:
        raise OvssError(planned.shortage)
    for warning in planned.warnings():
        _say(warning)


def _say(text: str) -> None:
    print(f"ovss: {text}", file=sys.stderr)


def _gpus() -> int:
    """Return the number of GPUs of this machine. Imports torch, which takes seconds."""
    from ovss_ray.models import runtime

    return runtime.gpus()


def _size(cluster: bool, on: str | None, gpus: int) -> "Size":
    from ovss_ray.engine.cluster import estimate

    if on:
        return estimate.imagined(on)
    if cluster:
        from ovss_ray.engine.cluster.ray_internals import prepare_import
        from ovss_ray.engine.interrupts import held

        prepare_import()
        with held():
            from ovss_ray.engine.cluster import connection
        return connection.running_size()
    return estimate.this_machine(gpus)


def _pools(planned: "Estimate", name: str) -> "Table":
    from rich.table import Table

    table = Table("pool", "stages", title=f"{name}: pools, stages and columns", title_justify="left")
    for heading in ("workers", "CPUs", "GPUs", "batch", "memory"):
        table.add_column(heading, justify="right")
    table.add_column("sends on, besides those of the manifest")
    for heading in ("MB per image", "s per image"):
        table.add_column(heading, justify="right")
    for number, step in enumerate(planned.steps):
        pool, sent = step.pool, planned.sent(step)
        limits = f"{step.workers}" if step.reach == step.workers else f"{step.workers} to {step.reach}"
        resources = (
            limits,
            f"{pool.cpus:g}",
            f"{pool.gpus:g}",
            str(pool.batch),
            f"{planned.memory(step) / 1e9:.1f} GB",
        )
        measured = (
            "–" if sent is None else f"{sent / 1e6:.3f}",
            "–" if step.seconds is None else f"{step.seconds:.4f}",
        )
        table.add_row(str(number), step.name, *resources, _columns(step, step is planned.steps[-1]), *measured)
    return table


def _columns(step: "Step", last: bool) -> str:
    from ovss_ray.structures.columns import MANIFEST  # imports numpy, which `ovss --help` does without

    names = ", ".join(name for name in step.columns if name not in MANIFEST)
    return f"records: {names}" if last else names


def _lines(planned: "Estimate", gpus: int) -> Iterator[str]:
    """Yield the lines that `ovss plan` prints below the table of pools, such as the run's time.

    `gpus`: number of GPUs of this machine.
    """
    size, done = planned.size, planned.images - planned.left
    memory = size.memory / 1e9
    yield f"images: {planned.images:,} of {', '.join(planned.plan.manifests)}; {done:,} have a record already"
    yield (
        f"cluster: nodes: {len(size.nodes)}, CPUs: {size.cpus:g}, GPUs: {size.gpus:g}, memory for workers: "
        f"{memory:,.1f} GB, object store: {planned.capacity() / 1e9:,.1f} GB"
    )
    store, rate, batches, seconds = planned.store(), planned.rate(), planned.batches(), planned.seconds()
    if planned.probed is None or store is None or rate is None or batches is None or seconds is None:
        yield (
            "object store, batches per second and time: not known before images are timed. Add --probe, which runs 16 "
            "images in this process"
        )
        return
    yield f"object store: about {store / 1e6:,.1f} MB keep all workers busy"
    yield f"driver: {batches:,.2f} batches per second of all pools together"
    yield f"time: about {_duration(seconds)}, at {rate[0]:,.2f} images per second; limited by {rate[1]}"
    yield f"probe: {planned.probed.images} images in this process. Other work on this machine makes these times longer"
    if any(step.pool.gpus for step in planned.steps) and not gpus:
        yield "probe: this machine has no GPU, so its times of networks are those of a CPU. Run it on a node with a GPU"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
