"""The command `ovss`. Every command imports what it needs when it runs, so that `ovss --help` is fast."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ovss_ray.cli.documents import leaderboard
from ovss_ray.cli.evaluation import evaluate
from ovss_ray.cli.exit_status import FAILED, errors_printed, resumable
from ovss_ray.cli.metrics import metrics_app
from ovss_ray.cli.planning import plan
from ovss_ray.cli.reports import compare, report, show_findings
from ovss_ray.cli.weights import weights_app
from ovss_ray.config.shipped import find_config, shipped_configs
from ovss_ray.engine.cluster.ray_internals import prepare_import
from ovss_ray.engine.interrupts import held

app = typer.Typer(
    rich_markup_mode="markdown",  # by default [default: …] is taken for a style, and left out
    help="Evaluate open-vocabulary semantic segmentation: one command from photographs to a report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(weights_app, name="weights")
app.add_typer(metrics_app, name="metrics")

SERVED = ("san_tiny", "sam_alpha_clip_tiny")
"""Names of the configs that `ovss serve` serves by default."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with `arguments`, by default those of the command line. Print an OvssError as one message."""
    with errors_printed():
        app(arguments)


app.command()(evaluate)
app.command()(plan)
app.command()(report)
app.command()(compare)
app.command()(leaderboard)


@app.command()
def download(
    benchmark: Annotated[str, typer.Argument(help="such as voc:20")],
    out: Annotated[str | None, typer.Option(help="the folder of the data sets [default: $OVSS_DATA]")] = None,
) -> None:
    """Download the freely available files of a benchmark and unpack them. Run the command again to resume."""
    from ovss_ray.dataprep import download as downloading

    with resumable("Downloaded files are kept; run the same command again to resume"):
        missing = downloading.run(benchmark, out)
    if missing:
        raise typer.Exit(FAILED)


@app.command()
def prepare(
    benchmark: Annotated[str | None, typer.Argument(help="such as ade20k:847")] = None,
    data_root: Annotated[
        str | None, typer.Option(help="folder of the original data sets [default: $OVSS_DATA]")
    ] = None,
    out: Annotated[str | None, typer.Option(help="a new data root [default: the same, beside the source]")] = None,
    split: Annotated[str | None, typer.Option(help="another split than the benchmark's own")] = None,
    workers: Annotated[int | None, typer.Option(help="processes [default: one per processor]", min=1)] = None,
) -> None:
    """Convert a data set to a prepared form, which is faster to read. Run the command again to write missing files."""
    from ovss_ray.dataprep import prepare as preparation

    prepare_import()
    with resumable("Prepared files are kept; run the same command again to resume"):
        faults = preparation.run(benchmark, data_root, split, out, workers)
    if faults:
        print(f"ovss: {faults} files could not be made. Fix the sources and run the command again", file=sys.stderr)
        raise typer.Exit(FAILED)


@app.command()
def check(
    benchmark: Annotated[str, typer.Argument(help="such as camvid or folder:my.yaml")],
    data_root: Annotated[str | None, typer.Option(help="[default: $OVSS_DATA]")] = None,
    split: Annotated[str | None, typer.Option(help="another split than the benchmark's own")] = None,
    limit: Annotated[
        int | None, typer.Option(help="only the first N images: an incomplete set is then no fault", min=1)
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="check every pixel of every file, not of a sample")] = False,
    workers: Annotated[int | None, typer.Option(help="processes [default: one per processor]", min=1)] = None,
) -> None:
    """Check the photographs and labels of a benchmark. Print the faults that were found, and their usual causes."""
    from ovss_ray.api import checking

    findings = checking.check(benchmark, data_root, split=split, limit=limit, full=full, workers=workers, progress=True)
    show_findings(findings)
    if findings.number:
        raise typer.Exit(FAILED)


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="a YAML file, or a name such as train_san_tiny")],
    out: Annotated[str | None, typer.Option(help="the training's folder [default: runs/CONFIG]")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, such as steps=1000")] = None,
) -> None:
    """Train a network, such as the tiny networks that come with the project. Run the command again to resume."""
    from ovss_ray.training import config as configs

    settings = configs.load(find_config(config), set_ or ())
    from ovss_ray.training import loop  # only now: torch takes seconds, and a wrong config should not

    with resumable("Run the same command again to resume from the last checkpoint"):
        print(loop.run(settings, Path(out or f"runs/{Path(config).stem}")))


@app.command()
def serve(
    config: Annotated[
        list[str] | None,
        typer.Argument(help=f"YAML files, or names such as san_tiny; by default {' and '.join(SERVED)}"),
    ] = None,
    host: Annotated[str, typer.Option(help="where to listen; others than this machine's own need OVSS_API_KEY")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY.SUB=VALUE, such as limits.seconds=60")] = None,
    write: Annotated[Path | None, typer.Option(help="only write a config for `serve deploy` to this file")] = None,
) -> None:
    """Serve one or several configs over HTTP, until Ctrl-C."""
    from ovss_ray.config import loading as configs
    from ovss_ray.serve import deploy
    from ovss_ray.serve.deployments import batch
    from ovss_ray.serve.http import guard

    settings = configs.load_several([find_config(name) for name in config or SERVED], set_ or ())
    guard.check_host(host, os.environ.get("OVSS_API_KEY") or os.environ.get("OVSS_API_KEYS"))
    for served in settings.values():
        batch.plan(served)
    if write:
        return deploy.write(write, config or SERVED, set_ or (), settings, host, port)
    prepare_import()
    with held():
        from ovss_ray.serve import command as service  # only now: Ray takes seconds, and a wrong config should not
    service.run(settings, host, port)


@app.command("list")
def list_(
    what: Annotated[
        str | None,
        typer.Argument(help="benchmarks, stages, metrics, configs, weights or published [default: all but published]"),
    ] = None,
    benchmark: Annotated[str | None, typer.Option(help="only the published figures of this benchmark")] = None,
) -> None:
    """List the available benchmarks, stages, metrics, configs and weights, or published figures."""
    from ovss_ray.cli import inventory
    from ovss_ray.reports import terminal

    console = terminal.console()
    for table in inventory.tables(what, benchmark, shipped_configs()):
        console.print(table)


@app.command()
def doctor(data_root: Annotated[str | None, typer.Option(help="[default: $OVSS_DATA]")] = None) -> None:
    """Check this machine: versions, devices, disk, weights, data. If something is missing, print what to type."""
    from ovss_ray.cli import doctor as checks
    from ovss_ray.reports import terminal

    if not checks.check(terminal.console(), data_root or os.environ.get("OVSS_DATA")):
        raise typer.Exit(FAILED)
