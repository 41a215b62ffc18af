"""Centre point of a mask: the pixel at which kornia's approximate distance transform has its largest value.

Methods that click on an object, such as Open-Vocabulary SAM (ECCV 2024), click on this pixel. The transform is
kornia.contrib.distance_transform with a kernel of 3 × 3 pixels and h = 0.35. It is computed in iterations i = 0, 1, …,
from the mask's edge inwards. Iteration i reaches the pixels at the chessboard distance i + 1 from the outside. Such a
pixel has the value offset(i) − h · log(sum). The offset is 1.5 · i, rounded down in some versions of kornia. The sum is
over neighbours that are outside the mask, or were reached earlier. A neighbour at the distance d, 1 or √2, adds
exp(−d / h).

The pixel with the largest value is found without the transform. The offset grows by at least 1 per iteration, and
h · log(sum) varies by less than 1. So the pixel is reached in the last iteration. Among the pixels of the last
iteration, it is the pixel with the smallest sum. A sum depends only on two numbers: the number of its neighbours at
the distance 1, and the number of its neighbours at the distance √2. So this module compares the ranks of sums, which
are integers. The exact Euclidean transform often has its largest value at another pixel.
"""

import numpy as np

from ovss_ray.structures.masks.regions import box_of

_EDGE, _CORNER = (np.exp(-distance / 0.35) for distance in (1.0, np.sqrt(2.0)))
"""Terms exp(−d / h) of the sum: for an edge neighbour (d = 1), and for a corner neighbour (d = √2)."""
_SUMS = np.array([[edges * _EDGE + corners * _CORNER for corners in range(5)] for edges in range(5)])
_RANKS = np.unique(_SUMS, return_inverse=True)[1].reshape(5, 5)
"""(5, 5) int: rank of each sum in ascending order, indexed by the numbers of edge neighbours and corner neighbours."""


def centre_point(mask: np.ndarray) -> tuple[int, int]:
    """Return (x, y) in pixels of the centre of a mask (H, W) bool. Among equal pixels, the first in row order wins.

    Pixels beyond the image count as outside. For an empty mask the result is (0, 0), as in OVSAM's released evaluation.
    """
    left, top, right, bottom = box_of(mask)
    if not right:
        return 0, 0
    inside = _innermost(mask[top:bottom, left:right])
    rank = np.where(inside, _RANKS[_neighbours(np.pad(~inside, 1, constant_values=True))], _RANKS.size)
    y, x = np.unravel_index(np.argmin(rank), rank.shape)
    return int(x) + left, int(y) + top


def _innermost(mask: np.ndarray) -> np.ndarray:
    """Return (h, w) bool: the pixels of a mask (h, w) bool with the largest chessboard distance from outside.

    A pixel's distance is larger than r if the square of radius r around it lies in the mask. Bisection finds the
    largest r for which such a pixel exists.
    """
    sums = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    low, high = 0, (min(mask.shape) + 1) // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _eroded(sums, middle).any() else (low, middle)
    return np.pad(_eroded(sums, low), low)


def _eroded(sums: np.ndarray, radius: int) -> np.ndarray:
    """Return (h − 2 radius, w − 2 radius) bool: whether the square of radius `radius` around a pixel lies in the mask.

    `sums` (h + 1, w + 1) is the integral image: the number of mask pixels above and left of each corner of a pixel.
    """
    side = 2 * radius + 1
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return np.asarray(inside == side * side)


def _neighbours(reached: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of edge neighbours of each pixel that are reached, and the number of corner neighbours.

    `reached` is (H, W) bool. Both results are (H − 2, W − 2) uint8, without the outermost pixels.
    """
    ones = reached.astype(np.uint8)
    edges = ones[:-2, 1:-1] + ones[2:, 1:-1] + ones[1:-1, :-2] + ones[1:-1, 2:]
    corners = ones[:-2, :-2] + ones[:-2, 2:] + ones[2:, :-2] + ones[2:, 2:]
    return edges, corners
