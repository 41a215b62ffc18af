"""The command `ovss evaluate`, and a function that gives a script the same options."""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovss_ray.cli.exit_status import FAILED, errors_printed, resumable

if TYPE_CHECKING:
    from ovss_ray.reports.schema import Report

Related = Annotated[str | None, typer.Option(help="file with relations between classes, for SG-IoU (docs/sg_iou.md)")]
Waited = Annotated[
    str | None, typer.Option(help="wait until the cluster has these, such as gpus=8,nodes=2; an autoscaler starts them")
]
Words = Annotated[
    list[str] | None,
    typer.Option(help="own words: FILE, or BENCHMARK=FILE; may be given several times (docs/own_words.md)"),
]
Track = Annotated[
    list[str] | None,
    typer.Option(help="also send the values to wandb[:PROJECT], mlflow:URI or tensorboard[:DIR]; may be repeated"),
]


def evaluate(
    config: Annotated[
        str, typer.Argument(help="a YAML file, or the name of one that comes with ovss_ray (`ovss list`)")
    ] = "default",
    benchmarks: Annotated[
        list[str] | None, typer.Option("--benchmark", help="such as camvid; may be given several times")
    ] = None,
    data_root: Annotated[
        str | None, typer.Option(help="the folder of the data sets, or of one [default: $OVSS_DATA]")
    ] = None,
    out: Annotated[str | None, typer.Option(help="the run's folder [default: runs/CONFIG-BENCHMARKS]")] = None,
    split: Annotated[str | None, typer.Option(help="another split than the benchmark's own")] = None,
    ids: Annotated[str | None, typer.Option(help="only the images in this file, one id per line")] = None,
    limit: Annotated[int | None, typer.Option(help="only the first N images, in the order of their ids")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="bit-identical records, at the price of speed")] = False,
    relations: Related = None,
    vocabulary: Words = None,
    wait_for: Waited = None,
    track: Track = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="KEY.SUB=VALUE, such as pools.0.batch=4")] = None,
) -> None:
    """Evaluate a method on benchmarks. Run the command again to score the images that have no result yet."""
    from ovss_ray.api import evaluation
    from ovss_ray.config.word_list import of_options
    from ovss_ray.engine import trackers
    from ovss_ray.engine.display import Display
    from ovss_ray.runs.sources import plan_runs

    choices = trackers.parse(track or ())
    selection = {"data_root": data_root, "split": split, "ids": ids, "limit": limit, "exact": exact or None}
    words = {"relations": relations, "vocabulary": of_options(vocabulary), "wait_for": wait_for}
    plans = plan_runs(config, out, overrides or (), {"benchmarks": benchmarks, **words, **selection})
    folders = " and ".join(plan.folder.uri for plan in plans.values())
    reports = {}
    with resumable(f"Finished images are kept in {folders}; run the same command again to resume"):
        for name, report in evaluation.run(plans, Display(), choices):
            reports[name] = report
            show(report, name if len(plans) > 1 else "")
            print(f"report: {plans[name].folder.file('report.json')}", flush=True)
    finish(reports)


def show(report: "Report", title: str = "") -> None:
    """Print the tables of a report on standard output."""
    from ovss_ray.reports import terminal

    terminal.show(report, terminal.console(), title=title)


def finish(reports: Mapping[str, "Report"]) -> None:
    """Print the reports side by side if there are several. Exit with status 1 if any image has no result."""
    from ovss_ray.reports import terminal

    if len(reports) > 1:
        terminal.console().print(terminal.side_by_side(reports))
    for name, report in reports.items():
        for sentence in report.lacking:
            print(f"ovss: {f'{name}: ' if len(reports) > 1 else ''}{sentence}", file=sys.stderr)
    if any(report.lacking for report in reports.values()):
        raise typer.Exit(FAILED)


def script(evaluation: "Callable[..., Report]", arguments: Sequence[str]) -> None:
    """Parse `arguments` as `ovss evaluate` does, and call `evaluation` with the options as keyword arguments.

    Print the report that `evaluation` returns, and exit with the same status as `ovss evaluate`.
    """

    from ovss_ray.config.word_list import of_options

    def command(**options: Any) -> None:
        with resumable("Finished images are kept; run the same command again to resume"):
            words = of_options(options["vocabulary"])
            repeated = {name: options[name] or () for name in ("overrides", "track")}
            report = evaluation(**{**options, **repeated, "vocabulary": words})
            show(report)
        finish({"": report})

    parser = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    parser.command()(functools.wraps(evaluate)(command))
    with errors_printed():
        parser(list(arguments))
