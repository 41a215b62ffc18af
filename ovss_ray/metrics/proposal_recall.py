"""Best IoU and recall of proposed regions. Both are upper bounds for every method that classifies the proposals.

A true region is a connected component of pixels of one label (see regions.components). Each true region is compared
with the proposal of the highest IoU. Pixels whose truth is IGNORE do not count. Over the true regions of all images:

    best_iou   = mean of the highest IoU
    recall_50  = fraction of true regions whose highest IoU is at least 0.5
    recall_75  = fraction of true regions whose highest IoU is at least 0.75

Values are percent.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ovss_ray.structures.class_sums import UNITS
from ovss_ray.structures.masks import regions
from ovss_ray.structures.question import Question

reads = ("truth", "boxes", "bits")
schema = pa.struct([(name, pa.list_(pa.int64())) for name in ("pixels", "intersection", "union")])
sums = pa.struct([(name, pa.decimal128(38, 0)) for name in ("regions", "iou_sum", "half", "three_quarters")])
title = "Proposed regions against the true ones, in percent"
order = 10
headings = {
    "proposal_best_iou": "mean best IoU",
    "proposal_recall_50": "recall at IoU 0.5",
    "proposal_recall_75": "recall at IoU 0.75",
}


def measure(question: Question, truth: np.ndarray, boxes: np.ndarray, bits: np.ndarray) -> dict[str, np.ndarray]:
    """Return `pixels`, `intersection` and `union` of each of T true regions, (T,) int64 each, in pixels.

    `pixels` is the size of the true region. `intersection` and `union` compare the true region with the proposal of
    the highest IoU. If no proposal overlaps the true region, `intersection` is 0, and `union` equals `pixels`.

    `truth` (H, W) uint16 has label indices or IGNORE. `boxes` and `bits` are the proposals (see structures.columns).
    """
    numbers, true = regions.components(truth)
    pixels = np.bincount(numbers.ravel(), minlength=len(true) + 1)[1:]
    intersection, union = np.zeros_like(pixels), pixels.copy()
    for (x0, y0, x1, y1), mask in zip(boxes.tolist(), regions.Masks(boxes, bits), strict=True):
        common = np.bincount(numbers[y0:y1, x0:x1][mask], minlength=len(true) + 1)[1:]
        together = pixels + common.sum() - common
        better = common * union > intersection * together
        intersection, union = np.where(better, common, intersection), np.where(better, together, union)
    return {"pixels": pixels, "intersection": intersection, "union": union}


@dataclass(frozen=True)
class Partial:
    """Counts and IoUs of true regions, summed over a set of images. Addition is exact, associative and commutative."""

    regions: int = 0
    """number of true regions"""
    iou_sum: int = 0
    """sum of the highest IoU of each true region, in units of 1 / 2³² percent"""
    half: int = 0
    """number of true regions with a highest IoU of at least 0.5"""
    three_quarters: int = 0
    """number of true regions with a highest IoU of at least 0.75"""

    @classmethod
    def of(cls, records: pa.StructArray | pa.ChunkedArray, labels: int) -> "Partial":
        """Return the sum over `records`, the values of the column `proposal_recall`. Nulls are skipped."""
        chunks = records.chunks if isinstance(records, pa.ChunkedArray) else [records]
        return sum((cls._of_chunk(chunk.drop_null()) for chunk in chunks), cls())

    @classmethod
    def _of_chunk(cls, records: pa.StructArray) -> "Partial":
        intersection, union = (
            records.field(name).flatten().to_numpy(zero_copy_only=False) for name in ("intersection", "union")
        )
        ious = np.rint(100.0 * intersection / union * UNITS).astype(np.int64)
        enough = (int((scale * intersection >= part * union).sum()) for part, scale in ((1, 2), (3, 4)))
        return cls(len(union), int(ious.sum()), *enough)

    def __add__(self, other: "Partial") -> "Partial":
        return Partial(
            self.regions + other.regions,
            self.iou_sum + other.iou_sum,
            self.half + other.half,
            self.three_quarters + other.three_quarters,
        )

    def result(self) -> dict[str, float]:
        """Return all values by name, in percent. If there is no true region, the dict is empty."""
        if not self.regions:
            return {}
        return {
            "proposal_best_iou": self.iou_sum / UNITS / self.regions,
            "proposal_recall_50": 100.0 * self.half / self.regions,
            "proposal_recall_75": 100.0 * self.three_quarters / self.regions,
        }
