"""The command `ovss`. Every command imports what it needs when it runs, so that `ovss --help` is there at once."""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovss_ray.cli_reports import compare, report
from ovss_ray.cli_weights import weights_app
from ovss_ray.errors import OvssError
from ovss_ray.interrupts import held
from ovss_ray.shipped import find_config, shipped_configs

if TYPE_CHECKING:
    from ovss_ray.config import RunConfig
    from ovss_ray.request import Request

app = typer.Typer(
    rich_markup_mode="markdown",  # by default [default: …] is taken for a style, and left out
    help="Evaluate open-vocabulary semantic segmentation: one command from photographs to a report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(weights_app, name="weights")

SERVED = ("san_tiny", "sam_alpha_clip_tiny")
"""What `ovss serve` serves if nothing is named."""
FAILED = 1
"""Exit status if images failed; 2 is a command that could not be done, 130 an interrupted one."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, or the arguments given instead; an OvssError is shown as one message."""
    try:
        app(arguments)
    except OvssError as failure:
        print(f"ovss: {failure}", file=sys.stderr)
        sys.exit(2)


@app.command()
def evaluate(
    config: Annotated[
        str, typer.Argument(help="a YAML file, or the name of one that comes with ovss_ray (`ovss list`)")
    ] = "default",
    benchmark: Annotated[list[str] | None, typer.Option(help="such as camvid; may be given several times")] = None,
    data_root: Annotated[
        str | None, typer.Option(help="the folder of the data sets, or of one [default: $OVSS_DATA]")
    ] = None,
    out: Annotated[str | None, typer.Option(help="the run's folder [default: runs/CONFIG-BENCHMARKS]")] = None,
    split: Annotated[str | None, typer.Option(help="another split than the benchmark's own")] = None,
    ids: Annotated[str | None, typer.Option(help="a file of image ids, one a line: only these")] = None,
    limit: Annotated[int | None, typer.Option(help="only the first N images, in the order of their ids")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="bit-identical records, at the price of speed")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY.SUB=VALUE, such as pools.0.batch=4")] = None,
) -> None:
    """Score a method on benchmarks. The same command again does only what is missing."""
    from ovss_ray import config as configs

    given: dict[str, Any] = {
        "benchmarks": benchmark,
        "data_root": data_root,
        "split": split,
        "ids": ids,
        "limit": limit,
    }
    given = {key: value for key, value in {**given, "exact": exact or None}.items() if value is not None}
    settings = configs.load_all(find_config(config), set_ or (), given)
    _evaluate(settings, out or f"runs/{'-'.join([Path(config).stem, *_asked(next(iter(settings.values())))])}")


def _asked(settings: "RunConfig") -> list[str]:
    """What a run's default folder is called by: two runs that ask for unlike images do not share it."""
    ids = settings.ids and f"ids-{Path(settings.ids).stem}"
    from ovss_ray import files

    asked = [*map(files.plain, settings.benchmarks), settings.split, ids, settings.limit and f"first-{settings.limit}"]
    return [str(one) for one in asked if one]


def _evaluate(settings: dict[str, "RunConfig"], out: str) -> None:
    """Run, show the reports, and say how to go on if it could not be finished; several runs go below `out`, by name."""
    from ovss_ray import files, tables
    from ovss_ray import report as run_reports
    from ovss_ray.request import resolve

    folders = {name: files.join(out, name) if len(settings) > 1 else out for name in settings}
    requests = {name: resolve(one, folders[name]) for name, one in settings.items()}
    _check(requests.values())
    _before_ray()
    reports = {}
    try:
        with held():
            from ovss_ray import cluster  # only now: Ray takes seconds, and a wrong config should not
            from ovss_ray import evaluate as main_path
            from ovss_ray.display import Display
        with cluster.connect():
            for name, request in requests.items():
                reports[name] = main_path.run(request, Display())
                tables.show(reports[name], tables.console(), title=name if len(requests) > 1 else "")
                print(f"report: {request.folder.file('report.json')}", flush=True)
    except KeyboardInterrupt:
        print(f"\novss: interrupted. What is done is in {out}; give the same command to go on", file=sys.stderr)
        raise typer.Exit(130) from None
    if len(reports) > 1:
        tables.console().print(tables.side_by_side(reports))
    lacking = list(run_reports.lacking([one for report in reports.values() for one in report["benchmarks"].values()]))
    for sentence in lacking:
        print(f"ovss: {sentence}", file=sys.stderr)
    if lacking:
        raise typer.Exit(FAILED)


def _check(requests: Iterable["Request"]) -> None:
    """Look at a few labels of each data set, once. Raises OvssError if none of them is right."""
    from ovss_ray import check as checking

    for request in {tuple(one.manifests): one for one in requests}.values():
        for note in checking.ahead(request):
            print(f"ovss: {note}", file=sys.stderr)


def _before_ray() -> None:
    """Settle three things that Ray reads when it is imported.

    Under `uv run` it packs the folder that the command was given in, with all data and runs, sends it to the workers,
    and starts each by another `uv run`. A cluster of other machines, which RAY_ADDRESS names, may need just that.

    And its threads begin another cluster of their own if they still call it after an interrupt has ended ours.

    And it prints that tasks are tried again, such as those of Serve's controller that end with it.
    """
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", r"^Task \S+ failed\. There are .* retries remaining")
    if os.environ.get("RAY_ADDRESS", "local") == "local":
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


app.command()(report)
app.command()(compare)


@app.command()
def download(
    benchmark: Annotated[str, typer.Argument(help="such as voc:20")],
    out: Annotated[str | None, typer.Option(help="the folder of the data sets [default: $OVSS_DATA]")] = None,
) -> None:
    """Get a benchmark's data, as far as anybody may have them, and unpack them. The same command again goes on."""
    from ovss_ray import download as downloading

    try:
        missing = downloading.run(benchmark, out)
    except KeyboardInterrupt:
        print("\novss: interrupted. What is here is kept; the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    if missing:
        raise typer.Exit(FAILED)


@app.command()
def prepare(
    benchmark: Annotated[str | None, typer.Argument(help="such as ade20k:847")] = None,
    data_root: Annotated[str | None, typer.Option(help="where the data lie as sent [default: $OVSS_DATA]")] = None,
    out: Annotated[str | None, typer.Option(help="a new data root [default: the same, beside the source]")] = None,
    split: Annotated[str | None, typer.Option(help="another split than the benchmark's own")] = None,
    workers: Annotated[int | None, typer.Option(help="processes [default: one per processor]", min=1)] = None,
) -> None:
    """Make the prepared form of a data set on disk. The same command again makes only what is missing."""
    from ovss_ray import prepare as preparation

    _before_ray()
    try:
        faults = preparation.run(benchmark, data_root, split, out, workers)
    except KeyboardInterrupt:
        print("\novss: interrupted. What is made is kept; give the same command to go on", file=sys.stderr)
        raise typer.Exit(130) from None
    if faults:
        print(f"ovss: {faults} files could not be made. Mend them and give the same command again", file=sys.stderr)
        raise typer.Exit(FAILED)


@app.command()
def check(
    benchmark: Annotated[str, typer.Argument(help="such as camvid or folder:my.yaml")],
    data_root: Annotated[str | None, typer.Option(help="[default: $OVSS_DATA]")] = None,
    split: Annotated[str | None, typer.Option(help="another split than the benchmark's own")] = None,
    limit: Annotated[
        int | None, typer.Option(help="only the first N images: an incomplete set is then no fault", min=1)
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="every pixel of every file, not of a sample")] = False,
    workers: Annotated[int | None, typer.Option(help="processes [default: one per processor]", min=1)] = None,
) -> None:
    """Look whether photographs and labels are what they should be, and say what usually made them otherwise."""
    from ovss_ray import check as checking

    if checking.run(benchmark, data_root, split, limit, full, workers):
        raise typer.Exit(FAILED)


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="a YAML file, or a name such as train_san_tiny")],
    out: Annotated[str | None, typer.Option(help="the training's folder [default: runs/CONFIG]")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, such as steps=1000")] = None,
) -> None:
    """Train a network, such as the tiny ones that come with the project. The same command again goes on."""
    from ovss_ray.training import config as configs

    settings = configs.load(find_config(config), set_ or ())
    from ovss_ray.training import loop  # only now: torch takes seconds, and a wrong config should not

    try:
        print(loop.run(settings, Path(out or f"runs/{Path(config).stem}")))
    except KeyboardInterrupt:
        print("\novss: interrupted. Give the same command to go on from the last checkpoint", file=sys.stderr)
        raise typer.Exit(130) from None


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
    """Answer requests over HTTP: the stages of one config or several, online, until Ctrl-C."""
    from ovss_ray import config as configs
    from ovss_ray.serve import batch, deploy, guard

    settings = configs.load_several([find_config(one) for one in config or SERVED], set_ or ())
    guard.check_host(host, os.environ.get("OVSS_API_KEY"))
    for one in settings.values():
        batch.plan(one)
    if write:
        return deploy.write(write, config or SERVED, set_ or (), settings, host, port)
    _before_ray()
    with held():
        from ovss_ray.serve import command as service  # only now: Ray takes seconds, and a wrong config should not
    service.run(settings, host, port)


@app.command("list")
def list_(
    what: Annotated[
        str | None,
        typer.Argument(help="benchmarks, stages, configs, weights or published [default: all but published]"),
    ] = None,
    benchmark: Annotated[str | None, typer.Option(help="the published figures of this one only")] = None,
) -> None:
    """List the benchmarks, stages, configs and weights that there are, or the figures that papers publish."""
    from ovss_ray import inventory, tables

    console = tables.console()
    for table in inventory.tables(what, benchmark, shipped_configs()):
        console.print(table)


@app.command()
def doctor(data_root: Annotated[str | None, typer.Option(help="[default: $OVSS_DATA]")] = None) -> None:
    """Check this machine: versions, devices, disk, weights, data; says what to type where something is missing."""
    from ovss_ray import inventory, tables

    if not inventory.check(tables.console(), data_root or os.environ.get("OVSS_DATA")):
        raise typer.Exit(FAILED)
