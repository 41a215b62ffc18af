"""Instances of an image: the true objects, each with a mask, a class and an annotated box.

Dimensions: R instances, H W pixels.
"""

from dataclasses import dataclass, field

import numpy as np

from ovss_ray.structures.columns import IGNORE
from ovss_ray.structures.masks import regions

COUNTED, CROWD, INVALID = range(3)
"""Status of an instance. The stage truth_prompts creates prompts only for COUNTED instances.

COUNTED: a valid instance.
CROWD: a group of objects (`iscrowd`). Detections inside a crowd are not false positives.
INVALID: an instance that is marked as ignored, or has no valid mask, area or box.

Mask AP evaluates INVALID instances in the same way as COUNTED instances, because pycocotools does so. No other metric
evaluates INVALID instances.
"""


@dataclass(frozen=True, eq=False)
class Instances:
    """The R instances of an image.

    Instances from a JSON file are in the order of the annotations. Instances from an image file are in the order of
    the pixel values.
    """

    size: tuple[int, int]
    """H, W in pixels"""
    boxes: np.ndarray
    """(R, 4) int32: x0 y0 x1 y1 of each mask, half open (see regions.py)"""
    bits: np.ndarray
    """(n,) uint8: all masks in n bytes. A mask has one bit per pixel of the mask's box (see regions.py)"""
    labels: np.ndarray
    """(R,) uint16: label index of each instance"""
    frames: np.ndarray
    """(R, 4) float32: x0 y0 x1 y1 of each annotated box in pixels; the box of the mask, in `boxes`, may be different"""
    areas: np.ndarray
    """(R,) float64: annotated area in pixels"""
    status: np.ndarray
    """(R,) uint8: COUNTED, CROWD or INVALID"""
    number: int = 0
    """id of the image in the annotation file; a detector's result file has the same id for the image"""
    absent: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint16))
    """(n,) uint16: labels that are known to be absent from the image; empty if the data set lists none"""
    partial: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint16))
    """(n,) uint16: labels for which the annotations of the image may be incomplete; empty if the data set lists none"""

    def label_map(self) -> np.ndarray:
        """Return the label of each pixel, (H, W) uint16; IGNORE outside all COUNTED instances.

        If COUNTED instances overlap, the instance with the smallest annotated area has precedence.
        """
        painted = np.full(self.size, IGNORE, np.uint16)
        masks = regions.Masks(self.boxes, self.bits)
        counted = np.flatnonzero(self.status == COUNTED)
        for i in counted[np.argsort(-self.areas[counted], kind="stable")]:
            x0, y0, x1, y1 = self.boxes[i]
            painted[y0:y1, x0:x1][masks[i]] = self.labels[i]
        return painted

    def columns(self) -> tuple[np.ndarray, ...]:
        """Return one value for each column in columns.TRUE, in the same order."""
        truth = self.boxes, self.bits, self.labels, self.frames, self.areas, self.status
        return *truth, self.absent, self.partial
