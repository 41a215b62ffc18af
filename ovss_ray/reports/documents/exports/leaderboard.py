"""Leaderboard of a benchmark: own runs among the published figures. CONVENTIONS explains the conventions of mIoU."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ovss_ray.reports import published
from ovss_ray.reports.documents import values
from ovss_ray.reports.documents.exports import tables
from ovss_ray.reports.published.comparison import METRICS
from ovss_ray.reports.schema import BenchmarkReport, Report
from ovss_ray.structures.words import NOTE

INSTANCES = ("instance_iou", "instance_accuracy")
"""Metrics that leaderboards show for benchmarks of instances

In a row with the value of one of these metrics, the column "convention" has the name of the metric.
"""
HEADINGS = ("", "method", "backbone", "mIoU", "convention", "source")
CONVENTIONS = (
    "miou: over classes in the truth; miou_classic: over classes in truth or predictions; either: both are equal; "
    "unknown: the source does not state it; fold_miou, fold_miou_hsnet: over the classes of a fold; instance_iou, "
    "instance_accuracy: no mIoU, but the values of prompted instances"
)
"""Explanation of the conventions, shown below a leaderboard."""


@dataclass(frozen=True)
class Row:
    """One value of a leaderboard."""

    method: str
    backbone: str
    miou: float
    """percent"""
    shown: str
    """the value as text, with the digits of its source"""
    convention: str
    source: str
    """source of a published figure; for an own run, the split and the number of scored images"""
    own_run: bool = False


def rows(benchmark: str, runs: Mapping[str, Report]) -> list[Row]:
    """Return published figures and own runs of a benchmark, highest value first.

    A published figure has one row. A run has a row per measured metric of METRICS and INSTANCES. If a run's miou equals
    its miou_classic, the two metrics have one common row with the convention "either". Leaderboards do not include
    values of SG-IoU, neither published figures nor values of runs.
    """
    listed = [
        Row(of.method, of.backbone, of.miou, str(of.miou), of.convention, f"{of.kind}: {of.quoted}")
        for of in published.of(benchmark)
        if not of.convention.startswith("sg_")
    ]
    for name, report in runs.items():
        if benchmark in report.benchmarks:
            listed += _of_run(name, report, report.benchmarks[benchmark])
    return sorted(listed, key=lambda row: (-row.miou, not row.own_run, row.method, row.convention))


def benchmarks(runs: Mapping[str, Report]) -> list[str]:
    """Return the benchmarks of the runs, in the order of their first occurrence."""
    return list(dict.fromkeys(name for report in runs.values() for name in report.benchmarks))


def _of_run(name: str, report: Report, benchmark: BenchmarkReport) -> Iterator[Row]:
    keys = dict.fromkeys((*METRICS.values(), *INSTANCES))
    numbers = {key: benchmark.metrics.get(key) for key in keys if not key.startswith("sg_")}
    measured = {key: value for key, value in numbers.items() if value is not None}
    if measured.get("miou") == measured.get("miou_classic") and "miou" in measured:
        measured = {"either": measured["miou"], **{k: v for k, v in measured.items() if not k.startswith("miou")}}
    weights = "; FAKE WEIGHTS" if report.run.fake_weights else ""
    source = f"{values.selection(benchmark)}, {values.covered(benchmark)} images{_words(benchmark)}{weights}"
    for convention, value in measured.items():
        yield Row(name, "", value, f"{value:.2f}", convention, source, own_run=True)


def _words(benchmark: BenchmarkReport) -> str:
    """Return a remark such as "; own words" if the run has its own names or templates; else ""."""
    if any(note.endswith(NOTE) for note in benchmark.notes):
        return "; words found in each image, mapped by equal names"
    if benchmark.words is None:
        return ""
    return "; own words" if benchmark.words.mapping else "; own templates"


def cells(listed: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the cells of each row under HEADINGS. Own runs are marked by an arrow."""
    return [
        ("→" if row.own_run else "", row.method, row.backbone, row.shown, row.convention, row.source) for row in listed
    ]


def markdown(name: str, listed: Sequence[Row]) -> str:
    """Return the leaderboard of the benchmark `name` as Markdown."""
    return f"### {tables.plain(name)}\n\n{tables.markdown_table(HEADINGS, cells(listed))}\n\n{CONVENTIONS}\n"


def latex(runs: Mapping[str, Report], names: Sequence[str]) -> str:
    """Return a booktabs table with a row per published method, then a row per run.

    A benchmark in `names` has a column per metric that papers print (see tables.mains). If a method has several figures
    for a column, the first in figures.json is shown. Figures of the kind SECOND_HAND are left out.
    """
    columns = [(name, key) for name in tables.in_paper_order(names) for key in _keys(name, runs)]
    figures: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    shown = {column: _shown(*column) for column in columns}
    for figure in published.figures():
        for column in columns:
            if figure in shown[column]:
                figures.setdefault((figure.method, figure.backbone), {}).setdefault(column, str(figure.miou))
    lines = [
        [tables.latex_text(", ".join(filter(None, method))), *(of.get(at, values.NOT_MEASURED) for at in columns)]
        for method, of in figures.items()
    ]
    lines += [[r"\midrule"]] if lines else []
    lines += [[tables.latex_text(run), *(_value(report, *at) for at in columns)] for run, report in runs.items()]
    headings = ["method", *(tables.heading(*at) for at in columns)]
    note = "% conventions: ovss leaderboard RUNS prints those of each figure; †: not all requested images are scored"
    return f"{note}\n{tables.latex_table(headings, lines)}\n"


def _keys(name: str, runs: Mapping[str, Report]) -> tuple[str, ...]:
    """Return the metrics in the columns of a benchmark's leaderboard (see tables.mains), or ("miou",) without runs."""
    mains = (tables.mains(report.benchmarks[name]) for report in runs.values() if name in report.benchmarks)
    return tuple(dict.fromkeys(key for keys in mains for key in keys)) or ("miou",)


def _shown(name: str, key: str) -> set[published.Figure]:
    """Return the published figures in the LaTeX column of the metric `key`, for the benchmark `name`."""
    # the column "miou" shows figures of all conventions of mIoU
    return {
        of
        for of in published.of(name)
        if of.kind != published.SECOND_HAND
        and (not of.convention.startswith(("sg_", "fold_", "instance_")) if key == "miou" else of.convention == key)
    }


def _value(report: Report, name: str, key: str) -> str:
    if name not in report.benchmarks:
        return values.NOT_MEASURED
    return tables.latex_value(report.benchmarks[name], key, bounds=False)


def short(run: str, runs: Sequence[str]) -> str:
    """Return the last part of a run's path, or the whole path if another run has the same last part."""
    last = [PurePosixPath(of).name for of in runs]
    name = PurePosixPath(run).name
    return name if last.count(name) == 1 and name else run
