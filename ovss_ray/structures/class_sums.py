"""Pixels per label, summed over resamples of the images of a benchmark: the input of bootstrap intervals."""

from dataclasses import dataclass

import numpy as np

UNITS = 2**32
"""Units per percent. Values are summed as integers in these units, so a sum does not depend on the order."""


@dataclass(frozen=True, eq=False)
class ClassSums:
    """Sums over R resamples of the images, for L labels. The fields are int64, unless another type is named."""

    hits: np.ndarray
    """(R, L): correctly predicted pixels of each label"""
    truth: np.ndarray
    """(R, L): pixels of each label"""
    prediction: np.ndarray
    """(R, L): counted pixels that were predicted as each label"""
    image_sum: np.ndarray
    """(R,): sum of the images' mIoU, in units of 1 / 2³² percent"""
    images: np.ndarray
    """(R,): number of images with a counted pixel"""
    effective: np.ndarray
    """(L,) float64: effective number of photographs with each label, of all images (see `Cells.effective`)"""
    units: int
    """number of photographs, of all images"""

    @property
    def union(self) -> np.ndarray:
        """(R, L) int64: pixels of each label in the truth or the prediction."""
        return self.truth + self.prediction - self.hits

    @property
    def iou(self) -> np.ndarray:
        """(R, L) float64 percent: IoU of each label; NaN for a label without pixels in the truth of a resample."""
        return percent(self.hits, self.union, self.truth > 0)

    @property
    def acc(self) -> np.ndarray:
        """(R, L) float64 percent: recall of each label; NaN for a label without pixels in the truth of a resample."""
        return percent(self.hits, self.truth, self.truth > 0)

    @property
    def image_miou(self) -> np.ndarray:
        """(R,) float64 percent: mean of the images' mIoU; NaN for a resample without a counted pixel."""
        return self.image_sum / UNITS / np.where(self.images > 0, self.images, np.nan)


def percent(part: np.ndarray, whole: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Return 100 · part / whole, float64, of int64 arrays of one shape; NaN where `where` is False or whole is 0."""
    valid = whole > 0 if where is None else where & (whole > 0)
    return np.divide(100.0 * part, whole, out=np.full(np.shape(part), np.nan), where=valid)


def widened(values: np.ndarray, of_all: np.ndarray, number: np.ndarray | int) -> np.ndarray:
    """Return values of resamples with their distance from the value of all images multiplied by √(m / (m − 1)).

    The resamples of m photographs vary too little: the bootstrap divides a variance by m, where m − 1 is right.
    Hesterberg calls this narrowness bias ("What Teachers Should Know About the Bootstrap", The American Statistician,
    2015); see also Efron and Tibshirani, 1993, chapter 5. `number` is m, of each label for values (R, L) of labels. A
    number below 2 counts as 2. NaN stays NaN, and values equal to `of_all` stay equal. The steps are correctly rounded,
    so the result is equal on every machine.
    """
    m = np.maximum(number, 2.0)
    return of_all + (values - of_all) * np.sqrt(m / (m - 1))


def fixed_sum(values: np.ndarray, of_all: np.ndarray) -> np.ndarray:
    """Return the sum over a fixed set of labels in each resample, (R,) float64 percent.

    `values` (R, L) are the labels' values in the resamples, `of_all` (L,) those of all images. The set is the labels
    with a value in `of_all`. A label without a value in a resample counts with its value of all images. Otherwise the
    set, and with it the mean, would change with every resample. The result is a multiple of 1 / 2³² percent; NaN for
    an empty set.
    """
    averaged = ~np.isnan(of_all)
    if not averaged.any():
        return np.full(len(values), np.nan)
    filled = np.where(np.isnan(values), of_all, values)[:, averaged]
    return np.rint(filled * UNITS).astype(np.int64).sum(axis=1) / UNITS


def fixed_mean(values: np.ndarray, of_all: np.ndarray) -> np.ndarray:
    """Return the mean over a fixed set of labels, (R,) float64 percent (see `fixed_sum`); NaN for an empty set."""
    return fixed_sum(values, of_all) / max(int((~np.isnan(of_all)).sum()), 1)
