"""Tables of reports for a terminal."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ovss_ray import metrics
from ovss_ray.reports.documents.values import with_values
from ovss_ray.reports.fields import Bootstrap, Ends
from ovss_ray.reports.schema import BenchmarkReport, Files, Published, Report, Selection, WordsOf

MAIN = {
    "miou": "mIoU",
    "instance_accuracy": "accuracy of instances",
    "instance_ap_lvis": "mask AP (LVIS)",
    "instance_ap": "mask AP",
}
"""Metric → heading. The main metric of a benchmark is the first metric in this list that the benchmark has."""


def console() -> Console:
    """Return a console on standard output. In a file or pipe, its lines are wide enough for every table."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def show(report: Report, console: Console, classes: bool = False, title: str = "") -> None:
    """Print the metrics of a run, the number of measured images, details of each benchmark, and failures.

    If `classes` is True, also print the scores of each class. The titles of the metrics' tables begin with `title`.
    """
    for metric in with_values(report.benchmarks.values()):
        console.print(_numbers(report, metric, title))
    for family in report.folds:
        console.print(_folds(report, family))
    for name, benchmark in report.benchmarks.items():
        for part in _details(name, benchmark):
            console.print(part)
        if classes:
            console.print(_classes(name, benchmark))
        if benchmark.errors:
            console.print(_errors(name, benchmark))
    for command in report.run.history[-1:]:
        if command.get("deaths"):
            console.print(f"{command['deaths']} workers died, and {command['begun_again']} images were started again")
    for file in report.run.fake_weights:
        console.print(f"[bold red]FAKE WEIGHTS: {escape(file)} holds made-up values; these numbers mean nothing.[/]")


def _details(name: str, benchmark: BenchmarkReport) -> Iterator[str | Table]:
    """Yield the lines and tables about one benchmark, which are printed below the table of all benchmarks."""
    if benchmark.bootstrap:
        yield f"{escape(name)}: {method(benchmark.bootstrap)}"
    yield from _groups(name, benchmark)
    if benchmark.bootstrap and benchmark.bootstrap.groups:
        yield _group_intervals(name, benchmark.bootstrap.groups)
    if benchmark.published:
        yield _published(name, benchmark.published)
    if relations := benchmark.relations:
        yield (
            f"{escape(name)}: SG-IoU by {escape(relations.file)}: classes with fathers: {relations.children}, pairs: "
            f"{relations.pairs}, sha256 {relations.sha256[:12]}"
        )
    if benchmark.words:
        yield f"{escape(name)}: {escape(own_words(benchmark.words))}"
    if benchmark.counts:
        yield f"{escape(name)}: {escape(counted(benchmark.counts))}"
    yield from (f"{escape(name)}: {escape(note)}" for note in (*filter(None, [benchmark.asks]), *benchmark.notes))
    yield from _files(name, benchmark.files)


def own_words(words: WordsOf) -> str:
    """Return a text with the source of the user's words and templates, the number of each, and examples."""
    source = f"{words.file or 'the config'}, sha256 {words.sha256[:12]}"
    templates = f"; templates: {len(words.templates)}, such as {words.templates[0]!r}" if words.templates else ""
    if not words.mapping:
        return f"the classes of the benchmark, templates of {source}{templates}"
    pairs: dict[str | None, list[str]] = {}
    for name, label in words.mapping:
        pairs.setdefault(label, []).append(name)
    lost, several = pairs.pop(None, []), [(label, names) for label, names in pairs.items() if len(names) > 1]
    example = f", such as {', '.join(several[0][1][:3])} → {several[0][0]}" if several else ""
    parts = [f"{words.words} own words of {source}, for {len(pairs)} labels{example}"]
    parts += [f"words without a label: {len(lost)}, such as {lost[0]}"] if lost else []
    without = words.without_word
    parts += [f"labels without a word (IoU 0): {len(without)}, such as {without[0]}"] if without else []
    return "; ".join(parts) + templates


def _files(name: str, files: Files) -> Iterator[str]:
    """Yield sentences on changed files, records without digests, and files that belong to no image."""
    if files.changed:
        yield (
            f"{escape(name)}: the files of {files.changed} images have changed since they were first scored; only "
            "records of the current files count"
        )
    if files.undigested:
        yield (
            f"{escape(name)}: {files.undigested} records are of an earlier version and hold no digests: whether their "
            "photographs and label files have changed since is not known"
        )
    if files.compact:
        yield f"{escape(name)}: {files.compact_words}"
    for left_out in files.left_out:
        skipped = " (unpaired: skip)" if files.unpaired == "skip" else ""
        what = f"{left_out.number} {left_out.what}, such as {left_out.example}"
        yield f"[yellow]{escape(name)}: {escape(what)}: in no number{skipped}[/]"


