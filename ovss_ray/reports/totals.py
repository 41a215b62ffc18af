"""Results of one pass over a benchmark's records: sums of metrics and seconds, errors, and values of each image."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray import metrics
from ovss_ray.errors import OvssError
from ovss_ray.runs import compact, records, relations
from ovss_ray.runs import manifest as manifests
from ovss_ray.runs.complete import predicts
from ovss_ray.runs.folder import RunFolder
from ovss_ray.runs.records import Settled

_UNIT = 2**64
"""Times are summed as integers, in units of 1 / _UNIT seconds. So the order of the records has no influence."""

TRUTH_DIGEST = "truth_digest"
"""Column of records with the digest of the label file."""

_BITS = 24
"""Number of bits of a float32's significand."""

COMPACT = "`ovss report --compact` has replaced the records of single images by sums"
"""Reason why a run has no values of single images after `ovss report --compact`"""
CELLS_UP_TO = 100_000
"""Maximum number of images for which `read` returns a benchmark's confusion cells, which take 1.5 kB per image."""


@dataclass(frozen=True)
class Total:
    """Sum over the records of a set of images. Addition is exact, associative and commutative."""

    scored: int = 0
    """number of images that were scored without an error"""
    errors: tuple[tuple[str, str], ...] = ()
    """image_id and error of each failed image, sorted"""
    spent: Mapping[str, int] = field(default_factory=dict)
    """stage → time for all scored images, in units of 1 / 2⁶⁴ s"""
    partials: Mapping[str, Any] = field(default_factory=dict)
    """metric → sum of the metric's measurements, an object of the class Metric.Partial"""
    measured: Mapping[str, int] = field(default_factory=dict)
    """metric → number of images with a measurement"""
    images: tuple[pa.Table, ...] = ()
    """tables with a row per image: image_id, the image's value of each metric, error

    The tuple is empty if the argument `images` of `Total.of` was False.
    """
    cells: tuple[pa.Table, ...] = ()
    """tables with a row per scored image: image_id, confusion, and truth_digest if recorded

    The tuple is empty if the argument `cells` of `Total.of` was False.
    """
    compact: int = 0
    """number of images whose records were replaced by sums (see runs/compact.py)"""

    @classmethod
    def of(cls, part: pa.Table, labels: int, images: bool = False, cells: bool = False) -> "Total":
        """Return the sum over the images in `part`. `labels` is the number of labels.

        `part` is a table of records, or the content of a compact file. If `images` is True, the result has the values
        of each image. If `cells` is True, the result has the confusion cells of each scored image. If `part` is the
        content of a compact file, `images` and `cells` have no effect.
        """
        if compact.is_compact(part):
            return sum((cls._of_sums(**row) for row in compact.sums(part, labels)), cls())
        good = pc.equal(part["error"], "")
        failed = part.select(["image_id", "error"]).filter(pc.invert(good)).to_pylist()
        columns = {name: part[name] for name in metrics.columns(part.column_names)}
        measured = Counter({name: len(values) - values.null_count for name, values in columns.items()})
        return cls(
            scored=len(part) - len(failed),
            errors=tuple(sorted((row["image_id"], row["error"]) for row in failed)),
            spent=_spent(part["seconds"].filter(good)),
            partials={name: metrics.load(name).partial(columns[name], labels) for name in +measured},
            measured=+measured,
            images=(_images(part, columns),) if images else (),
            cells=(_cells(part).filter(good),) if cells and metrics.MAIN in columns else (),
        )

    @classmethod
    def _of_sums(
        cls, images: int, spent: Mapping[str, int], measured: Mapping[str, int], partials: Mapping[str, Any]
    ) -> "Total":
        return cls(scored=images, spent=spent, partials=partials, measured=measured, compact=images)

    @classmethod
    def empty(cls, labels: int, names: Sequence[str]) -> "Total":
        """Return the Total of zero images, with an empty Partial of each metric in `names`."""
        named = map(metrics.load, names)
        return cls(partials={metric.name: metric.partial(pa.array([], metric.schema), labels) for metric in named})

    def __add__(self, other: "Total") -> "Total":
        both = self.partials.keys() & other.partials.keys()
        return Total(
            scored=self.scored + other.scored,
            errors=tuple(sorted((*self.errors, *other.errors))),
            spent=_added(self.spent, other.spent),
            partials={**self.partials, **other.partials, **{k: self.partials[k] + other.partials[k] for k in both}},
            measured=_added(self.measured, other.measured),
            images=(*self.images, *other.images),
            cells=(*self.cells, *other.cells),
            compact=self.compact + other.compact,
        )

    @property
    def seconds(self) -> dict[str, float]:
        """Stage → mean wall seconds per scored image."""
        return {stage: spent / _UNIT / self.scored for stage, spent in self.spent.items()}


