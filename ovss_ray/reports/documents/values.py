"""Values of a report as text, for all kinds of tables: headings, percentages, intervals and coverage."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ovss_ray import metrics
from ovss_ray.reports.fields import Ends
from ovss_ray.reports.schema import BenchmarkReport

NOT_MEASURED = "–"
"""Text for a value that could not be measured."""


def known(benchmarks: Collection[BenchmarkReport]) -> list[metrics.Table]:
    """Return all built-in and derived metrics, and the user's metrics of `benchmarks`, sorted by `Table.place`."""
    users = {name for benchmark in benchmarks for name in benchmark.measured if "." in name}
    every = (*metrics.built_in(), *metrics.derived(), *map(metrics.load, sorted(users)))
    return sorted(every, key=lambda metric: metric.place)


def with_values(benchmarks: Collection[BenchmarkReport]) -> list[metrics.Table]:
    """Return the metrics that have a value in at least one of the benchmarks, sorted by `Table.place`."""
    keys = {key for benchmark in benchmarks for key in benchmark.metrics}
    return [metric for metric in known(benchmarks) if metric.headings.keys() & keys]


def class_headings(benchmark: BenchmarkReport) -> dict[str, str]:
    """Return key → heading for the columns of a table of classes, such as {"iou": "IoU"}.

    A metric that was not measured has no columns.
    """
    present = benchmark.classes[0].model_dump() if benchmark.classes else {}
    measured = [of for of in known([benchmark]) if of.measured_as in benchmark.measured or not benchmark.measured]
    named = {key: words for metric in measured for key, words in metric.class_headings.items()}
    return {key: words for key, words in named.items() if key in present}


def groups(benchmark: BenchmarkReport) -> Iterator[tuple[str, str, float, Ends | None]]:
    """Yield (group, heading of the value, value in percent, interval or None) for all groups with a value."""
    for metric in known([benchmark]):
        for name, group in benchmark.groups.items():
            bounds = benchmark.bootstrap.groups.get(name, {}) if benchmark.bootstrap else {}
            values: Mapping[str, Any] = group.model_dump()
            for key, words in metric.group_headings.items():
                if values.get(key) is not None:
                    yield name, words, values[key], bounds.get(key)


def percent(value: float | None) -> str:
    """Return a value in percent with two decimals; a dash for None."""
    return NOT_MEASURED if value is None else f"{value:.2f}"


def interval(ends: Ends | None) -> str:
    """Return an interval as text, such as "61.20–64.85"; empty for None."""
    return f"{ends[0]:.2f}–{ends[1]:.2f}" if ends else ""


def covered(benchmark: BenchmarkReport, metric: metrics.Table | None = None) -> str:
    """Return the numbers of scored and of expected images, such as "100/100", or "98/100, not final".

    If `metric` is given, the first number is the number of images for which `metric` was measured. The result ends with
    "not final" if the benchmark is not final. The result also ends with "not final" if `metric` was not measured for
    all scored images.
    """
    scored = benchmark.images.scored
    measured = benchmark.measured.get(metric.measured_as, scored) if metric else scored
    counts = f"{measured}/{benchmark.images.expected}"
    return counts if benchmark.final and measured == scored else f"{counts}, not final"


def selection(benchmark: BenchmarkReport) -> str:
    """Return the split of a benchmark, such as "val".

    If only a part of the images was requested, the restriction follows, such as "val (first 10 only)".
    """
    only = ", ".join(benchmark.selection.restrictions)
    return f"{benchmark.selection.split} ({only} only)" if only else benchmark.selection.split
