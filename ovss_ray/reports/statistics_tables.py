"""Tables for a terminal: paired differences of runs, worst classes, and scores of classes by frequency or size."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ovss_ray import metrics
from ovss_ray.reports import report, subsets
from ovss_ray.reports.fields import Ends
from ovss_ray.reports.paired import POWER, Difference, Paired
from ovss_ray.reports.schema import BenchmarkReport
from ovss_ray.reports.subsets import SizeScore
from ovss_ray.reports.totals import Reading


def differences(first: str, second: str, benchmark: str, paired: Paired) -> Table | str:
    """Return the table of the differences of two runs on a benchmark, or the reason why there is none."""
    if paired.values is None:
        reason = f"{benchmark}: no difference of {second} and {first}: {paired.refused}"
        return f"[yellow]{escape(reason)}[/]"
    table = _table(f"{benchmark}: {second} minus {first}, in points, paired by image", "metric")
    known: tuple[metrics.Table, ...] = (*metrics.built_in(), *metrics.derived())
    headings = {key: words for metric in known for key, words in metric.headings.items()}
    for key, difference in paired.values.items():
        table.add_row(escape(headings.get(key, key)), *_numbers(difference))
    if paired.words:
        table.caption, table.caption_justify = f"[yellow]{escape(paired.words)}[/]", "left"
    return table


def class_differences(first: str, second: str, benchmark: str, paired: Paired) -> Table:
    """Return the table of the differences of IoU per class, with p-values after Holm's correction.

    The rows are sorted by the absolute value of the difference, largest first.
    """
    table = _table(f"{benchmark}: IoU of {second} minus {first}, p after Holm's correction", "class")
    for label, difference in sorted((paired.classes or {}).items(), key=lambda item: (-abs(item[1].value), item[0])):
        table.add_row(escape(paired.labels[label]), *_numbers(difference))
    return table


def worst_classes(name: str, benchmark: BenchmarkReport, most: int) -> Table:
    """Return the table of the `most` classes with the lowest IoU. Classes without pixels in the truth are left out."""
    iou = [(score.iou, label) for label, score in enumerate(benchmark.classes) if score.iou is not None]
    title = f"{_covered(name, benchmark)}: the {min(most, len(iou))} worst of {len(iou)} classes"
    return _classes(title, benchmark, [label for _, label in sorted(iou)[:most]])


def _classes(title: str, benchmark: BenchmarkReport, labels: Sequence[int]) -> Table:
    """Return a table of the classes `labels`: IoU with its interval, accuracy, photographs and pixels of each class."""
    table = Table("class", title=escape(title), title_justify="left")
    for heading in ("IoU", "95 % interval", "accuracy", "photographs", "truth pixels", "predicted pixels"):
        table.add_column(heading, justify="right")
    for label in labels:
        score, bounds = benchmark.classes[label], benchmark.bootstrap
        photographs = f"{bounds.photographs[label]:,}" if bounds else ""
        pixels = (f"{score.truth_pixels:,}", f"{score.prediction_pixels:,}")
        numbers = (_percent(score.iou), _interval(bounds.of_class(label) if bounds else None), _percent(score.acc))
        table.add_row(escape(score.name), *numbers, photographs, *pixels)
    return table


def sizes(name: str, scores: Sequence[SizeScore]) -> Table:
    """Return a table of `scores`, the result of subsets.by_size. It has a row per size bucket, such as "1 to 10 %"."""
    table = Table("share of the image", title=escape(f"{name}: classes within images, by size"), title_justify="left")
    for heading in ("pairs of image and class", "mean IoU within the image", "pixel accuracy"):
        table.add_column(heading, justify="right")
    for score in scores:
        table.add_row(score.name, f"{score.pairs:,}", _percent(score.iou), _percent(score.acc))
    return table


def show_selected(
    name: str,
    reading: Reading,
    merge: Mapping[str, Sequence[str]],
    only: Sequence[str],
    console: Console,
    bounds: bool = True,
) -> None:
    """Print the scores of a benchmark for merged classes and for the classes in `only`.

    If `merge` is not empty, print the metrics after merging (see subsets.merged). If `only` is not empty, print mIoU
    and pooled IoU of the classes in `only`. Last, print a table of the merged classes and the classes in `only`. If
    `bounds` is True, the scores have confidence intervals. Raises OvssError in the same cases as subsets.selected.
    """
    content = subsets.selected(reading, merge, only)
    scores = report.numbers(content, bounds)
    name = _covered(name, scores)
    labels = [c for c, label in enumerate(content.card["labels"]) if label in merge]
    labels += [c for of in content.card["groups"].values() for c in of if only and c not in labels]
    if merge:
        merges = ", ".join(f"{target} = {' + '.join(words)}" for target, words in merge.items())
        table = Table("metric", title=escape(f"{name}: with {merges}"), title_justify="left")
        for heading in ("value", "95 % interval"):
            table.add_column(heading, justify="right")
        for key, value in scores.metrics.items():
            table.add_row(
                key, _percent(value), _interval(scores.bootstrap.metrics.get(key) if scores.bootstrap else None)
            )
        console.print(table)
    for title, group in scores.groups.items() if only else ():
        ends = scores.bootstrap.groups[title].get("miou") if scores.bootstrap else None
        miou = f"mIoU {_percent(group.miou)} {_interval(ends)}".rstrip()
        console.print(
            escape(f"{name}: {title}: {miou} of {group.in_truth} classes, pooled {_percent(group.pooled_iou)}")
        )
    console.print(_classes(f"{name}: these classes", scores, labels))


def show_buckets(name: str, reading: Reading, console: Console, bounds: bool = True) -> None:
    """Print the scores of classes by frequency (see subsets.FREQUENCIES), and by size (see subsets.SHARES).

    If `bounds` is True, the scores by frequency have confidence intervals. Raises OvssError if `reading` has no
    confusion cells (see totals.read).
    """
    scores = report.numbers(subsets.by_frequency(reading), bounds)
    name = _covered(name, scores)
    table = Table("classes", title=escape(f"{name}: classes by frequency"), title_justify="left")
    for heading in ("classes in the truth", "mIoU", "95 % interval"):
        table.add_column(heading, justify="right")
    for title, group in scores.groups.items():
        table.add_row(
            title,
            str(group.in_truth),
            _percent(group.miou),
            _interval(scores.bootstrap.groups[title].get("miou") if scores.bootstrap else None),
        )
    console.print(table)
    console.print(sizes(name, subsets.by_size(reading)))


def _covered(name: str, benchmark: BenchmarkReport) -> str:
    """Return the name and image counts of a benchmark, such as "camvid (200/233 images, not final)"."""
    state = "" if benchmark.final else ", not final"
    return f"{name} ({benchmark.images.scored}/{benchmark.images.expected} images{state})"


def _percent(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{value:.2f}"


def _interval(ends: Ends | None) -> str:
    return f"{ends[0]:.2f}–{ends[1]:.2f}" if ends else ""


def _table(title: str, first: str) -> Table:
    table = Table(first, title=escape(title), title_justify="left")
    for heading in ("difference", "95 % interval", "p", f"shown with {POWER} % power", "photographs"):
        table.add_column(heading, justify="right")
    return table


def _numbers(difference: Difference) -> tuple[str, ...]:
    low, high = difference.interval
    p = "< 0.0001" if difference.p < 0.0001 else f"{difference.p:.4f}"
    return (
        f"{difference.value:+.2f}",
        f"{low:+.2f} to {high:+.2f}",
        p,
        f"{difference.smallest:.2f}",
        f"{difference.photographs:,}",
    )
