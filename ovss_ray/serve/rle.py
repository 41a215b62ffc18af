"""COCO's run lengths, for masks that leave this project as JSON."""

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
        runs = np.diff(edges, prepend=0, append=flat.size)
        if runs[-1] == 0:
            runs = runs[:-1]
        made.append(_letters(np.concatenate([runs[:3], runs[3:] - runs[1:-2]])))
    return made


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
