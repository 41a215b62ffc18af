"""Provisional values of a run, from the records written so far, with a confidence interval of the mIoU.

The interval is the mIoU ± two standard errors of a jackknife that leaves out groups of photographs. Source: Busing,
Meijer and van der Leeden (1999), "Delete-m jackknife for unequal m", Statistics and Computing 9, p. 3–8.

The interval is valid only if the remaining images resemble the scored images. A run scores the images of a benchmark
in the order of width / height. So the remaining images may differ from the scored images.
"""

import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray import metrics
from ovss_ray.io import files
from ovss_ray.metrics import confusion
from ovss_ray.runs import compact, records
from ovss_ray.runs.plan import RunPlan
from ovss_ray.structures.class_sums import ClassSums
from ovss_ray.structures.columns import NONE

GROUPS = 64
"""Number of groups of photographs."""
FEWEST = 10
"""Minimum number of groups for a confidence interval. Groups without a measured image are not counted."""
ERRORS = 2.0
"""Number of standard errors from the metric's value to each end of the interval. Two give about 95 % confidence."""
MANY = 2.0**60  # the factor √(m / (m − 1)) of `widened` is then rounded to 1
"""Number of photographs that `_sums` passes to ClassSums, instead of the actual number.

The function `class_sums.widened` corrects a bias of the bootstrap by a factor, which depends on the number of
photographs. The jackknife does not have this bias. With MANY photographs, the factor is 1."""


@dataclass(frozen=True)
class Value:
    """Provisional value of a metric on a benchmark, in percent."""

    benchmark: str
    key: str
    """key of the metric's result, such as "miou" """
    words: str
    """name in the progress display, such as "mIoU" """
    percent: float
    """value of the metric; NaN if it is not measured yet"""
    half: float | None = None
    """half of the width of the interval, in points; None: no interval"""


@dataclass(frozen=True, eq=False)
class GroupSums:
    """Pixel counts and image counts of G groups of photographs. Addition is exact, associative and commutative."""

    cells: np.ndarray
    """(G, 3, L) int64: number of pixels of each label in each group.

    Axis 1: correct pixels, pixels in the ground truth, pixels in the prediction."""
    images: np.ndarray
    """(G,) int64: number of measured images in each group"""

    @classmethod
    def of(cls, part: pa.Table, labels: int) -> "GroupSums":
        """Return the pixel counts and image counts of a table of records.

        `labels` is L, the number of labels. Records without a value in the column `confusion` are skipped. All records
        of the same photograph are in the same group.
        """
        part = part.filter(part[metrics.MAIN].is_valid()).combine_chunks()
        names = part["image_id"].to_pylist()
        digests = part["image_digest"].to_pylist() if "image_digest" in part.column_names else names
        keys = [digest or name for digest, name in zip(digests, names, strict=True)]
        group = np.array([zlib.crc32(key.encode()) % GROUPS for key in keys], np.int64)
        sums = np.zeros((GROUPS, 3, labels), np.int64)
        for chunk in part[metrics.MAIN].chunks:  # one, if any
            image, cells = confusion.flat_cells(chunk)
            truth, prediction, pixels = (cells[name].astype(np.int64) for name in confusion.schema.names)
            hit, called = truth == prediction, prediction != NONE
            for row, kept, label in ((0, hit, truth), (1, slice(None), truth), (2, called, prediction)):
                np.add.at(sums[:, row], (group[image][kept], label[kept]), pixels[kept])
        return cls(sums, np.bincount(group, minlength=GROUPS))

    def __add__(self, other: "GroupSums") -> "GroupSums":
        return GroupSums(self.cells + other.cells, self.images + other.images)

    def half_interval(self, key: str) -> float | None:
        """Return half the width of a metric's confidence interval, in percentage points; None if there is no interval.

        `key`: key of the metric's result, such as "miou". There is no interval if fewer than FEWEST groups have a
        measured image, or if the standard error is NaN.
        """
        used = self.images > 0
        n, groups = int(self.images.sum()), int(used.sum())
        if groups < FEWEST:
            return None
        whole = self.cells.sum(axis=0)[None]
        left = confusion.Resampled(_sums(whole - self.cells[used]), _sums(whole)).result()[key]
        value = confusion.Resampled(_sums(whole), _sums(whole)).result()[key][0]
        ratio = n / self.images[used]
        pseudo = ratio * value - (ratio - 1) * left
        mean = groups * value - float(((1 - 1 / ratio) * left).sum())
        error = float(np.sqrt(np.mean((pseudo - mean) ** 2 / (ratio - 1))))
        return None if np.isnan(error) else ERRORS * error


