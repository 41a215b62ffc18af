"""Deformable attention: a token attends to a few points in the maps of several scales.

Zhu et al., "Deformable DETR: Deformable Transformers for End-to-End Object Detection", ICLR 2021, arXiv 2010.04159. The
parameters have the official names. Dimensions: B images, h w cells of a map, C channels, N heads, S scales; P points
that a head samples in one map; T tokens of all scales, the coarsest scale first; R cells in all maps, including a
border of one cell around each map.
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
        """Return attention (B, T, C) of queries (B, T, C) to values (B, T, C). Sampling is in float32."""
        weights = self.attention_weights(queries).float().unflatten(-1, (self.heads, -1)).softmax(-1).flatten(2)
        offsets = self.sampling_offsets(queries).float().unflatten(-1, (-1, 2))
        # Both methods return the same sums. On a CPU without gradients, `summed` is faster.
        attend = cells.sampled if torch.is_grad_enabled() else cells.summed
        return self.output_proj(attend(self.value_proj(values).float(), offsets, weights))


class Cells:
    """Sampler of values at points in the maps of all scales. `sizes` are h and w of these maps.

    An axis N·S·P has an element for each head, scale and point: N heads, S scales per head, P points per scale.
    """

    def __init__(self, sizes: Sequence[torch.Size], heads: int, device: torch.device) -> None:
        self.sizes, self.heads = sizes, heads
        sides = torch.tensor([[w, h] for h, w in sizes], device=device)
        self.sides = sides.repeat_interleave(POINTS, 0).repeat(heads, 1)
        """(N·S·P, 2) int64: for each point, width and height of the map in which the point lies"""
        centres = torch.cat([cell_centres(size, device) for size in sizes])
        self.places = centres[:, None] * self.sides - 0.5
        """(T, N·S·P, 2) float32: position x, y of T tokens in the maps, for N heads, S scales and P points

        The unit is a cell of the scale's map. The centre of the first cell is 0, 0."""
        bordered = (sides + 2).prod(1)
        self.count = bordered.sum()
        """number R of cells in all maps, including a border of one cell around each map"""
        first = (bordered.cumsum(0) - bordered).repeat_interleave(POINTS).repeat(heads)
        below = self.sides[:, 0] + 2
        corners = torch.stack([first, first + 1, first + below, first + below + 1], -1)
        head = torch.arange(heads, device=device).repeat_interleave(len(sizes) * POINTS)
        self.corner = corners * heads + head[:, None]
        """(N·S·P, 4) int64: row numbers in the array `table` (see `summed`), for N heads, S scales and P points

        These are the 2 × 2 cells in the upper left corner of the first image's bordered map.
        `_corners` adds the point's position and the image's offset to these row numbers.
        """

    def sampled(self, values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Return weighted sums (B, T, C) of the values at points, by torch's `grid_sample`.

        `values` are (B, T, C). `weights` are (B, T, N·S·P) for N heads, S scales and P points. `offsets` are
        (B, T, N·S·P, 2): x and y of each point relative to the token, in cells of the map of the point's scale.
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
        """Return the same weighted sums (B, T, C) as `sampled`, without torch's `grid_sample`."""
        # The rows of the table (B·R·N, C / N) are the cells of all maps. Each map has a border of zeros, one cell wide.
        # The value at a point is a weighted sum of four rows.
        rows, shares = self._corners(offsets, weights)
        bordered = [
            F.pad(tokens.unflatten(1, size), (0, 0, 1, 1, 1, 1)).flatten(1, 2) for tokens, size in self._maps(values)
        ]
        table = torch.cat(bordered, 1).view(-1, values.shape[-1] // self.heads)
        rows, shares = rows.view(-1, SCALES * POINTS * 4), shares.view(-1, SCALES * POINTS * 4)
        return F.embedding_bag(rows, table, per_sample_weights=shares, mode="sum").view(values.shape)

    def _corners(self, offsets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return row numbers int64 and weights float32 of the four cells around each point, both (B, T, N·S·P, 4).

        `offsets` and `weights` are as in `sampled`. A row number is an index into the array `table`, which the method
        `summed` builds. The weight of a cell is the product of two weights: the point's weight in `weights`, and the
        cell's weight in the bilinear interpolation.
        """
        x, y, w, h = *(self.places + 1 + offsets).unbind(-1), *self.sides.unbind(-1)
        # Points outside of a map are moved to the border of the map, where all cells are zero.
        zero = x.new_zeros(())  # fmax replaces NaN too, so that rows exist for any weights
        x, y = x.fmax(zero).minimum(w + 1), y.fmax(zero).minimum(h + 1)
        left, top = x.floor().minimum(w), y.floor().minimum(h)
        images = torch.arange(len(x), device=x.device)[:, None, None] * self.count
        rows = ((top * (w + 2) + left).long() + images)[..., None] * self.heads + self.corner
        lower, right = weights * (y - top), x - left
        upper = weights - lower
        return rows, torch.stack([upper - upper * right, upper * right, lower - lower * right, lower * right], -1)

    def _by_scale(self, x: Tensor) -> Tensor:
        """Return `x` (B, T, N·S·P, k) with the axes (S, B·N, T, P, k)."""
        return x.unflatten(2, (self.heads, len(self.sizes), -1)).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)

    def _maps(self, tokens: Tensor) -> Iterator[tuple[Tensor, torch.Size]]:
        """Return the tokens (B, h·w, C) and the size (h, w) of each map."""
        return zip(tokens.split([size.numel() for size in self.sizes], 1), self.sizes, strict=True)


def cell_centres(size: torch.Size, device: torch.device) -> Tensor:
    """Return x and y of the centres of all cells of a map, in row-major order, (h·w, 2) in 0..1."""
    y, x = ((torch.arange(side, dtype=torch.float32, device=device) + 0.5) / side for side in size)
    return torch.cartesian_prod(y, x).flip(-1)
