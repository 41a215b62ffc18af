"""Crops of an image in shifted grids, and label maps from the words of crops.

DenseCaSED embeds crops of several grids with CLIP, and averages the embeddings on a coarse map: Conti et al.,
"Vocabulary-free Image Classification and Semantic Segmentation", arXiv 2404.10864. A grid of g × g cells is also
shifted by half a cell: along x, along y, and along both. A shifted grid has one cell less along each shifted axis.

Dimensions: H W pixels, h w pixels of a crop, N crops, g cells of a grid per axis; D features, K words.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SHIFTS = (0, 1)
"""Shifts of a grid along one axis, in half cells"""


def boxes(grids: Sequence[int], shifted: bool = True) -> np.ndarray:
    """Return the boxes (N, 4) float32 of all crops, as fractions of the image: x, y, width, height.

    Order: by grid, then by shift (none, along x, along y, along both), then row by row.
    """
    return np.array(
        [
            ((j + right / 2) / g, (i + down / 2) / g, 1 / g, 1 / g)
            for g, down, right in _layouts(grids, shifted)
            for i, j in product(range(g - down), range(g - right))
        ],
        np.float32,
    )


def crops(pixels: Tensor, grids: Sequence[int], size: tuple[int, int], shifted: bool = True) -> Iterator[Tensor]:
    """Yield the crops (cells, 3, h, w) of an image (3, H, W) for each grid and shift; `size` is (h, w).

    The image is resized so that each side is a multiple of g, and cut into cells. Then each crop is resized. Both
    resizes are bilinear with antialiasing. Crops are in the order of `boxes`.
    """
    for g, down, right in _layouts(grids, shifted):
        height, width = (max(1, side // g) for side in pixels.shape[1:])
        whole = _resized(pixels[None], (g * height, g * width))[0]
        part = whole[:, down * (height // 2) :, right * (width // 2) :][:, : (g - down) * height, : (g - right) * width]
        cells = part.unflatten(2, (g - right, width)).unflatten(1, (g - down, height)).permute(1, 3, 0, 2, 4)
        yield _resized(cells.flatten(0, 1), size)


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images (B, 3, H, W) resized to `size` = (h, w), with antialiasing."""
    return F.interpolate(pixels, size, mode="bilinear", antialias=True)


def _layouts(grids: Sequence[int], shifted: bool) -> Iterator[tuple[int, int, int]]:
    """Yield (g, shift along y, shift along x) for each grid and its shifts; shifts are in half cells."""
    shifts = SHIFTS if shifted else (0,)
    for g in grids:
        yield from ((g, down, right) for down, right in product(shifts, shifts) if g > max(down, right))


def averaged(embeddings: Tensor, fractions: np.ndarray, side: int = 16) -> Tensor:
    """Return a map (side, side, D) of unit norm: for each cell, the mean embedding of the crops that cover it.

    `embeddings` (N, D) are normalised first. `fractions` (N, 4) is the result of `boxes`. The fractions are
    multiplied by `side`, and rounded down to whole cells.
    """
    x, y, width, height = (fractions * side).astype(np.int64).T[..., None]
    cells = np.arange(side)
    covered_x, covered_y = (x <= cells) & (cells < x + width), (y <= cells) & (cells < y + height)
    covering = torch.tensor(covered_y[:, :, None] & covered_x[:, None], device=embeddings.device).flatten(1).T
    total = covering.to(embeddings) @ F.normalize(embeddings, dim=-1)
    mean = total / covering.sum(1, keepdim=True).clamp(min=1)
    return F.normalize(mean, dim=-1).unflatten(0, (side, side))


def enlarged(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the label map (H, W) that results from enlarging a coarse label map `cells` (rows, columns).

    `size` is (H, W). For each pixel, the four nearest cells have bilinear weights. The weights of cells with the same
    label are added. The pixel gets the label with the highest sum. If two labels have equal sums, the pixel gets the
    lower label. The weights are integers, so the sums are exact.
    """
    (before_y, after_y, weight_y), (before_x, after_x, weight_x) = map(_samples, cells.shape, size)
    corners, weights = [], []
    for rows, down in ((before_y, 2 * size[0] - weight_y), (after_y, weight_y)):
        for columns, across in ((before_x, 2 * size[1] - weight_x), (after_x, weight_x)):
            corners.append(cells[np.ix_(rows, columns)])
            weights.append(down[:, None] * across)
    best, highest = corners[0], np.full(size, -1, np.int64)
    for label in corners:
        score = sum(np.where(other == label, weight, 0) for other, weight in zip(corners, weights, strict=True))
        better = (score > highest) | ((score == highest) & (label < best))
        best, highest = np.where(better, label, best), np.maximum(highest, score)
    return best


def _samples(cells: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the two nearest cells of each pixel along an axis, and the second cell's weight: three arrays (count,).

    The axis has `cells` cells and `count` pixels. Weights are integers, and the two weights of a pixel have the sum
    2 · count. Positions are those of a bilinear resize without aligned corners.
    """
    positions = np.maximum((2 * np.arange(count, dtype=np.int64) + 1) * cells - count, 0)
    before = np.minimum(positions // (2 * count), cells - 1)
    return before, np.minimum(before + 1, cells - 1), positions - before * (2 * count)


def grid_boxes(size: tuple[int, int], grids: Sequence[int], smallest: int = 0) -> np.ndarray:
    """Return the boxes (N, 4) int64 of the cells of grids over an image (H, W): x, y, width, height in pixels.

    A cell has H // g × W // g pixels; remaining rows and columns are not covered. Cells with at most `smallest`
    pixels are left out. The largest cells come first.
    """
    every = [
        (j * (size[1] // g), i * (size[0] // g), size[1] // g, size[0] // g)
        for g in grids
        for i, j in product(range(g), range(g))
    ]
    kept = [box for box in every if box[2] * box[3] > smallest]
    return np.array(sorted(kept, key=lambda box: -box[2] * box[3]), np.int64).reshape(-1, 4)


def patch_scores(
    words: Sequence[int],
    values: np.ndarray,
    patches: np.ndarray,
    shape: tuple[int, int, int],
    masks: Sequence[np.ndarray] = (),
) -> Tensor:
    """Return scores (K, H, W) float32 from patches with one word each; `shape` is (K, H, W).

    `words` (N,) has the index of each patch's word, `values` (N,) each patch's value. `patches` (N, 4) are the boxes of
    the patches, as in `grid_boxes`. `masks` has a mask (h, w) bool inside each box, and a patch covers the pixels of
    its mask. Without `masks`, a patch covers all pixels of its box.

    Initially, all scores are 0. The patches are processed in order. Let k be the index of a patch's word. At each pixel
    that the patch covers, score k is set to the value of the patch. So a later patch with the same word overwrites the
    values of earlier patches. Then all scores at a pixel are divided by the number of patches, with any word, that
    cover the pixel.
    """
    scores, covering = torch.zeros(shape), torch.zeros(shape[1:])
    for number, (x, y, width, height) in enumerate(patches.tolist()):
        covered = torch.from_numpy(masks[number]) if masks else torch.ones(height, width, dtype=torch.bool)
        scores[words[number], y : y + height, x : x + width][covered] = float(values[number])
        covering[y : y + height, x : x + width] += covered
    return scores / covering.clamp(min=1)
