"""Values of a report as CSV for programs, Markdown for issues, and LaTeX (booktabs) for papers."""

import csv as csv_format
import io
from collections.abc import Iterable, Iterator, Sequence

from ovss_ray.reports.documents import values
from ovss_ray.reports.fields import Ends
from ovss_ray.reports.schema import BenchmarkReport, Report

COLUMNS = (
    *("benchmark", "split", "restrictions", "scored", "expected", "final"),
    *("of", "name", "value", "number", "interval_low", "interval_high"),
)
"""Columns of the CSV, which has a row per value.

- `of`: "all", "group" or "class" for a value of a benchmark; "fold" for a mean over a few-shot data set's folds
- `name`: name of the group, class or few-shot data set; empty if `of` is "all"
- `value`: name of the metric, such as miou; if `of` is "group", heading of the metric, such as mIoU
- `number`: percentage, or count of pixels or instances
"""
PAPER_ORDER = {
    "ade20k:847": "A-847",
    "pascal_context:459": "PC-459",
    "ade20k:150": "A-150",
    "pascal_context:59": "PC-59",
    "voc:20": "PAS-20",
    "voc:20b": "PAS-20b",
}
"""Benchmark → heading of its column in the tables of open-vocabulary papers. The papers' columns have this order."""
INSTANCES = {"instance_iou": "IoU", "instance_accuracy": "acc.", "instance_ap": "AP", "instance_ap_lvis": "AP (LVIS)"}
"""Metric that scores instances → its heading in LaTeX tables. A benchmark's columns have the order of this list."""
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a formula in a spreadsheet."""
DAGGER = r"$^\dagger$"
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
}


def csv(report: Report) -> str:
    """Return a CSV with a row for each value of a report, and the columns COLUMNS. Missing values are empty.

    Texts that look like formulas get a leading apostrophe.
    """
    sink = io.StringIO()
    writer = csv_format.writer(sink, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, benchmark in report.benchmarks.items():
        selection = benchmark.selection
        images = benchmark.images.scored, benchmark.images.expected, str(benchmark.final).lower()
        for row in _rows(benchmark):
            writer.writerow(map(inert, (name, selection.split, " ".join(selection.restrictions), *images, *row)))
    for family, means in report.folds.items():
        for key, mean in means.items():
            writer.writerow(map(inert, (family, *[""] * 5, "fold", family, key, _exact(mean), "", "")))
    return sink.getvalue()


def _rows(benchmark: BenchmarkReport) -> Iterator[tuple[str | float, ...]]:
    bounds = benchmark.bootstrap
    for key, value in benchmark.metrics.items():
        yield "all", "", key, _exact(value), *_ends(bounds.metrics.get(key) if bounds else None)
    for name, words, value, ends in values.groups(benchmark):
        yield "group", name, words, _exact(value), *_ends(ends)
    for label, score in enumerate(benchmark.classes):
        content = score.model_dump()
        for key in values.class_headings(benchmark):
            ends = bounds.of_class(label, key) if bounds else None
            yield "class", score.name, key, _exact(content[key]), *_ends(ends)


def inert(cell: str | int | float) -> str | int | float:
    """Prefix an apostrophe to a text that a spreadsheet would compute as a formula. Other cells are unchanged."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULAS) else cell


def _exact(value: float | None) -> str | float:
    return "" if value is None else value


def _ends(ends: Ends | None) -> tuple[str | float, str | float]:
    return ends or ("", "")


def markdown(report: Report) -> str:
    """Return a Markdown table per metric, with coverage and intervals."""
    parts = []
    for metric in values.with_values(report.benchmarks.values()):
        rows = []
        for name, benchmark in report.benchmarks.items():
            if metric.headings.keys() & benchmark.metrics.keys():
                ends = benchmark.bootstrap.metrics if benchmark.bootstrap else {}
                numbers = (
                    f"{values.percent(benchmark.metrics.get(key))} {_bracketed(ends.get(key))}".rstrip()
                    for key in metric.headings
                )
                rows.append((f"{name} {values.selection(benchmark)}", values.covered(benchmark, metric), *numbers))
        heading = ("benchmark", "images", *metric.headings.values())
        parts.append(f"### {metric.title or metric.name}\n\n{markdown_table(heading, rows)}")
    return "\n\n".join(parts) + "\n"


