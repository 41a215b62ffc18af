"""Centre point of a mask: the pixel at which kornia's approximate distance transform has its largest value.

Methods such as Open-Vocabulary SAM (ECCV 2024) click on this pixel. The transform is
kornia.contrib.distance_transform with a kernel of 3 × 3 pixels and h = 0.35. The exact Euclidean transform often has
the largest value at another pixel.
"""

import numpy as np

from ovss_ray.structures.masks.regions import box_of

# kornia computes the transform in iterations i = 0, 1, …, from the mask's edge inwards. Iteration i reaches the pixels
# at the chessboard distance i + 1 from the outside. Such a pixel has the value offset(i) − h · log(sum). The offset is
# 1.5 · i, rounded down in some versions of kornia. The sum is over neighbours that are outside the mask, or were
# reached earlier. A neighbour at the distance d, 1 or √2, adds exp(−d / h).
#
# The offset grows by at least 1 per iteration, and h · log(sum) varies by less than 1. So the pixel with the largest
# value is reached in the last iteration, and has the smallest sum of this iteration. A sum depends only on the numbers
# of neighbours at the distances 1 and √2. So this module compares the ranks of sums, which are integers.
_EDGE, _CORNER = (np.exp(-distance / 0.35) for distance in (1.0, np.sqrt(2.0)))
"""Weights exp(−d / 0.35) of a pixel's neighbours at the distance d: _EDGE for d = 1, and _CORNER for d = √2.

In kornia's transform, the value of a pixel depends on the sum of such weights."""
_SUMS = np.array([[edges * _EDGE + corners * _CORNER for corners in range(5)] for edges in range(5)])
_RANKS = np.unique(_SUMS, return_inverse=True)[1].reshape(5, 5)
"""(5, 5) int: entry [e, c] is the rank of e · _EDGE + c · _CORNER among all 25 such sums.

The smallest sum has rank 0. e is a number of edge neighbours, and c is a number of corner neighbours. Both numbers are
0 to 4."""


def centre_point(mask: np.ndarray) -> tuple[int, int]:
    """Return the centre (x, y) of a mask (H, W) bool, in pixels; (0, 0) for an empty mask.

    The centre is the pixel with the largest value of the transform. If several pixels have this value, the first in
    row order is returned. Pixels beyond the border of the image count as pixels outside the mask.
    """
    left, top, right, bottom = box_of(mask)
    if not right:
        return 0, 0  # as in OVSAM's released evaluation
    inside = _innermost(mask[top:bottom, left:right])
    rank = np.where(inside, _RANKS[_neighbours(np.pad(~inside, 1, constant_values=True))], _RANKS.size)
    y, x = np.unravel_index(np.argmin(rank), rank.shape)
    return int(x) + left, int(y) + top


def _innermost(mask: np.ndarray) -> np.ndarray:
    """Return the innermost pixels of a mask (h, w) bool, as a mask (h, w) bool.

    The innermost pixels have the largest chessboard distance to the nearest pixel outside the mask. Pixels beyond the
    border of the array `mask` count as pixels outside the mask.
    """
    # A pixel's distance is above r if the square of radius r around it lies in the mask. Bisection finds the largest r.
    sums = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    low, high = 0, (min(mask.shape) + 1) // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _eroded(sums, middle).any() else (low, middle)
    return np.pad(_eroded(sums, low), low)


def _eroded(sums: np.ndarray, radius: int) -> np.ndarray:
    """Return for each pixel whether a mask contains the whole square around the pixel.

    The square has the side 2 · `radius` + 1. `sums` (h + 1, w + 1) is the integral image of the mask (h, w). The result
    is (h − 2 radius, w − 2 radius) bool: it leaves out `radius` rows or columns at each border.
    """
    side = 2 * radius + 1
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return np.asarray(inside == side * side)


def _neighbours(reached: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count for each pixel the edge neighbours that are True, and the corner neighbours that are True.

    `reached` is (H, W) bool. Both counts are (H − 2, W − 2) uint8, without the outermost pixels.
    """
    ones = reached.astype(np.uint8)
    edges = ones[:-2, 1:-1] + ones[2:, 1:-1] + ones[1:-1, :-2] + ones[1:-1, 2:]
    corners = ones[:-2, :-2] + ones[:-2, 2:] + ones[2:, :-2] + ones[2:, 2:]
    return edges, corners
