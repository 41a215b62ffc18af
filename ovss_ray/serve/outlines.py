"""Outlines of the classes of a label map, along the edges of its pixels.

OpenCV's findContours runs through the middle of the border's pixels, so that a line one pixel wide has no area, and
holes are too large. Here a polygon encloses just its pixels: filled, it is the mask again.

A corner is where an outline turns. Corners in one row of the pixels' edges are joined two by two, and those in one
column; following the joins goes around. Pixels of a class that touch at a corner alone belong to two polygons.
Letters: H W pixels, n corners.
"""

from dataclasses import dataclass

import numpy as np

Ring = list[tuple[int, int]]
"""x and y of its corners; the last one is joined to the first. Pixel x y covers x to x + 1 and y to y + 1."""
EDGE = 1 << 16
"""A label that no class has, around the map."""


@dataclass(frozen=True)
class Polygon:
    """A connected part of a class."""

    outline: Ring
    """clockwise, as it is seen"""
    holes: list[Ring]
    """the other way around"""


def count(labels: np.ndarray) -> int:
    """In how many places the outlines of a label map (H, W) turn; up to four classes have a corner in one."""
    return int(np.count_nonzero(_turns(_around(labels))))


def trace(labels: np.ndarray, classes: list[int]) -> dict[int, list[Polygon]]:
    """Class → its polygons, by their first corners from the top, for some classes of a label map (H, W) uint16."""
    ids, x, y, following = _corners(labels, np.array(classes))
    parts = _parts(labels)
    made: dict[int, list[Polygon]] = {k: [] for k in classes}
    holes: list[tuple[int, Ring]] = []
    outer: dict[int, Polygon] = {}
    where = list(zip(x.tolist(), y.tolist(), strict=True))
    for ring in _rings(following.tolist()):
        corners = [where[i] for i in ring]
        k, inside = ids[ring[0]]
        part = int(parts.flat[inside])
        if _area(corners) > 0:
            outer[part] = Polygon(corners, [])
            made[int(k)].append(outer[part])
        else:
            holes.append((part, corners))
    for part, corners in holes:
        outer[part].holes.append(corners)
    return made


def _around(labels: np.ndarray) -> list[np.ndarray]:
    """At each crossing of the pixels' edges the labels above left, above right, below left and below right.

    (H + 1, W + 1) int32 each, of a map (H, W); EDGE beyond it.
    """
    height, width = labels.shape
    padded = np.full((height + 2, width + 2), EDGE, np.int32)
    padded[1:-1, 1:-1] = labels
    return [padded[dy : dy + height + 1, dx : dx + width + 1] for dy in (0, 1) for dx in (0, 1)]


def _turns(four: list[np.ndarray]) -> np.ndarray:
    """Where an outline turns, (H + 1, W + 1) bool: where what is around is neither cut across nor cut down."""
    a, b, c, d = four
    return ~((a == b) & (c == d)) & ~((a == c) & (b == d))


def _corners(labels: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All corners: class and a pixel of it (n, 2), x, y, and the corner that follows each (n,), from top to bottom."""
    width, four = labels.shape[1], _around(labels)
    turns = _turns(four)
    y, x = (axis.astype(np.int64) for axis in np.nonzero(turns))
    around = np.stack([part[turns] for part in four])
    made = []
    for q in range(4):  # the pixel whose class may have a corner here
        beside, over, across = (around[q ^ bit] == around[q] for bit in (1, 2, 3))
        below, right = divmod(q, 2)
        for turn, outward in ((~beside & ~over, True), (beside & over & ~across, False)):
            at = np.flatnonzero(turn & np.isin(around[q], classes))
            rightward, down = bool(right) == outward, bool(below) == outward  # where its two edges lie
            inside = (y[at] - 1 + below) * width + x[at] - 1 + right
            first = (below == right) == outward  # whether the next corner is along the row, going clockwise
            same = [np.full(len(at), value) for value in (rightward, down, first)]
            made.append(np.stack([around[q][at], inside, x[at], y[at], *same]))
    k, inside, x, y, rightward, down, first = np.concatenate(made, 1)
    along, upright = np.lexsort([rightward, x, y, k]), np.lexsort([down, y, x, k])
    order = np.lexsort([x, y, k])
    following = np.where(first, _partner(along), _partner(upright))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return np.stack([k, inside], 1)[order], x[order], y[order], place[following[order]]


def _partner(order: np.ndarray) -> np.ndarray:
    """Of each corner the other end of its edge, if an order has the two ends of every edge one after the other."""
    made = np.empty_like(order)
    made[order[0::2]], made[order[1::2]] = order[1::2], order[0::2]
    return made


def _rings(following: list[int]) -> list[list[int]]:
    """The cycles of a permutation, by their first members."""
    made, seen = [], [False] * len(following)
    for begin in range(len(following)):
        ring = []
        at = begin
        while not seen[at]:
            seen[at] = True
            ring.append(at)
            at = following[at]
        made += [ring] if ring else []
    return made


def _area(ring: Ring) -> int:
    """Twice the area that a ring encloses; below 0 if it runs against the clock."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True))


def _parts(labels: np.ndarray) -> np.ndarray:
    """Numbers of the connected parts of equal labels, (H, W) int32; pixels that touch at a corner alone are not."""
    from scipy.sparse import coo_array  # tenths of a second to import, which clients should not cost
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
