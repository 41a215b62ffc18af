"""Trimap accuracy: the pixel accuracy in bands of several widths around the contours of the truth.

Source: Kohli et al., "Robust Higher Order Potentials for Enforcing Label Consistency", IJCV 2009, section 5. A pixel is
in the band of width w if a pixel within w rows and columns has another label. IGNORE counts as a label, so bands also
surround ignored regions. The edge of the image is not a contour.

    trimap_w = correctly predicted pixels of the band / pixels of the band      w = 1, 2, 4, 8, 16 pixels

Pixels whose truth is IGNORE are not counted. Pixels without a predicted label (NONE) count as wrong. Pixels are summed
over all images. Values are percent.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ovss_ray.structures.class_sums import percent
from ovss_ray.structures.columns import IGNORE
from ovss_ray.structures.masks import contours
from ovss_ray.structures.question import Question

WIDTHS = (1, 2, 4, 8, 16)
"""Widths of the bands in pixels. Each band contains all narrower bands."""
_PLACES = np.searchsorted(WIDTHS, np.arange(WIDTHS[-1] + 1))
"""Distance from a contour, 0 to 16 pixels → index in WIDTHS of the narrowest band that contains the distance.

For example, distance 3 is in the band of width 4, so _PLACES[3] is 2.
"""

on_request = True
reads = ("truth", "prediction")
schema = pa.struct([("pixels", pa.list_(pa.int64())), ("hits", pa.list_(pa.int64()))])
sums = schema
title = "Pixel accuracy near contours of the truth (trimap), in percent"
order = 22
headings = {f"trimap_{width}": f"within {width} px" for width in WIDTHS}


def measure(question: Question, truth: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays `pixels` and `hits`, both (5,) int64, with one number for each band in WIDTHS.

    `pixels` is the number of pixels in the band. `hits` is the number of correctly predicted pixels in the band. Pixels
    whose truth is IGNORE are not counted.

    `truth` (H, W) has label indices or IGNORE. `prediction` (H, W) has class indices or NONE.
    """
    near = contours.distances(truth)
    band = (near <= WIDTHS[-1]) & (truth != IGNORE)
    places = _PLACES[near[band].astype(np.uint8)]
    correct = question.labelled(prediction)[band] == truth[band]
    counts = (np.bincount(of, minlength=len(WIDTHS)) for of in (places, places[correct]))
    pixels, hits = (np.cumsum(of) for of in counts)
    return {"pixels": pixels, "hits": hits}


@dataclass(frozen=True, eq=False)
class Partial:
    """Numbers of pixels in each band, summed over a set of images.

    Both fields are (5,) int64, with one number for each band in WIDTHS. Addition is exact, associative and commutative.
    """

    pixels: np.ndarray
    """counted pixels of each band"""
    hits: np.ndarray
    """correctly predicted pixels of each band"""

    @classmethod
    def of(cls, records: pa.StructArray | pa.ChunkedArray, labels: int) -> "Partial":
        """Return the sum over `records`, the values of the column `trimap`. Nulls are skipped.

        This metric does not use `labels`, the number of labels.
        """
        chunks = records.chunks if isinstance(records, pa.ChunkedArray) else [records]
        sums = np.zeros((2, len(WIDTHS)), np.int64)
        for chunk in chunks:
            measured = chunk.drop_null()
            for total, name in zip(sums, ("pixels", "hits"), strict=True):
                total += measured.field(name).flatten().to_numpy(zero_copy_only=False).reshape(-1, len(WIDTHS)).sum(0)
        return cls(*sums)

    def __add__(self, other: "Partial") -> "Partial":
        return Partial(self.pixels + other.pixels, self.hits + other.hits)

    def result(self) -> dict[str, float]:
        """Return the accuracy in each band, in percent; NaN for a band without pixels."""
        return dict(zip(headings, percent(self.hits, self.pixels).tolist(), strict=True))
