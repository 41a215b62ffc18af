"""Removal of duplicate masks, and of specks and holes in masks, with NumPy and OpenCV on the CPU."""

import numpy as np
import torch

MANY = 1000
"""Number of boxes above which `nms` sorts the kept boxes a second time, as torchvision's batched_nms does"""


def nms(corners: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Return the indices (n,) int64 of the n boxes that greedy non-maximum suppression keeps, best box first.

    The result equals the result of torchvision's batched_nms for one category. `corners` (R, 4) are x0 y0 x1 y1 of R
    boxes, and `scores` are (R,). A box is dropped if the box's IoU with a better, kept box exceeds `threshold`. Of two
    boxes with equal scores, the box with the lower index is better.
    """
    order = np.argsort(-scores, kind="stable")
    # float32 operations in the order of torchvision, so that rounding agrees
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
    # as in torchvision: this sort may change the order of kept boxes with equal scores
    left = np.sort(order[alive])
    return left[torch.from_numpy(scores[left]).sort(descending=True).indices.numpy()]


def clean(mask: np.ndarray, least: int) -> tuple[np.ndarray, bool]:
    """Return a mask (H, W) bool without small holes and small pieces, and whether the mask had any of them.

    Holes and pieces are 8-connected. They are small if they have fewer than `least` pixels. Holes are filled first. If
    all pieces are small, the largest piece stays.
    """
    outside, holes = _without_specks(~mask, least, keep_one=False)
    cleaned, pieces = _without_specks(~outside, least, keep_one=True)
    return cleaned, holes or pieces


def _without_specks(mask: np.ndarray, least: int, keep_one: bool) -> tuple[np.ndarray, bool]:
    """Return a mask (H, W) bool without pieces of fewer than `least` pixels, and whether the mask had such pieces.

    If `keep_one` is True, the largest piece always stays.
    """
    import cv2  # tenths of a second to import, which configs and reports should not cost

    _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    wanted = areas >= least
    wanted[0] = False  # the pixels outside the mask
    if wanted[1:].all():
        return mask, False
    if keep_one and not wanted.any():
        wanted[1 + int(np.argmax(areas[1:]))] = True
    return wanted[numbers], True
