"""The values of the confusion matrix in bootstrap resamples: the same definitions as in confusion.py, vectorised."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovss_ray.structures.class_sums import ClassSums, fixed_mean, fixed_sum, percent


@dataclass(frozen=True, eq=False)
class Resampled:
    """Values of R resamples. The labels that a mean is taken over are those of all images (see `fixed_sum`)."""

    sums: ClassSums
    """sums over the R resamples"""
    of_all: ClassSums
    """sums over all images: a single row"""

    def result(self) -> dict[str, np.ndarray]:
        """Return the means by name, (R,) float64 percent.

        In `miou_classic`, a label that occurs in predictions only has IoU 0 in every resample.
        """
        truth, iou, of_all = self.sums.truth, self.sums.iou, self.of_all
        named = int((of_all.truth + of_all.prediction > 0).sum())
        return {
            "miou": fixed_mean(iou, of_all.iou[0]),
            "miou_classic": fixed_sum(iou, of_all.iou[0]) / max(named, 1),
            "fwiou": _weighted(iou, truth),
            "macc": fixed_mean(self.sums.acc, of_all.acc[0]),
            "pacc": percent(self.sums.hits.sum(axis=1), truth.sum(axis=1)),
            "image_miou": self.sums.image_miou,
        }

    def per_label(self) -> dict[str, np.ndarray]:
        """Return IoU and accuracy per label, (R, L) float64 percent; NaN for a label that a resample lacks."""
        return {"iou": self.sums.iou, "acc": self.sums.acc}

    def of_group(self, labels: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the mIoU and the pooled IoU of a group of labels, (R,) float64 percent."""
        subset = list(labels)
        hits, union, truth = (of[:, subset].sum(axis=1) for of in (self.sums.hits, self.sums.union, self.sums.truth))
        return {
            "miou": fixed_mean(self.sums.iou[:, subset], self.of_all.iou[0, subset]),
            "pooled_iou": percent(hits, union, truth > 0),
        }


def _weighted(iou: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the mean IoU weighted by the pixels in the truth, (R,) float64 percent; NaN without pixels.

    The sum is in the order of the labels, so that it is equal on every machine.
    """
    weighted = np.cumsum(np.nan_to_num(iou) * truth, axis=1)[:, -1]
    pixels = truth.sum(axis=1)
    return np.divide(weighted, pixels, out=np.full(len(truth), np.nan), where=pixels > 0)