def _sums(cells: np.ndarray) -> ClassSums:
    """Return the ClassSums of R resamples of the jackknife.

    `cells`: (R, 3, L) int64, pixel counts per resample and label (see GroupSums.cells).
    """
    # `none`: the mIoU per image is not used. MANY: the jackknife does not have the bias that `widened` corrects.
    none = np.zeros(len(cells), np.int64)
    return ClassSums(cells[:, 0], cells[:, 1], cells[:, 2], none, none, np.full(cells.shape[2], MANY), int(MANY))


class Running:
    """Sums over the records of a run that have been written so far.

    One thread may read the sums while another thread adds records to the sums.
    """

    def __init__(self) -> None:
        self.labels: dict[str, int] = {}
        self.seconds: Counter[str] = Counter()
        """stage → wall seconds for the images of this command"""
        self.partials: dict[tuple[str, str], Any] = {}
        self.groups: dict[str, GroupSums] = {}
        self.compact: set[str] = set()
        """names of the benchmarks with compact files (see runs/compact.py)

        A compact file has no sums per group of photographs. So no interval is computed for these benchmarks."""
        self._changes = 0
        self._known: tuple[int, list[Value]] = (-1, [])

    def begin(self, plan: RunPlan) -> None:
        """Reset the sums, and add the records of earlier commands."""
        self.folder = plan.folder
        self.labels = {name: len(benchmark.labels) for name, benchmark in plan.benchmarks.items()}
        self.seconds, self.partials, self.groups, self.compact = Counter(), {}, {}, set()
        self._changes += 1
        for name, table in plan.manifests.items():
            for part in records.read(self.folder.records(name), table):
                if compact.is_compact(part):
                    self._count_sums(name, part)
                else:
                    self.count(name, part.filter(pc.equal(part["error"], "")))

    def add(self, receipt: Mapping[str, Any]) -> None:
        """Add the records of a newly written file, which `receipt` describes."""
        name = receipt["benchmark"]
        part = records.read_part(files.join(self.folder.records(name), receipt["part"]))
        for spent in part["seconds"].to_pylist():
            self.seconds.update(dict(spent))
        self.count(name, part)

    def count(self, name: str, part: pa.Table) -> None:
        """Add records of the benchmark `name` to the sums."""
        for metric in map(metrics.load, metrics.columns(part.column_names)):
            if metric.live and part[metric.name].null_count < len(part):
                self._add(name, metric.name, metric.partial(part[metric.name], self.labels[name]))
                if metric.name == metrics.MAIN:
                    sums = GroupSums.of(part, self.labels[name])
                    self.groups[name] = self.groups[name] + sums if name in self.groups else sums
        self._changes += 1

    def _count_sums(self, name: str, part: pa.Table) -> None:
        """Add the sums in a compact file to the current sums. `name`: benchmark. `part`: content of the file."""
        self.compact.add(name)
        for row in compact.sums(part, self.labels[name]):
            for metric, partial in row["partials"].items():
                if metrics.load(metric).live:
                    self._add(name, metric, partial)

    def _add(self, name: str, metric: str, partial: Any) -> None:
        key = metric, name
        self.partials[key] = self.partials[key] + partial if key in self.partials else partial

    def values(self) -> list[Value]:
        """Return the current values of the metrics that are shown during a run, for each benchmark."""
        changes, (known, values) = self._changes, self._known
        if changes != known:
            values = [value for (metric, name) in list(self.partials) for value in self._values(metric, name)]
            self._known = changes, values
        return values

    def _values(self, metric: str, name: str) -> list[Value]:
        result, live = self.partials[metric, name].result(), metrics.load(metric).live
        groups = self.groups.get(name) if metric == metrics.MAIN and name not in self.compact else None
        return [
            Value(name, key, words, float(result.get(key, np.nan)), groups.half_interval(key) if groups else None)
            for key, words in live.items()
        ]