def side_by_side(reports: Mapping[str, Report]) -> Table:
    """Return a table of the main metric's values (see MAIN): a row per benchmark, a column per run."""
    present = {_main(benchmark)[0] for report in reports.values() for benchmark in report.benchmarks.values()}
    named = " or ".join(words for name, words in MAIN.items() if name in present) or MAIN["miou"]
    table = Table(title=f"{named} in percent, side by side", title_justify="left")
    table.add_column("benchmark")
    for run in reports:
        table.add_column(escape(run), justify="right")
    for name in dict.fromkeys(name for report in reports.values() for name in report.benchmarks):
        row = [report.benchmarks.get(name) for report in reports.values()]
        selections = {_selection(benchmark.selection) for benchmark in row if benchmark}
        common = selections.pop() if len(selections) == 1 else ""
        table.add_row(escape(name) + common, *(_cell(benchmark, "" if common else " of") for benchmark in row))
    return table


def _cell(benchmark: BenchmarkReport | None, of: str) -> str:
    if benchmark is None:
        return "–"
    images = f"{benchmark.images.scored}/{benchmark.images.expected}"
    which = of and of + _selection(benchmark.selection)
    state = "" if benchmark.final else " [red]not final[/]"
    return f"{_percent(_main(benchmark)[1])} ({images}{which}){state}"


def _main(benchmark: BenchmarkReport) -> tuple[str, float | None]:
    """Return name and value of a benchmark's main metric (see MAIN); "" and None if the benchmark has none."""
    return next(((name, benchmark.metrics[name]) for name in MAIN if name in benchmark.metrics), ("", None))


def _numbers(report: Report, metric: metrics.Table, title: str) -> Table:
    """Return the table of a metric: number of measured images, and values. Benchmarks without values have no row."""
    heading = f"{title}: {metric.title or metric.name}".removeprefix(": ")
    table = Table(title=escape(heading), title_justify="left")
    table.add_column("benchmark")
    table.add_column("images", justify="right")
    for words in metric.headings.values():
        table.add_column(escape(words), justify="right")
    for name, benchmark in report.benchmarks.items():
        if metric.headings.keys() & benchmark.metrics.keys():
            values = (_percent(benchmark.metrics.get(key)) for key in metric.headings)
            table.add_row(escape(name) + _selection(benchmark.selection), _covered(benchmark, metric), *values)
            bounds = benchmark.bootstrap.metrics if benchmark.bootstrap else {}
            if metric.headings.keys() & bounds.keys():
                ends = (_interval(bounds.get(key)) for key in metric.headings)
                table.add_row("[dim]  95 % interval[/]", "", *ends)
    return table


def _interval(ends: Ends | None) -> str:
    """Return an interval in markup; empty for None."""
    return f"[dim]{ends[0]:.2f}–{ends[1]:.2f}[/]" if ends else ""


def method(bootstrap: Bootstrap) -> str:
    """Return a sentence on the method that computed the confidence intervals."""
    rare = f"; {bootstrap.rare_classes} classes are in fewer than 10: too narrow" if bootstrap.rare_classes else ""
    return (
        f"95 % intervals: bootstrap over {bootstrap.units} {bootstrap.unit}s ({bootstrap.method}), "
        f"{bootstrap.resamples} resamples, {bootstrap.bit_generator} with seed {bootstrap.seed}, averaged classes fixed"
        f"{rare}"
    )


def _covered(benchmark: BenchmarkReport, metric: metrics.Table) -> str:
    """Return the counts of measured and requested images, such as "200/233 not final", in markup."""
    measured = benchmark.measured.get(metric.measured_as, benchmark.images.scored)
    final = benchmark.final and measured == benchmark.images.scored
    return f"{measured}/{benchmark.images.expected}" + ("" if final else " [red]not final[/]")


def _groups(name: str, benchmark: BenchmarkReport) -> Iterator[str]:
    """Yield sentences in markup such as "voc: mIoU of seen 60.00, unseen 40.00". Groups without a value are omitted."""
    groups = {title: group.model_dump() for title, group in benchmark.groups.items()}
    for metric in with_values([benchmark]):
        for key, words in metric.group_headings.items():
            scores = (
                f"{escape(title)} {_percent(values[key])}{_counted(values, metric.group_counts)}"
                for title, values in groups.items()
                if values.get(key) is not None
            )
            if sentence := ", ".join(scores):
                yield f"{escape(name)}: {words} of {sentence}"


def _counted(values: Mapping[str, Any], nouns: Mapping[str, str]) -> str:
    """Return counts as text, such as " (8 classes)"; "" if all are 0. `nouns`: key of a count in `values` → noun."""
    counts = ", ".join(f"{values[key]} {noun}" for key, noun in nouns.items() if values.get(key))
    return f" ({counts})" if counts else ""


