"""The commands `ovss report` and `ovss compare`: runs that there are, read again."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovss_ray.errors import OvssError

if TYPE_CHECKING:
    from ovss_ray.run_folder import RunFolder


def report(
    run: Annotated[str, typer.Argument(help="the folder of a run")],
    classes: Annotated[bool, typer.Option("--classes", help="also the values of every class")] = False,
    images: Annotated[int, typer.Option(help="also the N images with the lowest mIoU of their own", min=0)] = 0,
) -> None:
    """Build the report of a run anew from its records, and print it."""
    from ovss_ray import report as reports
    from ovss_ray import tables

    folder, built = _built(run)
    console = tables.console()
    tables.show(built, console, classes)
    for name in built["benchmarks"] if images else ():
        tables.show_images(reports.images(folder, name), console, images)
    print(f"report: {folder.file('report.json')}")


def compare(runs: Annotated[list[str], typer.Argument(help="the folders of runs")]) -> None:
    """Set the mIoU of several runs side by side, from their records."""
    from ovss_ray import tables

    if len(set(runs)) < max(2, len(runs)):
        raise OvssError(f"two runs at least, none twice, can be compared, and these were given: {', '.join(runs)}")
    tables.console().print(tables.side_by_side({run: _built(run)[1] for run in runs}))


def _built(run: str) -> tuple["RunFolder", dict[str, Any]]:
    """Build the report of a run, and warn of files that look changed since."""
    from ovss_ray import changes
    from ovss_ray import report as reports
    from ovss_ray.run_folder import RunFolder

    folder = RunFolder(run)
    built = reports.build(folder)
    for doubt in changes.doubts(folder, built["benchmarks"]):
        print(f"ovss: {doubt}", file=sys.stderr)
    return folder, built
