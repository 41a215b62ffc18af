"""Crops of an image in shifted grids, and label maps from the words of crops.

Source: DenseCaSED, in Conti et al., "Vocabulary-free Image Classification and Semantic Segmentation", arXiv 2404.10864.
A grid of g × g cells has copies that are shifted by half a cell: along x, along y, and along both. A shifted grid has
one cell less along each shifted axis.

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

    `grids` has the number g of cells per axis for each grid. If `shifted` is False, the shifted copies of the grids are
    left out. The boxes are sorted by grid, then by shift (none, along x, along y, along both), then row by row.
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
    """Yield one tensor of crops (n, 3, h, w) for each grid and each shifted copy of a grid.

    n is the number of cells of the grid or shifted copy. If `shifted` is False, the shifted copies are left out. The
    crops have the order of `boxes`.

    `pixels` (3, H, W) is the image. `grids` has the number g of cells per axis for each grid. `size` is (h, w). Each
    crop is resized to `size`, bilinearly with antialiasing.
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
    """Yield three integers for each grid, and for each copy of the grid that is shifted by half a cell.

    The first integer is the number g of cells per axis of the unshifted grid. The second integer is 1 for a shift along
    y, else 0. The third integer is 1 for a shift along x, else 0. `grids` has the number g of each grid. If `shifted`
    is False or g is 1, a grid has no shifted copies.
    """
    shifts = SHIFTS if shifted else (0,)
    for g in grids:
        yield from ((g, down, right) for down, right in product(shifts, shifts) if g > max(down, right))


def averaged(embeddings: Tensor, fractions: np.ndarray, side: int = 16) -> Tensor:
    """Return a map (side, side, D) of unit-norm embeddings.

    The image is divided into side × side cells. The embedding of a cell is the normalised mean over the crops that
    cover the cell. If no crop covers a cell, the embedding of the cell is 0.

    `embeddings` (N, D) are the crops' embeddings, of any norm. `fractions` (N, 4) is the result of `boxes`.
    """
    x, y, width, height = (fractions * side).astype(np.int64).T[..., None]  # rounded down to whole cells
    cells = np.arange(side)
    covered_x, covered_y = (x <= cells) & (cells < x + width), (y <= cells) & (cells < y + height)
    covering = torch.tensor(covered_y[:, :, None] & covered_x[:, None], device=embeddings.device).flatten(1).T
    total = covering.to(embeddings) @ F.normalize(embeddings, dim=-1)
    mean = total / covering.sum(1, keepdim=True).clamp(min=1)
    return F.normalize(mean, dim=-1).unflatten(0, (side, side))


def enlarged(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a coarse label map `cells` (rows, columns), enlarged to (H, W); `size` is (H, W).

    The four cells nearest to a pixel vote for their labels, with bilinear weights. In a tie, the lower label wins.
    """
    # The weights are integers, so sums are exact and ties are recognised.
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
    """Return three arrays (count,) int64: for each pixel, a first cell, a second cell, and the second cell's weight.

    An axis has `count` pixels and is divided into `cells` cells. The two cells of a pixel are the indices of the cells
    nearest to the pixel. Weights are integers. The weights of a pixel's two cells add up to 2 · count.
    """
    # The positions are those of a bilinear resize without aligned corners.
    positions = np.maximum((2 * np.arange(count, dtype=np.int64) + 1) * cells - count, 0)
    before = np.minimum(positions // (2 * count), cells - 1)
    return before, np.minimum(before + 1, cells - 1), positions - before * (2 * count)


def grid_boxes(size: tuple[int, int], grids: Sequence[int], smallest: int = 0) -> np.ndarray:
    """Return the boxes (N, 4) int64 of grid cells in an image (H, W): x, y, width, height in pixels.

    A cell has H // g × W // g pixels. Cells with at most `smallest` pixels are left out. The largest cells come first.
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
    """Return the scores (K, H, W) float32 of K words at each pixel, from N patches with one word each.

    `words[i]` is the index of the word of patch i. `values[i]` is the score of this word in patch i. `patches` (N, 4)
    are the boxes of the patches, as in `grid_boxes`. `masks[i]` (h, w) bool marks the pixels of box i that patch i
    covers. Without `masks`, a patch covers its whole box. `shape` is (K, H, W).

    The score of a word at a pixel is v / n. n is the number of all patches that cover the pixel. v is
    `values[i]` of the last patch i that has the word and covers the pixel. If no patch with the word covers the pixel,
    the score is 0.
    """
    scores, covering = torch.zeros(shape), torch.zeros(shape[1:])
    for number, (x, y, width, height) in enumerate(patches.tolist()):
        covered = torch.from_numpy(masks[number]) if masks else torch.ones(height, width, dtype=torch.bool)
        scores[words[number], y : y + height, x : x + width][covered] = float(values[number])
        covering[y : y + height, x : x + width] += covered
    return scores / covering.clamp(min=1)
