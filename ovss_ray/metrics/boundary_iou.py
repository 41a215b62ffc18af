"""Boundary IoU of each class: the IoU of the class's pixels near the contours in truth and prediction.

Source: Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021, section 4.1 and
the official code. G is the set of the class's pixels in the truth, and P the set in the prediction. G_d and P_d are the
pixels within a distance d of the contours of G and P:

    boundary IoU = |(G_d ∩ G) ∩ (P_d ∩ P)| / |(G_d ∩ G) ∪ (P_d ∩ P)|

d is 2 % of the image's diagonal, rounded to whole pixels, at least 1. A pixel of G is in G_d if another label is within
d rows and columns of the pixel. Pixels outside the image count as another label. Intersections and unions are summed
over all images.

Pixels whose truth is IGNORE are set to NONE in the prediction. The mean is over the labels in the truth. A label
without pixels in the truth has no value. Values are percent.
"""

import numpy as np

from ovss_ray.structures import label_counts
from ovss_ray.structures.columns import IGNORE, NONE
from ovss_ray.structures.masks import contours
from ovss_ray.structures.question import Question

on_request = True
reads = ("truth", "prediction")
schema = label_counts.SCHEMA
sums = label_counts.SUMS
title = "Boundary IoU, in percent"
order = 20
headings = {"boundary_miou": "mean boundary IoU"}
class_headings = {"boundary_iou": "boundary IoU"}


def measure(question: Question, truth: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
    """Return the number of boundary pixels of each label in truth, prediction and both (see label_counts.SCHEMA).

    `truth` (H, W) has label indices or IGNORE. `prediction` (H, W) has class indices or NONE.
    """
    # without ignored pixels, so the edge of an ignored region is a contour of both truth and prediction
    named = np.where(truth == IGNORE, np.uint16(NONE), question.labelled(prediction))
    width = contours.reach(truth.shape)
    true_edge = contours.near(truth, width, edge=True) & (truth != IGNORE)
    called_edge = contours.near(named, width, edge=True) & (named != NONE)
    both = true_edge & called_edge & (truth == named)
    return label_counts.counted(truth[true_edge], named[called_edge], truth[both], len(question.labels))


class Partial(label_counts.LabelCounts):
    """Boundary pixels of each label, summed over a set of images. Addition is exact, associative and commutative."""

    def per_label(self) -> dict[str, np.ndarray]:
        """Return the boundary IoU of each label, (L,) float64 percent; NaN for labels without pixels in the truth."""
        return {"boundary_iou": self.iou(self.truth > 0)}

    def result(self) -> dict[str, float]:
        """Return the mean over the labels in the truth, in percent; NaN if the truth has no labels."""
        return {"boundary_miou": label_counts.mean(self.per_label()["boundary_iou"])}
