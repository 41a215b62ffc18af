"""Regions, masks without a name, as they travel: a box each, and one bit per pixel inside it.

That is exact, a hundredth of the boolean masks' bytes for a hundred of SAM's, and many times as fast to make and to
read as run lengths (design §5). Boxes are (R, 4) int32: x0 y0 x1 y1, half open; the bits of a region are those of its
box row by row, begun at a new byte. An empty region has the box 0 0 0 0 and no bits. Letters: R regions, H W pixels,
h w those of a box.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ovss_ray.columns import IGNORE
from ovss_ray.errors import OvssError

BYTES = 1 << 29
"""The most bytes that the packed masks of one image may take: 3,000 of a whole 48-megapixel image would be 18 GB."""

Box = tuple[int, int, int, int]
"""x0 y0 x1 y1, half open"""
Regions = tuple[np.ndarray, np.ndarray]
"""boxes (R, 4) int32, bits (n,) uint8"""


def pack(masks: Iterable[np.ndarray], cap: int = BYTES) -> Regions:
    """Pack masks, each (H, W) bool, given one by one so that all of them need not be in memory at once.

    Raises OvssError if they take more than `cap` bytes.
    """
    return join(((box := box_of(mask), mask[box[1] : box[3], box[0] : box[2]]) for mask in masks), cap)


def join(parts: Iterable[tuple[Box, np.ndarray]], cap: int = BYTES) -> Regions:
    """Pack regions that are given as boxes and the masks inside them, (h, w) bool. Raises OvssError as `pack` does."""
    boxes: list[Box] = []
    bits = [np.empty(0, np.uint8)]
    taken = 0
    for box, mask in parts:
        boxes.append(box)
        bits.append(np.packbits(mask))
        taken += len(bits[-1])
        if taken > cap:
            raise OvssError(
                f"{len(boxes)} regions or more take over {cap:,} bytes when packed, which is the cap for one image. "
                "Cut the image into tiles, or propose fewer regions"
            )
    return np.array(boxes, np.int32).reshape(-1, 4), np.concatenate(bits)


def box_of(mask: np.ndarray) -> Box:
    """The box around a mask (H, W) bool; 0 0 0 0 if it is empty."""
    rows, columns = np.asarray(mask.any(1)), np.asarray(mask.any(0))
    if not rows.any():
        return 0, 0, 0, 0
    x0, y0 = int(np.argmax(columns)), int(np.argmax(rows))
    x1, y1 = mask.shape[1] - int(np.argmax(columns[::-1])), mask.shape[0] - int(np.argmax(rows[::-1]))
    return x0, y0, x1, y1


class Masks(Sequence[np.ndarray]):
    """The masks of regions inside their boxes: the i-th is (h, w) bool, unpacked when it is asked for."""

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
    """All masks of an image of H, W pixels in full: (R, H, W) bool. For pictures and tests; stages use Masks."""
    made = np.zeros((len(boxes), *size), bool)
    for full, (x0, y0, x1, y1), mask in zip(made, boxes.tolist(), Masks(boxes, bits), strict=True):
        full[y0:y1, x0:x1] = mask
    return made


def components(labels: np.ndarray) -> tuple[np.ndarray, list[Box]]:
    """The true regions of a label map (H, W) uint16: 8-connected pixels of one label.

    Returns their numbers from 1, (H, W) int32, where pixels of IGNORE are 0, and their boxes. The order is that of the
    labels, then of the first pixels.
    """
    import cv2  # tenths of a second to import, which configs and reports should not cost

    made = np.zeros(labels.shape, np.int32)
    boxes: list[Box] = []
    for label in np.unique(labels[labels != IGNORE]):
        here = labels == label
        _, numbers, stats, _ = cv2.connectedComponentsWithStats(here.astype(np.uint8), connectivity=8)
        made[here] = numbers[here] + len(boxes)
        boxes += [(x, y, x + width, y + height) for x, y, width, height, _ in stats[1:].tolist()]
    return made, boxes
