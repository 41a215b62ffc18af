"""Confusion matrix, mIoU and related metrics. Pixels are counted per image and summed over images.

For N labels, counts[t, p] is the number of pixels of label t that were predicted as p. Column N counts pixels without a
predicted label (NONE). Pixels whose truth is IGNORE are not counted. For a label c:

    tp = counts[c, c]      truth = Σ counts[c, :]      prediction = Σ counts[:, c]      union = truth + prediction − tp

Pixels without a predicted label are false negatives of their true label, as in mmsegmentation. detectron2's
SemSegEvaluator does not count these pixels (see `Partial.without_none`). All other conventions are those of
SemSegEvaluator since 2022-07. Values are percent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import numpy as np
import pyarrow as pa

from ovss_ray.errors import OvssError
from ovss_ray.metrics import _counting, _resampling
from ovss_ray.metrics._image_miou import image_mious
from ovss_ray.structures.class_sums import UNITS, percent
from ovss_ray.structures.columns import IGNORE, NONE
from ovss_ray.structures.question import Question

reads = ("truth", "prediction")
schema = pa.struct(
    [("truth", pa.list_(pa.uint16())), ("prediction", pa.list_(pa.uint16())), ("pixels", pa.list_(pa.int64()))]
)
title = "mIoU and related metrics, in percent"
order = 0
headings = {name: name for name in ("miou", "miou_classic", "fwiou", "macc", "pacc", "image_miou")}
live = {"miou": "mIoU"}
group_headings = {"miou": "mIoU"}
group_counts = {"in_truth": "classes"}
class_headings = {
    "iou": "IoU",
    "acc": "accuracy",
    "truth_pixels": "truth pixels",
    "prediction_pixels": "predicted pixels",
}
Resampled = _resampling.Resampled
sums = pa.struct([("counts", pa.list_(pa.list_(pa.int64()))), ("image_sum", pa.int64()), ("images", pa.int64())])
Cells = Mapping[str, np.ndarray]
"""Non-zero cells of a confusion matrix. For n cells: truth (n,) uint16, prediction (n,) uint16, pixels (n,) int64."""


class Counter:
    """Counter of an image's pixels per pair of true and predicted label.

    Several threads may call one Counter. While the Counter counts the pixels of an image, the other threads wait.
    """

    def __init__(self, labels: int) -> None:
        self.labels = labels
        self._lock = Lock()
        self._table, self._touched = _counting.tables(labels)
        self._extremes, self._count, self._distinct, self._collect = _counting.compiled()

    def __call__(self, truth: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """Return the Cells of one image, sorted by truth, then by prediction with NONE last.

        `truth` (H, W) has label indices or IGNORE. `prediction` (H, W) has label indices or NONE. Both are integers.
        Raises OvssError for different sizes, a value out of range, or 2^31 pixels and more.
        """
        if truth.shape != prediction.shape:
            raise OvssError(
                f"the prediction has {_by(prediction)} pixels and the truth {_by(truth)}; both must have the same size"
            )
        if truth.size >= 2**31:
            raise OvssError(f"{_by(truth)} pixels are too many: the limit is 2^31 - 1. Cut the image into tiles")
        flat = truth.reshape(-1), prediction.reshape(-1)
        extremes = self._extremes(*flat)
        if min(extremes) < 0 or max(extremes) >= self.labels:
            raise OvssError(_out_of_range(truth, prediction, self.labels))
        with self._lock:  # all images share one table, and the compiled functions release the GIL
            self._count(*flat, self._table, self._touched)
            n = self._distinct(self._table, self._touched)
            cells = [np.empty(n + 1, kind) for kind in (np.uint16, np.uint16, np.int64)]
            self._collect(self._table, self._touched, *cells)
        return {name: values[:n] for name, values in zip(schema.names, cells, strict=True)}


_counter = lru_cache(maxsize=8)(Counter)


def measure(question: Question, truth: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
    """Return the Cells of one image.

    `truth` (H, W) has label indices or IGNORE. `prediction` (H, W) has class indices or NONE. `question` has the label
    of each class. Raises OvssError if the sizes differ or a value is out of range.
    """
    return _counter(len(question.labels))(truth, question.labelled(prediction))


def _by(values: np.ndarray) -> str:
    return " × ".join(map(str, values.shape))


def _out_of_range(truth: np.ndarray, prediction: np.ndarray, labels: int) -> str:
    what, other, wrong = "truth", "IGNORE", _wrong(truth, labels, IGNORE)
    if not len(wrong):
        what, other, wrong = "prediction", "NONE", _wrong(prediction, labels, NONE)
    return (
        f"{len(wrong)} pixels of the {what} have values such as {wrong[0]}; allowed are 0 to {labels - 1} and {other}"
    )


def _wrong(values: np.ndarray, labels: int, allowed: int) -> np.ndarray:
    return values[((values < 0) | (values >= labels)) & (values != allowed)]


@dataclass(frozen=True, eq=False)
class Partial:
    """Confusion matrices and mIoUs of images, summed over images. Addition is exact, associative and commutative."""

    counts: np.ndarray
    """(N, N + 1) int64: counts[truth, prediction], NONE in the last column"""
    image_sum: int = 0
    """sum of the images' mIoU, in units of 1 / 2³² percent"""
    images: int = 0
    """number of images with a counted pixel"""

    @classmethod
    def of(cls, records: pa.StructArray | pa.ChunkedArray, labels: int) -> "Partial":
        """Return the sum over the column `confusion` of records. Nulls are skipped.

        Raises OvssError unless all label indices are below `labels`, the number of labels.
        """
        chunks = records.chunks if isinstance(records, pa.ChunkedArray) else [records]
        return sum((cls._of_chunk(chunk.drop_null(), labels) for chunk in chunks), cls.zero(labels))

    @classmethod
    def zero(cls, labels: int) -> "Partial":
        """Return the sum over an empty set of images."""
        return cls(np.zeros((labels, labels + 1), np.int64))

    @classmethod
    def _of_chunk(cls, records: pa.StructArray, labels: int) -> "Partial":
        images, cells = flat_cells(records)
        named = cells["prediction"] != NONE
        if (largest := max(of.max(initial=0) for of in (cells["prediction"][named], cells["truth"]))) >= labels:
            raise OvssError(
                f"the run's records have label indices up to {largest}, but the benchmark has {labels} labels, "
                "counted from 0. Perhaps the records are from another version of the benchmark. Choose a new --out"
            )
        counts = np.zeros((labels, labels + 1), np.int64)
        np.add.at(counts, (cells["truth"], np.where(named, cells["prediction"], labels)), cells["pixels"])
        means = image_mious(images, cells, len(records))
        means = means[np.isfinite(means)]
        return cls(counts, int(np.rint(means * UNITS).astype(np.int64).sum()), len(means))

    def __add__(self, other: "Partial") -> "Partial":
        if self.counts.shape != other.counts.shape:
            raise OvssError(
                f"counts of {len(self.counts)} labels cannot be added to counts of {len(other.counts)} labels. Add "
                "only counts of one benchmark"
            )
        return Partial(self.counts + other.counts, self.image_sum + other.image_sum, self.images + other.images)

    def without_none(self) -> "Partial":
        """Return the sum without the pixels that were predicted as NONE, as in detectron2's SemSegEvaluator.

        The pixels are removed from `counts` only. The pixels remain in `image_sum`, so `image_miou` does not change.
        """
        return Partial(self.counts * (np.arange(self.counts.shape[1]) < len(self.counts)), self.image_sum, self.images)

    @property
    def truth_pixels(self) -> np.ndarray:
        """(N,) int64: number of pixels of each label in the truth."""
        return self.counts.sum(axis=1)

    @property
    def prediction_pixels(self) -> np.ndarray:
        """(N,) int64: counted pixels that were predicted as each label."""
        return self.counts[:, :-1].sum(axis=0)

    @property
    def hits(self) -> np.ndarray:
        """(N,) int64: correctly predicted pixels of each label."""
        return np.diagonal(self.counts)

    @property
    def iou(self) -> np.ndarray:
        """(N,) float64 percent: tp / union of each label; NaN for labels without pixels in the truth."""
        return percent(self.hits, self.truth_pixels + self.prediction_pixels - self.hits, self.truth_pixels > 0)

    @property
    def acc(self) -> np.ndarray:
        """(N,) float64 percent: recall (tp / truth) of each label; NaN for labels without pixels in the truth."""
        return percent(self.hits, self.truth_pixels, self.truth_pixels > 0)

    def pooled_iou(self, labels: Sequence[int]) -> float:
        """Return Σ tp / Σ union over `labels`, in percent; NaN if no label in `labels` has pixels in the truth."""
        subset = list(labels)
        hits, truth, called = (int(of[subset].sum()) for of in (self.hits, self.truth_pixels, self.prediction_pixels))
        return 100.0 * hits / (truth + called - hits) if truth else float("nan")

    @property
    def miou(self) -> float:
        """Mean of `iou` over the labels in the truth, like detectron2 since 2022-07; NaN if the truth has no labels."""
        return _mean(self.iou[self.truth_pixels > 0])

    @property
    def miou_classic(self) -> float:
        """Mean of `iou` over the labels in the truth or the predictions; NaN if neither has a label.

        A label only in predictions has IoU 0, as in detectron2 up to 0.6, mmsegmentation and torchmetrics.
        """
        return _mean(np.nan_to_num(self.iou)[self.truth_pixels + self.prediction_pixels > 0])

    @property
    def fwiou(self) -> float:
        """Mean of `iou` weighted by the pixels in the truth. If no pixel is counted, the mean is 0, as in detectron2.

        The method `result` replaces this 0 by NaN.
        """
        total = int(self.truth_pixels.sum())
        return float((np.nan_to_num(self.iou) * self.truth_pixels).sum() / max(total, 1))

    @property
    def macc(self) -> float:
        """Mean of `acc` over the labels in the truth; NaN if the truth has no labels."""
        return _mean(self.acc[self.truth_pixels > 0])

    @property
    def pacc(self) -> float:
        """Percentage of the counted pixels that were predicted correctly; NaN if no pixel is counted."""
        total = int(self.truth_pixels.sum())
        return 100.0 * int(self.hits.sum()) / total if total else float("nan")

    @property
    def image_miou(self) -> float:
        """Mean of the images' mIoU over all images with a counted pixel; NaN if there are no such images."""
        return self.image_sum / UNITS / self.images if self.images else float("nan")

    def result(self) -> dict[str, float]:
        """Return all means by name, in percent. If no pixel is counted, every mean is NaN, also `fwiou`."""
        values = {name: float(getattr(self, name)) for name in headings}
        return values if self.truth_pixels.any() else dict.fromkeys(values, float("nan"))

    def per_label(self) -> dict[str, np.ndarray]:
        """Return four arrays by name, (N,) each, with one value for each of N labels.

        `iou` and `acc` (accuracy) are float64 percent. `truth_pixels` and `prediction_pixels` are int64 numbers.
        """
        return {name: getattr(self, name) for name in class_headings}

    def of_group(self, labels: Sequence[int]) -> dict[str, float]:
        """Return three values of a group of labels by name.

        - `in_truth`: number of the group's labels that are in the truth
        - `miou`: mean IoU over the group's labels that are in the truth, in percent
        - `pooled_iou`: Σ tp / Σ union over all labels of the group, in percent

        False positives include pixels whose true label is outside the group. If no label of the group is in the truth,
        `miou` and `pooled_iou` are NaN.
        """
        subset = list(labels)
        iou = self.iou[subset][self.truth_pixels[subset] > 0]
        return {"in_truth": len(iou), "miou": _mean(iou), "pooled_iou": self.pooled_iou(subset)}


