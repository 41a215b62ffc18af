"""The inner loops of counting: pixels of a truth and of a prediction into the cells of a table. Compiled by numba.

A table for K labels has K + 1 rows, the last one for IGNORE, and in each K + 1 cells, the last one for NONE, and some
that stay zero: at K = 847 a fresh one per image would be 3 MB to clear and to scan. So it is kept, and the cells that
were touched are found by the groups of 64 that hold them; only these are read and cleared.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ovss_ray.columns import IGNORE, NONE

_CHUNK, _BLOCK, _GROUP = 2048, 8, 64
_SMALL = 1 << 15
"""Cells of a table that is looked through in less time than it takes to note at each pixel which group it touches."""


@cache
def compiled() -> tuple[Callable[..., Any], ...]:
    """Compile `extremes`, `count`, `distinct` and `collect`, or load them from numba's cache."""
    import numba  # half a second, which reading records should not cost

    kernels: tuple[Callable[..., Any], ...] = (extremes, count, distinct, collect)
    return tuple(numba.njit(nogil=True, cache=True)(kernel) for kernel in kernels)


def tables(labels: int) -> tuple[np.ndarray, np.ndarray]:
    """An empty table (labels + 1, G · 64) int32, and which of its groups are touched (labels + 1, G) bool."""
    groups = -(-(labels + 1) // _GROUP)
    return np.zeros((labels + 1, groups * _GROUP), np.int32), np.zeros((labels + 1, groups), np.bool_)


def extremes(truth: np.ndarray, prediction: np.ndarray) -> tuple[int, int, int, int]:
    """The least and greatest value of each, IGNORE and NONE taken for 0. Compiled.

    It stays in the dtypes of the arrays and has no branch, so that it is vectorised: at no cost beside the counting.
    """
    one, other = truth.dtype.type, prediction.dtype.type
    low, top, lowest, topmost = one(0), one(0), other(0), other(0)
    for i in range(truth.size):
        t = one(truth[i] if truth[i] != IGNORE else 0)
        p = other(prediction[i] if prediction[i] != NONE else 0)
        low, top = min(low, t), max(top, t)
        lowest, topmost = min(lowest, p), max(topmost, p)
    return low, top, lowest, topmost


def count(truth: np.ndarray, prediction: np.ndarray, table: np.ndarray, touched: np.ndarray) -> None:
    """Add pixels to table[truth, prediction]; the row and the column behind the labels take IGNORE and NONE. Compiled.

    Chunks that fit into the first cache: first all their cells, which is vectorised, then the counting. Neighbours are
    mostly alike, so blocks of eight equal cells, compared as four pairs, are added at once. What is not alike is noted
    in `touched` only if the table is not small (see `distinct`).
    """
    flat, marks = table.reshape(-1), touched.reshape(-1)
    small = flat.size <= _SMALL
    width, last = np.uint32(table.shape[1]), np.uint32(table.shape[0] - 1)
    cells = np.empty(_CHUNK, np.uint32)
    pairs = cells.view(np.uint64)
    for start in range(0, truth.size, _CHUNK):
        truths, predictions = truth[start : start + _CHUNK], prediction[start : start + _CHUNK]
        n = truths.size
        for i in range(n):
            cells[i] = min(np.uint32(truths[i]), last) * width + min(np.uint32(predictions[i]), last)
        cells[n:] = last * width + last  # the rest of the last chunk counts as IGNORE
        for p in range(0, -(-n // _BLOCK) * _BLOCK // 2, _BLOCK // 2):
            pair, begin = pairs[p], 2 * p
            swapped = pair >> np.uint64(32) | pair << np.uint64(32)
            if ((pair ^ swapped) | (pair ^ pairs[p + 1]) | (pair ^ pairs[p + 2]) | (pair ^ pairs[p + 3])) == 0:
                flat[cells[begin]] += _BLOCK
                marks[cells[begin] // _GROUP] = True
            else:
                for i in range(begin, begin + _BLOCK):
                    flat[cells[i]] += 1
                if not small:
                    for i in range(begin, begin + _BLOCK):
                        marks[cells[i] // _GROUP] = True


def distinct(table: np.ndarray, touched: np.ndarray) -> int:
    """How many cells are not zero, without the row of IGNORE. In a small table, note their groups. Compiled."""
    marks = touched.reshape(-1)
    for group in range(marks.size if table.size <= _SMALL else 0):
        held, cells = np.int32(0), table.reshape(-1)[group * _GROUP : (group + 1) * _GROUP]
        for i in range(_GROUP):
            held |= cells[i]
        marks[group] = held != 0
    total = 0
    for row in range(table.shape[0] - 1):
        if touched[row].any():
            line, n = table[row], np.int32(0)  # summed in the table's own width, so that it is vectorised
            for i in range(line.size):
                n += np.int32(line[i] != 0)
            total += int(n)
    return total


def collect(
    table: np.ndarray, touched: np.ndarray, truths: np.ndarray, predictions: np.ndarray, pixels: np.ndarray
) -> None:
    """List the cells that are not zero, without the row of IGNORE, and clear the table. Compiled.

    The lists have one place more than there are cells: nothing branches on a cell, each is written behind the last one
    that counts. First as its column and its pixels in one number, which halves the writing.
    """
    labels = table.shape[0] - 1
    n = np.uintp(0)  # a signed index would be looked at each time, whether it counts from the end
    for row in range(labels):
        first = n
        for group in range(touched.shape[1]):
            if touched[row, group]:
                cells = table[row, group * _GROUP : (group + 1) * _GROUP]
                for i in range(_GROUP):
                    pixels[n] = np.int64(group * _GROUP + i) << 32 | np.int64(cells[i])
                    n += np.uintp(cells[i] != 0)
                cells[:] = 0
        truths[first:n] = row
        for i in range(first, n):
            column = pixels[i] >> 32
            predictions[i] = column if column != labels else NONE
            pixels[i] &= 0xFFFFFFFF
    table[labels] = 0
    touched[:] = False