def _group_intervals(name: str, groups: Mapping[str, Mapping[str, Ends]]) -> str:
    ends = (f"{escape(title)} {_interval(bounds.get('miou'))}" for title, bounds in groups.items())
    return f"{escape(name)}: 95 % intervals of mIoU: {', '.join(ends)}"


def counted(counts: Mapping[str, int]) -> str:
    """Return a text such as "distinct words: 7". A key without a description (see Metric.counts) is shown unchanged."""
    words = {key: word for metric in (*metrics.built_in(), *metrics.derived()) for key, word in metric.counts.items()}
    return ", ".join(f"{words.get(key, key)}: {value}" for key, value in counts.items())


def _folds(report: Report, family: str) -> Table:
    """Return the table that few-shot papers print: the metrics of each fold, and their mean over the folds."""
    names = sorted(name for name in report.benchmarks if name.partition(":")[0] == family)
    table = Table("in percent", title=escape(f"{family}: its folds, and their mean"), title_justify="left")
    for title in (*(name.partition(":")[2] for name in names), "mean"):
        table.add_column(escape(title), justify="right")
    headings = {key: words for metric in metrics.derived() for key, words in metric.headings.items()}
    for key, mean in report.folds[family].items():
        values = [report.benchmarks[name].metrics.get(key) for name in names]
        table.add_row(escape(headings.get(key, key)), *map(_percent, (*values, mean)))
    return table


def _published(name: str, published: Published) -> Table:
    """Return a table that compares published and measured mIoU, with a row per published value."""
    method = f"{published.method}, {published.backbone}"
    table = Table(title=escape(f"{name}: mIoU as published for {method}"), title_justify="left", caption_justify="left")
    for title in ("published", "measured", "difference"):
        table.add_column(title, justify="right")
    table.add_column("convention")
    table.add_column("source")
    for figure in published.figures:
        difference = "–" if figure.difference is None else f"{figure.difference:+.2f}"
        numbers = (str(figure.miou), _percent(figure.measured), difference)
        table.add_row(*numbers, escape(figure.convention), escape(f"{figure.kind}: {figure.where}"))
    reasons = "; ".join(published.not_comparable)
    table.caption = f"[yellow]not comparable: {escape(reasons)}[/]" if reasons else escape(published.checkpoint)
    return table


def _selection(selection: Selection) -> str:
    """Return the split in markup, such as " val". If a part of the split was requested, " (first 10 only)" follows."""
    only = ", ".join(selection.restrictions)
    return f" {escape(selection.split)}" + (f" [yellow]({only} only)[/]" if only else "")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _classes(name: str, benchmark: BenchmarkReport) -> Table:
    table = Table(title=f"{escape(name)}: classes", title_justify="left")
    table.add_column("class")
    users = (metrics.load(metric) for metric in benchmark.measured if "." in metric)
    known: tuple[metrics.Table, ...] = (*metrics.built_in(), *metrics.derived(), *users)
    headings = {key: words for metric in known for key, words in metric.class_headings.items()}
    rows = [score.model_dump() for score in benchmark.classes]
    shown = [key for key in headings if rows and key in rows[0]]
    for key in shown:
        table.add_column(escape(headings[key]), justify="right")
    if bounds := benchmark.bootstrap:
        table.add_column("95 % interval of IoU", justify="right")
    for label, row in enumerate(rows):
        values = [f"{row[key]:,}" if isinstance(row[key], int) else _percent(row[key]) for key in shown]
        table.add_row(escape(row["name"]), *values, *([_interval(bounds.of_class(label))] if bounds else ()))
    return table


def _errors(name: str, benchmark: BenchmarkReport) -> Table:
    """Return the table of failed images, counted by the stage that failed, with one example per stage."""
    kinds: Counter[str] = Counter(image.error.partition(":")[0] for image in benchmark.errors)
    title = f"{escape(name)}: {benchmark.images.failed} images failed"
    table = Table("in stage", "images", "for example", title=title, title_justify="left", style="red")
    for kind, count in kinds.most_common():
        example = next(image for image in benchmark.errors if image.error.startswith(kind))
        table.add_row(escape(kind), str(count), escape(f"{example.image_id}: {example.error}"))
    return table


def show_images(rows: list[dict[str, Any]], console: Console, most: int) -> None:
    """Print a table of the `most` worst images; nothing if `most` is 0. `rows` are the rows of Reading.images."""
    if not most:
        return
    table = Table("image", title=f"the {min(most, len(rows))} worst of {len(rows)} images", title_justify="left")
    keys = [key for key in rows[0] if key not in ("image_id", "error")] if rows else []
    words = {key: word for metric in metrics.built_in() for key, word in metric.live.items()}
    for key in keys:
        table.add_column(escape(words.get(key, key)))
    table.add_column("error")
    for row in rows[:most]:
        table.add_row(escape(row["image_id"]), *(_percent(row[key]) for key in keys), escape(row["error"]))
    console.print(table)
