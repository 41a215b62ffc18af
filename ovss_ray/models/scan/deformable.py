"""Deformable attention: a token attends to a few points in the maps of several scales.

Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", ICLR 2021, arXiv 2010.04159. The
parameters have the official names. Dimensions: B images, h w of a map, C channels, N heads, S scales; P points of a
head in a scale; T tokens of all scales. On the axis T, the tokens of the coarsest scale are first. On the axis N·S·P,
points vary fastest, scales slower, and heads slowest.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.clip import as_map

SCALES = 3
"""Number of feature maps with deformable attention; their strides are 32, 16 and 8"""
POINTS = 4
"""Number of points that a head samples in each feature map"""


class DeformableAttention(nn.Module):
    """Attention of a token to points at learned offsets from its own place.

    Values between cells are interpolated bilinearly, with zeros outside of the map.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.sampling_offsets = nn.Linear(width, heads * SCALES * POINTS * 2)
        self.attention_weights = nn.Linear(width, heads * SCALES * POINTS)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, values: Tensor, cells: "Cells") -> Tensor:
        """Return attention (B, T, C) of queries (B, T, C) to values (B, T, C). Sampling is in float32.

        If gradients are enabled, `Cells.sampled` samples the values. If gradients are disabled, `Cells.summed` samples
        the values. `Cells.summed` is faster on a CPU if gradients are disabled.
        """
        weights = self.attention_weights(queries).float().unflatten(-1, (self.heads, -1)).softmax(-1).flatten(2)
        offsets = self.sampling_offsets(queries).float().unflatten(-1, (-1, 2))
        attend = cells.sampled if torch.is_grad_enabled() else cells.summed
        return self.output_proj(attend(self.value_proj(values).float(), offsets, weights))


class Cells:
    """Sampler of values at points in the maps of all scales. `sizes` are h and w of these maps."""

    def __init__(self, sizes: Sequence[torch.Size], heads: int, device: torch.device) -> None:
        self.sizes, self.heads = sizes, heads
        sides = torch.tensor([[w, h] for h, w in sizes], device=device)
        self.sides = sides.repeat_interleave(POINTS, 0).repeat(heads, 1)
        """(N·S·P, 2) int64: for each point, w and h of the map of the point's scale"""
        centres = torch.cat([cell_centres(size, device) for size in sizes])
        self.places = centres[:, None] * self.sides - 0.5
        """(T, N·S·P, 2) float32: for each token and point, the token's x and y in the map of the point's scale. The
        unit is a cell, and 0 is the centre of the first cell"""
        bordered = (sides + 2).prod(1)
        self.count = bordered.sum()
        """R: number of cells in the maps of all scales. A border of one cell around each map is counted too"""
        first = (bordered.cumsum(0) - bordered).repeat_interleave(POINTS).repeat(heads)
        below = self.sides[:, 0] + 2
        corners = torch.stack([first, first + 1, first + below, first + below + 1], -1)
        head = torch.arange(heads, device=device).repeat_interleave(len(sizes) * POINTS)
        self.around = corners * heads + head[:, None]
        """(N·S·P, 4) int64: for each point, row numbers of four neighbouring cells in the table of `summed`

        The four cells are in the first image, in the top left corner of the point's map with border. From these row
        numbers, `_corners` computes the row numbers of the four cells around the point in each image."""

    def sampled(self, values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Return weighted sums (B, T, C) of the values at points, by torch's `grid_sample`.

        `values` are (B, T, C), `weights` (B, T, N·S·P). `offsets` (B, T, N·S·P, 2) are x and y from a token to each of
        its points. The unit of an offset is a cell of the map of the point's scale.
        """
        grid = self._by_scale((2 * (self.places + offsets) + 1) / self.sides - 1)
        shares = self._by_scale(weights[..., None])
        sums = torch.zeros((), device=values.device)
        for i, (tokens, size) in enumerate(self._maps(values)):
            value = as_map(tokens, size).unflatten(1, (self.heads, -1)).flatten(0, 1)
            points = F.grid_sample(value, grid[i], mode="bilinear", padding_mode="zeros", align_corners=False)
            sums = sums + (points * shares[i].squeeze(-1)[:, None]).sum(-1)
        return sums.unflatten(0, (-1, self.heads)).flatten(1, 2).transpose(1, 2)

    def summed(self, values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sums (B, T, C) that `sampled` returns, computed without torch's `grid_sample`.

        The cells of all maps are the rows of a table (B·R·N, C / N). Each map has a border of zeros, one cell wide.
        The value at a point is a weighted sum of four rows.
        """
        rows, shares = self._corners(offsets, weights)
        bordered = [
            F.pad(tokens.unflatten(1, size), (0, 0, 1, 1, 1, 1)).flatten(1, 2) for tokens, size in self._maps(values)
        ]
        table = torch.cat(bordered, 1).view(-1, values.shape[-1] // self.heads)
        rows, shares = rows.view(-1, SCALES * POINTS * 4), shares.view(-1, SCALES * POINTS * 4)
        return F.embedding_bag(rows, table, per_sample_weights=shares, mode="sum").view(values.shape)

    def _corners(self, offsets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return row numbers int64 and weights float32 of the four cells around each point, (B, T, N·S·P, 4) each.

        Points outside of the map are moved to its border, whose cells are zero.
        """
        x, y, w, h = *(self.places + 1 + offsets).unbind(-1), *self.sides.unbind(-1)
        zero = x.new_zeros(())  # fmax replaces NaN too, so that rows exist for any weights
        x, y = x.fmax(zero).minimum(w + 1), y.fmax(zero).minimum(h + 1)
        left, top = x.floor().minimum(w), y.floor().minimum(h)
        images = torch.arange(len(x), device=x.device)[:, None, None] * self.count
        rows = ((top * (w + 2) + left).long() + images)[..., None] * self.heads + self.around
        lower, right = weights * (y - top), x - left
        upper = weights - lower
        return rows, torch.stack([upper - upper * right, upper * right, lower - lower * right, lower * right], -1)

    def _by_scale(self, x: Tensor) -> Tensor:
        """Return `x` (B, T, N·S·P, k) with the axes (S, B·N, T, P, k). `x` has k numbers for each point."""
        return x.unflatten(2, (self.heads, len(self.sizes), -1)).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)

    def _maps(self, tokens: Tensor) -> Iterator[tuple[Tensor, torch.Size]]:
        """Return the tokens (B, h·w, C) of each scale, and its size (h, w)."""
        return zip(tokens.split([size.numel() for size in self.sizes], 1), self.sizes, strict=True)


def cell_centres(size: torch.Size, device: torch.device) -> Tensor:
    """Return x and y of the centres of all cells of a map, in row-major order, (h·w, 2) in 0..1."""
    y, x = ((torch.arange(side, dtype=torch.float32, device=device) + 0.5) / side for side in size)
    return torch.cartesian_prod(y, x).flip(-1)
