"""COCO's run lengths, for masks that leave this project as JSON."""

from collections.abc import Sequence

import numpy as np


def encode(labels: np.ndarray, classes: list[int]) -> list[str]:
    """The masks of some classes of a label map (H, W) uint16 as COCO's compressed run lengths, one string each.

    They are what pycocotools' `decode` reads beside {"size": [H, W]}: lengths of runs of 0 and 1 in turn, column by
    column; from the fourth on as differences to the second before.
    """
    flat = labels.ravel(order="F")
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    ends, values = np.append(starts[1:], flat.size), flat[starts]
    made = []
    for index in classes:
        mine = values == index
        edges = np.stack([starts[mine], ends[mine]], 1).ravel()
        made.append(_written(np.diff(edges, prepend=0, append=flat.size)))
    return made


def encode_region(box: Sequence[int], mask: np.ndarray, size: tuple[int, int]) -> str:
    """One mask, given inside its box x0 y0 x1 y1 as (h, w) bool, as COCO's run lengths in an image of H, W pixels."""
    x0, y0, *_ = box
    height, width = size
    edges = np.diff(np.pad(mask, ((1, 1), (0, 0))).astype(np.int8), axis=0).T
    places = np.flatnonzero(edges)  # column by column, where runs begin and end in turn
    column, row = np.divmod(places, mask.shape[0] + 1)
    ends = (column + x0) * height + row + y0
    joined = ends[1:-1].reshape(
        -1, 2
    )  # a run that ends at the bottom, and one that begins at the top of the next column
    ends = np.concatenate([ends[:1], joined[joined[:, 0] != joined[:, 1]].ravel(), ends[-1:]]) if len(ends) else ends
    return _written(np.diff(ends, prepend=0, append=height * width))


def decode(counts: str, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of COCO's compressed run lengths."""
    digits = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - ord("0")
    last = np.flatnonzero(digits & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(digits)) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((digits & 31) << (5 * place), first)
    numbers -= np.where(digits[last] & 16, 1 << (5 * (last - first + 1)), 0)
    runs = numbers.copy()
    for parity in (1, 2):  # from the fourth on, differences to the second before
        runs[parity::2] = np.cumsum(numbers[parity::2])
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


def _written(runs: np.ndarray) -> str:
    """Lengths of runs (n,) int64 of 0 and 1 in turn, in letters."""
    if runs[-1] == 0:
        runs = runs[:-1]
    return _letters(np.concatenate([runs[:3], runs[3:] - runs[1:-2]]))


def _letters(numbers: np.ndarray) -> str:
    """Write numbers (n,) int64 in digits of 5 bits, lowest first, as letters from "0" on.

    Bit 5 of a digit says that another one follows; bit 4 of the last one is the sign.
    """
    digits, left, open_ = [], numbers.astype(np.int64), np.ones(len(numbers), bool)
    while open_.any():
        digit, left = left & 31, left >> 5
        more = np.where(digit & 16, left != -1, left != 0)
        digits.append(np.where(open_, digit + 32 * more + ord("0"), 0))
        open_ = open_ & more
    table = np.stack(digits, 1).astype(np.uint8)
    return table[table > 0].tobytes().decode()
