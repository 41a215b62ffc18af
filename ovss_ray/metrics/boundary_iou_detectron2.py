"""detectron2's "boundary IoU" of semantic segmentation, to reproduce its figures. The paper's metric is different.

Source: SemSegEvaluator of detectron2, faults included. The code treats the label map as if it were a mask. The value
of a pixel is its label minus the smallest label within d pixels. d is 2 % of the diagonal in whole pixels, at
least 1. Pixels outside the map have label 0. Then the IoU of each value is computed as if the values were labels.
Pixels of label 5 next to label 3 count as label 2. The interior of every label counts as label 0. With N labels, IGNORE
and NONE become N.

The cell of a pixel in the (N + 1)² table is computed in 8 bits: (N + 1) · prediction + truth, modulo 256. For 16 labels
or more it wraps around, so pixels are counted in cells of other values. Use `boundary_iou` instead.

    IoU = both / (truth + prediction − both)      cells with the value N in truth or prediction are not counted

A label has an IoU if its union is not empty. detectron2 reports no mean; here the mean is over labels with an IoU.
As in detectron2, nothing is measured for 255 labels or more. Values are percent.
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
title = "Boundary IoU as in detectron2, in percent"
order = 21
headings = {"boundary_miou_detectron2": "mean over values"}
class_headings = {"boundary_iou_detectron2": "boundary IoU (detectron2)"}
_MOST = 254
"""Largest number of labels for which detectron2 computes this metric."""


def measure(question: Question, truth: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray] | None:
    """Return the pixels of each value (see this module) in truth, prediction and both; None for 255 labels or more.

    `truth` (H, W) has labels or IGNORE, `prediction` (H, W) classes or NONE, of the same size.
    """
    labels = len(question.labels)
    if labels > _MOST:
        return None
    named = question.labelled(prediction)
    true, called = (
        _above_smallest(np.where(values == missing, labels, values).astype(np.uint8))
        for values, missing in ((truth, IGNORE), (named, NONE))
    )
    called, true = np.divmod(called * np.uint8(labels + 1) + true, np.uint8(labels + 1))  # wraps around, see above
    counted = (true < labels) & (called < labels)
    return label_counts.counted(true[counted], called[counted], true[counted & (true == called)], labels)


def _above_smallest(values: np.ndarray) -> np.ndarray:
    """Return each value minus the smallest value within `contours.reach` pixels, (H, W) uint8.

    Pixels outside the map have the value 0.
    """
    import cv2  # imported here: the import takes tenths of a second, and configs and reports do not need it

    side = 2 * contours.reach(values.shape) + 1
    smallest = cv2.erode(values, np.ones((side, side), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return values - smallest


class Partial(label_counts.LabelCounts):
    """Pixels of each value, summed over a set of images. Addition is exact, associative and commutative."""

    def per_label(self) -> dict[str, np.ndarray]:
        """Return detectron2's boundary IoU of each label, (L,) float64 percent; NaN for an empty union."""
        return {"boundary_iou_detectron2": self.iou(self.union > 0)}

    def result(self) -> dict[str, float]:
        """Return the mean over the labels with an IoU, in percent; NaN without such labels."""
        return {"boundary_miou_detectron2": label_counts.mean(self.per_label()["boundary_iou_detectron2"])}
