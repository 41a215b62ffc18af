"""Few-shot metrics of a fold: the mean IoU of its classes (mIoU), and the foreground-background IoU (FB-IoU).

An episode is a photograph and one class c to segment in it. Truth and prediction are binary: 1 is the class, 0 is the
background. Pixels without a predicted label (NONE) are background. An episode is counted if its truth has a pixel of c.
For a class c, pixels are summed over all counted episodes of c:

    I₁[c] = |prediction 1 ∧ truth 1|       U₁[c] = |prediction 1 ∨ truth 1|
    I₀[c] = |prediction 0 ∧ truth 0|       U₀[c] = |prediction 0 ∨ truth 0|

    fold_miou         mean of I₁[c] / U₁[c] over the classes with a counted episode, as in Fusioner
    fold_miou_hsnet   sum of I₁[c] / U₁[c], divided by the number of classes of the fold, as in HSNet and LSeg
    fb_iou            mean of Σ I₀ / Σ U₀ and Σ I₁ / Σ U₁; Σ is the sum over all classes, as in Fusioner and HSNet

The source of HSNet's values is common/logger.py. All sums are int64. Fusioner's code sums in float32, which loses
pixels above 2²⁴. Values are percent.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ovss_ray.structures.class_sums import ClassSums, fixed_mean, fixed_sum, percent, widened

derives = "confusion"
needs = "fold"
title = "Episodes of a fold, in percent"
order = 4
headings = {"fold_miou": "fold mIoU", "fold_miou_hsnet": "fold mIoU as HSNet", "fb_iou": "FB-IoU"}
counts = {
    "episodes": "episodes counted",
    "without_foreground": "dropped without a pixel of their class",
    "classes_seen": "classes seen",
    "classes_of_fold": "classes of the fold",
}


class Counts(Protocol):
    """Sum of the confusion matrices of all episodes (see metrics/confusion.py)."""

    @property
    def counts(self) -> np.ndarray:
        """(F + 1, F + 2) int64: counts[t, p] is the number of pixels of class t that were predicted as p.

        F is the number of classes of the fold. Index F is the background. Column F + 1 counts pixels without a
        predicted label (NONE).
        """

    @property
    def images(self) -> int:
        """Number of counted episodes.

        If the truth of an episode has no pixel of the class, the benchmark sets the whole truth to IGNORE. The
        episode is then not counted.
        """


@dataclass(frozen=True, eq=False)
class Result:
    """Metrics of a fold, from the sum of the confusion matrices of the fold's episodes.

    `total` is the sum of the matrices. `measured` is the number of episodes with a confusion matrix. A counted episode
    is a measured episode whose truth has a pixel of the class to segment.
    """

    total: Counts
    measured: int

    # Only episodes of c have pixels of c, so the row and the column of c in the total give I₁[c] and U₁[c]. The truth
    # of an episode without a pixel of its class is IGNORE. With P counted pixels, Σ I₀ = P − Σ U₁ and Σ U₀ = P − Σ I₁.

    @property
    def hits(self) -> np.ndarray:
        """(F,) int64: number of correctly predicted pixels of each class (I₁)."""
        return np.diagonal(self.total.counts)[:-1]

    @property
    def union(self) -> np.ndarray:
        """(F,) int64: number of pixels of each class in the truth or the prediction (U₁).

        If a class has no counted episode, the number is 0.
        """
        matrix = self.total.counts
        return matrix[:-1].sum(1) + matrix[:, : len(self.hits)].sum(0) - self.hits

    @property
    def background(self) -> tuple[int, int]:
        """Σ I₀ and Σ U₀, in pixels, summed over all classes.

        Σ I₀ counts pixels that are background in both truth and prediction. Σ U₀ counts pixels that are background in
        at least one of the two.
        """
        pixels = int(self.total.counts.sum())
        return pixels - int(self.union.sum()), pixels - int(self.hits.sum())

    def result(self) -> dict[str, float]:
        """Return all values by name, in percent; NaN if no episode is counted."""
        seen = self.union > 0
        if not seen.any():
            return dict.fromkeys(headings, float("nan"))
        iou = 100.0 * self.hits[seen] / self.union[seen]
        hits, union = self.background
        background = 100.0 * hits / union if union else float("nan")
        return {
            "fold_miou": float(iou.mean()),
            "fold_miou_hsnet": float(iou.sum()) / len(seen),
            "fb_iou": (background + 100.0 * int(self.hits.sum()) / int(self.union.sum())) / 2,
        }

    def counted(self) -> dict[str, int]:
        """Return the numbers of episodes and of classes, by name.

        - `episodes`: counted episodes, whose truth has a pixel of the class to segment
        - `without_foreground`: all other measured episodes
        - `classes_seen`: classes with at least one counted episode
        - `classes_of_fold`: classes of the fold
        """
        return {
            "episodes": self.total.images,
            "without_foreground": self.measured - self.total.images,
            "classes_seen": int((self.union > 0).sum()),
            "classes_of_fold": len(self.hits),
        }


@dataclass(frozen=True, eq=False)
class Resampled:
    """Metrics of a fold in R resamples of its photographs.

    All resamples have the same classes in the mean `fold_miou`: those with a counted episode in the run.
    """

    sums: ClassSums
    """pixel counts per class, summed over the episodes of each resample; the arrays have R rows"""
    of_all: ClassSums
    """pixel counts per class, summed over all episodes of the run; the arrays have one row"""

    def result(self) -> dict[str, np.ndarray]:
        """Return all values by name, (R,) float64 percent. If the run has no counted episode, all values are NaN.

        If a resample has no counted episode of a class, the class has no IoU in this resample. `fold_miou` and
        `fold_miou_hsnet` then use the class's IoU over all episodes of the run. If a resample has no counted episode
        at all, `fb_iou` is NaN.
        """
        resampled, of_all = (percent(of.hits[:, :-1], of.union[:, :-1]) for of in (self.sums, self.of_all))
        iou = widened(resampled, of_all, self.sums.effective[:-1])
        return {
            "fold_miou": fixed_mean(iou, of_all[0]),
            "fold_miou_hsnet": fixed_sum(iou, of_all[0]) / iou.shape[1],
            "fb_iou": widened(_fb_iou(self.sums), _fb_iou(self.of_all), self.sums.units),
        }


def _fb_iou(sums: ClassSums) -> np.ndarray:
    """Return the FB-IoU of each row of `sums`, (R,) float64 percent; NaN for a row without a counted episode."""
    hits, union = (of[:, :-1].sum(axis=1) for of in (sums.hits, sums.union))
    pixels = sums.truth.sum(axis=1)
    return (percent(pixels - union, pixels - hits) + percent(hits, union)) / 2
