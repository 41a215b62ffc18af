"""Confidence intervals of a report: centred percentile bootstrap over the images (see resampling.py).

An interval is for the expected value over image sets with as many images as the benchmark. For reasons and measured
coverage, see docs/statistics.md.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ovss_ray import metrics
from ovss_ray.reports import resampling
from ovss_ray.reports.fields import Bootstrap, Ends
from ovss_ray.reports.resampling import Cells
from ovss_ray.reports.totals import Reading
from ovss_ray.structures.class_sums import UNITS

METHOD = "centred percentiles, widened by sqrt(m / (m - 1))"
"""Name of the method in a report. The factor sqrt(m / (m - 1)) increases the spread of resampled values.

For a value of one label, m is the effective number of photographs with the label (see resampling.Cells.effective).
For a value over all pixels or images, m is the number of photographs.
"""
LEVEL = 95
"""Nominal coverage of the intervals, in percent."""
FEWEST = 2
"""Minimum number of photographs for computing the intervals of a benchmark."""
FEWEST_OF_CLASS = 5
"""Number of photographs below which a class gets no interval, since the interval would be far too narrow."""
RARE = 10
"""Number of photographs below which a class counts as rare. With rare classes, intervals of mIoU are too narrow."""


def of(reading: Reading) -> Bootstrap | None:
    """Return the intervals of a benchmark.

    The result is None if the reading has no confusion cells (see totals.read), or fewer than two photographs.
    """
    cells = cells_of(reading)
    if cells is None or cells.photographs < FEWEST:
        return None
    computed = resampled(reading, cells).values()
    seen = cells.photographs_with()
    groups: dict[str, dict[str, Ends]] = {name: {} for name in reading.card.get("groups", {})}
    for (values, whole), name in ((pair, name) for pair in computed for name in groups):
        if hasattr(values, "of_group"):
            labels = reading.card["groups"][name]
            groups[name] |= _known(values.of_group(labels), whole.of_group(labels))
    return Bootstrap(
        **_method(cells, seen),
        metrics={key: ends for pair in computed for key, ends in _known(*(part.result() for part in pair)).items()},
        classes={
            key: tuple(ends if n >= FEWEST_OF_CLASS else None for n, ends in zip(seen, bounds, strict=True))
            for pair in computed
            if hasattr(pair[0], "per_label")
            for key, bounds in _per_label(*(part.per_label() for part in pair)).items()
        },
        groups=groups,
        photographs=tuple(seen.tolist()),
    )


def _method(cells: Cells, seen: np.ndarray) -> dict[str, Any]:
    """Return a dict with the fields of Bootstrap that describe the method, such as `seed`.

    `seen` (L,) is the number of photographs with each label.
    """
    return {
        "method": METHOD,
        "unit": "image" if cells.photographs == len(cells.ids) else "photograph",
        "units": cells.photographs,
        "resamples": resampling.RESAMPLES,
        "seed": resampling.SEED,
        "bit_generator": resampling.BITS,
        "rare_classes": int(((seen > 0) & (seen < RARE)).sum()),
    }


def resampled(reading: Reading, cells: Cells) -> dict[str, tuple[Any, Any]]:
    """Return name of a metric → (values in the resamples, values over all images).

    Both elements of a pair are objects of the metric's class `Resampled` (see metrics.Table.Resampled). A metric
    without a class `Resampled` is left out. A metric that is not computed from confusion matrices is also left out.
    """
    sums, of_all = cells.resampled(), cells.whole()
    return {
        metric.name: (metric.Resampled(sums, of_all), metric.Resampled(of_all, of_all))
        for metric, _ in reading.results()
        if metric.Resampled and metric.measured_as == metrics.MAIN
    }


def cells_of(reading: Reading) -> Cells | None:
    """Return the confusion cells of a benchmark's images; None if the reading has no cells (see totals.read)."""
    if not reading.total.cells:
        return None
    return Cells.of(reading.total.cells, reading.listed, len(reading.card["labels"]))


def centred(values: np.ndarray, reported: float) -> Ends | None:
    """Return the 95 % interval of a reported value, from its values (R,) in the resamples; all in percent.

    The percentiles of `values` are shifted by `reported` minus the mean of `values`, then limited to 0 and 100. NaN in
    `values` are left out. Returns None if `reported` or all of `values` is NaN.
    """
    ends = shifted(values, reported)
    return None if ends is None else (max(ends[0], 0.0), min(ends[1], 100.0))


def shifted(values: np.ndarray, reported: float) -> Ends | None:
    """Return the same interval as `centred`, but do not limit the ends of the interval to 0 and 100.

    Intervals of differences must not be limited, since the difference of two values may be negative.
    """
    # sums of integers do not depend on the order, so the interval is equal on every machine
    units = np.sort(np.rint(values[~np.isnan(values)] * UNITS).astype(np.int64))
    if not len(units) or np.isnan(reported):
        return None
    # of 1,000 values: the 25th smallest and the 25th largest
    cut = max(int(len(units) * (100 - LEVEL) / 200) - 1, 0)
    # a resample has fewer different images of a rare class, so mIoU would be too low without the shift
    shift = round(reported * UNITS) - int(units.sum()) // len(units)
    return (int(units[cut]) + shift) / UNITS, (int(units[-1 - cut]) + shift) / UNITS


def _known(values: Mapping[str, np.ndarray], whole: Mapping[str, np.ndarray]) -> dict[str, Ends]:
    """Return the interval for each key of a metric, such as "miou". A key without an interval is left out.

    `values`: key → values in R resamples, (R,). `whole`: key → value over all images, (1,).
    """
    intervals = {key: centred(of_key, float(whole[key][0])) for key, of_key in values.items()}
    return {key: ends for key, ends in intervals.items() if ends is not None}


def _per_label(values: Mapping[str, np.ndarray], whole: Mapping[str, np.ndarray]) -> dict[str, list[Ends | None]]:
    """Return the intervals of the L labels for each key of a metric, such as "iou"; None: no interval for this label.

    `values`: key → values of the labels in R resamples, (R, L). `whole`: key → values of the labels over all images,
    (1, L).
    """
    return {
        key: [centred(of_label, float(of_all)) for of_label, of_all in zip(of_key.T, whole[key][0], strict=True)]
        for key, of_key in values.items()
    }
