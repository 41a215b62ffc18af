"""Accuracy of the regions of the truth, by their size: small, medium and large regions.

A region is an 8-connected component of the pixels of one label. The size of a region is its number of pixels in the
label file. The limits are those of COCO (Lin et al., ECCV 2014, and its official code):

    small    fewer than 32² pixels
    medium   from 32² to fewer than 96² pixels
    large    96² pixels or more

    acc_SIZE      correctly predicted pixels / pixels, over all regions of the size
    recall_SIZE   regions with at least half of their pixels predicted correctly / regions of the size

Pixels whose truth is IGNORE belong to no region. Pixels without a predicted label (NONE) are wrong. Counts are summed
over all images. Values are percent.

This metric needs label maps, so it is measured during a run. It cannot be added to a finished run.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ovss_ray.structures.class_sums import percent
from ovss_ray.structures.columns import IGNORE
from ovss_ray.structures.question import Question

SIZES = {"small": 0, "medium": 32**2, "large": 96**2}
"""Name of a size → its smallest number of pixels."""
FIELDS = ("regions", "recalled", "pixels", "hits")

on_request = True
reads = ("truth", "prediction")
schema = pa.struct([(name, pa.list_(pa.int64())) for name in FIELDS])
sums = schema
title = "Regions of the truth by size, in percent"
order = 23
headings = {
    **{f"region_acc_{size}": f"accuracy, {size}" for size in SIZES},
    **{f"region_recall_{size}": f"recall, {size}" for size in SIZES},
}
counts = {f"regions_{size}": f"{size} regions" for size in SIZES}


def measure(question: Question, truth: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
    """Return the counts `regions`, `recalled`, `pixels` and `hits` of one image (see Partial).

    Each count is (3,) int64, with one value for each size in SIZES. `truth` (H, W) has label indices or IGNORE.
    `prediction` (H, W) has class indices or NONE.
    """
    import cv2  # imported here: the import takes tenths of a second, and configs and reports do not need it

    correct = question.labelled(prediction) == truth
    pixels, hits = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for label in np.unique(truth[truth != IGNORE]):
        mask = (truth == label).view(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)
        box = slice(y, y + height), slice(x, x + width)
        number, places = cv2.connectedComponents(mask[box], connectivity=8)
        inside = mask[box].view(np.bool_)
        pixels.append(np.bincount(places[inside], minlength=number)[1:])  # 0: no pixel of the label
        hits.append(np.bincount(places[inside & correct[box]], minlength=number)[1:])
    areas, right = np.concatenate(pixels), np.concatenate(hits)
    size = np.searchsorted(list(SIZES.values()), areas, "right") - 1
    weights = (np.ones_like(areas), 2 * right >= areas, areas, right)
    return {name: _summed(size, of) for name, of in zip(FIELDS, weights, strict=True)}


def _summed(size: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the sum of `values` over the regions of each size, (3,) int64.

    `values` (n,) has one value for each of n regions. `size` (n,) has the index in SIZES of each region's size.
    """
    totals = np.zeros(len(SIZES), np.int64)
    np.add.at(totals, size, values.astype(np.int64))
    return totals


@dataclass(frozen=True, eq=False)
class Partial:
    """Counts of regions and of their pixels, summed over a set of images.

    Each field is (3,) int64, with one value for each size in SIZES. Addition is exact, associative and commutative.
    """

    regions: np.ndarray
    recalled: np.ndarray
    """number of regions with at least half of their pixels predicted correctly"""
    pixels: np.ndarray
    """number of pixels of the regions"""
    hits: np.ndarray
    """correctly predicted pixels of the regions"""

    @classmethod
    def of(cls, records: pa.StructArray | pa.ChunkedArray, labels: int) -> "Partial":
        """Return the sum over `records`, the values of the column `region_sizes`. Nulls are skipped."""
        chunks = records.chunks if isinstance(records, pa.ChunkedArray) else [records]
        totals = np.zeros((len(FIELDS), len(SIZES)), np.int64)
        for chunk in chunks:
            measured = chunk.drop_null()
            for total, name in zip(totals, FIELDS, strict=True):
                total += measured.field(name).flatten().to_numpy(zero_copy_only=False).reshape(-1, len(SIZES)).sum(0)
        return cls(*totals)

    def __add__(self, other: "Partial") -> "Partial":
        return Partial(
            self.regions + other.regions,
            self.recalled + other.recalled,
            self.pixels + other.pixels,
            self.hits + other.hits,
        )

    def result(self) -> dict[str, float]:
        """Return all values in percent; NaN for a size without regions."""
        values = (*percent(self.hits, self.pixels).tolist(), *percent(self.recalled, self.regions).tolist())
        return dict(zip(headings, values, strict=True))

    def counted(self) -> dict[str, int]:
        """Return the number of regions of each size."""
        return dict(zip(counts, self.regions.tolist(), strict=True))
