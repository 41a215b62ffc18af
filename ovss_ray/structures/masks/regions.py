"""Regions of an image. A region is a mask without a class, stored as a box and one bit per pixel of the box.

Boxes are (R, 4) int32: x0 y0 x1 y1, half open. The bits of a region are the pixels of the box, row by row. Padding
follows the last row, so that each region has whole bytes. An empty region has the box 0 0 0 0 and no bits.

Dimensions: R regions, H W pixels, h w pixels of a box.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ovss_ray.errors import OvssError
from ovss_ray.structures.columns import IGNORE, NONE

# A hundred masks of SAM take one percent of the memory of boolean masks at image size. Encoding and decoding are much
# faster than with run lengths.
BYTES = 1 << 29
"""Maximum bytes of the packed masks of one image. Without a limit, 3,000 masks of 48 megapixels take 18 GB."""

Box = tuple[int, int, int, int]
"""x0 y0 x1 y1 in pixels, half open: x1 and y1 lie outside."""
Regions = tuple[np.ndarray, np.ndarray]
"""Pair of boxes (R, 4) int32 and bits (n,) uint8. The n bytes have the bits of all regions, one after another."""


def pack(masks: Iterable[np.ndarray], cap: int = BYTES) -> Regions:
    """Pack masks, each (H, W) bool.

    If `masks` is a generator, only one unpacked mask is in memory at a time.

    Raises OvssError if the packed masks take more than `cap` bytes.
    """
    return join(((box := box_of(mask), mask[box[1] : box[3], box[0] : box[2]]) for mask in masks), cap)


def join(parts: Iterable[tuple[Box, np.ndarray]], cap: int = BYTES) -> Regions:
    """Pack regions, each given by its box and its mask (h, w) bool inside this box.

    Raises OvssError if the packed masks take more than `cap` bytes.
    """
    boxes: list[Box] = []
    bits = [np.empty(0, np.uint8)]
    size = 0
    for box, mask in parts:
        boxes.append(box)
        bits.append(np.packbits(mask))
        size += len(bits[-1])
        if size > cap:
            raise OvssError(
                f"too many regions: {len(boxes)} of them take more than {cap:,} bytes when packed. This is the limit "
                "for one image. Cut the image into tiles, or propose fewer regions"
            )
    return np.array(boxes, np.int32).reshape(-1, 4), np.concatenate(bits)


def box_of(mask: np.ndarray) -> Box:
    """Return the bounding box of a mask (H, W) bool; 0 0 0 0 for an empty mask."""
    rows, columns = np.asarray(mask.any(1)), np.asarray(mask.any(0))
    if not rows.any():
        return 0, 0, 0, 0
    x0, y0 = int(np.argmax(columns)), int(np.argmax(rows))
    x1, y1 = mask.shape[1] - int(np.argmax(columns[::-1])), mask.shape[0] - int(np.argmax(rows[::-1]))
    return x0, y0, x1, y1


class Masks(Sequence[np.ndarray]):
    """Masks of regions inside their boxes. Mask i is (h, w) bool and is unpacked on access."""

    def __init__(self, boxes: np.ndarray, bits: np.ndarray) -> None:
        self.sizes = np.stack([boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], 1).astype(np.int64)
        self.starts = np.concatenate([[0], np.cumsum(-(-self.sizes.prod(1) // 8))])
        self.bits = bits

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, i: Any) -> Any:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        height, width = self.sizes[i]
        bits = self.bits[self.starts[i] : self.starts[i] + -(-height * width // 8)]
        return np.unpackbits(bits, count=height * width).view(bool).reshape(height, width)


def masks(boxes: np.ndarray, bits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the masks of all regions at the size of the image, (R, H, W) bool.

    `size` is (H, W). The class `Masks` needs less memory: it unpacks one mask at a time, in the size of the box.
    """
    full_masks = np.zeros((len(boxes), *size), bool)
    for full, (x0, y0, x1, y1), mask in zip(full_masks, boxes.tolist(), Masks(boxes, bits), strict=True):
        full[y0:y1, x0:x1] = mask
    return full_masks


def shared(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> int:
    """Return the number of pixels that two regions share. Each is a box (4,) and its mask (h, w) bool."""
    (box, mask), (other_box, other_mask) = first, second
    x0, y0 = np.maximum(box[:2], other_box[:2])
    x1, y1 = np.minimum(box[2:], other_box[2:])
    if x0 >= x1 or y0 >= y1:
        return 0
    inside = mask[y0 - box[1] : y1 - box[1], x0 - box[0] : x1 - box[0]]
    other = other_mask[y0 - other_box[1] : y1 - other_box[1], x0 - other_box[0] : x1 - other_box[0]]
    return int(np.count_nonzero(inside & other))


def named(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best class of each region, (R,) uint16, and the probability of this class, (R,) float64.

    `scores` are logits (R, K). The first class wins a tie. Raises OvssError if K is larger than the constant NONE,
    65534.
    """
    if scores.shape[1] > NONE:
        raise OvssError(f"too many classes: {scores.shape[1]}; a label map can name at most {NONE}. Remove classes")
    if not len(scores):
        return np.empty(0, np.uint16), np.empty(0)
    best = scores.argmax(1)
    top = scores[np.arange(len(scores)), best]
    return best.astype(np.uint16), 1 / np.exp((scores - top[:, None]).astype(np.float64)).sum(1)


def components(labels: np.ndarray) -> tuple[np.ndarray, list[Box]]:
    """Find the regions of a label map (H, W) uint16. A region is an 8-connected group of pixels with the same label.

    Return the region number of each pixel, (H, W) int32, and a list with the box of each region. The regions are
    numbered from 1, in the order of their labels. The first box belongs to region 1. IGNORE pixels have the number 0.
    """
    import cv2  # imported here: the import takes tenths of a second, and configs and reports do not need it

    region_numbers = np.zeros(labels.shape, np.int32)
    boxes: list[Box] = []
    for label in np.unique(labels[labels != IGNORE]):
        here = labels == label
        _, numbers, stats, _ = cv2.connectedComponentsWithStats(here.astype(np.uint8), connectivity=8)
        region_numbers[here] = numbers[here] + len(boxes)
        boxes += [(x, y, x + width, y + height) for x, y, width, height, _ in stats[1:].tolist()]
    return region_numbers, boxes
