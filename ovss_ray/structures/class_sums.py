"""Input of confidence intervals: pixels per label, summed over the images of each bootstrap resample."""

from dataclasses import dataclass

import numpy as np

UNITS = 2**32
"""Number of units in one percent. A unit is 1 / 2³² percent.

Percentages are rounded to whole units before they are added. Integers have the same sum in every order."""


@dataclass(frozen=True, eq=False)
class ClassSums:
    """Sums over the images of a resample, for R resamples and L labels. Arrays are int64, except for `effective`."""

    hits: np.ndarray
    """(R, L): correctly predicted pixels of each label"""
    truth: np.ndarray
    """(R, L): pixels of each label in the truth"""
    prediction: np.ndarray
    """(R, L): evaluated pixels that were predicted as each label"""
    image_sum: np.ndarray
    """(R,): sum of the images' mIoU, in units of 1 / 2³² percent"""
    images: np.ndarray
    """(R,): number of images that have an mIoU"""
    effective: np.ndarray
    """(L,) float64: effective number of photographs with each label, before resampling.

    n photographs have the label. If the label has the same area in all n photographs, the effective number is n. If the
    areas differ, the effective number is smaller than n. Source: Kish, 1965 (see reports.resampling.Cells.effective)"""
    units: int
    """number of photographs before resampling. A photograph may have several images"""

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
        """(R,) float64 percent: mean of the images' mIoU; NaN for a resample in which no image has an mIoU."""
        return self.image_sum / UNITS / np.where(self.images > 0, self.images, np.nan)


def percent(part: np.ndarray, whole: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Return 100 · part / whole as float64. Both are int64 arrays of the same shape.

    The result is NaN where `where` is False, or `whole` is 0.
    """
    valid = whole > 0 if where is None else where & (whole > 0)
    return np.divide(100.0 * part, whole, out=np.full(np.shape(part), np.nan), where=valid)


def widened(values: np.ndarray, of_all: np.ndarray, number: np.ndarray | int) -> np.ndarray:
    """Return the values of bootstrap resamples with a larger spread around `of_all`, the value over all images.

    The differences between `values` and `of_all` are multiplied by √(m / (m − 1)). m is the number of photographs, in
    the parameter `number`. If there are fewer than 2 photographs, m is 2.

    If there is one value per resample, `values` is (R,), and `of_all` and `number` each have a single value. If there
    is one value per resample and label, `values` is (R, L). Then `of_all` is (L,) or (1, L), and `number` is (L,).

    The factor corrects the narrowness bias of the bootstrap. Source: Hesterberg, "What Teachers Should Know About the
    Bootstrap", The American Statistician, 2015.
    """
    # The bootstrap divides a variance by m instead of m − 1 (see also Efron and Tibshirani, 1993, chapter 5).
    # All operations are correctly rounded (IEEE 754), so the result is equal on every machine.
    m = np.maximum(number, 2.0)
    return of_all + (values - of_all) * np.sqrt(m / (m - 1))


def fixed_sum(values: np.ndarray, of_all: np.ndarray) -> np.ndarray:
    """Return for each resample the sum of a metric over the labels, (R,) float64 percent.

    `values` (R, L) has the metric of each label in each resample. `of_all` (L,) has the metric of each label over all
    images.

    - If the metric of a label is NaN in `of_all`, the label is left out of every sum.
    - If the metric of a label is NaN only in a resample, the metric in `of_all` is added instead.
    - If all labels are left out, every sum is NaN.
    """
    averaged = ~np.isnan(of_all)
    if not averaged.any():
        return np.full(len(values), np.nan)
    filled = np.where(np.isnan(values), of_all, values)[:, averaged]
    return np.rint(filled * UNITS).astype(np.int64).sum(axis=1) / UNITS


def fixed_mean(values: np.ndarray, of_all: np.ndarray) -> np.ndarray:
    """Return for each resample the mean over the labels, (R,) float64 percent.

    The mean is `fixed_sum` / n. n is the number of labels that are not NaN in `of_all`. If n is 0, the mean is NaN.
    """
    return fixed_sum(values, of_all) / max(int((~np.isnan(of_all)).sum()), 1)
