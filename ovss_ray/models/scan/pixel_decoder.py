"""SCAN's pixel decoder: deformable attention over the maps of three scales, and one step of a feature pyramid.

Zhu et al., "Deformable DETR", ICLR 2021, arXiv 2010.04159; Cheng et al., "Mask2Former", CVPR 2022, arXiv 2112.01527.
The parameters have the official names. Dimensions: B images, h w cells of a map, C channels; T tokens of all scales,
the coarsest first.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.clip import as_map
from ovss_ray.models.scan.deformable import SCALES, Cells, DeformableAttention
from ovss_ray.models.scan.variants import Variant

GROUPS = 32
"""Number of groups in the group normalisations"""
TEMPERATURE = 10_000
"""Base of the wavelengths in `sine`. Wavelength i is TEMPERATURE^(4 i / C), for i from 0 to C / 4 − 1"""


class PixelDecoder(nn.Module):
    """A network that converts the backbone's four maps into one map of mask features and three maps called levels.

    The masked decoder attends to the levels, and computes masks from the mask features.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        first, hidden = variant.backbone_width, variant.hidden
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(first << i, hidden, 1), nn.GroupNorm(GROUPS, hidden)) for i in (3, 2, 1)
        )
        self.transformer = Transformer(variant)
        self.adapter_1 = NormedConv(first, hidden, 1)
        self.layer_1 = NormedConv(hidden, hidden, 3)
        self.mask_features = nn.Conv2d(hidden, hidden, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the mask features (B, C, H/4, W/4) and three levels, for images of H × W pixels.

        The levels are (B, C, H/s, W/s) for the strides s = 32, 16, 8. `maps` are from Swin, the finest first.
        """
        finest, *coarser = maps
        projected = [project(x) for project, x in zip(self.input_proj, reversed(coarser), strict=True)]
        levels = self.transformer(projected)
        above = F.interpolate(levels[-1], finest.shape[-2:], mode="bilinear", align_corners=False)
        return self.mask_features(F.relu(self.layer_1(self.adapter_1(finest) + above))), levels


class NormedConv(nn.Conv2d):
    """A convolution, followed by a group norm. The convolution has no bias, and keeps the size of the map."""

    def __init__(self, width: int, out: int, side: int) -> None:
        super().__init__(width, out, side, padding=side // 2, bias=False)
        self.norm = nn.GroupNorm(GROUPS, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (B, out, h, w) for a map (B, width, h, w)."""
        return self.norm(super().forward(x))


class Transformer(nn.Module):
    """Layers of deformable attention among the tokens of all scales."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.heads = variant.heads
        self.level_embed = nn.Parameter(torch.empty(SCALES, variant.hidden))
        layers = nn.ModuleList(Layer(variant) for _ in range(variant.encoder_layers))
        self.encoder = nn.ModuleDict({"layers": layers})

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps after all layers. Input and output have one map (B, C, h, w) for each scale."""
        sizes = [x.shape[-2:] for x in maps]
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        width, device = tokens.shape[-1], tokens.device
        positions = torch.cat([sine(size, width, device) + self.level_embed[i] for i, size in enumerate(sizes)])
        cells = Cells(sizes, self.heads, device)
        for layer in self.encoder["layers"].children():
            tokens = layer(tokens, positions, cells)
        parts = tokens.split([size.numel() for size in sizes], 1)
        return [as_map(part, size) for part, size in zip(parts, sizes, strict=True)]


class Layer(nn.Module):
    """Deformable attention and a feed-forward network, each followed by a norm."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width, inner = variant.hidden, variant.encoder_inner
        self.self_attn = DeformableAttention(width, variant.heads)
        self.norm1 = nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, positions: Tensor, cells: Cells) -> Tensor:
        """Return tokens (B, T, C) after the layer. `positions` (T, C) are the tokens' position encodings."""
        x = self.norm1(x + self.self_attn(x + positions, x, cells))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


def sine(size: torch.Size, width: int, device: torch.device) -> Tensor:
    """Return the position encoding (h·w, C) float32 of all cells of a map, in row-major order.

    `size` is (h, w). `width` is C. The first half of the channels encodes the row of a cell. The second half encodes
    the column of a cell. Source: Carion et al., "DETR", ECCV 2020, arXiv 2005.12872.
    """
    exponents = torch.arange(0, width // 2, 2, dtype=torch.float32, device=device) / (width // 2)
    wavelengths = TEMPERATURE**exponents
    rows, columns = (axis_sine(side, wavelengths) for side in size)
    h, w = size
    both = torch.cat([rows[:, None].expand(-1, w, -1), columns.expand(h, -1, -1)], -1)
    return both.flatten(0, 1)


def axis_sine(side: int, wavelengths: Tensor) -> Tensor:
    """Return the position encoding (side, 2 n) of the rows or columns of a map, at `wavelengths` (n,).

    `side` is the number of rows or columns of the map. For row or column i, the encoding has n angles. The angle at the
    wavelength λ is 2π (i + 1) / (`side` · λ). Each angle is encoded by its sine, followed by its cosine.
    """
    place = torch.arange(1, side + 1, dtype=torch.float32, device=wavelengths.device)
    angles = (place / (side + 1e-6) * (2 * math.pi))[:, None] / wavelengths
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
