"""Distances of pixels to the nearest other label of a label map, for all labels at once.

Distances are chessboard distances: the larger of the differences in rows and columns.
"""

import numpy as np

# A pixel has distance 1 if its 3 × 3 neighbourhood has several labels. The distance of any pixel is its distance to the
# nearest such pixel, plus 1. So one distance transform is enough for all labels.
_SQUARE = np.ones((3, 3), np.uint8)


def near(labels: np.ndarray, width: int, edge: bool) -> np.ndarray:
    """Return for each pixel whether another label is at most `width` pixels away, (H, W) bool.

    `labels` are (H, W) integers. If `edge` is True, pixels outside the map count as another label.
    """
    import cv2  # imported here: the import takes tenths of a second, and configs and reports do not need it

    inner, side = _inner(labels, edge), 2 * width - 1
    return cv2.erode(inner, np.ones((side, side), np.uint8)) == 0 if labels.size else inner == 0


def distances(labels: np.ndarray) -> np.ndarray:
    """Return the chessboard distance of each pixel to the nearest pixel of another label, in pixels, (H, W) float32.

    `labels` are (H, W) integers. If the map has a single label, all distances are infinite.
    """
    import cv2

    inner = _inner(labels, edge=False)
    if inner.all():
        return np.full(labels.shape, np.inf, np.float32)
    return cv2.distanceTransform(inner, cv2.DIST_C, 3) + np.float32(1)


def reach(shape: tuple[int, ...]) -> int:
    """Return the width of boundaries in Boundary IoU, in pixels: 2 % of the map's diagonal, rounded, at least 1.

    Source: Cheng et al., "Boundary IoU", CVPR 2021, and its official code.
    """
    height, width = shape
    return max(1, round(0.02 * float(np.sqrt(height**2 + width**2))))


def _inner(labels: np.ndarray, edge: bool) -> np.ndarray:
    """Return an array (H, W) uint8: 1 for each pixel whose 3 × 3 neighbourhood has a single label, else 0.

    If `edge` is True, pixels outside the map count as another label, so the outermost pixels get 0.
    """
    import cv2

    inner, values = np.zeros(labels.shape, np.uint8), labels.astype(np.uint16, copy=False)
    if labels.size:
        np.equal(cv2.erode(values, _SQUARE), cv2.dilate(values, _SQUARE), out=inner.view(np.bool_))
    if edge:
        inner[[0, -1]] = 0
        inner[:, [0, -1]] = 0
    return inner
