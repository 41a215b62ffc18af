"""SCAN's masked decoder: each query attends to the pixels of its mask, and yields a mask and an embedding.

Cheng et al., "Mask2Former", CVPR 2022, arXiv 2112.01527. The parameters have the official names. Levels are the maps
from the pixel decoder. Dimensions: B images, Q queries, C channels, D features of an embedding, h w cells of a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.clip import Attention
from ovss_ray.models.layers import Mlp
from ovss_ray.models.scan.pixel_decoder import SCALES, PixelDecoder, sine
from ovss_ray.models.scan.variants import Variant


@dataclass(frozen=True)
class Proposals:
    """Class-agnostic masks of a batch of images, and their embeddings before calibration."""

    embeddings: Tensor
    """(B, Q, D)"""
    mask_logits: Tensor
    """(B, Q, h, w): h and w are a quarter of the padded photograph's height and width"""


class MaskNetwork(nn.Module):
    """The pixel decoder, followed by the masked decoder. The name of this module in checkpoints is `sem_seg_head`."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.pixel_decoder = PixelDecoder(variant)
        self.predictor = MaskDecoder(variant)

    def forward(self, maps: Sequence[Tensor], every: bool = False) -> list[Proposals]:
        """Return the list of Proposals from the masked decoder. See MaskDecoder.forward for `every`.

        `maps` are the outputs of Swin, the finest first.
        """
        mask_features, levels = self.pixel_decoder(maps)
        return self.predictor(levels, mask_features, every)


class CrossAttention(nn.Module):
    """Cross-attention from the queries to the cells of a level, followed by a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.multihead_attn = Attention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, places: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        """Return the queries (B, Q, C) after attention to the L = h·w cells of a level.

        `x` (B, Q, C) are the queries before attention. `places` (Q, C) are position embeddings of the queries. `keys`
        and `values` are (B, L, C). `seen` (B, Q, L) bool marks the cells to which a query attends.
        """

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])

        return self.norm(x + self.multihead_attn.across(x + places, keys, values, attend))


class SelfAttention(nn.Module):
    """Attention among the queries, followed by a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """Return the queries (B, Q, C) after self-attention.

        `x` (B, Q, C) are the queries before self-attention. `places` (Q, C) are added to queries and keys, not to
        values.
        """
        placed = x + places
        return self.norm(x + self.self_attn.across(placed, placed, x))


class FeedForward(nn.Module):
    """Two linear layers with ReLU between them, followed by a norm."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the queries after the layers and the norm. Input and output are (B, Q, C)."""
        return self.norm(x + self.linear2(F.relu(self.linear1(x))))


class MaskDecoder(nn.Module):
    """The decoder from learned queries to masks and embeddings; layer i attends to level i mod 3."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width, heads, layers = variant.hidden, variant.heads, range(variant.decoder_layers)
        self.transformer_cross_attention_layers = nn.ModuleList(CrossAttention(width, heads) for _ in layers)
        self.transformer_self_attention_layers = nn.ModuleList(SelfAttention(width, heads) for _ in layers)
        self.transformer_ffn_layers = nn.ModuleList(FeedForward(width, variant.decoder_inner) for _ in layers)
        self.decoder_norm = nn.LayerNorm(width)
        self.query_feat = _embedding(variant.queries, width)
        self.query_embed = _embedding(variant.queries, width)
        self.level_embed = _embedding(SCALES, width)
        self.class_embed = Mlp(width, variant.embed_hidden, variant.clip.embed, nn.Linear, 2)
        self.mask_embed = Mlp(width, width, width, nn.Linear)

    def forward(self, levels: Sequence[Tensor], mask_features: Tensor, every: bool = False) -> list[Proposals]:
        """Return a list of Proposals. `levels` and `mask_features` are from PixelDecoder.

        If `every` is false, the only element is the Proposals after the last layer. If `every` is true, element i is
        the Proposals after i layers, for i from 0 to Variant.decoder_layers.
        """
        values = [x.flatten(2).transpose(1, 2) + self.level_embed.weight[i] for i, x in enumerate(levels)]
        keys = [x + sine(level.shape[-2:], x.shape[-1], x.device) for x, level in zip(values, levels, strict=True)]
        features = [resized(mask_features, level.shape[-2:]) for level in levels]
        x = self.query_feat.weight.expand(len(mask_features), -1, -1)
        places, proposals = self.query_embed.weight, []
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for i, (cross, among, feed_forward) in enumerate(layers):
            if every:
                proposals.append(self.predict(x, mask_features))
            level = i % SCALES
            x = cross(x, places, keys[level], values[level], attended(self.masks(x, features[level]).detach()))
            x = feed_forward(among(x, places))
        return [*proposals, self.predict(x, mask_features)]

    def predict(self, x: Tensor, mask_features: Tensor) -> Proposals:
        """Return the proposals of queries (B, Q, C)."""
        return Proposals(self.class_embed(self.decoder_norm(x)), self.masks(x, mask_features))

    def masks(self, x: Tensor, features: Tensor) -> Tensor:
        """Return the mask logits (B, Q, h, w) of queries (B, Q, C) for features (B, C, h, w)."""
        return torch.einsum("bqc,bchw->bqhw", self.mask_embed(self.decoder_norm(x)), features)


def resized(features: Tensor, size: torch.Size) -> Tensor:
    """Return the mask features, resized bilinearly to (B, C, h, w) and detached. `size` is (h, w) of a level."""
    # The official code resizes mask logits, the products of mask features and mask embeddings. The results are equal,
    # since the resize and the product are linear. All layers share the resized features.
    return F.interpolate(features.detach(), tuple(size), mode="bilinear", align_corners=False)


def attended(mask_logits: Tensor) -> Tensor:
    """Return (B, Q, h·w) bool: True for the cells to which a query attends. `mask_logits` are (B, Q, h, w).

    A query attends to the cells with a mask probability of at least 0.5. If the mask probability is below 0.5
    everywhere, the query attends to all cells.
    """
    inside = mask_logits.flatten(2).sigmoid() >= 0.5
    return inside | ~inside.any(-1, keepdim=True)


def _embedding(count: int, width: int) -> nn.Embedding:
    # Not nn.Embedding(…): its random values, drawn on the meta device, would import the whole of torch.compile.
    return nn.Embedding.from_pretrained(torch.empty(count, width), freeze=False)
