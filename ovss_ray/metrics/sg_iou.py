"""SG-IoU (Semantic-Guided IoU): IoU with partial credit for a more general label, such as plant for grass.

Source: SCAN (Liu et al., CVPR 2024), in the form of the official evaluator SGIoU_SemSegEvaluator. A relation is a pair
of labels, a child and its more general father. With the counts of metrics/confusion.py, for a label c with the fathers
F(c):

    purity(c, f) = (counts[c, f] + tp[f]) / prediction[f]
    sg_tp[c]     = tp[c] + Σ over F(c) of purity(c, f) · counts[c, f]
    SG-IoU[c]    = sg_tp[c] / union[c]       SG accuracy[c] = sg_tp[c] / truth[c]

    sg_miou           mean over the labels in the truth, as in detectron2 since 2022-07
    sg_miou_classic   mean over the labels in the truth or the predictions, as in SCAN's code and its published values

Of the pixels that are predicted as f, purity(c, f) is the share whose true label is c or f. So a method that predicts
the father everywhere gets little credit. A child predicted for a pixel of its father gets no credit, unless the reverse
pair is also a relation. In `sg_miou_classic`, a label that is predicted but not in the truth counts as 0. Pixels
without a predicted label (NONE) are false negatives of their true label. Values are percent.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from ovss_ray.structures.relations import Relations

derives = "confusion"
needs = "relations"
title = "SG-IoU (Semantic-Guided IoU), in percent"
order = 5
headings = {name: name for name in ("sg_miou", "sg_miou_classic", "sg_fwiou", "sg_macc", "sg_pacc")}
class_headings = {"sg_iou": "SG-IoU", "sg_acc": "SG accuracy"}


class Counts(Protocol):
    """Sum of the confusion matrices of all images (see metrics/confusion.py)."""

    @property
    def counts(self) -> np.ndarray:
        """(N, N + 1) int64: counts[t, p] is the number of pixels of label t that were predicted as p.

        Column N counts pixels without a predicted label (NONE).
        """

    @property
    def truth_pixels(self) -> np.ndarray:
        """(N,) int64: pixels of each label."""

    @property
    def prediction_pixels(self) -> np.ndarray:
        """(N,) int64: pixels that were predicted as each label. Pixels whose truth is IGNORE are left out."""

    @property
    def hits(self) -> np.ndarray:
        """(N,) int64: correctly predicted pixels of each label."""


@dataclass(frozen=True, eq=False)
class Result:
    """SG-IoU of all images, from the sum of their confusion matrices; not a mean over images."""

    total: Counts
    relations: Relations

    @cached_property
    def sg_hits(self) -> np.ndarray:
        """(N,) float64: sg_tp of each label, in pixels.

        sg_tp is the number of correct pixels plus the credit for pixels predicted as a father of the label.
        """
        children, fathers = self.relations.children, self.relations.fathers
        called = self.total.counts[children, fathers]
        predicted = self.total.prediction_pixels[fathers]
        purity = (called + self.total.hits[fathers]) / np.maximum(predicted, 1)  # no prediction: nothing was called so
        hits = self.total.hits.astype(np.float64)
        np.add.at(hits, children, purity * called)
        return hits

    @property
    def sg_iou(self) -> np.ndarray:
        """(N,) float64 percent: SG-IoU of each label; NaN for labels without pixels in the truth."""
        union = self.total.truth_pixels + self.total.prediction_pixels - self.total.hits
        return self._percent(union)

    @property
    def sg_acc(self) -> np.ndarray:
        """(N,) float64 percent: sg_tp / truth of each label; NaN for labels without pixels in the truth."""
        return self._percent(self.total.truth_pixels)

    def _percent(self, whole: np.ndarray) -> np.ndarray:
        where = self.total.truth_pixels > 0
        return np.divide(100.0 * self.sg_hits, whole, out=np.full(len(whole), np.nan), where=where)

    def result(self) -> dict[str, float]:
        """Return all means by name, in percent. If no pixel is counted, all of them are NaN."""
        truth = self.total.truth_pixels
        present = truth > 0
        if not present.any():
            return dict.fromkeys(headings, float("nan"))
        iou, acc = self.sg_iou[present], self.sg_acc[present]
        named = int((truth + self.total.prediction_pixels > 0).sum())
        pixels = int(truth.sum())
        return {
            "sg_miou": float(iou.mean()),
            "sg_miou_classic": float(iou.sum() / named),
            "sg_fwiou": float((iou * truth[present]).sum() / pixels),
            "sg_macc": float(acc.mean()),
            "sg_pacc": float(100.0 * self.sg_hits[present].sum() / pixels),
        }

    def per_label(self) -> dict[str, np.ndarray]:
        """Return SG-IoU and SG accuracy per label, (N,) float64 percent."""
        return {name: getattr(self, name) for name in class_headings}
