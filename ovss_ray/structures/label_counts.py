"""Numbers of true, predicted and correct pixels per label, for one image or summed over images."""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import pyarrow as pa

from ovss_ray.errors import OvssError
from ovss_ray.structures.class_sums import percent

FIELDS = ("truth", "prediction", "both")
SCHEMA = pa.struct([("label", pa.list_(pa.uint16())), *((name, pa.list_(pa.int64())) for name in FIELDS)])
"""Counts of one image: sorted label indices, and each label's number of pixels in truth, prediction and both."""
SUMS = pa.struct([(name, pa.list_(pa.int64())) for name in FIELDS])
"""Type of counts summed over images. Each field of LabelCounts is a list with one integer per label."""


class ClassPixels(Protocol):
    """Protocol of pixel counts of N labels, such as a sum of confusion matrices (see metrics/confusion.py)."""

    @property
    def truth_pixels(self) -> np.ndarray:
        """(N,) int64: pixels of each label in the truth."""

    @property
    def prediction_pixels(self) -> np.ndarray:
        """(N,) int64: evaluated pixels that were predicted as each label."""

    @property
    def hits(self) -> np.ndarray:
        """(N,) int64: correctly predicted pixels of each label."""


def counted(truth: np.ndarray, prediction: np.ndarray, both: np.ndarray, labels: int) -> dict[str, np.ndarray]:
    """Return the pixel counts of one image, a dict with the fields of SCHEMA.

    The first three arguments are 1-D integer arrays with a label per pixel to count: the true label in `truth`, the
    predicted label in `prediction`, the label of a correctly predicted pixel in `both`. The three lengths may differ.
    `labels` is the number of labels.
    """
    counts = [np.bincount(pixels, minlength=labels) for pixels in (truth, prediction, both)]
    present = np.flatnonzero(counts[0] + counts[1])
    return {"label": present.astype(np.uint16), **dict(zip(FIELDS, (of[present] for of in counts), strict=True))}


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """Counts of L labels, summed over a set of images. Each field is (L,) int64.

    Addition is exact, associative and commutative.
    """

    truth: np.ndarray
    """pixels of each label in the truth"""
    prediction: np.ndarray
    """pixels that were predicted as each label"""
    both: np.ndarray
    """correctly predicted pixels of each label"""

    @classmethod
    def of(cls, records: pa.StructArray | pa.ChunkedArray, labels: int) -> Self:
        """Return the sum over a column of records with the fields of SCHEMA. Nulls are skipped.

        Raises OvssError unless all label indices are below `labels`, the number of labels.
        """
        chunks = records.chunks if isinstance(records, pa.ChunkedArray) else [records]
        sums = np.zeros((len(FIELDS), labels), np.int64)
        for chunk in chunks:
            measured = chunk.drop_null()
            label, *pixels = (
                measured.field(name).flatten().to_numpy(zero_copy_only=False) for name in ("label", *FIELDS)
            )
            if label.max(initial=0) >= labels:
                raise OvssError(
                    f"the run's records have label indices up to {label.max()}, but the benchmark has {labels} labels, "
                    "counted from 0. Perhaps the records are from another version of the benchmark. Choose a new --out"
                )
            for total, of_field in zip(sums, pixels, strict=True):
                np.add.at(total, label, of_field)
        return cls(*sums)

    def __add__(self, other: Self) -> Self:
        return type(self)(self.truth + other.truth, self.prediction + other.prediction, self.both + other.both)

    @property
    def union(self) -> np.ndarray:
        """(L,) int64: pixels of each label in the truth or the prediction."""
        return self.truth + self.prediction - self.both

    def iou(self, where: np.ndarray) -> np.ndarray:
        """Return the IoU of each label, (L,) float64 percent; NaN where `where` (L,) is False, or `union` is 0."""
        return percent(self.both, self.union, where)


def mean(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN. If all values are NaN or there are no values, return NaN."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
