"""Distorted masks of regions in drawn scenes, to train classifiers of imperfect proposals. No torch is imported."""

import cv2
import numpy as np
from scipy import ndimage

SMALLEST = 100
"""Minimum number of pixels of a distorted mask"""
MOST = 5
"""Largest distance in pixels by which a mask is grown, shrunk or shifted"""
LEAST = 0.3
"""Minimum size of the kept part if a mask is cut in two, as a fraction of the mask's pixels"""


def imperfect(drawn: np.random.Generator, numbers: np.ndarray, region: int) -> np.ndarray:
    """Return a distorted mask (H, W) bool of a region, like an imperfect proposal.

    `numbers` (H, W) uint8 are the region indices of the pixels. At random, the mask is grown, shrunk, shifted, reduced
    to a part, or merged with a random region.

    If the distorted mask would have fewer than SMALLEST pixels, the exact mask is returned. The same applies if
    the region to merge has at least half as many pixels as the mask.
    """
    mask, kind, pixels = numbers == region, drawn.integers(5), int(drawn.integers(1, MOST + 1))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    if kind == 0:
        changed = cv2.dilate(mask.astype(np.uint8), disc).astype(bool)
    elif kind == 1:
        changed = cv2.erode(mask.astype(np.uint8), disc).astype(bool)
    elif kind == 2:
        changed = ndimage.shift(mask, drawn.integers(-pixels, pixels + 1, 2), order=0)
    elif kind == 3:
        half = mask & _half_plane(drawn, mask)
        changed = half if half.sum() >= LEAST * mask.sum() else mask & ~half
    else:
        # a region of at least half the size is not merged: the exact mask is returned
        neighbour = numbers == drawn.integers(numbers.max() + 1)
        changed = mask | neighbour if neighbour.sum() < 0.5 * mask.sum() else mask
    return changed if changed.sum() >= SMALLEST else mask


def _half_plane(drawn: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Return the half-plane (H, W) bool on one side of a random line through a random pixel of a region."""
    (y, x), angle = drawn.choice(np.argwhere(mask)), drawn.uniform(0, 2 * np.pi)
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    return (rows - y) * np.sin(angle) + (columns - x) * np.cos(angle) >= 0
