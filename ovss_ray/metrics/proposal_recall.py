"""How well regions without names cover the true ones: the ceiling of every method that names them afterwards.

The true regions of an image are the connected pixels of one label (regions.components). For each the proposal with the
highest IoU is looked for; pixels whose truth is IGNORE are counted nowhere. Over all true regions of all images:

    best_iou = mean of that IoU      recall_50, recall_75 = share of regions for which it is at least 0.5, 0.75

The record keeps the pixels of each true region, and of intersection and union with its best proposal, as whole numbers.
Values are percent.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ovss_ray import regions

reads = ("truth", "boxes", "bits")
schema = pa.struct([(name, pa.list_(pa.int64())) for name in ("pixels", "intersection", "union")])

_FIXED = 2**32
"""IoUs are added as whole multiples of 1 / 2³² percent: unlike float64, their sum has no order."""


def measure(truth: np.ndarray, boxes: np.ndarray, bits: np.ndarray) -> dict[str, np.ndarray]:
    """One image: truth (H, W) uint16 label indices or IGNORE, and its proposals → arrays (T,) int64, as in `schema`.

    Of proposals that fit a true region equally well the first is kept; without any, intersection and union are 0 and
    the region's pixels.
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
    """What is known of a set of images; adding two of them is exact, associative and commutative."""

    regions: int = 0
    """true regions"""
    iou_sum: int = 0
    """the sum of their best IoUs, in units of 1 / 2³² percent"""
    half: int = 0
    """of an IoU of at least 0.5"""
    three_quarters: int = 0
    """of an IoU of at least 0.75"""

    @classmethod
    def of(cls, records: pa.StructArray | pa.ChunkedArray) -> "Partial":
        """Add up the column `proposal_recall` of records; rows without a value are passed by."""
        chunks = records.chunks if isinstance(records, pa.ChunkedArray) else [records]
        return sum((cls._of_chunk(chunk.drop_null()) for chunk in chunks), cls())

    @classmethod
    def _of_chunk(cls, records: pa.StructArray) -> "Partial":
        intersection, union = (
            records.field(name).flatten().to_numpy(zero_copy_only=False) for name in ("intersection", "union")
        )
        ious = np.rint(100.0 * intersection / union * _FIXED).astype(np.int64)
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
        """All values by name, in percent; none if no region was measured."""
        if not self.regions:
            return {}
        return {
            "proposal_best_iou": self.iou_sum / _FIXED / self.regions,
            "proposal_recall_50": 100.0 * self.half / self.regions,
            "proposal_recall_75": 100.0 * self.three_quarters / self.regions,
        }
