"""The commands `ovss report` and `ovss compare`, and the output of `ovss check`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ovss_ray.cli import compaction, documents
from ovss_ray.cli.evaluation import Track

if TYPE_CHECKING:
    from ovss_ray.engine.trackers import Choice
    from ovss_ray.reports.schema import Report
    from ovss_ray.reports.totals import Reading
    from ovss_ray.runs.folder import RunFolder
    from ovss_ray.structures.findings import Findings


Relations = Annotated[
    str | None, typer.Option(help="file with relations between classes, for SG-IoU; the run's folder keeps them")
]
Merges = Annotated[
    list[str] | None, typer.Option(help="also the scores with classes merged, vehicle=car,truck; may be repeated")
]
Further = Annotated[str, typer.Option(help="further metrics from the records: dice, f_score, mmseg")]
Mappings = Annotated[
    list[str] | None,
    typer.Option(
        help="also the scores with words mapped by exact, lemma, wordnet[:wup], nearest[:SOURCE], table:FILE, "
        "lave:FILE, overlap, hungarian, best_iou or vicss[:SOURCE]; may be repeated"
    ),
]
Frequent = Annotated[int, typer.Option(help="number of frequent words to list for each --mapping", min=0)]


def report(
    run: Annotated[str, typer.Argument(help="the folder of a run")],
    classes: Annotated[bool, typer.Option("--classes", help="also the values of every class")] = False,
    images: Annotated[int, typer.Option(help="also the N images with the lowest mIoU of their own", min=0)] = 0,
    relations: Relations = None,
    intervals: Annotated[bool, typer.Option(help="95 % intervals, of the confusion matrix and episodes")] = True,
    worst: Annotated[int, typer.Option(help="also the N classes with the lowest IoU", min=0)] = 0,
    only: Annotated[str, typer.Option(help="also the score of these classes alone: NAME,NAME,…")] = "",
    merge: Merges = None,
    buckets: Annotated[bool, typer.Option("--buckets", help="also by frequency of classes, and by size")] = False,
    metrics: Further = "",
    mapping: Mappings = None,
    frequent: Frequent = 10,
    html: documents.Html = False,
    opened: documents.Opened = False,
    gallery: documents.GalleryImages = documents.IMAGES,
    csv: documents.Csv = None,
    markdown: documents.Markdown = None,
    latex: documents.Latex = None,
    coco_rle: documents.CocoRle = None,
    pixels: documents.Pixels = None,
    track: Track = None,
    compact: compaction.Compact = False,
    yes: compaction.Yes = False,
) -> None:
    """Rebuild the report of a run from its records, and print the report. Options such as --html also write files."""
    from ovss_ray.api import comparison
    from ovss_ray.engine import display, trackers
    from ovss_ray.reports import subsets
    from ovss_ray.runs.folder import RunFolder

    folder, choices = RunFolder(run), trackers.parse(track or ())
    merged, words, unfit, needed = _selected(folder, merge or [], only, buckets)
    kept = bool(intervals or needed or words or html or opened or pixels), intervals, subsets.words_of(metrics), needed
    built, readings = comparison.rebuild(folder, display.Display(), images > 0, relations, *kept)
    _show(run, built, readings, classes, images, worst, merged, words, unfit, buckets, intervals, mapping, frequent)
    documents.write_tables(run, folder, built, readings, csv, markdown, latex, coco_rle, pixels)
    documents.write_page(folder, built, readings, html, opened, gallery)
    _track(folder, built, choices)
    compaction.offer(folder, readings, compact, yes)


def _selected(
    folder: "RunFolder", merge: Sequence[str], only: str, buckets: bool
) -> tuple[Mapping[str, Sequence[str]], Sequence[str], Mapping[str, str], list[str]]:
    """Return `merged`, `words`, `unfit` and `needed` for the options --merge, --only and --buckets.

    - `merged`: name of a merged class → names of the classes to merge
    - `words`: names of the classes in --only
    - `unfit`: name of a benchmark → reason why --merge and --only cannot be applied to this benchmark
    - `needed`: names of the benchmarks whose scores need the confusion matrix of each image
    """
    from ovss_ray.reports import subsets

    merged, words = subsets.parse(merge), subsets.parse_only(only)
    unfit = subsets.unfit(folder.labels(), merged, words) if merged or words else {}
    return merged, words, unfit, [name for name in folder.labels() if buckets or (merged and name not in unfit)]


def _track(folder: "RunFolder", built: "Report", choices: "Sequence[Choice]") -> None:
    """Send a report to the trackers in `choices`. Print the tracking errors of earlier commands.

    A tracking error is the reason why an earlier command could not send values to a tracker. `built` contains the
    tracking errors. A tracking error is printed only if its tracker is not in `choices`.
    """
    from ovss_ray.engine import trackers
    from ovss_ray.engine.display import Display

    if choices:
        trackers.send(folder, built, choices, Display())
    for name, fault in built.run.tracking.items():
        if fault and name not in map(str, choices):
            print(f"--track {name}, in an earlier command: {fault}")


def _show(
    run: str,
    built: "Report",
    readings: Mapping[str, "Reading"],
    classes: bool,
    images: int,
    worst: int,
    merged: Mapping[str, Sequence[str]],
    words: Sequence[str],
    unfit: Mapping[str, str],
    buckets: bool,
    intervals: bool,
    mapping: Sequence[str] | None,
    frequent: int,
) -> None:
    """Print a report, and the tables that `ovss report` shows only with an option, such as --worst."""
    from ovss_ray.cli import mappings
    from ovss_ray.reports import statistics_tables, terminal

    console = terminal.console()
    terminal.show(built, console, classes)
    mappings.show(run, mapping or [], console, frequent)
    for name, reading in readings.items():
        terminal.show_images(reading.images(), console, images)
        if worst:
            console.print(statistics_tables.worst_classes(name, built.benchmarks[name], worst))
        if name in unfit:
            console.print(f"{name}: no selected or merged classes: {unfit[name]}", markup=False)
        elif merged or words:
            statistics_tables.show_selected(name, reading, merged, words, console, intervals)
        if buckets:
            statistics_tables.show_buckets(name, reading, console, intervals)


def compare(
    runs: Annotated[list[str], typer.Argument(help="the folders of runs; the others are compared with the first")],
    classes: Annotated[bool, typer.Option("--classes", help="also the difference of every class")] = False,
    html: Annotated[str | None, typer.Option(help="also write a page to this file, such as compare.html")] = None,
    unlike: Annotated[
        bool, typer.Option("--unlike", help="write the page also for runs that cannot be paired; it says why")
    ] = False,
    gallery: documents.GalleryImages = documents.IMAGES,
) -> None:
    """Show the mIoU of several runs side by side, and paired differences in metrics between each run and the first."""
    from ovss_ray.api import comparison
    from ovss_ray.engine.display import Display
    from ovss_ray.reports import statistics_tables, terminal
    from ovss_ray.runs.folder import RunFolder

    comparison.check_names(runs)
    for run in runs:
        RunFolder(run).config()  # raises OvssError for a config's name, which the function takes as well
    rebuilt = {run: comparison.rebuild(RunFolder(run), Display()) for run in runs}
    console = terminal.console()
    console.print(terminal.side_by_side({run: built for run, (built, _) in rebuilt.items()}))
    readings = {run: reading for run, (_, reading) in rebuilt.items()}
    differences = comparison.paired_with_first(readings)
    for (other, benchmark), paired in differences.items():
        console.print(statistics_tables.differences(runs[0], other, benchmark, paired))
        if classes and paired.classes:
            console.print(statistics_tables.class_differences(runs[0], other, benchmark, paired))
    if html:
        from ovss_ray.reports.documents import comparison_page

        comparison_page.write(html, rebuilt, differences, unlike, gallery)
        print(f"page: {html}")


def show_findings(findings: "Findings") -> None:
    """Print on standard output the faults that `ovss check` has found."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for line in (*findings.lines, findings.summary):
        console.print(line, markup=False)
    console.print(f"faults found: {findings.number}" if findings.number else "no fault found")