def _bracketed(ends: Ends | None) -> str:
    return f"({values.interval(ends)})" if ends else ""


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table. Markdown and HTML in cells are escaped."""
    lines = [headings, ["---"] * len(headings), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(cell: str) -> str:
    """Return a text in one line, with Markdown and HTML escaped."""
    for character in "\\|`*_[]":
        cell = cell.replace(character, f"\\{character}")
    return " ".join(cell.replace("&", "&amp;").replace("<", "&lt;").split())


def latex(run: str, report: Report) -> str:
    """Return a booktabs table with a row for the run, and a column per metric of each benchmark (see `mains`).

    If the run's method has published values of these metrics, a first row shows the published values.
    """
    names = in_paper_order(report.benchmarks)
    columns = [(name, key) for name in names for key in mains(report.benchmarks[name])]
    benchmarks = [(report.benchmarks[name], key) for name, key in columns]
    published = [_published(benchmark, key) for benchmark, key in benchmarks]
    method = next((of.published for of, _ in benchmarks if of.published), None)
    rows = []
    if method and any(published):
        title = f"{method.method}, {method.backbone} (published)"
        rows.append([latex_text(title), *(value or values.NOT_MEASURED for value in published)])
    rows.append([latex_text(run), *(latex_value(benchmark, key) for benchmark, key in benchmarks)])
    comments = [
        f"% {name}: {values.selection(of)}, images: {values.covered(of)}"
        for name, of in ((name, report.benchmarks[name]) for name in names)
    ]
    comments += ["% †: not all requested images are scored"] if not report.final else []
    return "\n".join([*comments, latex_table(["method", *(heading(*column) for column in columns)], rows)]) + "\n"


def heading(name: str, key: str) -> str:
    """Return the LaTeX heading of the column for the metric `key` of the benchmark `name`.

    The heading begins with the benchmark's heading in PAPER_ORDER. If PAPER_ORDER lacks the benchmark, the heading
    begins with `name`. If `key` is a metric of instances, the metric's heading in INSTANCES follows. For example,
    `heading("voc:21", "instance_iou")` is "voc:21, IoU".
    """
    return latex_text(", ".join(filter(None, (PAPER_ORDER.get(name, name), INSTANCES.get(key)))))


def _published(benchmark: BenchmarkReport, key: str) -> str:
    figures = benchmark.published.figures if benchmark.published else ()
    return next((str(figure.miou) for figure in figures if figure.metric == key), "")


def mains(benchmark: BenchmarkReport) -> tuple[str, ...]:
    """Return the metrics that papers print for a benchmark.

    For a few-shot fold, the only metric is fold_miou. For any other benchmark, the only metric is miou, with one
    exception: the run measured metrics of instances, such as instance_iou, but not miou. In this case, all measured
    metrics of instances are returned.
    """
    if "fold_miou" in benchmark.metrics:
        return ("fold_miou",)
    measured = tuple(key for key in INSTANCES if benchmark.metrics.get(key) is not None)
    return ("miou",) if benchmark.metrics.get("miou") is not None or not measured else measured


def main(benchmark: BenchmarkReport) -> str:
    """Return the first of the metrics that papers print for a benchmark."""
    return mains(benchmark)[0]


def latex_value(benchmark: BenchmarkReport, key: str, bounds: bool = True) -> str:
    """Return a metric's value in LaTeX. `bounds`: add the interval of the value.

    If the benchmark is not final, a dagger follows the value (see BenchmarkReport.final).
    """
    ends = benchmark.bootstrap.metrics.get(key) if bounds and benchmark.bootstrap else None
    interval = rf" {{\scriptsize [{ends[0]:.2f}, {ends[1]:.2f}]}}" if ends else ""
    return values.percent(benchmark.metrics.get(key)) + ("" if benchmark.final else DAGGER) + interval


def in_paper_order(names: Iterable[str]) -> list[str]:
    """Return the names of benchmarks, sorted: first those in PAPER_ORDER, in this order, then the others by name."""
    known = list(PAPER_ORDER)
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))


def latex_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Return a LaTeX tabular with booktabs' rules. Cells are LaTeX; a row `["\midrule"]` becomes a rule."""
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        r"\toprule",
        rf"{' & '.join(headings)} \\",
        r"\midrule",
    ]
    lines += [row[0] if row[0] == r"\midrule" else rf"{' & '.join(row)} \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def latex_text(text: str) -> str:
    """Return a text with LaTeX's special characters escaped."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