def _spent(column: pa.ChunkedArray) -> dict[str, int]:
    """Return stage → sum of the stage's times, in units of 1 / 2⁶⁴ s.

    The values of `column` are maps from stages to seconds (float32).
    """
    sums: Counter[str] = Counter()
    for chunk in column.chunks:
        maps = chunk.drop_null()
        first, last = (maps.offsets[i].as_py() for i in (0, -1))
        stages = maps.keys[first:last].dictionary_encode()
        # a float32 is a 24-bit integer times a power of two: for each power, the int64 sum of the integers is exact
        fraction, exponent = np.frexp(maps.items[first:last].to_numpy(zero_copy_only=False))
        whole, shift = np.ldexp(fraction, _BITS).astype(np.int64), exponent + 64 - _BITS
        for place, stage in enumerate(stages.dictionary.to_pylist()):
            of_stage = stages.indices.to_numpy() == place
            for power in np.unique(shift[of_stage]).tolist():
                values = whole[of_stage & (shift == power)]
                sums[stage] += int(values.sum()) << power if power >= 0 else int((values >> -power).sum())
    return dict(sums)


def _added(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}


def _images(part: pa.Table, columns: Mapping[str, pa.ChunkedArray]) -> pa.Table:
    """Return a table with a row per image: image_id, the metrics' values (float64), error. A missing value is NaN."""
    table = part.select(["image_id"])
    for name, values in columns.items():
        if (per_image := metrics.load(name).per_image) and values.null_count < len(values):
            for key, numbers in per_image(values.combine_chunks()).items():
                table = table.append_column(key, pa.array(numbers, pa.float64()))
    return table.append_column("error", part["error"])


def _cells(part: pa.Table) -> pa.Table:
    """Return the columns image_id, confusion cells and digests of label files, as far as `part` has them."""
    return part.select([name for name in ("image_id", metrics.MAIN, TRUTH_DIGEST) if name in part.column_names])


Fold = Callable[[str, pa.Table, Callable[[pa.Table], Total]], tuple[Settled, Total | None]]
"""Function (folder, manifest, of) → (Settled, Total or None), such as records.fold.

`folder` is the path of the records. `of` returns the Total of one table of records. The object of type Settled has
the valid records, at most one per image (see records.settle). The Total in the result is the sum over the valid
records. The result has None in place of a Total if no record is valid.
"""


