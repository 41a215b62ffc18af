"""Precision, recall and F-scores of each class, from the confusion matrix.

With the counts of metrics/confusion.py, in pixels summed over all images:

    precision = tp / prediction      recall = tp / truth      F_β = (1 + β²) · tp / (β² · truth + prediction)

β is 0.5, 1 or 2. A β below 1 gives more weight to precision, a β above 1 to recall. F_1 is the Dice coefficient.

Only labels in the truth have values, and means are over these labels. A label that is never predicted has precision 0.
A label without a correct pixel has F 0. mmsegmentation leaves both kinds of zeros out of its means (see
metrics/mmseg.py). Pixels without a predicted label (NONE) are false negatives of their true label. Values are percent.
"""

from dataclasses import dataclass

import numpy as np

from ovss_ray.structures.class_sums import percent
from ovss_ray.structures.label_counts import ClassPixels, mean

derives = "confusion"
on_request = True
title = "Precision, recall and F-scores, in percent"
order = 31
class_headings = {"precision": "precision", "recall": "recall", "f_half": "F 0.5", "f_1": "F 1", "f_2": "F 2"}
headings = {f"mean_{key}": f"mean {words}" for key, words in class_headings.items()}


@dataclass(frozen=True, eq=False)
class Result:
    """Precision, recall and F-scores of a sum of confusion matrices."""

    total: ClassPixels

    def per_label(self) -> dict[str, np.ndarray]:
        """Return all values of each label, (N,) float64 percent; NaN for labels not in the truth."""
        hits, truth, called = self.total.hits, self.total.truth_pixels, self.total.prediction_pixels
        present = truth > 0
        return {
            "precision": np.where(present, percent(hits, np.maximum(called, 1)), np.nan),
            "recall": percent(hits, truth, present),
            "f_half": percent(5 * hits, truth + 4 * called, present),
            "f_1": percent(2 * hits, truth + called, present),
            "f_2": percent(5 * hits, 4 * truth + called, present),
        }

    def result(self) -> dict[str, float]:
        """Return all means over the labels in the truth, in percent; NaN if no pixel is counted."""
        return {f"mean_{key}": mean(values) for key, values in self.per_label().items()}
