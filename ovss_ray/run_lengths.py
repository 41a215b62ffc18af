"""Masks as COCO's run lengths, in which other programs write them."""

from collections.abc import Sequence

import numpy as np

from ovss_ray.errors import OvssError


def decode_runs(counts: str | Sequence[int], height: int, width: int, name: str) -> np.ndarray:
    """Decode COCO's run lengths to a mask, (H, W) bool. Raises OvssError unless they fill it exactly.

    They are lengths of runs of 0 and 1 in turn, column by column: a list of numbers, or compressed to a string.
    """
    runs = _listed(counts, name) if isinstance(counts, list) else _compressed(str(counts), name)
    if runs.min() < 0 or runs.sum() != height * width:
        raise OvssError(f"{name}: the runs of a mask have {runs.sum()} pixels, and its size is {height} × {width}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _listed(counts: list[int], name: str) -> np.ndarray:
    if not counts or not all(type(run) is int and 0 <= run < 2**40 for run in counts):
        raise OvssError(f"{name}: {str(counts)[:20]} are no run lengths, which are a list of whole numbers from 0")
    return np.array(counts, np.int64)


def _compressed(counts: str, name: str) -> np.ndarray:
    """Decode compressed run lengths to numbers, int64. Raises OvssError.

    The format, as pycocotools' rleFrString reads it: a number is written in digits of 5 bits, lowest first, as
    characters from "0" on; bit 5 says that another digit follows, and bit 4 of the last is the sign. From the fourth
    on, numbers are differences to the second before. pycocotools itself does not look whether they fill the mask, and
    leaves the rest of it to chance.
    """
    digits = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - ord("0")
    starts = np.flatnonzero(np.concatenate([[True], digits[:-1] & 32 == 0]))
    lengths = np.diff(starts, append=len(digits))
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32 or lengths.max() > 7:
        raise OvssError(f"{name}: {counts[:20]!r} are no compressed run lengths")
    runs = np.add.reduceat((digits & 31) << 5 * places, starts)
    runs -= np.where(digits[starts + lengths - 1] & 16, 1 << 5 * lengths, 0)
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs
