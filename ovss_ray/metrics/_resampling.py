"""mIoU and related metrics in bootstrap resamples, defined as in confusion.py and vectorised over resamples.

Resamples vary less than independent sets of photographs. To correct this, `class_sums.widened` increases the
difference between a resample's value and the value over all images. This is done separately for each label. A mean over
labels is computed from these widened values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovss_ray.structures.class_sums import ClassSums, fixed_mean, fixed_sum, percent, widened


@dataclass(frozen=True, eq=False)
class Resampled:
    """Metrics of R resamples. A mean over labels includes all labels in the truth of the run.

    If a resample's truth lacks a label, the label has no value in this resample. The mean of this resample then uses
    the label's value over all images of the run.
    """

    sums: ClassSums
    """sums over the images of each resample: R rows"""
    of_all: ClassSums
    """sums over all images: a single row"""

    def result(self) -> dict[str, np.ndarray]:
        """Return the metrics of `confusion.headings`, such as "miou", by name: (R,) float64 percent each.

        `miou_classic` also includes each label that is in the run's predictions, but not in the run's truth. The IoU
        of such a label is 0 in every resample.
        """
        labels, of_all = self.per_label(), self.of_all
        named = int((of_all.truth + of_all.prediction > 0).sum())
        whole, units = _of_pixels(of_all), self.sums.units
        return {
            "miou": fixed_mean(labels["iou"], of_all.iou[0]),
            "miou_classic": fixed_sum(labels["iou"], of_all.iou[0]) / max(named, 1),
            "macc": fixed_mean(labels["acc"], of_all.acc[0]),
            **{key: widened(values, whole[key], units) for key, values in _of_pixels(self.sums).items()},
        }

    def per_label(self) -> dict[str, np.ndarray]:
        """Return IoU and accuracy of each label, (R, L) float64 percent.

        If a resample's truth lacks a label, the label's value in this resample is NaN.
        """
        values = {"iou": (self.sums.iou, self.of_all.iou), "acc": (self.sums.acc, self.of_all.acc)}
        return {key: widened(*of, self.sums.effective) for key, of in values.items()}

    def of_group(self, labels: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the mIoU and the pooled IoU of a group of labels, (R,) float64 percent."""
        subset = list(labels)
        return {
            "miou": fixed_mean(self.per_label()["iou"][:, subset], self.of_all.iou[0, subset]),
            "pooled_iou": widened(_pooled(self.sums, subset), _pooled(self.of_all, subset), self.sums.units),
        }


def _of_pixels(sums: ClassSums) -> dict[str, np.ndarray]:
    """Return `fwiou`, `pacc` and `image_miou` by name, (R,) float64 percent each.

    In `fwiou` and `pacc`, all pixels have the same weight. In `image_miou`, all images have the same weight.
    """
    truth = sums.truth
    return {
        "fwiou": _weighted(sums.iou, truth),
        "pacc": percent(sums.hits.sum(axis=1), truth.sum(axis=1)),
        "image_miou": sums.image_miou,
    }


def _pooled(sums: ClassSums, labels: list[int]) -> np.ndarray:
    """Return the pooled IoU of the labels in `labels`, (R,) float64 percent.

    The pooled IoU is the sum of the labels' correct pixels, divided by the sum of the labels' unions. If a resample's
    truth has no pixel of these labels, the pooled IoU is NaN.
    """
    hits, union, truth = (of[:, labels].sum(axis=1) for of in (sums.hits, sums.union, sums.truth))
    return percent(hits, union, truth > 0)


def _weighted(iou: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the mean of `iou` (R, L) over the labels, (R,) float64 percent.

    A label's weight is the label's number of pixels in `truth` (R, L). If a resample has no pixels, the mean is NaN.
    """
    # cumsum adds in the order of the labels, so the sum is equal on every machine
    weighted = np.cumsum(np.nan_to_num(iou) * truth, axis=1)[:, -1]
    pixels = truth.sum(axis=1)
    return np.divide(weighted, pixels, out=np.full(len(truth), np.nan), where=pixels > 0)