@dataclass(frozen=True)
class Reading:
    """Content of a run's folder for one benchmark, read in one pass."""

    card: Mapping[str, Any]
    """labels, groups and selection (see RunPlan.card)"""
    listed: pa.Table
    """the manifest: a table with a row per image"""
    settled: Settled
    total: Total
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """inputs of derived metrics (see Derived.needs): "relations" → Relations, "fold" → number of measured episodes"""
    requested: tuple[str, ...] = ()
    """names of derived metrics from the option --metrics (see metrics.requested)"""

    def results(self) -> list[tuple[metrics.Table, Any]]:
        """Return pairs (measured metric, Partial) and (derived metric, Result), sorted by `place` of the metric.

        A derived metric is included if `inputs` has its input, or if `requested` has its name.
        """
        sums = self.total.partials
        results: list[tuple[metrics.Table, Any]] = [(metrics.load(name), partial) for name, partial in sums.items()]
        for metric in metrics.derived():
            if metric.derives not in sums:
                continue
            if metric.needs in self.inputs:
                results.append((metric, metric.Result(sums[metric.derives], self.inputs[metric.needs])))
            elif metric.name in self.requested:
                results.append((metric, metric.Result(sums[metric.derives])))
        return sorted(results, key=lambda result: result[0].place)

    def images(self) -> list[dict[str, Any]]:
        """Return a row per image, lowest mIoU first: image_id, metrics in percent (None if not measured), error.

        Images without an mIoU come before all others. If the run has no mIoU, `instance_iou` sets the order. The list
        is empty if `read` was called without `images`.
        """
        rows = pa.concat_tables(self.total.images, promote_options="default").to_pylist() if self.total.images else []
        for row in rows:
            row |= {key: None for key, value in row.items() if isinstance(value, float) and np.isnan(value)}
        main = "miou" if any("miou" in row for row in rows) else "instance_iou"
        return sorted(rows, key=lambda row: (-1.0 if row.get(main) is None else row[main], row["image_id"]))


def read(folder: RunFolder, fold: Fold = records.fold, images: bool = False, cells: bool = False) -> dict[str, Reading]:
    """Return benchmark → Reading. Raises OvssError if the folder is incomplete or damaged.

    If `images` is True, each Reading has the values of single images. If `cells` is True, each Reading has confusion
    cells, the nonzero cells of the confusion matrices of single images. A benchmark with more than CELLS_UP_TO images
    has no confusion cells. After `ovss report --compact`, a benchmark has no values and no confusion cells of single
    images.
    """
    config = folder.config()
    main = (metrics.MAIN,) if predicts(config) else ()
    measured = (*main, *config.metrics)
    return {name: _read(folder, name, measured, fold, images, cells) for name in config.benchmarks}


def _read(folder: RunFolder, name: str, measured: Sequence[str], fold: Fold, images: bool, cells: bool) -> Reading:
    card = folder.facts(name)
    listed, labels = manifests.load(folder.manifest(name)), len(card["labels"])
    keep = cells and len(listed) <= CELLS_UP_TO
    settled, total = fold(folder.records(name), listed, partial(Total.of, labels=labels, images=images, cells=keep))
    empty = Total.empty(labels, measured)
    summed = empty if total is None else empty + total
    if summed.compact:  # the values of the other images alone would be those of another set of images
        summed = replace(summed, images=(), cells=())
    related = relations.load(folder, name, labels)
    inputs: dict[str, Any] = {} if related is None else {"relations": related}
    if _of_a_fold(card.get("groups", {}), labels):
        inputs[metrics.FOLD] = summed.measured.get(metrics.MAIN, 0)
    return Reading(card, listed, settled, summed, inputs)


def _of_a_fold(groups: Mapping[str, Sequence[int]], labels: int) -> bool:
    """Return whether the groups are those of a few-shot fold.

    In a few-shot fold, the group "background" has the last label, and the group "foreground" has all other labels.
    """
    of_fold = {"foreground": list(range(labels - 1)), "background": [labels - 1]}
    return all(list(groups.get(name, ())) == indices for name, indices in of_fold.items())


def check_images(readings: Mapping[str, Reading], option: str) -> None:
    """Raise OvssError if `ovss report --compact` has replaced records of single images by their sums.

    `option` is the command-line option that needs these records, such as "--images". The error names it.
    """
    for name, reading in readings.items():
        if reading.total.compact:
            raise OvssError(
                f"{option} is not possible: {name}: {COMPACT}. Omit {option}, or evaluate again in a new --out"
            )
