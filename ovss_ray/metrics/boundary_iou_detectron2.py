"""detectron2's "boundary IoU" of semantic segmentation, to reproduce its figures. It is not the paper's metric.

The paper's metric is `boundary_iou`. Source: SemSegEvaluator of detectron2, whose faults are reproduced. The value v of
a pixel is the pixel's label minus the smallest label within d pixels. For example, a pixel of label 5 near label 3 has
v = 2. d is 2 % of the image's diagonal, rounded to whole pixels, at least 1. IGNORE and NONE count as label N, the
number of labels. Pixels outside the image count as label 0. detectron2 reports the IoU of the value v as the IoU of
label v:

    IoU = both / (truth + prediction − both)      numbers of pixels with this v in truth, prediction and both

Pixels with v = N in truth or prediction are not counted. For each pixel, let p be the value v
in the prediction, and t the value v in the truth. detectron2 computes (N + 1) · p + t in 8 bits. From 16 labels on, the
result overflows, and pixels are counted for wrong values. For 255 labels or more, nothing is measured.

detectron2 reports no mean. The mean reported here is over all v with a non-empty union. Values are percent.
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
    """Return the pixel counts of one image, as detectron2 counts them; None for 255 labels or more.

    The module's docstring defines a value v of each pixel. For each v, the result has three numbers of pixels: pixels
    with this v in the truth, in the prediction, and in both. The fields of the result are those of label_counts.SCHEMA.

    `truth` (H, W) has label indices or IGNORE. `prediction` (H, W) has class indices or NONE.
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
    """Return each value minus the smallest value within d rows and columns, (H, W) uint8.

    The function `contours.reach` computes d. Values outside the image are 0.
    """
    import cv2  # imported here: the import takes tenths of a second, and configs and reports do not need it

    side = 2 * contours.reach(values.shape) + 1
    smallest = cv2.erode(values, np.ones((side, side), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return values - smallest


class Partial(label_counts.LabelCounts):
    """Pixel counts for detectron2's boundary IoU, summed over a set of images.

    The index of a count is not a label, but the value v that the module's docstring defines. For example, `truth[5]` is
    the number of counted pixels with v = 5 in the truth. Addition is exact, associative and commutative.
    """

    def per_label(self) -> dict[str, np.ndarray]:
        """Return detectron2's boundary IoU of each label, (L,) float64 percent; NaN for an empty union."""
        return {"boundary_iou_detectron2": self.iou(self.union > 0)}

    def result(self) -> dict[str, float]:
        """Return the mean IoU of the labels that have an IoU, in percent; NaN if no label has an IoU."""
        return {"boundary_miou_detectron2": label_counts.mean(self.per_label()["boundary_iou_detectron2"])}
