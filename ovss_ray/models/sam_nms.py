"""Which of SAM's masks are left: no repeated ones, and no specks in those. On the host, in numpy and OpenCV."""

import numpy as np
import torch

MANY = 1000
"""Boxes; above as many torchvision's batched_nms sorts what is left once more, and not stably."""


def nms(corners: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression of boxes: the indices of those kept, best first, (n,) int64.

    `corners` (R, 4) x0 y0 x1 y1, `scores` (R,). A box is left out if its IoU with a better one that is kept exceeds the
    threshold; of equal scores the first is better. The float32 operations are torchvision's, in their order. For more
    than MANY boxes so is the order of equal scores, of which the masks of crops have many: what torch.sort makes of it.
    """
    order = np.argsort(-scores, kind="stable")
    boxes = corners[order].astype(np.float32)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if alive[i]:
            others = i + 1 + np.flatnonzero(alive[i + 1 :])
            ends = np.maximum(boxes[i, :2], boxes[others, :2]), np.minimum(boxes[i, 2:], boxes[others, 2:])
            inner = np.maximum(ends[1] - ends[0], 0).prod(1)
            with np.errstate(invalid="ignore"):  # two boxes without any area have no IoU, and so do not overlap
                alive[others] = ~((inner / (areas[i] + areas[others] - inner)).astype(np.float64) > threshold)
    if len(order) <= MANY:
        return order[alive]
    left = np.sort(order[alive])
    return left[torch.from_numpy(scores[left]).sort(descending=True).indices.numpy()]


def clean(mask: np.ndarray, least: int) -> tuple[np.ndarray, bool]:
    """Fill holes of fewer than `least` pixels, then take away pieces of fewer, but for the largest if all are.

    Holes and pieces are 8-connected. Returns a mask (H, W) bool, and whether it is another than the one given.
    """
    outside, holes = _without_specks(~mask, least, keep_one=False)
    made, pieces = _without_specks(~outside, least, keep_one=True)
    return made, holes or pieces


def _without_specks(mask: np.ndarray, least: int, keep_one: bool) -> tuple[np.ndarray, bool]:
    """A mask (H, W) bool without its pieces of fewer than `least` pixels, and whether there were any."""
    import cv2  # tenths of a second to import, which configs and reports should not cost

    _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    wanted = areas >= least
    wanted[0] = False  # all that is not in the mask
    if wanted[1:].all():
        return mask, False
    if keep_one and not wanted.any():
        wanted[1 + int(np.argmax(areas[1:]))] = True
    return wanted[numbers], True
