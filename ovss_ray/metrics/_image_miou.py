"""mIoU of each image, from the non-zero cells of the image's confusion matrix.

The computation builds no table of images × labels, which would be large and mostly empty.
"""

from collections.abc import Mapping

import numpy as np

from ovss_ray.structures.class_sums import percent

Cells = Mapping[str, np.ndarray]
"""Non-zero cells of images: truth (m,) uint16, prediction (m,) uint16, pixels (m,) int64"""
BLOCK = 512
"""Number of images that are computed together. The arrays of 512 images fit into a processor's cache."""


def image_mious(images: np.ndarray, cells: Cells, n: int) -> np.ndarray:
    """Return the mIoU of each of n images, (n,) float64 percent; NaN for an image without cells.

    `images` (m,) int64 has the image index of each cell, in ascending order. An image's mIoU is the mean IoU of the
    labels in the image's truth.
    """
    begins = range(0, n, BLOCK)
    ends = np.searchsorted(images, [*begins, n])
    values = np.full(n, np.nan)
    for begin, first, last in zip(begins, ends, ends[1:], strict=False):
        block = {name: of[first:last] for name, of in cells.items()}
        size = min(BLOCK, n - begin)
        values[begin : begin + size] = _of_block(images[first:last] - begin, block, size)
    return values


def _of_block(images: np.ndarray, cells: Cells, n: int) -> np.ndarray:
    """Return the mIoU of each image of a block, (n,) float64 percent; NaN for an image without cells."""
    truth, prediction, pixels = (np.asarray(cells[name]) for name in ("truth", "prediction", "pixels"))
    keys = images << 16 | truth
    if np.any(keys[1:] < keys[:-1]):  # records of this program are sorted
        order = np.argsort(keys, kind="stable")
        images, truth, prediction, pixels, keys = (of[order] for of in (images, truth, prediction, pixels, keys))
    first = np.flatnonzero(np.diff(keys, prepend=-1))  # of each label in an image's truth
    if not len(first):
        return np.full(n, np.nan)
    labels, called = keys[first], images << 16 | prediction
    place = np.minimum(np.searchsorted(labels, called), len(labels) - 1)
    known = labels[place] == called
    truths, hits = np.add.reduceat(pixels, first), np.add.reduceat(pixels * (truth == prediction), first)
    predictions = np.bincount(place[known], pixels[known], len(labels))  # float64, exact for less than 2^53 pixels
    occurs = truths > 0
    iou = percent(hits, truths + predictions - hits, occurs)[occurs]
    image = labels[occurs] >> 16
    with np.errstate(invalid="ignore"):
        # adds in the order of the labels, so the rounding of an image's mIoU does not depend on the other images
        return np.bincount(image, iou, n) / np.bincount(image, minlength=n)