def per_image(records: pa.StructArray) -> dict[str, np.ndarray]:
    """Return the images' mIoU under the key "miou", (n,) float64 percent.

    `records` has n records, each for one image. If a record is null or has no counted pixel, the image's mIoU is NaN.
    """
    measured = np.flatnonzero(records.is_valid())
    values = np.full(len(records), np.nan)
    images, cells = flat_cells(records.take(pa.array(measured)))
    # rounded to the units of Partial.image_sum
    values[measured] = np.rint(image_mious(images, cells, len(measured)) * UNITS) / UNITS
    return {"miou": values}


def image_miou(cells: Cells) -> float:
    """Return the mIoU of one image in percent, over the labels in its truth; NaN if no pixel is counted."""
    return float(image_mious(np.zeros(len(cells["pixels"]), np.int64), cells, 1)[0])


def flat_cells(records: pa.StructArray) -> tuple[np.ndarray, Cells]:
    """Return two values: the index of each cell's record, (n,) int64, and the n cells of all records.

    A cell is a non-zero entry of a confusion matrix. A record has the cells of one image.
    """
    lengths = records.field("pixels").value_lengths().to_numpy(zero_copy_only=False)
    cells = {name: records.field(name).flatten().to_numpy(zero_copy_only=False) for name in schema.names}
    return np.repeat(np.arange(len(records)), lengths), cells


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
