"""Exact label maps from masks and their class probabilities, without a score map of all classes.

Q masks at low resolution (h, w) with class probabilities (Q, K) define scores[c] = Σ_q p[q, c] · sigmoid(m[q]). Here m
are mask logits, resized to the padded input, cropped, and resized to the photograph. See Cheng et al., MaskFormer,
NeurIPS 2021, §3.4. SAN computes the sigmoid after both resizes, SCAN between them. All K × H × W scores would take 1.2
GB for ADE20K-847 at 512 × 683. Only the best class of a pixel is needed: scores are computed in tiles of rows and
chunks of classes. The resizes are linear and act on rows and columns separately.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.errors import OvssError
from ovss_ray.structures.columns import NONE

CPU_TILE, GPU_TILE = 1 << 21, 1 << 28
"""Maximum bytes of a tile's scores on a CPU, to fit its cache, and on a GPU. A tile's masks take half as much"""


Tile = Callable[[int, int], Tensor]
"""First row, end row → mask probabilities (rows · W, Q) of these rows of the photograph."""


@dataclass(frozen=True)
class Geometry:
    """The mapping of a mask grid to a photograph, by three sizes (height, width) in pixels."""

    padded: tuple[int, int]
    """size of the network's input, which the mask grid covers"""
    resized: tuple[int, int]
    """size of the resized photograph, at the top left of the input"""
    original: tuple[int, int]
    """size of the photograph itself"""


