"""Mask probabilities of a photograph's pixels, in tiles of 16 × 16, from masks at low resolution.

Masks are resized to the network's padded input, cropped to the resized photograph, and resized to the original
photograph. The photograph's last row and column are repeated until all tiles are complete.
Dimensions: Q masks, h w cells of a mask, C × R tiles, n tiles along an axis.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 16
"""Side of a tile in pixels"""
PIXELS = SIDE * SIDE

# SAN computes the sigmoid at the size of the original photograph, SCAN at the size of the resized photograph.
Sigmoid = Literal["original", "resized"]
"""Photograph at whose size the sigmoid of the masks is computed: "original" or "resized"

If "original", the mask logits are resized to the original photograph, and then the sigmoid is computed. If "resized",
the sigmoid is computed at the size of the resized photograph. The resulting mask probabilities are then resized to the
original photograph.
"""


@dataclass(frozen=True)
class Geometry:
    """The mapping of a mask grid to a photograph, by three sizes (height, width) in pixels."""

    padded: tuple[int, int]
    """size of the network's input, which the mask grid covers"""
    resized: tuple[int, int]
    """size of the resized photograph, at the top left of the input"""
    original: tuple[int, int]
    """size of the photograph itself"""


Masks = Callable[[int, int, Tensor], Tensor]
"""Function masks(top, end, columns) that returns mask probabilities (C, R, 256, Q) of tiles with 256 pixels.

The tiles are in the R tile rows `top` to `end` − 1, and in the C tile columns `columns`. `columns` (C,) int64 is in
ascending order, and on the CPU.
"""


class Cells(NamedTuple):
    """Ranges of mask cells that the tiles along an axis depend on, as tensors (n,) int64 on the CPU.

    Tile i depends on the cells `first[i]` to `last[i]`, including `last[i]`.
    """

    first: Tensor
    last: Tensor

    def indices(self, begin: int, end: int) -> Tensor:
        """Return the cells (n, T) int64 that the tiles `begin` to `end` − 1 depend on. A row has the cells of one tile.

        T is the number of cells of the tile with the most cells. A row with fewer than T cells repeats the last cell.
        """
        first, last = self.first[begin:end, None], self.last[begin:end, None]
        return torch.minimum(first + torch.arange(int((last - first).max()) + 1), last)


class Block(NamedTuple):
    """A rectangle of C × R tiles of a photograph.

    The columns of tiles are `left` to `right` − 1. The rows of tiles are `top` to `end` − 1.
    """

    left: int
    right: int
    top: int
    end: int


