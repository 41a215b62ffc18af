"""SAM's prompt encoder (Kirillov et al., 2023, §3 and appendix A).

The parameters have the official names. Dimensions: P prompts, N points per prompt, g side of the embedding, L =
g² cells, D channels.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ovss_ray.models.layers import ChannelNorm
from ovss_ray.models.sam_layers.grid import EPSILON

NOTHING, BESIDE, ON, FIRST_CORNER, LAST_CORNER = -1, 0, 1, 2, 3
"""Labels of a prompt's points: padding, outside the object, on the object, first and last corner of a box"""


class PromptSizes(Protocol):
    """Protocol: sizes of a prompt encoder. A network's Variant has these fields."""

    @property
    def pixels(self) -> int:
        """Side of the network's square input, in pixels."""

    @property
    def grid(self) -> int:
        """Side g of the image embedding."""

    @property
    def embed(self) -> int:
        """D: channels of the image embedding and of the tokens."""

    @property
    def mask_width(self) -> int:
        """Hidden channels of the encoder of mask prompts."""


@dataclass(frozen=True)
class Prompts:
    """P prompts, each for one object."""

    points: Tensor
    """(P, N, 2) float32: x and y in pixels of the network's input; (0, 0) is the centre of the top left pixel"""
    labels: Tensor
    """(P, N) int64: NOTHING, BESIDE, ON, FIRST_CORNER or LAST_CORNER"""
    masks: Tensor | None = None
    """(P, 1, 4 g, 4 g) float32: mask logits of an earlier prediction, to be refined; None: no mask prompts"""

    @classmethod
    def of(
        cls,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> "Prompts":
        """Return P prompts from points, boxes, masks, or a combination. At least one kind is needed.

        `points` (P, n, 2) need `labels` (P, n). `boxes` (P, 4) are x0 y0 x1 y1. `masks` are as in Prompts.masks.
        If there are points but no boxes, each prompt gets a padding point.
        """
        count, device = next((len(x), x.device) for x in (points, boxes, masks) if x is not None)
        where = [] if points is None else [points.float()]
        what = [] if labels is None else [labels.long()]
        if boxes is not None:
            where.append(boxes.float().reshape(-1, 2, 2))
            what.append(torch.tensor([[FIRST_CORNER, LAST_CORNER]], device=device).expand(count, -1))
        elif points is not None:  # as in the official code
            where.append(torch.zeros(count, 1, 2, device=device))
            what.append(torch.full((count, 1), NOTHING, device=device))
        none = torch.zeros(count, 0, 2, device=device), torch.zeros(count, 0, dtype=torch.long, device=device)
        return cls(torch.cat([none[0], *where], 1), torch.cat([none[1], *what], 1), masks)


def embedding(rows: int, width: int) -> nn.Embedding:
    """Return an nn.Embedding without initial values."""
    # the constructor draws random values; on the meta device, a random draw imports torch.compile, which is slow
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


class Waves(nn.Module):
    """Position encoding by sines and cosines of random frequencies (Tancik et al., NeurIPS 2020, arXiv 2006.10739)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.empty(2, width // 2))

    def forward(self, places: Tensor) -> Tensor:
        """Return the encodings (…, D) of places (…, 2): x and y in 0..1.

        Encodings are computed in float32, since bfloat16 cannot distinguish neighbouring pixels.
        """
        with torch.autocast(places.device.type, enabled=False):
            phases = 2 * math.pi * ((2 * places - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([phases.sin(), phases.cos()], -1)


class PromptEncoder(nn.Module):
    """The encoder of prompts. Points and boxes become tokens, and masks become a map of features."""

    def __init__(self, sizes: PromptSizes) -> None:
        super().__init__()
        width, inner = sizes.embed, sizes.mask_width
        self.pixels, self.grid = sizes.pixels, sizes.grid
        self.pe_layer = Waves(width)
        self.point_embeddings = nn.ModuleList(embedding(1, width) for _ in range(4))
        self.not_a_point_embed = embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, inner // 4, 2, 2),
            ChannelNorm(inner // 4, EPSILON),
            nn.GELU(),
            nn.Conv2d(inner // 4, inner, 2, 2),
            ChannelNorm(inner, EPSILON),
            nn.GELU(),
            nn.Conv2d(inner, width, 1),
        )
        self.no_mask_embed = embedding(1, width)

    def tokens(self, prompts: Prompts) -> Tensor:
        """Return the tokens (P, N, D) of the prompts' points, which include the corners of boxes."""
        known = [self.not_a_point_embed, *self.point_embeddings]
        table = torch.cat([kind.get_parameter("weight") for kind in known])
        places = self.pe_layer((prompts.points + 0.5) / self.pixels)
        return places.where(prompts.labels[..., None] != NOTHING, 0) + table[prompts.labels + 1]

    def dense(self, prompts: Prompts) -> Tensor:
        """Return the map that is added to the image embedding: (P, D, g, g), or (1, D, 1, 1) without mask prompts."""
        if prompts.masks is None:
            return self.no_mask_embed.weight[..., None, None]
        return self.mask_downscaling(prompts.masks)

    def positions(self) -> Tensor:
        """Return the position encodings of the embedding's cells in row-major order, (L, D)."""
        centres = (torch.arange(self.grid, device=self.no_mask_embed.weight.device) + 0.5) / self.grid
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        return self.pe_layer(torch.stack([columns, rows], -1)).flatten(0, 1)
