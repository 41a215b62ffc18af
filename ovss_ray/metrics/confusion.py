"""The confusion matrix: counted per image, added over images, and read off as mIoU and its relatives.

For N labels, counts[t, p] is how many pixels of label t were called p; column N is for pixels that were called nothing
(NONE). Pixels whose truth is IGNORE are in no cell. Over all images, in pixels:

    tp = counts[c, c]      truth = Σ counts[c, :]      prediction = Σ counts[:, c]      union = truth + prediction − tp

The conventions are those of detectron2's SemSegEvaluator (since 2022-07), save that it leaves pixels of NONE out of
`truth`, and here they are misses of their label, as in mmsegmentation (see `Partial.without_none`). Values are percent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ovss_ray import counting
from ovss_ray.columns import IGNORE, NONE
from ovss_ray.errors import OvssError

reads = ("truth", "prediction")
schema = pa.struct(
    [("truth", pa.list_(pa.uint16())), ("prediction", pa.list_(pa.uint16())), ("pixels", pa.list_(pa.int64()))]
)
Cells = Mapping[str, np.ndarray]
"""truth (n,) uint16, prediction (n,) uint16, pixels (n,) int64: the cells of one image that are not zero."""

_FIXED = 2**32
"""Per-image mIoU is added as whole multiples of 1 / 2³² percent: unlike float64, their sum has no order."""


class Counter:
    """Counts one image after the other into a table that is kept between them.

    One Counter serves one thread at a time; the counting itself gives up the interpreter's lock.
    """

    def __init__(self, labels: int) -> None:
        self.labels = labels
        self._table, self._touched = counting.tables(labels)
        self._extremes, self._count, self._distinct, self._collect = counting.compiled()

    def __call__(self, truth: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """Count one image: (H, W) label indices or IGNORE, and (H, W) label indices or NONE, of any integer dtypes.

        Returns Cells, sorted by truth, then prediction, NONE last. Raises OvssError if the sizes differ, or naming
        the first value that is out of range; nothing is counted then.
        """
        if truth.shape != prediction.shape:
            raise OvssError(f"the prediction is {_by(prediction)} and the truth {_by(truth)}; they must have one size")
        if truth.size >= 2**31:
            raise OvssError(f"{_by(truth)} pixels are more than can be counted in one image. Cut it into tiles")
        flat = truth.reshape(-1), prediction.reshape(-1)
        extremes = self._extremes(*flat)
        if min(extremes) < 0 or max(extremes) >= self.labels:
            raise OvssError(_out_of_range(truth, prediction, self.labels))
        self._count(*flat, self._table, self._touched)
        n = self._distinct(self._table, self._touched)
        cells = [np.empty(n + 1, kind) for kind in (np.uint16, np.uint16, np.int64)]
        self._collect(self._table, self._touched, *cells)
        return {name: values[:n] for name, values in zip(schema.names, cells, strict=True)}


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
    """What is known of a set of images; adding two of them is exact, associative and commutative."""

    counts: np.ndarray
    """(N, N + 1) int64: counts[truth, prediction], NONE in the last column"""
    image_sum: int = 0
    """the sum of image_miou over the images, in units of 1 / 2³² percent"""
    images: int = 0
    """how many images had a pixel that counts"""

    @classmethod
    def of(cls, records: pa.StructArray | pa.ChunkedArray, labels: int) -> "Partial":
        """Add up the column `confusion` of records; rows without a value, of failed images, are passed by.

        Raises OvssError if a cell does not belong to that many labels.
        """
        chunks = records.chunks if isinstance(records, pa.ChunkedArray) else [records]
        return sum((cls._of_chunk(chunk.drop_null(), labels) for chunk in chunks), cls.zero(labels))

    @classmethod
    def zero(cls, labels: int) -> "Partial":
        """Nothing yet: what is added to it stays as it is."""
        return cls(np.zeros((labels, labels + 1), np.int64))

    @classmethod
    def _of_chunk(cls, records: pa.StructArray, labels: int) -> "Partial":
        images, cells = _flat(records)
        columns = np.where(cells["prediction"] == NONE, labels, cells["prediction"])
        if columns.max(initial=0) > labels or cells["truth"].max(initial=0) >= labels:
            raise OvssError(
                f"these records name labels up to {max(columns.max(), cells['truth'].max())}, and the benchmark has "
                f"{labels}. Were they made with another version of it? Then use a new --out"
            )
        counts = np.zeros((labels, labels + 1), np.int64)
        np.add.at(counts, (cells["truth"], columns), cells["pixels"])
        means = _image_mious(images, cells, len(records))
        means = means[np.isfinite(means)]
        return cls(counts, int(np.rint(means * _FIXED).astype(np.int64).sum()), len(means))

    def __add__(self, other: "Partial") -> "Partial":
        if self.counts.shape != other.counts.shape:
            raise OvssError(f"counts of {len(self.counts)} labels cannot be added to counts of {len(other.counts)}")
        return Partial(self.counts + other.counts, self.image_sum + other.image_sum, self.images + other.images)

    def without_none(self) -> "Partial":
        """Leave out pixels that were called nothing, as detectron2 does; the per-image mean stays as it is."""
        return Partial(self.counts * (np.arange(self.counts.shape[1]) < len(self.counts)), self.image_sum, self.images)

    @property
    def truth_pixels(self) -> np.ndarray:
        """(N,) int64: pixels of each label."""
        return self.counts.sum(axis=1)

    @property
    def prediction_pixels(self) -> np.ndarray:
        """(N,) int64: counted pixels that were called each label."""
        return self.counts[:, :-1].sum(axis=0)

    @property
    def hits(self) -> np.ndarray:
        """(N,) int64: pixels of each label that were called so."""
        return np.diagonal(self.counts)

    @property
    def iou(self) -> np.ndarray:
        """(N,) float64 percent: tp / union of each label; NaN for labels without pixels in the truth."""
        return _percent(self.hits, self.truth_pixels + self.prediction_pixels - self.hits, self.truth_pixels > 0)

    @property
    def acc(self) -> np.ndarray:
        """(N,) float64 percent: tp / truth of each label, its recall; NaN for labels without pixels in the truth."""
        return _percent(self.hits, self.truth_pixels, self.truth_pixels > 0)

    def pooled_iou(self, labels: Sequence[int]) -> float:
        """Σ tp / Σ union of some labels in percent; NaN if none of them has pixels in the truth.

        Where each image is asked for one class, FB-IoU (HSNet's common/logger.py) is the mean of that of all classes
        and of background's IoU.
        """
        chosen = list(labels)
        hits, truth, called = (int(of[chosen].sum()) for of in (self.hits, self.truth_pixels, self.prediction_pixels))
        return 100.0 * hits / (truth + called - hits) if truth else float("nan")

    @property
    def miou(self) -> float:
        """Mean of `iou` over the labels in the truth; NaN if there are none. detectron2 since 2022-07."""
        return _mean(self.iou[self.truth_pixels > 0])

    @property
    def miou_classic(self) -> float:
        """Mean of `iou` over the labels in truth or predictions, 0 for those in the latter only.

        detectron2 up to 0.6, mmsegmentation, torchmetrics. NaN if there are no labels.
        """
        return _mean(np.nan_to_num(self.iou)[self.truth_pixels + self.prediction_pixels > 0])

    @property
    def fwiou(self) -> float:
        """Mean of `iou` weighted by the pixels in the truth; 0 if there are none, as detectron2 has it."""
        total = int(self.truth_pixels.sum())
        return float((np.nan_to_num(self.iou) * self.truth_pixels).sum() / max(total, 1))

    @property
    def macc(self) -> float:
        """Mean of `acc` over the labels in the truth; NaN if there are none."""
        return _mean(self.acc[self.truth_pixels > 0])

    @property
    def pacc(self) -> float:
        """Share of the counted pixels that were called rightly; NaN if there are none."""
        total = int(self.truth_pixels.sum())
        return 100.0 * int(self.hits.sum()) / total if total else float("nan")

    @property
    def image_miou(self) -> float:
        """Mean of `image_miou` over the images that had a pixel that counts; NaN if there are none."""
        return self.image_sum / _FIXED / self.images if self.images else float("nan")

    def result(self) -> dict[str, float]:
        """All means by name, in percent."""
        names = ("miou", "miou_classic", "fwiou", "macc", "pacc", "image_miou")
        return {name: getattr(self, name) for name in names}


def image_miou(cells: Cells) -> float:
    """mIoU of one image in percent, over the labels in its truth; NaN if no pixel counts."""
    return float(_image_mious(np.zeros(len(cells["pixels"]), np.int64), cells, 1)[0])


def _flat(records: pa.StructArray) -> tuple[np.ndarray, Cells]:
    """All cells of some records, and the number of the record that each belongs to, (n,) int64."""
    lengths = records.field("pixels").value_lengths().to_numpy(zero_copy_only=False)
    cells = {name: records.field(name).flatten().to_numpy(zero_copy_only=False) for name in schema.names}
    return np.repeat(np.arange(len(records)), lengths), cells


def _image_mious(images: np.ndarray, cells: Cells, n: int) -> np.ndarray:
    """mIoU of each of n images, (n,) float64 percent, from cells and the image of each, (m,) int64.

    The sums are in the order of the labels, so that an image has the same mIoU in any company.
    """
    truth, prediction, pixels = (np.asarray(cells[name]).astype(np.int64) for name in schema.names)
    keys, where = np.unique(np.concatenate([images << 16 | truth, images << 16 | prediction]), return_inverse=True)
    row, column = where[: len(truth)], where[len(truth) :]
    truths, predictions, hits = (np.zeros(len(keys), np.int64) for _ in range(3))
    np.add.at(truths, row, pixels)
    np.add.at(predictions, column, pixels)
    np.add.at(hits, row, pixels * (truth == prediction))
    iou = _percent(hits, truths + predictions - hits, truths > 0)[truths > 0]
    image = keys[truths > 0] >> 16
    with np.errstate(invalid="ignore"):
        return np.bincount(image, iou, n) / np.bincount(image, minlength=n)


def _percent(part: np.ndarray, whole: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.divide(100.0 * part, whole, out=np.full(len(part), np.nan), where=where)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