def label_map(
    mask_logits: Tensor, class_probabilities: Tensor, geometry: Geometry, tile_bytes: int | None = None,
    sigmoid: Literal["original", "resized"] = "original",
) -> np.ndarray:  # fmt: skip
    """Return the best class of every pixel, (H, W) uint16; the lowest index on ties.

    `mask_logits` (Q, h, w) float32 and `class_probabilities` (Q, K) float32 are on one device. `sigmoid` is the size at
    which mask probabilities are computed: that of the photograph, or the resized one. Memory, besides the result, does
    not grow with K or H. Raises OvssError for more classes than a label map can hold.
    """
    if class_probabilities.shape[1] > NONE:
        raise OvssError(
            f"too many classes: {class_probabilities.shape[1]}; a label map can name at most {NONE}. Remove classes"
        )
    budget = tile_bytes or (CPU_TILE if mask_logits.device.type == "cpu" else GPU_TILE)
    height, width = geometry.original
    tile, wide = _tile_of_logits(mask_logits, geometry), width
    if sigmoid == "resized":
        tile, wide = _tile_of_probabilities(mask_logits, geometry), max(width, _band(geometry))
    labels = torch.empty(height * width, dtype=torch.int32, device=mask_logits.device)
    rows = max(1, budget // (8 * wide * len(mask_logits)))
    for top in range(0, height, rows):
        masks = tile(top, min(top + rows, height))
        labels[top * width :][: len(masks)] = _best(masks, class_probabilities, budget)
    return labels.view(height, width).cpu().numpy().astype(np.uint16)


def probabilities(mask_logits: Tensor, geometry: Geometry) -> Tensor:
    """Return mask probabilities (Q, h', w') at the resized photograph's size, of mask logits (Q, h, w).

    Each mask is resized as a separate image. For three channels and one thread, torch uses a different kernel, whose
    results differ in the last bits.
    """
    resized = F.interpolate(mask_logits[:, None], geometry.padded, mode="bilinear", align_corners=False)[:, 0]
    return resized[:, : geometry.resized[0], : geometry.resized[1]].sigmoid()


def _tile_of_logits(mask_logits: Tensor, geometry: Geometry) -> Tile:
    """Return a Tile that resizes mask logits twice, and then applies the sigmoid."""
    down, wide = _resize(mask_logits.shape[1], geometry, axis=0), _widen(mask_logits, geometry)
    return lambda top, end: _masks(down[top:end], wide)


def _tile_of_probabilities(mask_logits: Tensor, geometry: Geometry) -> Tile:
    """Return a Tile that resizes mask logits, applies the sigmoid, and resizes the probabilities."""
    grid = mask_logits.permute(1, 2, 0).contiguous()
    first_down, first_across = (_samples(grid.shape[axis], geometry.padded[axis]) for axis in (0, 1))
    down, across = (_samples(geometry.resized[axis], geometry.original[axis]) for axis in (0, 1))
    kept = first_across.part(0, geometry.resized[1])

    def tile(top: int, end: int) -> Tensor:
        rows = down.part(top, end)
        begin = int(rows.before[0])
        band = first_down.part(begin, int(rows.after[-1]) + 1)
        masks = kept.of(band.of(grid, 0), 1).sigmoid_()
        return across.of(rows.moved(begin).of(masks, 0), 1).flatten(0, 1)

    return tile


def _band(geometry: Geometry) -> int:
    """Return the number of pixels of the resized photograph for one row of the photograph, rounded up."""
    return -(-geometry.resized[0] * geometry.resized[1] // geometry.original[0])


class _Samples(NamedTuple):
    """The linear resize of one axis: each sample lies between two cells. The tensors are on the CPU."""

    before: Tensor
    """(n,) int64: cell before the sample"""
    after: Tensor
    """(n,) int64: cell after it"""
    weight: Tensor
    """(n,) float32: weight of the cell after it"""

    def part(self, begin: int, end: int) -> "_Samples":
        """Return the samples begin..end."""
        return _Samples(*(values[begin:end] for values in self))

    def moved(self, begin: int) -> "_Samples":
        """Return the samples with cells that are counted from `begin`."""
        return _Samples(self.before - begin, self.after - begin, self.weight)

    def of(self, x: Tensor, axis: int) -> Tensor:
        """Return an array resized along one axis."""
        before, after, weight = (values.to(x.device) for values in self)
        column = weight.view(-1, *[1] * (x.ndim - axis - 1))
        return torch.lerp(x.index_select(axis, before), x.index_select(axis, after), column)


def _samples(cells: int, count: int) -> _Samples:
    """Return the samples of torch's bilinear resize from `cells` to `count`, with torch's float32 positions."""
    positions = ((torch.arange(count) + 0.5) * (cells / count) - 0.5).clamp(min=0)
    before = positions.long().clamp(max=cells - 1)
    return _Samples(before, (before + 1).clamp(max=cells - 1), positions - before)


def _resize(cells: int, geometry: Geometry, axis: int) -> Tensor:
    """Return a matrix (original, cells) on the CPU that maps one axis of the mask grid to the photograph.

    It is torch's bilinear resize, crop and second resize of an identity matrix. So it samples where torch samples.
    """
    grid = torch.eye(cells)[None]
    padded = F.interpolate(grid, geometry.padded[axis], mode="linear", align_corners=False)
    cropped = padded[..., : geometry.resized[axis]]
    return F.interpolate(cropped, geometry.original[axis], mode="linear", align_corners=False)[0].T


def _widen(mask_logits: Tensor, geometry: Geometry) -> Tensor:
    """Return mask logits (h, W, Q): masks (Q, h, w), resized to the photograph's width."""
    across = _resize(mask_logits.shape[2], geometry, axis=1).to(mask_logits)
    return across @ mask_logits.permute(1, 2, 0)


def _masks(down: Tensor, wide: Tensor) -> Tensor:
    """Return mask probabilities (rows · W, Q) of a tile: (rows, h) @ (h, W, Q).

    A row of the tile mixes at most three rows of the grid. Only the rows that the tile depends on are multiplied.
    """
    touched = down.any(0).nonzero()  # on the CPU, to avoid waiting for a GPU
    band = slice(int(touched[0]), int(touched[-1]) + 1)
    mixed = down[:, band].to(wide) @ wide[band].flatten(1)
    return mixed.sigmoid_().view(-1, wide.shape[2])


def _best(masks: Tensor, probabilities: Tensor, budget: int) -> Tensor:
    """Return the best class (P,) int64 of each pixel, from masks (P, Q) and class probabilities (Q, K).

    The scores are computed in chunks of classes.
    """
    chunk = max(1, budget // (4 * len(masks)))
    score, best = _top(masks @ probabilities[:, :chunk])
    for begin in range(chunk, probabilities.shape[1], chunk):
        other, index = _top(masks @ probabilities[:, begin : begin + chunk])
        better = other > score  # on ties, the lower index stays
        score, best = torch.where(better, other, score), torch.where(better, index + begin, best)
    return best


def _top(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest score of each row of `scores` (P, K), and its column; on ties, the first column."""
    if scores.device.type != "cpu":
        return scores.max(1)
    index = torch.from_numpy(scores.numpy().argmax(1))  # many times as fast as torch's, which does not use SIMD here
    return scores.gather(1, index[:, None])[:, 0], index
