"""Best class of each pixel in a block of tiles, computed with or without pruning of classes.

The best class of a pixel is the class with the highest score. A tile has 16 × 16 pixels, and a block is a rectangle
of tiles. A class is pruned in a tile only if another class scores higher at all pixels of the tile. The remaining
classes of a tile are those that are not pruned in the tile.
Dimensions: Q masks, K classes, C × R tiles of a block, P pixels, n tiles.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ovss_ray.models.semantic.tiles import PIXELS, Block, Tiles

# For narrower matrices, CPUs use kernels that round differently.
LEAST = 16
"""Minimum number of columns of a matrix product"""
ALIKE = 0.8
"""Minimum ratio between the numbers of remaining classes of two tiles that `_groups` puts into one group

For example, a group may have tiles of 80 to 100 remaining classes, but not tiles of 79 and 100.
"""


class All:
    """The best class of each pixel, from the scores of all classes. `probabilities` (Q, K): class probabilities."""

    bytes_per_tile = 1

    def __init__(self, probabilities: Tensor, budget: int) -> None:
        self.probabilities, self.budget = probabilities, budget

    def best(self, tiles: Tiles, block: Block) -> Tensor:
        """Return the best class (C, R, 256) int64 of the 256 pixels of each tile; the lowest index on ties."""
        masks = tiles.masks(block.top, block.end, torch.arange(block.left, block.right))
        return self.of_masks(masks.flatten(0, 2)).view(masks.shape[:3])

    def of_masks(self, masks: Tensor) -> Tensor:
        """Return the best class (P,) int64 of each pixel, from mask probabilities (P, Q); the lowest index on ties."""
        classes = self.probabilities.shape[1]
        return _best(masks, lambda begin, end: self.probabilities[:, begin:end], classes, self.budget)


class Pruned(All):
    """The best class of each pixel, from the scores of the remaining classes of the pixel's tile.

    No class probability may be negative. If one is negative, the best class of a pixel may be pruned.
    """

    def __init__(self, probabilities: Tensor, budget: int) -> None:
        super().__init__(probabilities, budget)
        self.rows = probabilities.T.contiguous()
        self.bytes_per_tile = 8 * len(self.rows)

    def best(self, tiles: Tiles, block: Block) -> Tensor:
        """Return the best class (C, R, 256) int64 of the 256 pixels of each tile; the lowest index on ties."""
        kept = self.kept(tiles.bounds(block).flatten(1, 2))
        counts = kept.sum(1).cpu().numpy()
        if 2 * counts.sum() > kept.numel():
            return super().best(tiles, block)
        classes = kept.nonzero()[:, 1]
        begins = counts.cumsum() - counts
        labels = classes[_on(classes, begins)][:, None].repeat(1, PIXELS)
        rows = block.end - block.top
        undecided = np.flatnonzero(counts > 1)
        if len(undecided):
            columns = np.unique(undecided // rows)
            masks = tiles.masks(block.top, block.end, torch.from_numpy(columns + block.left)).flatten(0, 1)
            places = np.searchsorted(columns, undecided // rows) * rows + undecided % rows
            for group in _groups(counts[undecided], self.budget):
                number = undecided[group]
                places_in_classes = _places(begins[number], counts[number])
                group_masks = (
                    masks[int(places[group[0]])][None] if len(group) == 1 else masks[_on(masks, places[group])]
                )
                labels[_on(labels, number)] = self.of_tiles(group_masks, classes[_on(classes, places_in_classes)])
        return labels.view(-1, rows, PIXELS)

    def kept(self, bounds: Tensor) -> Tensor:
        """Return which classes remain in each tile, (n, K) bool.

        `bounds` (2, n, Q) are lower and upper bounds of the mask probabilities in each tile.
        """
        # A class is pruned if its highest possible score is below another class's lowest possible score. The margin is
        # the largest rounding error of both scores, so that rounding removes no class that could be the best.
        low, high = bounds @ self.probabilities
        floor = low.amax(1, keepdim=True)
        margin = (bounds.shape[2] + 8) * 2.0**-22
        return ~(high < floor - margin * floor.clamp(min=1))  # so a class with NaN is kept

    def of_tiles(self, masks: Tensor, classes: Tensor) -> Tensor:
        """Return the best class (n, 256) int64 of each pixel in n tiles, from mask probabilities (n, 256, Q).

        Row i of `classes` (n, k) has the remaining classes of tile i.
        """
        if 2 * classes.shape[1] > len(self.rows):
            return self.of_masks(masks.flatten(0, 1)).view(masks.shape[:2])
        places = _best(masks, lambda begin, end: self.rows[classes[:, begin:end]].mT, classes.shape[1], self.budget)
        return classes.gather(1, places)


def _on(tensor: Tensor, indices: np.ndarray) -> Tensor:
    """Copy indices to the device of a tensor."""
    return torch.from_numpy(indices).to(tensor.device)


def _groups(counts: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Yield groups of tiles with similar numbers of remaining classes. Each group is an array (n,) of tile indices.

    Tile i has `counts[i]` remaining classes. If a group has several tiles, the class scores of the group take at most
    `budget` bytes. If a group has one tile, the class scores may take more.
    """
    order = np.argsort(-counts, kind="stable")
    sizes = np.maximum(counts[order], LEAST)
    begin = 0
    while begin < len(order):
        alike = int(np.searchsorted(-sizes, -ALIKE * sizes[begin], side="right"))
        end = min(alike, begin + max(1, budget // int(4 * PIXELS * sizes[begin])))
        yield order[begin:end]
        begin = end


def _places(begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return (n, k) int64. Row i has `counts[i]` consecutive numbers in ascending order, beginning with `begins[i]`.

    The width k is the largest of `counts`, or the constant LEAST if LEAST is larger. If a row has fewer than k numbers,
    the row's last number is repeated. For example, begin 5 and count 3 give the row 5, 6, 7, 7, 7 and so on.
    """
    steps = np.arange(max(LEAST, int(counts.max())))
    return begins[:, None] + np.minimum(steps, counts[:, None] - 1)


def _best(masks: Tensor, columns: Callable[[int, int], Tensor], count: int, budget: int) -> Tensor:
    """Return the index (…) int64 of the highest score at each pixel; on ties, the lowest index.

    A pixel has `count` scores, one for each class. `columns(begin, end)` returns the probabilities of the classes
    `begin` to `end` − 1, (Q, end − begin). For n tiles, `columns` may also return one matrix for each tile,
    (n, Q, end − begin). The scores are the matrix product of the mask probabilities `masks` (…, Q) and the class
    probabilities. Scores in memory take about `budget` bytes.
    """
    chunk = max(1, budget // (4 * masks.shape[:-1].numel()))
    score, best = _top(masks @ columns(0, min(chunk, count)))
    for begin in range(chunk, count, chunk):
        other, index = _top(masks @ columns(begin, min(begin + chunk, count)))
        better = other > score  # on ties, the lower place stays
        score, best = torch.where(better, other, score), torch.where(better, index + begin, best)
    return best


def _top(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest score of each row of `scores` (…, k), and its column; on ties, the first column."""
    if scores.device.type != "cpu":
        return scores.max(-1)
    index = torch.from_numpy(scores.numpy().argmax(-1))  # many times as fast as torch's, which does not use SIMD here
    return scores.gather(-1, index[..., None])[..., 0], index
