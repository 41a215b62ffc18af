"""SAM's prompt encoder and mask decoder (Kirillov et al., 2023, §3 and appendix A).

The parameters have the official names. Letters: P prompts, N points of a prompt, T tokens, g side of the embedding,
L = g² its cells, D channels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.clip import ChannelNorm
from ovss_ray.models.sam_encoder import EPSILON, Mlp
from ovss_ray.models.sam_variants import Variant
from ovss_ray.models.side_adapter import Mlp as Head

NOTHING, BESIDE, ON, FIRST_CORNER, LAST_CORNER = -1, 0, 1, 2, 3
"""What a point of a prompt says; NOTHING fills up."""
MASKS = 4
"""The decoder's masks: the first is for prompts with one meaning, the other three are for those with several."""


@dataclass(frozen=True)
class Prompts:
    """P questions, each of which asks for one mask."""

    points: Tensor
    """(P, N, 2) float32: x and y in pixels of the network's input; 0, 0 is the centre of its first pixel"""
    labels: Tensor
    """(P, N) int64: ON, BESIDE, the corners of a box, or NOTHING"""
    masks: Tensor | None = None
    """(P, 1, 4 g, 4 g) float32: logits of earlier answers"""

    @classmethod
    def of(
        cls,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> "Prompts":
        """Clicks (P, n, 2) with labels (P, n), boxes (P, 4) x0 y0 x1 y1, masks: at least one of them.

        Clicks that have no box get a point that says nothing, as in the official code.
        """
        count, device = next((len(x), x.device) for x in (points, boxes, masks) if x is not None)
        where = [] if points is None else [points.float()]
        what = [] if labels is None else [labels.long()]
        if boxes is not None:
            where.append(boxes.float().reshape(-1, 2, 2))
            what.append(torch.tensor([[FIRST_CORNER, LAST_CORNER]], device=device).expand(count, -1))
        elif points is not None:
            where.append(torch.zeros(count, 1, 2, device=device))
            what.append(torch.full((count, 1), NOTHING, device=device))
        none = torch.zeros(count, 0, 2, device=device), torch.zeros(count, 0, dtype=torch.long, device=device)
        return cls(torch.cat([none[0], *where], 1), torch.cat([none[1], *what], 1), masks)


def embedding(rows: int, width: int) -> nn.Embedding:
    """An nn.Embedding that draws no values: on the meta device that would import the whole of torch.compile."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


class Waves(nn.Module):
    """Positions as sines and cosines of random frequencies (Tancik et al., NeurIPS 2020, arXiv 2006.10739)."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.empty(2, width // 2))

    def forward(self, places: Tensor) -> Tensor:
        """x and y (…, 2) float32 in 0..1 → (…, D) float32; never in half precision, which cannot tell pixels apart."""
        with torch.autocast(places.device.type, enabled=False):
            phases = 2 * math.pi * ((2 * places - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([phases.sin(), phases.cos()], -1)


class PromptEncoder(nn.Module):
    """From points, boxes and masks to tokens and to what is added to the image's embedding."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width, inner = variant.embed, variant.mask_width
        self.pixels, self.grid = variant.pixels, variant.grid
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
        """The points of prompts → (P, N, D)."""
        known = [self.not_a_point_embed, *self.point_embeddings]
        table = torch.cat([one.get_parameter("weight") for one in known])
        places = self.pe_layer((prompts.points + 0.5) / self.pixels)
        return places.where(prompts.labels[..., None] != NOTHING, 0) + table[prompts.labels + 1]

    def dense(self, prompts: Prompts) -> Tensor:
        """What prompts add to the embedding of their image: (P, D, g, g); (1, D, 1, 1) if they have no masks."""
        if prompts.masks is None:
            return self.no_mask_embed.weight[..., None, None]
        return self.mask_downscaling(prompts.masks)

    def positions(self) -> Tensor:
        """The positions of the embedding's cells, in reading order: (L, D)."""
        centres = (torch.arange(self.grid, device=self.no_mask_embed.weight.device) + 0.5) / self.grid
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        return self.pe_layer(torch.stack([columns, rows], -1)).flatten(0, 1)


class Attention(nn.Module):
    """Multi-head attention between two sets of tokens, inside `inner` channels."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries (P, T, D), keys and values (P, L, D) → (P, T, D)."""
        parts = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        seen = F.scaled_dot_product_attention(*(x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in parts))
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class TwoWayBlock(nn.Module):
    """Tokens look at one another, then at the image, then the image looks at them."""

    def __init__(self, variant: Variant, first: bool) -> None:
        super().__init__()
        width, heads = variant.embed, variant.decoder_heads
        self.first = first
        self.self_attn = Attention(width, width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, width // 2, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, variant.decoder_mlp, nn.ReLU())
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, width // 2, heads)

    def forward(self, tokens: Tensor, image: Tensor, asked: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (P, T, D) and image (P, L, D), what the tokens were at first, and the cells' positions (L, D).

        Returns tokens and image. The first block does not tell the tokens apart by what they were: they still are it.
        """
        q = tokens if self.first else tokens + asked
        seen = self.self_attn(q, q, tokens)
        tokens = self.norm1(seen if self.first else tokens + seen)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + asked, image + positions, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        seen = self.cross_attn_image_to_token(image + positions, tokens + asked, tokens)
        return tokens, self.norm4(image + seen)


class TwoWayTransformer(nn.Module):
    """The blocks, and a last look of the tokens at the image."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width = variant.embed
        self.layers = nn.ModuleList(TwoWayBlock(variant, first=i == 0) for i in range(variant.decoder_layers))
        self.final_attn_token_to_image = Attention(width, width // 2, variant.decoder_heads)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, asked: Tensor, image: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (P, T, D), image (P, L, D), positions (L, D) → tokens and image after all blocks."""
        tokens = asked
        for layer in self.layers:
            tokens, image = layer(tokens, image, asked, positions)
        seen = self.final_attn_token_to_image(tokens + asked, image + positions, image)
        return self.norm_final_attn(tokens + seen), image


class MaskDecoder(nn.Module):
    """From the embedding and a prompt's tokens to masks, and how well they will fit."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width = variant.embed
        self.transformer = TwoWayTransformer(variant)
        self.iou_token = embedding(1, width)
        self.mask_tokens = embedding(MASKS, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, 2),
            ChannelNorm(width // 4, EPSILON),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Head(width, width, width // 8, nn.Linear) for _ in range(MASKS))
        self.iou_prediction_head = Head(width, variant.fit_width, MASKS, nn.Linear)

    def forward(self, image: Tensor, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (P, D, g, g), the prompts' tokens (P, N, D), positions (L, D) → all masks and their fit.

        Logits (P, MASKS, 4 g, 4 g), predicted IoU (P, MASKS).
        """
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        asked = torch.cat([own.expand(len(tokens), -1, -1), tokens], 1)
        answers, cells = self.transformer(asked, image.flatten(2).transpose(1, 2), positions)
        upscaled = self.output_upscaling(cells.transpose(1, 2).unflatten(2, image.shape[-2:]))
        heads = enumerate(self.output_hypernetworks_mlps, 1)
        filters = torch.stack([head(answers[:, i]) for i, head in heads], 1)
        masks = (filters @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        return masks, self.iou_prediction_head(answers[:, 0])
