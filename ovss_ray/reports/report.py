"""Build the report of a run from its records and manifest. Equal records give equal reports."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ovss_ray import metrics
from ovss_ray.benchmarks import catalog
from ovss_ray.reports import intervals, totals
from ovss_ray.reports.published import comparison
from ovss_ray.reports.schema import BenchmarkReport, Files, Report, Run
from ovss_ray.reports.totals import Fold, Reading
from ovss_ray.runs import records
from ovss_ray.runs.folder import RunFolder, digest
from ovss_ray.structures.relations import Relations

TRACKING = "tracking.json"
"""Name of the JSON file with errors of experiment trackers. Content: tracker → error that prevented logging."""


def build(folder: RunFolder, fold: Fold = records.fold) -> Report:
    """Build the report from the records in the folder of a run, and write the report there as report.json.

    Values are percent, float64.
    """
    return assemble(folder, totals.read(folder, fold, cells=True))


def assemble(folder: RunFolder, readings: Mapping[str, Reading], bounds: bool = True) -> Report:
    """Build the report from the results of `totals.read`, and write the report to the folder.

    If `bounds` is False, intervals are not computed.
    """
    config, environment = folder.config(), folder.json("environment.json")
    stages, weights = config.stages(), environment.get("weights", [])
    benchmarks = {}
    for name, reading in readings.items():
        measured = numbers(reading, bounds)
        published = comparison.published_for(name, measured, stages, weights)
        notes = tuple(note for stage in stages for note in stage.notes(name))
        benchmarks[name] = measured.model_copy(update={"published": published, "notes": notes})
    run = Run(
        digest=digest(folder.json("identity.json")),
        config=config.model_dump(mode="json", exclude_defaults=True),
        environment=environment,
        seconds={name: reading.total.seconds for name, reading in readings.items()},
        history=tuple(folder.history()),
        tracking=folder.json(TRACKING),
    )
    report = Report(benchmarks=benchmarks, folds=_folds(benchmarks), run=run)
    report.save(folder)
    return report


def numbers(reading: Reading, bounds: bool = True) -> BenchmarkReport:
    """Return the results on one benchmark, without published figures and notes.

    If `bounds` is False, intervals are not computed.
    """
    return BenchmarkReport(**_benchmark(reading, bounds))


def _benchmark(reading: Reading, bounds: bool) -> dict[str, Any]:
    card, total = reading.card, reading.total
    files = files_of(reading)
    return {
        "images": {"expected": len(reading.listed), "scored": total.scored, "failed": len(total.errors)},
        "files": files,
        "final": total.scored == len(reading.listed) and not files.incomplete,
        "selection": card["selection"],
        "metrics": _values(reading),
        "bootstrap": intervals.of(reading) if bounds else None,
        "measured": {name: total.measured.get(name, 0) for name in total.partials},
        "relations": _relations(reading.inputs.get("relations")),
        "groups": {group: _group(reading, labels) for group, labels in card.get("groups", {}).items()},
        "classes": _classes(reading),
        "counts": _counts(reading),
        "asks": card.get("asks", ""),
        "words": card.get("words"),
        "errors": [{"image_id": image_id, "error": error} for image_id, error in total.errors],
    }


def _folds(benchmarks: Mapping[str, BenchmarkReport]) -> dict[str, dict[str, float | None]]:
    """Return data set → metric → mean over the folds, for data sets with all folds in `benchmarks`.

    If a fold lacks a value, the mean is None.
    """
    (keys,) = (metric.headings for metric in metrics.derived() if metric.needs == metrics.FOLD)
    means: dict[str, dict[str, float | None]] = {}
    for family in dict.fromkeys(name.partition(":")[0] for name in benchmarks):
        names = catalog.folds(family)
        if names and set(names) <= set(benchmarks):
            means[family] = {key: _mean([benchmarks[name].metrics.get(key) for name in names]) for key in keys}
    return means


def _mean(values: Sequence[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return sum(measured) / len(values) if len(measured) == len(values) else None


def files_of(reading: Reading) -> Files:
    """Return the part `files` of the report: counts of changed files, old records and unpaired files (schema.Files)."""
    settled, card = reading.settled, reading.card
    return Files(
        changed=settled.changed,
        undigested=settled.undigested,
        compact=reading.total.compact,
        left_out=card.get("left_out", ()),
        unpaired=card.get("unpaired", "error"),
    )


def _relations(relations: Relations | None) -> dict[str, Any] | None:
    """Return the fields of the report's RelationsOf; None if the run has no relations between labels."""
    if relations is None:
        return None
    children = len({child for child, _ in relations.pairs})
    return {
        "file": relations.file,
        "sha256": relations.sha256,
        "children": children,
        "pairs": len(relations.pairs),
    }


def _values(reading: Reading) -> dict[str, Any]:
    """Return key → value of the metrics, such as {"miou": 54.3}.

    A metric may compute several values. Only the values in the metric's table are returned. The
    keys of these values are in Table.headings of the metric. A value that could not be measured is None.
    """
    results = [(metric.headings, values.result()) for metric, values in reading.results()]
    return {key: _plain(result[key]) for headings, result in results for key in headings if key in result}


def _counts(reading: Reading) -> dict[str, int]:
    """Return key → integer from the method `counted()` of all metrics, such as {"classes_seen": 5}.

    A metric without this method has no counts.
    """
    counted = (values.counted() for _, values in reading.results() if hasattr(values, "counted"))
    return {key: int(value) for counts in counted for key, value in counts.items()}


def _group(reading: Reading, labels: Sequence[int]) -> dict[str, Any]:
    """Return the number of labels in a group, and the metrics' values for these labels alone."""
    group: dict[str, Any] = {"labels": len(labels)}
    for _, values in reading.results():
        if hasattr(values, "of_group"):
            group |= {key: _plain(value) for key, value in values.of_group(labels).items()}
    return group


def _classes(reading: Reading) -> list[dict[str, Any]]:
    """Return one row per label: its name, and the metrics' values for it."""
    columns: dict[str, Any] = {"name": np.array(reading.card["labels"], object)}
    for _, values in reading.results():
        if hasattr(values, "per_label"):
            columns |= values.per_label()
    return [
        {key: _plain(value) for key, value in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]


def _plain(value: Any) -> Any:
    """Convert a value for JSON. NaN, a value that could not be measured, becomes None."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value
