"""Polygons of the classes of a label map, along the edges of its pixels.

The pixels inside the polygons of a class are exactly the pixels of this class. Each polygon surrounds one 4-connected
part of a class.

Dimensions: H W pixels, n corners.
"""

from dataclasses import dataclass

import numpy as np

# OpenCV's findContours is not exact, since its outlines run through the centres of border pixels. A line one pixel wide
# then has no area, and a hole is too large.
Ring = list[tuple[int, int]]
"""(x, y) of each corner of a closed outline. Pixel (x, y) covers x to x + 1 and y to y + 1."""
EDGE = 1 << 16
"""Label of all pixels outside the label map; no class has this label."""


@dataclass(frozen=True)
class Polygon:
    """Polygon around one connected part of a class."""

    outline: Ring
    """corners, clockwise if y points down"""
    holes: list[Ring]
    """corners of each hole, counterclockwise if y points down"""


def count(labels: np.ndarray) -> int:
    """Return the number of points where outlines of a label map (H, W) turn. A point shared by classes counts once."""
    return int(np.count_nonzero(_turns(_around(labels))))


def trace(labels: np.ndarray, classes: list[int]) -> dict[int, list[Polygon]]:
    """Return class → list of its polygons, for the requested classes of a label map (H, W) uint16.

    Polygons are sorted by their topmost corner.
    """
    ids, x, y, following = _corners(labels, np.array(classes))
    parts = _parts(labels)
    polygons: dict[int, list[Polygon]] = {k: [] for k in classes}
    holes: list[tuple[int, Ring]] = []
    outer: dict[int, Polygon] = {}
    where = list(zip(x.tolist(), y.tolist(), strict=True))
    for ring in _rings(following.tolist()):
        corners = [where[i] for i in ring]
        k, inside = ids[ring[0]]
        part = int(parts.flat[inside])
        if _area(corners) > 0:
            outer[part] = Polygon(corners, [])
            polygons[int(k)].append(outer[part])
        else:
            holes.append((part, corners))
    for part, corners in holes:
        outer[part].holes.append(corners)
    return polygons


def _around(labels: np.ndarray) -> list[np.ndarray]:
    """Return the labels above left, above right, below left and below right of each crossing of pixel edges.

    Each of the four arrays is (H + 1, W + 1) int32. Pixels outside the label map have the label EDGE.
    """
    height, width = labels.shape
    padded = np.full((height + 2, width + 2), EDGE, np.int32)
    padded[1:-1, 1:-1] = labels
    return [padded[dy : dy + height + 1, dx : dx + width + 1] for dy in (0, 1) for dx in (0, 1)]


def _turns(four: list[np.ndarray]) -> np.ndarray:
    """Return for each crossing of pixel edges whether an outline turns there, (H + 1, W + 1) bool.

    `four` is the result of `_around`.
    """
    a, b, c, d = four  # no outline turns if the labels of each row are equal, or those of each column
    return ~((a == b) & (c == d)) & ~((a == c) & (b == d))


def _corners(labels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return all corners of the outlines of the requested classes, as four arrays with one entry per corner.

    The corners are sorted by class, then by y, then by x. A corner belongs to the outline of one class. The arrays are:

    - (n, 2): class of each corner, and a pixel of this class that touches the corner, as a flat index into `labels`
    - (n,): x of each corner
    - (n,): y of each corner
    - (n,): index of the next corner on the same outline
    """
    width, four = labels.shape[1], _around(labels)
    turns = _turns(four)
    y, x = (axis.astype(np.int64) for axis in np.nonzero(turns))
    around = np.stack([part[turns] for part in four])
    corners = []
    for q in range(4):  # index of the pixel whose class may have a corner here
        beside, over, across = (around[q ^ bit] == around[q] for bit in (1, 2, 3))
        below, right = divmod(q, 2)
        for turn, outward in ((~beside & ~over, True), (beside & over & ~across, False)):
            at = np.flatnonzero(turn & np.isin(around[q], classes))
            rightward, down = bool(right) == outward, bool(below) == outward  # directions of its two edges
            inside = (y[at] - 1 + below) * width + x[at] - 1 + right
            first = (below == right) == outward  # True: clockwise, the next corner is on the same row
            same = [np.full(len(at), value) for value in (rightward, down, first)]
            corners.append(np.stack([around[q][at], inside, x[at], y[at], *same]))
    k, inside, x, y, rightward, down, first = np.concatenate(corners, 1)
    # Along each row of pixel edges, the corners of a class are joined in pairs: first and second, third and fourth. The
    # same is done along each column. These joins form closed outlines.
    along, upright = np.lexsort([rightward, x, y, k]), np.lexsort([down, y, x, k])
    order = np.lexsort([x, y, k])
    following = np.where(first, _partner(along), _partner(upright))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return np.stack([k, inside], 1)[order], x[order], y[order], place[following[order]]


def _partner(order: np.ndarray) -> np.ndarray:
    """Return for each corner the index of its partner, (n,) integers.

    A corner and its partner are the two ends of a straight line of an outline. `order` (n,) contains the index of each
    corner once. Corner `order[2 * i]` and corner `order[2 * i + 1]` are partners.
    """
    partner = np.empty_like(order)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner


def _rings(following: list[int]) -> list[list[int]]:
    """Return each closed outline as a list of corner indices that starts at the lowest index.

    `following[i]` is the corner after corner i.
    """
    rings, seen = [], [False] * len(following)
    for begin in range(len(following)):
        ring = []
        at = begin
        while not seen[at]:
            seen[at] = True
            ring.append(at)
            at = following[at]
        rings += [ring] if ring else []
    return rings


def _area(ring: Ring) -> int:
    """Return twice the area inside a ring, negative for a counterclockwise ring."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True))


def _parts(labels: np.ndarray) -> np.ndarray:
    """Return the part number of each pixel, (H, W) int32. A part is 4-connected and has one label."""
    from scipy.sparse import coo_array  # imported here, since it takes tenths of a second and few clients need it
    from scipy.sparse.csgraph import connected_components

    begins = np.ones(labels.shape, bool)
    begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = (np.cumsum(begins) - 1).astype(np.int32).reshape(labels.shape)
    alike = labels[1:] == labels[:-1]
    alike[:, 1:] &= begins[1:, 1:] | begins[:-1, 1:] | ~alike[:, :-1]  # once for each pair of runs
    above, below = runs[:-1][alike], runs[1:][alike]
    size = int(runs[-1, -1]) + 1
    joined = coo_array((np.ones(len(above), bool), (above, below)), (size, size))
    return connected_components(joined, directed=False)[1][runs]
