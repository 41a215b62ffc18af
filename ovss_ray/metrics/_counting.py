"""Inner loops that count the confusion matrix of an image. They are compiled by numba.

Pixels are counted in a table with a row per true label and a column per predicted label. A table for K labels has K + 1
rows. Row K counts pixels without a true label (IGNORE). Column K counts pixels without a predicted label (NONE).
Columns of zeros are appended, so that the number of columns is a multiple of 64. Each row is divided into groups of 64
cells. Each group has a mark, which tells whether pixels were counted in the group.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ovss_ray.structures.columns import IGNORE, NONE

_CHUNK, _BLOCK, _GROUP = 2048, 8, 64
# For a small table, a scan of all cells is faster than a mark for each pixel.
_SMALL = 1 << 15
"""Maximum number of cells of a small table (see `distinct`)."""


@cache
def compiled() -> tuple[Callable[..., Any], ...]:
    """Return `extremes`, `count`, `distinct` and `collect`, compiled by numba or loaded from its cache."""
    import numba  # takes half a second, and is not needed for reading records

    kernels: tuple[Callable[..., Any], ...] = (extremes, count, distinct, collect)
    return tuple(numba.njit(nogil=True, cache=True)(kernel) for kernel in kernels)


def tables(labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a table of zeros for pixel counts, and an array with one bool per 64 cells of the table.

    `labels` is the number of labels. The table is (labels + 1, G · 64) int32, so each row has G groups of 64 cells. The
    bools are the marks of these groups (see the module's docstring): (labels + 1, G), all False.
    """
    groups = -(-(labels + 1) // _GROUP)
    return np.zeros((labels + 1, groups * _GROUP), np.int32), np.zeros((labels + 1, groups), np.bool_)


def extremes(truth: np.ndarray, prediction: np.ndarray) -> tuple[int, int, int, int]:
    """Return minimum and maximum of `truth` (n,), then of `prediction` (n,). IGNORE and NONE count as 0.

    The value 0 is always included. For labels 3 and 5, minimum and maximum are 0 and 5.
    """
    # The loop keeps the dtypes of the arrays and has no branch, so that it is vectorised.
    truth_type, prediction_type = truth.dtype.type, prediction.dtype.type
    low, top, lowest, topmost = truth_type(0), truth_type(0), prediction_type(0), prediction_type(0)
    for i in range(truth.size):
        t = truth_type(truth[i] if truth[i] != IGNORE else 0)
        p = prediction_type(prediction[i] if prediction[i] != NONE else 0)
        low, top = min(low, t), max(top, t)
        lowest, topmost = min(lowest, p), max(topmost, p)
    return low, top, lowest, topmost


def count(truth: np.ndarray, prediction: np.ndarray, table: np.ndarray, touched: np.ndarray) -> None:
    """Count pixels in a table: add 1 to table[t, p] for each pixel with the true label t and the predicted label p.

    `truth` and `prediction` are (n,) integers. For K labels, IGNORE is counted in row K, and NONE in column K. `table`
    and `touched` are the arrays that `tables` returns. `touched` gets the marks of the groups with counted pixels. In a
    table of at most _SMALL cells, some marks are missing until the function `distinct` is called.
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
        # Neighbouring pixels mostly have the same cell. If all pixels of a block do, they are added at once.
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
    """Return the number of non-zero cells outside the row of IGNORE. Complete the marks in `touched`.

    In a table of at most _SMALL cells, `count` has set only some of the marks. This function sets the other marks.
    """
    marks = touched.reshape(-1)
    for group in range(marks.size if table.size <= _SMALL else 0):
        held, cells = np.int32(0), table.reshape(-1)[group * _GROUP : (group + 1) * _GROUP]
        for i in range(_GROUP):
            held |= cells[i]
        marks[group] = held != 0
    total = 0
    for row in range(table.shape[0] - 1):
        if touched[row].any():
            line, n = table[row], np.int32(0)  # summed in the dtype of the table, so that it is vectorised
            for i in range(line.size):
                n += np.int32(line[i] != 0)
            total += int(n)
    return total


def collect(
    table: np.ndarray, touched: np.ndarray, truths: np.ndarray, predictions: np.ndarray, pixels: np.ndarray
) -> None:
    """Write the non-zero cells of the table to three arrays. Then clear the table and the marks `touched`.

    For K labels, cells in row K (IGNORE) are left out. `truths` gets the row of each cell. `predictions` gets the
    column of each cell; NONE replaces the column number K. `pixels` gets the number of pixels of each cell. Each array
    needs one element more than the result of `distinct`, as working space.
    """
    labels = table.shape[0] - 1
    n = np.uintp(0)  # unsigned: a signed index is tested each time for being negative
    for row in range(labels):
        first = n
        for group in range(touched.shape[1]):
            if touched[row, group]:
                cells = table[row, group * _GROUP : (group + 1) * _GROUP]
                # To avoid a branch, a zero cell is written, too, and the next cell overwrites it.
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