@dataclass(frozen=True)
class Tiles:
    """The tiles of a photograph."""

    grid: Tensor
    """(h, w, Q) float32: mask logits"""
    down: Cells
    across: Cells
    masks: Masks

    @property
    def shape(self) -> tuple[int, int]:
        """Return the numbers of columns and rows of tiles."""
        return len(self.across.first), len(self.down.first)

    def blocks(self, size: int) -> Iterator[Block]:
        """Yield blocks of at most `size` tiles that cover the photograph. A block is part of a row, or whole rows."""
        columns, rows = self.shape
        wide, high = min(size, columns), max(1, size // columns)
        for top, left in product(range(0, rows, high), range(0, columns, wide)):
            yield Block(left, min(left + wide, columns), top, min(top + high, rows))

    def bounds(self, block: Block) -> Tensor:
        """Return lower and upper bounds (2, C, R, Q) of the mask probabilities of a block's tiles."""
        # A bilinear resize returns weighted means, and the sigmoid is monotonic. So a tile's probabilities lie between
        # those of the smallest and the largest cell that the tile depends on.
        columns = self.across.indices(block.left, block.right)
        strips = _cells(self.grid, self.down.indices(block.top, block.end), 0)  # R, T, w, Q
        begin, end = int(columns[0, 0]), int(columns[-1, -1]) + 1
        strips, columns = strips[:, :, begin:end], columns - begin
        low, high = (_cells(strip, columns, 1) for strip in (strips.amin(1), strips.amax(1)))  # R, C, T, Q
        return torch.stack([low.amin(2), high.amax(2)]).transpose(1, 2).sigmoid()


def _cells(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Return the cells of `x` at `indices` (n, T) along `axis`. In the result, two axes (n, T) replace `axis`."""
    return x.index_select(axis, indices.flatten().to(x.device)).unflatten(axis, indices.shape)


def tiles(mask_logits: Tensor, geometry: Geometry, sigmoid: Sigmoid) -> Tiles:
    """Return the tiles of a photograph from mask logits (Q, h, w) float32."""
    return _of_logits(mask_logits, geometry) if sigmoid == "original" else _of_probabilities(mask_logits, geometry)


def probabilities(mask_logits: Tensor, geometry: Geometry) -> Tensor:
    """Return mask probabilities (Q, h', w') for the resized photograph of h' × w' pixels, from logits (Q, h, w)."""
    # Each mask is an image with one channel. For three channels, torch may use a kernel that rounds differently.
    resized = F.interpolate(mask_logits[:, None], geometry.padded, mode="bilinear", align_corners=False)[:, 0]
    return resized[:, : geometry.resized[0], : geometry.resized[1]].sigmoid()


def _continued(count: int) -> Tensor:
    """Return the pixel indices 0 to count − 1. The last index is repeated until the indices fill the last tile."""
    return torch.arange(-(-count // SIDE) * SIDE).clamp(max=count - 1)


def _of_logits(mask_logits: Tensor, geometry: Geometry) -> Tiles:
    """Return a Tiles that resizes the mask logits twice, and then computes the sigmoid."""
    grid = mask_logits.permute(1, 2, 0).contiguous()
    down, across = (_resize(grid.shape[axis], geometry, axis) for axis in (0, 1))
    rows, queries = _touched(down), grid.shape[2]
    wide = (across.to(grid) @ grid).unflatten(1, (-1, SIDE)).flatten(2)  # h, C, 16 · Q

    def masks(top: int, end: int, columns: Tensor) -> Tensor:
        # A row of pixels mixes at most three rows of the grid. Only the rows that the tiles depend on are multiplied.
        band = slice(int(rows.first[top]), int(rows.last[end - 1]) + 1)
        part = down[SIDE * top : SIDE * end, band].to(wide)
        strips = wide[band].index_select(1, columns.to(wide.device)).transpose(0, 1)
        mixed = torch.bmm(part.expand(len(columns), -1, -1), strips)
        return mixed.sigmoid_().view(len(columns), end - top, PIXELS, queries)

    return Tiles(grid, rows, _touched(across), masks)


def _resize(cells: int, geometry: Geometry, axis: int) -> Tensor:
    """Return the matrix (16 · n, cells) that resizes one axis of a mask to the pixels of n tiles.

    `cells` is the number of mask cells along the axis, and n is the number of tiles. The matrix is on the CPU.
    """
    identity = torch.eye(cells)[None]
    padded = F.interpolate(identity, geometry.padded[axis], mode="linear", align_corners=False)
    cropped = padded[..., : geometry.resized[axis]]
    pixels = F.interpolate(cropped, geometry.original[axis], mode="linear", align_corners=False)[0].T
    return pixels[_continued(geometry.original[axis])]


def _touched(resize: Tensor) -> Cells:
    """Return the mask cells that the tiles along an axis depend on.

    `resize` is the matrix that `_resize` returns for the axis.
    """
    touched = resize.unflatten(0, (-1, SIDE)).any(1).int()
    return Cells(touched.argmax(1), resize.shape[1] - 1 - touched.flip(1).argmax(1))


class _Samples(NamedTuple):
    """The linear resize of one axis to n samples. A sample is the weighted mean of two neighbouring cells."""

    before: Tensor
    """(n,) int64: index of the left or upper cell of each sample"""
    after: Tensor
    """(n,) int64: index of the right or lower cell of each sample"""
    weight: Tensor
    """(n,) float32: weight of the cell `after` in the mean. The weight of `before` is 1 minus this weight"""

    def of_pixels(self, pixels: Tensor) -> "_Samples":
        """Return the samples with the indices `pixels`."""
        return _Samples(*(values[pixels] for values in self))

    def moved(self, begin: int) -> "_Samples":
        """Return the samples with cell indices relative to the cell `begin`."""
        return _Samples(self.before - begin, self.after - begin, self.weight)

    def of(self, x: Tensor, axis: int) -> Tensor:
        """Return the array `x` resized along `axis`."""
        before, after, weight = (values.to(x.device) for values in self)
        column = weight.view(-1, *[1] * (x.ndim - axis - 1))
        return torch.lerp(x.index_select(axis, before), x.index_select(axis, after), column)


def _samples(cells: int, count: int) -> _Samples:
    """Return the linear resize of an axis from `cells` cells to `count` samples.

    Each sample has the same position among the cells as in torch's F.interpolate with `align_corners=False`. The
    positions are computed in float32.
    """
    positions = ((torch.arange(count) + 0.5) * (cells / count) - 0.5).clamp(min=0)
    before = positions.long().clamp(max=cells - 1)
    return _Samples(before, (before + 1).clamp(max=cells - 1), positions - before)


class _Axis(NamedTuple):
    """The two resizes of one axis."""

    first: _Samples
    """resize from the mask grid to the padded input"""
    second: _Samples
    """resize from the resized photograph to the pixels of the tiles"""

    def cells(self) -> Cells:
        """Return the cells that each tile depends on."""
        begin, end = self.second.before[::SIDE], self.second.after[SIDE - 1 :: SIDE]
        return Cells(self.first.before[begin], self.first.after[end])

    def part(self, tiles: Tensor) -> "_Axis":
        """Return both resizes for some tiles only. `tiles` (n,) int64 has the tile indices in ascending order."""
        pixels = (SIDE * tiles.cpu()[:, None] + torch.arange(SIDE)).flatten()
        second = self.second.of_pixels(pixels)
        begin, end = int(second.before[0]), int(second.after[-1]) + 1
        return _Axis(self.first.of_pixels(torch.arange(begin, end)), second.moved(begin))


def _of_probabilities(mask_logits: Tensor, geometry: Geometry) -> Tiles:
    """Return a Tiles that resizes the mask logits, computes the sigmoid, and resizes the probabilities."""
    grid = mask_logits.permute(1, 2, 0).contiguous()
    down, across = (
        _Axis(
            _samples(grid.shape[axis], geometry.padded[axis]),
            _samples(geometry.resized[axis], geometry.original[axis]).of_pixels(_continued(geometry.original[axis])),
        )
        for axis in (0, 1)
    )

    def masks(top: int, end: int, columns: Tensor) -> Tensor:
        rows, wide = down.part(torch.arange(top, end)), across.part(columns)
        resized = wide.first.of(rows.first.of(grid, 0), 1).sigmoid_()
        pixels = wide.second.of(rows.second.of(resized, 0), 1)
        laid = pixels.unflatten(1, (-1, SIDE)).unflatten(0, (-1, SIDE))  # R, 16, C, 16, Q
        return laid.permute(2, 0, 1, 3, 4).flatten(2, 3)

    return Tiles(grid, down.cells(), across.cells(), masks)
