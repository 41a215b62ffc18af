"""COCO run-length encoding (RLE) of masks, for exchange with other programs."""

from collections.abc import Sequence

import numpy as np

from ovss_ray.errors import OvssError


def encode(labels: np.ndarray, classes: list[int]) -> list[str]:
    """Return the masks of the requested classes of a label map (H, W) uint16, each as a compressed RLE string.

    pycocotools decodes {"size": [H, W], "counts": string}.
    """
    flat = labels.ravel(order="F")
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    ends, values = np.append(starts[1:], flat.size), flat[starts]
    strings = []
    for index in classes:
        of_class = values == index
        edges = np.stack([starts[of_class], ends[of_class]], 1).ravel()
        strings.append(_written(np.diff(edges, prepend=0, append=flat.size)))
    return strings


def encode_region(box: Sequence[int], mask: np.ndarray, size: tuple[int, int]) -> str:
    """Return a region's mask in an image of `size` (H, W), as a compressed RLE string.

    `mask` is (h, w) bool inside `box`, x0 y0 x1 y1.
    """
    x0, y0, *_ = box
    height, width = size
    edges = np.diff(np.pad(mask, ((1, 1), (0, 0))).astype(np.int8), axis=0).T
    places = np.flatnonzero(edges)  # column by column, where runs begin and end in turn
    column, row = np.divmod(places, mask.shape[0] + 1)
    ends = (column + x0) * height + row + y0
    joined = ends[1:-1].reshape(-1, 2)  # end of a run, and start of the next; equal ones at the edge of two columns
    ends = np.concatenate([ends[:1], joined[joined[:, 0] != joined[:, 1]].ravel(), ends[-1:]]) if len(ends) else ends
    return _written(np.diff(ends, prepend=0, append=height * width))


def decode(counts: str | list[int], size: tuple[int, int], name: str = "the answer") -> np.ndarray:
    """Decode COCO RLE to a mask, (H, W) bool.

    `counts` is a list of run lengths or a compressed string. Error messages begin with `name`. Raises OvssError if
    `counts` is invalid, or the runs do not fill the mask exactly.
    """
    height, width = size
    runs = _listed(counts, name) if isinstance(counts, list) else _compressed(str(counts), name)
    if runs.min() < 0 or runs.sum() != height * width:
        raise OvssError(
            f"{name}: invalid RLE: its runs have {runs.sum()} pixels, but the mask has {height} × {width}. "
            "Pass counts and size [H, W] of the same mask"
        )
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


def _listed(counts: list[int], name: str) -> np.ndarray:
    if not counts or not all(type(run) is int and 0 <= run < 2**40 for run in counts):
        raise OvssError(f"{name}: invalid RLE: expected a list of integers of at least 0, found {str(counts)[:20]}")
    return np.array(counts, np.int64)


def _compressed(counts: str, name: str) -> np.ndarray:
    """Decode a compressed string, as in pycocotools' rleFrString, to run lengths (n,) int64.

    Raises OvssError if the string is invalid.
    """
    # _letters describes the digits
    digits = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - ord("0")
    starts = np.flatnonzero(np.concatenate([[True], digits[:-1] & 32 == 0]))
    lengths = np.diff(starts, append=len(digits))
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32 or lengths.max() > 7:
        raise OvssError(f"{name}: invalid compressed RLE: {counts[:20]!r}. Expected a string from pycocotools' encode")
    runs = np.add.reduceat((digits & 31) << 5 * places, starts)
    runs -= np.where(digits[starts + lengths - 1] & 16, 1 << 5 * lengths, 0)
    # from the fourth number on, a number is the difference from the length two places before
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs


def _written(runs: np.ndarray) -> str:
    """Encode the lengths of alternating runs of 0 and 1, (n,) int64, as a compressed string."""
    if runs[-1] == 0:
        runs = runs[:-1]
    return _letters(np.concatenate([runs[:3], runs[3:] - runs[1:-2]]))


def _letters(numbers: np.ndarray) -> str:
    """Encode numbers (n,) int64 as text, with one character per digit of five bits, lowest digit first."""
    # character chr(48 + b): bits 0 to 4 of b are the digit; bit 5 is set if another digit of the number follows
    # bit 4 of the last digit is the sign
    digits, remaining, open_ = [], numbers.astype(np.int64), np.ones(len(numbers), bool)
    while open_.any():
        digit, remaining = remaining & 31, remaining >> 5
        more = np.where(digit & 16, remaining != -1, remaining != 0)
        digits.append(np.where(open_, digit + 32 * more + ord("0"), 0))
        open_ = open_ & more
    table = np.stack(digits, 1).astype(np.uint8)
    return table[table > 0].tobytes().decode()
