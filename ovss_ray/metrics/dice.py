"""Dice coefficient of each class, from the confusion matrix. It equals the F1 score of the class.

With the counts of metrics/confusion.py, in pixels summed over all images:

    Dice = 2 · tp / (truth + prediction)

    mdice           mean over the labels in the truth
    mdice_classic   mean over the labels in the truth or the predictions, as mDice in mmsegmentation

`Result.per_label` is NaN for a label without pixels in the truth. In the mean `mdice_classic`, a label that is
predicted but not in the truth counts as 0. Pixels without a predicted label (NONE) are false negatives of their true
label. Values are percent.
"""

from dataclasses import dataclass

import numpy as np

from ovss_ray.structures.class_sums import percent
from ovss_ray.structures.label_counts import ClassPixels

derives = "confusion"
on_request = True
title = "Dice coefficient, in percent"
order = 30
headings = {name: name for name in ("mdice", "mdice_classic")}
class_headings = {"class_dice": "Dice"}


@dataclass(frozen=True, eq=False)
class Result:
    """Dice coefficients of a sum of confusion matrices."""

    total: ClassPixels

    def per_label(self) -> dict[str, np.ndarray]:
        """Return the Dice coefficient of each label, (N,) float64 percent; NaN for labels not in the truth."""
        truth = self.total.truth_pixels
        return {"class_dice": percent(2 * self.total.hits, truth + self.total.prediction_pixels, truth > 0)}

    def result(self) -> dict[str, float]:
        """Return `mdice` and `mdice_classic` in percent. If no pixel is counted, both means are NaN."""
        truth, dice = self.total.truth_pixels, self.per_label()["class_dice"]
        present, named = int((truth > 0).sum()), int((truth + self.total.prediction_pixels > 0).sum())
        total = float(dice[truth > 0].sum()) if present else float("nan")
        return {"mdice": total / max(present, 1), "mdice_classic": total / max(named, 1)}
