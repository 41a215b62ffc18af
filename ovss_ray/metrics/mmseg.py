"""mmsegmentation's IoUMetric, computed from the confusion matrix, with mmsegmentation's rules for absent classes.

Source: mmseg/evaluation/metrics/iou_metric.py, for `iou_metrics=['mIoU', 'mDice', 'mFscore']` and `nan_to_num=None`.
With the counts of metrics/confusion.py, in pixels summed over all images:

    IoU = tp / (truth + prediction − tp)      Acc, Recall = tp / truth      aAcc = Σ tp / Σ truth
    Dice = 2 · tp / (truth + prediction)      Precision = tp / prediction
    Fscore = 2 · Precision · Recall / (Precision + Recall)

mIoU, mAcc, mDice, mFscore, mPrecision and mRecall are means over labels. If a label's quotient is 0 / 0, the label is
left out of the mean of this quotient. So two means may cover different labels. For example, a label that is predicted
but not in the truth counts as 0 in mIoU. The same label is left out of mAcc. A label without a correct pixel is left
out of mFscore. Pixels without a predicted label (NONE) are false negatives of their true label.

mmsegmentation counts in float32 and rounds to two decimals. Here the counts are exact, and nothing is rounded. Values
are percent.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ovss_ray.structures.class_sums import percent
from ovss_ray.structures.label_counts import ClassPixels, mean

derives = "confusion"
on_request = True
title = "As in mmsegmentation, in percent"
order = 32
headings = {
    f"mmseg_{name.lower()}": name for name in ("aAcc", "mIoU", "mAcc", "mDice", "mFscore", "mPrecision", "mRecall")
}
class_headings = {"mmseg_iou": "IoU (mmseg)", "mmseg_fscore": "Fscore (mmseg)"}


@dataclass(frozen=True, eq=False)
class Result:
    """mmsegmentation's metrics, computed from the sum of confusion matrices."""

    total: ClassPixels

    @cached_property
    def _classes(self) -> dict[str, np.ndarray]:
        """Return metric name → values of the N labels, (N,) float64 percent; NaN where the quotient is 0 / 0."""
        hits, truth, called = self.total.hits, self.total.truth_pixels, self.total.prediction_pixels
        precision, recall = percent(hits, called), percent(hits, truth)
        never_hit = np.isnan(precision) | np.isnan(recall) | (hits == 0)
        return {
            "iou": percent(hits, truth + called - hits),
            "acc": recall,
            "dice": percent(2 * hits, truth + called),
            "fscore": percent(2 * hits, truth + called, ~never_hit),
            "precision": precision,
            "recall": recall,
        }

    def per_label(self) -> dict[str, np.ndarray]:
        """Return IoU and Fscore of each label, (N,) float64 percent; NaN where the quotient is 0 / 0."""
        return {"mmseg_iou": self._classes["iou"], "mmseg_fscore": self._classes["fscore"]}

    def result(self) -> dict[str, float]:
        """Return all values by name, in percent; NaN for a mean over no label."""
        hits, truth = int(self.total.hits.sum()), int(self.total.truth_pixels.sum())
        means = {f"mmseg_m{key}": mean(values) for key, values in self._classes.items()}
        return {"mmseg_aacc": 100.0 * hits / truth if truth else float("nan"), **means}
