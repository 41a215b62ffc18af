"""Mask probabilities of a photograph's pixels, in tiles of 16 × 16, from masks at low resolution.

Masks (Q, h, w) are resized to the network's padded input. Then they are cropped to the resized photograph, and resized
to the original photograph (see Geometry). Both resizes are linear and act on rows and columns separately. The
photograph is extended to whole tiles: its last row and column are repeated.
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

Sigmoid = Literal["original", "resized"]
"""Size at which the sigmoid of masks is computed: of the original photograph, or of the resized photograph"""


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
"""Function masks(top, end, columns) that returns the probabilities (C, R, 256, Q) of Q masks in C × R tiles.

A tile has 256 pixels. The tiles are in R rows of tiles, from `top` to `end` − 1. `columns` (C,) int64 on the CPU has
the indices of the C columns of tiles.
"""


class Cells(NamedTuple):
    """Ranges of mask-grid cells that n tiles along an axis depend on.

    Tile i depends on the cells from `first[i]` to `last[i]`, including `last[i]`. Both tensors are (n,) int64 on the
    CPU.
    """

    first: Tensor
    last: Tensor

    def indices(self, begin: int, end: int) -> Tensor:
        """Return the indices (n, T) of the cells on which the n tiles with the indices `begin`..`end` − 1 depend.

        T is the number of cells of the tile with the most cells. A tile with fewer cells repeats its last cell.
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
        """Return lower and upper bounds (2, C, R, Q) of the mask probabilities of a block.

        A bilinear resize returns weighted means, and the sigmoid is monotonic. So a tile's probabilities lie
        between those of the smallest and the largest cell that the tile depends on.
        """
        columns = self.across.indices(block.left, block.right)
        strips = _cells(self.grid, self.down.indices(block.top, block.end), 0)  # R, T, w, Q
        begin, end = int(columns[0, 0]), int(columns[-1, -1]) + 1
        strips, columns = strips[:, :, begin:end], columns - begin
        low, high = (_cells(strip, columns, 1) for strip in (strips.amin(1), strips.amax(1)))  # R, C, T, Q
        return torch.stack([low.amin(2), high.amax(2)]).transpose(1, 2).sigmoid()


def _cells(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Return the cells of `x` that `indices` (n, T) selects along `axis`.

    In the result (…, n, T, …), the dimensions n and T take the place of `axis`. `indices` is on the CPU.
    """
    return x.index_select(axis, indices.flatten().to(x.device)).unflatten(axis, indices.shape)


def tiles(mask_logits: Tensor, geometry: Geometry, sigmoid: Sigmoid) -> Tiles:
    """Return the tiles of a photograph from mask logits (Q, h, w) float32."""
    return _of_logits(mask_logits, geometry) if sigmoid == "original" else _of_probabilities(mask_logits, geometry)


def probabilities(mask_logits: Tensor, geometry: Geometry) -> Tensor:
    """Return the mask probabilities (Q, h', w') of mask logits (Q, h, w).

    The resized photograph has h' × w' pixels. Each mask is resized as a separate image with one channel. If an image
    has three channels, torch may use a different kernel, whose results differ in the last bits.
    """
    resized = F.interpolate(mask_logits[:, None], geometry.padded, mode="bilinear", align_corners=False)[:, 0]
    return resized[:, : geometry.resized[0], : geometry.resized[1]].sigmoid()


def _continued(count: int) -> Tensor:
    """Return the indices 0 to count − 1. The last index is repeated until their number is a multiple of SIDE."""
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
    """Return a matrix (n, cells) on the CPU that resizes an axis from mask cells to pixels of whole tiles.

    The matrix combines three operations: a resize, a crop, and a second resize. The weights are those of torch.
    """
    identity = torch.eye(cells)[None]
    padded = F.interpolate(identity, geometry.padded[axis], mode="linear", align_corners=False)
    cropped = padded[..., : geometry.resized[axis]]
    pixels = F.interpolate(cropped, geometry.original[axis], mode="linear", align_corners=False)[0].T
    return pixels[_continued(geometry.original[axis])]


def _touched(resize: Tensor) -> Cells:
    """Return the ranges of mask cells that the tiles along an axis depend on.

    `resize` is the result of `_resize`: row i has the weights of all cells in pixel i of the axis. A tile has SIDE
    pixels.
    """
    touched = resize.unflatten(0, (-1, SIDE)).any(1).int()
    return Cells(touched.argmax(1), resize.shape[1] - 1 - touched.flip(1).argmax(1))


class _Samples(NamedTuple):
    """The linear resize of one axis to n samples. The tensors are on the CPU.

    A sample is a value of the resized axis: the weighted mean of two neighbouring cells of the original axis.
    """

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
    """Return the resize of an axis from `cells` cells to `count` samples, at the float32 positions that torch uses."""
    positions = ((torch.arange(count) + 0.5) * (cells / count) - 0.5).clamp(min=0)
    before = positions.long().clamp(max=cells - 1)
    return _Samples(before, (before + 1).clamp(max=cells - 1), positions - before)


class _Axis(NamedTuple):
    """The two resizes of one axis."""

    first: _Samples
    """resize from the mask grid to the padded input"""
    second: _Samples
    """resize from the pixels of the resized photograph to the pixels of the original photograph

    The sample of the last pixel is repeated until the number of samples is a multiple of SIDE.
    """

    def cells(self) -> Cells:
        """Return the cells that each tile depends on."""
        begin, end = self.second.before[::SIDE], self.second.after[SIDE - 1 :: SIDE]
        return Cells(self.first.before[begin], self.first.after[end])

    def part(self, tiles: Tensor) -> "_Axis":
        """Return both resizes, limited to the pixels of some tiles.

        `tiles` (n,) int64: the indices of these tiles, in ascending order. The first resize returns only the
        samples that the second resize reads.
        """
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
