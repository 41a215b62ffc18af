"""Confidence intervals of a report: centred percentile bootstrap over the images (see resampling.py).

The percentiles are those of the resamples' values, shifted so that their mean is the reported value. Without the shift,
the intervals of mIoU are too low: a resample has fewer different images of each rare class, which lowers its IoU. The
interval is one for the mean value over many sets of as many images. docs/statistics.md has the measured coverage.

Before that, the values are widened, as the resamples of a class in few photographs vary too little (see
class_sums.widened).
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
"""Name of the method in a report. m is the effective number of photographs (see resampling.Cells.effective)."""
LEVEL = 95
"""Nominal coverage of the intervals, in percent."""
FEWEST = 2
"""Smallest number of photographs for which there are intervals."""
FEWEST_OF_CLASS = 5
"""Smallest number of photographs with a class for which the class has an interval. Below it, intervals are too narrow
by far."""
RARE = 10
"""Number of photographs below which a class counts as rare. Rare classes make the intervals of means too narrow."""


def of(reading: Reading) -> Bootstrap | None:
    """Return the intervals of a benchmark; None if its cells were not kept, or for fewer than two photographs."""
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
    """Return the method and its numbers. `seen` (L,): photographs with each label."""
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
    """Return metric → its values in the resamples, and for all images; only metrics that can be resampled."""
    sums, of_all = cells.resampled(), cells.whole()
    return {
        metric.name: (metric.Resampled(sums, of_all), metric.Resampled(of_all, of_all))
        for metric, _ in reading.results()
        if metric.Resampled and metric.measured_as == metrics.MAIN
    }


def cells_of(reading: Reading) -> Cells | None:
    """Return the cells of a benchmark's images; None if they were not kept (see totals.read)."""
    if not reading.total.cells:
        return None
    return Cells.of(reading.total.cells, reading.listed, len(reading.card["labels"]))


def centred(values: np.ndarray, reported: float) -> Ends | None:
    """Return the 95 % interval of a reported value from those of its resamples, (R,) percent; None if it has none.

    The ends are values of resamples, without interpolation: of 1,000, the 25th smallest and the 25th largest. Both are
    shifted by the difference of the reported value and the resamples' mean, and limited to 0 and 100. NaN are left out.
    All steps are exact in units of 1 / 2³² percent, so the result is equal on every machine.
    """
    ends = shifted(values, reported)
    return None if ends is None else (max(ends[0], 0.0), min(ends[1], 100.0))


def shifted(values: np.ndarray, reported: float) -> Ends | None:
    """Return the interval without limits, as for a difference of two values (see `centred`)."""
    units = np.sort(np.rint(values[~np.isnan(values)] * UNITS).astype(np.int64))
    if not len(units) or np.isnan(reported):
        return None
    cut = max(int(len(units) * (100 - LEVEL) / 200) - 1, 0)
    shift = round(reported * UNITS) - int(units.sum()) // len(units)
    return (int(units[cut]) + shift) / UNITS, (int(units[-1 - cut]) + shift) / UNITS


def _known(values: Mapping[str, np.ndarray], whole: Mapping[str, np.ndarray]) -> dict[str, Ends]:
    """Return the intervals of values that have one. Both arguments: key → (R,), and (1,) for all images."""
    intervals = {key: centred(of_key, float(whole[key][0])) for key, of_key in values.items()}
    return {key: ends for key, ends in intervals.items() if ends is not None}


def _per_label(values: Mapping[str, np.ndarray], whole: Mapping[str, np.ndarray]) -> dict[str, list[Ends | None]]:
    """Return the intervals of the values of each label. Both arguments: key → (R, L), and (1, L) for all images."""
    return {
        key: [centred(of_label, float(of_all)) for of_label, of_all in zip(of_key.T, whole[key][0], strict=True)]
        for key, of_key in values.items()
    }
