"""SAM's image encoder: a ViT whose tokens look around in windows, but for a few blocks.

Kirillov et al., 2023, appendix A; Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV
2022, arXiv 2203.16527. The parameters have the official names. Letters: B images or windows, N heads, g side of the
grid of patches, h w of a grid or window, C channels of the tower, D of the embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.clip import ChannelNorm
from ovss_ray.models.sam_variants import Variant

EPSILON = 1e-6
"""Of the norms of SAM's image encoder and of all its norms over channels."""


WEIGHTS = 1 << 21
"""Attention weights made at a time on a CPU: 8 MB."""


class Mlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, inner: int, activation: nn.Module) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, inner)
        self.lin2 = nn.Linear(inner, width)
        self.act = activation

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) → the same shape."""
        return self.lin2(self.act(self.lin1(x)))


class GridAttention(nn.Module):
    """Multi-head attention over a square of tokens, in which relative rows and columns add to the weights."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.empty(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.empty(2 * side - 1, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) with h = w = side → the same shape."""
        stacked = self.qkv(x.flatten(1, 2)).unflatten(-1, (3, self.heads, -1))
        q, k, v = stacked.permute(2, 0, 3, 1, 4)
        if torch.is_grad_enabled():
            q, k = self.placed(q, k, x.shape[1])
            seen = (q @ k.transpose(-2, -1)).softmax(-1).to(v.dtype) @ v
        else:
            seen = self.fused(q, k, v, x.shape[1]) if x.is_cuda else self.by_rows(q, k, v, x.shape[1])
        return self.proj(seen.transpose(1, 2).flatten(2).unflatten(1, x.shape[1:3]))

    def distances(self, q: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """What rows and columns of keys add to the weights of queries (B, N, h·w, c): (B, N, h, w, side) each."""
        grid = q.unflatten(2, (side, side))
        rows = torch.einsum("bnhwc,hkc->bnhwk", grid, between(self.rel_pos_h, side))
        return rows, torch.einsum("bnhwc,wkc->bnhwk", grid, between(self.rel_pos_w, side))

    def fused(self, q: Tensor, k: Tensor, v: Tensor, side: int) -> Tensor:
        """Attention (B, N, h·w, c) by torch's fused kernels, given all that distances add: for GPUs."""
        rows, columns = self.distances(q, side)
        added = (rows[..., None] + columns[..., None, :]).flatten(-2).flatten(2, 3)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=added.to(q.dtype))

    def by_rows(self, q: Tensor, k: Tensor, v: Tensor, side: int) -> Tensor:
        """Attention (B, N, h·w, c) for some rows of queries at a time, whose weights fit a processor's cache.

        All weights of sam_vit_b's blocks over the whole image would be 0.8 GB, and the time that of moving them.
        """
        rows, columns = (x.flatten(0, 1) for x in self.distances(q, side))
        shape, q, k, v = q.shape, q.flatten(0, 1) * q.shape[-1] ** -0.5, k.flatten(0, 1), v.flatten(0, 1)
        seen = torch.empty_like(q)
        some, tall = max(1, WEIGHTS // side**4), max(1, min(side, WEIGHTS // side**3))
        for i in range(0, len(q), some):
            for y in range(0, side, tall):
                here, cells = slice(i, i + some), slice(y * side, (y + tall) * side)
                weights = (q[here, cells] @ k[here].transpose(1, 2)).unflatten(2, (side, side))
                weights = weights.unflatten(1, (-1, side))
                weights += rows[here, y : y + tall, :, :, None]
                weights += columns[here, y : y + tall, :, None, :]
                seen[here, cells] = weights.flatten(3).flatten(1, 2).softmax(-1).to(v.dtype) @ v[here]
        return seen.view(shape)

    def placed(self, q: Tensor, k: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, N, h·w, c) with 2 side channels more, after which q · k is the whole attention weight.

        That is q · k / √c + q · R_h + q · R_w, where R are the embeddings of the distance between two rows, and between
        two columns (Li et al., "MViTv2", CVPR 2022, arXiv 2112.01526). The last two depend on the key's row and
        column alone: queries get their values for all rows and columns, keys ones where they are. So no matrix of
        biases is made, and sam_tiny's encoder is trained in half the time.
        """
        rows, columns = (x.flatten(2, 3) for x in self.distances(q, side))
        one = torch.eye(side, dtype=k.dtype, device=k.device)
        where = torch.cat([one.repeat_interleave(side, 0), one.repeat(side, 1)], -1).expand(*k.shape[:2], -1, -1)
        return torch.cat([q * q.shape[-1] ** -0.5, rows, columns], -1), torch.cat([k, where], -1)


def between(embedding: Tensor, side: int) -> Tensor:
    """Embeddings (2 side − 1, c) of the distances 1 − side … side − 1 → those of i − j, (side, side, c)."""
    place = torch.arange(side, device=embedding.device)
    return embedding[place[:, None] - place + side - 1]


class Block(nn.Module):
    """A transformer block whose attention stays inside windows; `window` 0: there are none."""

    def __init__(self, variant: Variant, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(variant.width, EPSILON)
        self.attn = GridAttention(variant.width, variant.heads, window or variant.grid)
        self.norm2 = nn.LayerNorm(variant.width, EPSILON)
        self.mlp = Mlp(variant.width, 4 * variant.width, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, g, g, C) → the same shape."""
        normed = self.norm1(x)
        x = x + (self._in_windows(normed) if self.window else self.attn(normed))
        return x + self.mlp(self.norm2(x))

    def _in_windows(self, x: Tensor) -> Tensor:
        """Attention in each window. The grid is filled up with zeros, which take part in it, to a whole number."""
        grid, side = x.shape[1], self.window
        count = -(-grid // side)
        x = F.pad(x, (0, 0, 0, count * side - grid, 0, count * side - grid))
        cut = x.unflatten(2, (count, side)).unflatten(1, (count, side)).transpose(2, 3)
        seen = self.attn(cut.flatten(0, 2)).unflatten(0, cut.shape[:3])
        return seen.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :grid, :grid]


class ImageEncoder(nn.Module):
    """From pixels to the embedding that all prompts of an image share."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width, embed, patch = variant.width, variant.embed, variant.patch
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.pos_embed = nn.Parameter(torch.empty(1, variant.grid, variant.grid, width))
        windows = [0 if i in variant.globals else variant.window for i in range(variant.layers)]
        self.blocks = nn.ModuleList(Block(variant, window) for window in windows)
        self.neck = nn.Sequential(
            nn.Conv2d(width, embed, 1, bias=False),
            ChannelNorm(embed, EPSILON),
            nn.Conv2d(embed, embed, 3, padding=1, bias=False),
            ChannelNorm(embed, EPSILON),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Normalised and padded images (B, 3, pixels, pixels) → embeddings (B, D, g, g)."""
        x = self.patch_embed["proj"](images).permute(0, 2, 3, 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))
