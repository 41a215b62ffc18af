"""Blocks of SAM's image encoder: a transformer over a square of patches, with attention in windows or over all patches.

Kirillov et al., 2023, appendix A; Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV
2022, arXiv 2203.16527. The parameters have the official names. Dimensions: B images or windows, N heads, g side
of the patch grid, h w sides of a grid or window; C channels of the tokens, c channels of a head.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.layers import ChannelNorm, MlpBlock

EPSILON = 1e-6
"""Epsilon of LayerNorm in SAM's image encoder, and of ChannelNorm in all parts of SAM"""


WEIGHTS = 1 << 21
"""Maximum number of attention scores (query × key) computed at a time on a CPU: 8 MB of float32"""


class GridSizes(Protocol):
    """Protocol: sizes of a transformer over a square of patches. A network's Variant has these fields."""

    @property
    def width(self) -> int:
        """Channels of the tokens."""

    @property
    def heads(self) -> int:
        """Number of attention heads."""

    @property
    def grid(self) -> int:
        """Side g of the patch grid."""


class GridAttention(nn.Module):
    """Multi-head attention over a square of tokens, with relative positions in rows and columns."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.empty(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.empty(2 * side - 1, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (B, h, w, C) after attention among the tokens `x` (B, h, w, C), where h = w."""
        stacked = self.qkv(x.flatten(1, 2)).unflatten(-1, (3, self.heads, -1))
        q, k, v = stacked.permute(2, 0, 3, 1, 4)
        if torch.is_grad_enabled():
            q, k = self.placed(q, k, x.shape[1])
            seen = (q @ k.transpose(-2, -1)).softmax(-1).to(v.dtype) @ v
        else:
            seen = self.fused(q, k, v, x.shape[1]) if x.is_cuda else self.by_rows(q, k, v, x.shape[1])
        return self.proj(seen.transpose(1, 2).flatten(2).unflatten(1, x.shape[1:3]))

    def distances(self, q: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Return the relative-position bias in two parts (B, N, h, w, side), first for rows, then for columns.

        `q` are queries (B, N, h·w, c), where h = w = `side`. The last axis of the first part is the row of the key. The
        last axis of the second part is the column of the key. The bias of a query and a key is the sum of both parts.
        """
        grid = q.unflatten(2, (side, side))
        rows = torch.einsum("bnhwc,hkc->bnhwk", grid, between(self.rel_pos_h, side))
        return rows, torch.einsum("bnhwc,wkc->bnhwk", grid, between(self.rel_pos_w, side))

    def fused(self, q: Tensor, k: Tensor, v: Tensor, side: int) -> Tensor:
        """Return the attention output, computed by torch's fused kernels on a GPU.

        `q`, `k`, `v` and the output are (B, N, h·w, c), where h = w = `side`.
        """
        rows, columns = self.distances(q, side)
        added = (rows[..., None] + columns[..., None, :]).flatten(-2).flatten(2, 3)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=added.to(q.dtype))

    def by_rows(self, q: Tensor, k: Tensor, v: Tensor, side: int) -> Tensor:
        """Return the attention output, computed in chunks of queries whose scores fit a CPU's cache.

        `q`, `k`, `v` and the output are (B, N, h·w, c), where h = w = `side`.
        """
        rows, columns = (x.flatten(0, 1) for x in self.distances(q, side))
        shape, q, k, v = q.shape, q.flatten(0, 1) * q.shape[-1] ** -0.5, k.flatten(0, 1), v.flatten(0, 1)
        seen = torch.empty_like(q)
        # without chunks, scores of a global block of sam_vit_b take 0.8 GB, and memory access takes most of the time
        heads, tall = max(1, WEIGHTS // side**4), max(1, min(side, WEIGHTS // side**3))
        for i in range(0, len(q), heads):
            for y in range(0, side, tall):
                here, cells = slice(i, i + heads), slice(y * side, (y + tall) * side)
                weights = (q[here, cells] @ k[here].transpose(1, 2)).unflatten(2, (side, side))
                weights = weights.unflatten(1, (-1, side))
                weights += rows[here, y : y + tall, :, :, None]
                weights += columns[here, y : y + tall, :, None, :]
                seen[here, cells] = weights.flatten(3).flatten(1, 2).softmax(-1).to(v.dtype) @ v[here]
        return seen.view(shape)

    def placed(self, q: Tensor, k: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Return queries and keys (B, N, h·w, c + 2 side), whose dot product includes the relative-position bias.

        The bias is that of MViTv2 (Li et al., CVPR 2022, arXiv 2112.01526).
        """
        # The dot product is q · k / √c + q · R_h + q · R_w, with the embeddings R_h and R_w of the distances in rows
        # and in columns. The new channels of a query are q · R_h for all rows and q · R_w for all columns. The new
        # channels of a key are one-hot codes of the key's row and column. No bias matrix is needed, which halves the
        # training time of sam_tiny's encoder.
        rows, columns = (x.flatten(2, 3) for x in self.distances(q, side))
        identity = torch.eye(side, dtype=k.dtype, device=k.device)
        where = torch.cat([identity.repeat_interleave(side, 0), identity.repeat(side, 1)], -1).expand(
            *k.shape[:2], -1, -1
        )
        return torch.cat([q * q.shape[-1] ** -0.5, rows, columns], -1), torch.cat([k, where], -1)


def between(embedding: Tensor, side: int) -> Tensor:
    """Return the embeddings (side, side, c) of the distances i − j between all positions i and j.

    Row 0 of `embedding` (2 side − 1, c) belongs to the distance 1 − side.
    """
    place = torch.arange(side, device=embedding.device)
    return embedding[place[:, None] - place + side - 1]


class Block(nn.Module):
    """A transformer block with attention inside windows of `window` × `window` patches.

    If `window` is 0, attention is global.
    """

    def __init__(self, sizes: GridSizes, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(sizes.width, EPSILON)
        self.attn = GridAttention(sizes.width, sizes.heads, window or sizes.grid)
        self.norm2 = nn.LayerNorm(sizes.width, EPSILON)
        self.mlp = MlpBlock(sizes.width, 4 * sizes.width, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after the block. Input and output are (B, g, g, C)."""
        normed = self.norm1(x)
        x = x + (self._in_windows(normed) if self.window else self.attn(normed))
        return x + self.mlp(self.norm2(x))

    def _in_windows(self, x: Tensor) -> Tensor:
        """Return the attention output within each window, (B, g, g, C). Zero padding takes part in attention."""
        grid, side = x.shape[1], self.window
        count = -(-grid // side)
        x = F.pad(x, (0, 0, 0, count * side - grid, 0, count * side - grid))
        cut = x.unflatten(2, (count, side)).unflatten(1, (count, side)).transpose(2, 3)
        seen = self.attn(cut.flatten(0, 2)).unflatten(0, cut.shape[:3])
        return seen.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :grid, :grid]


def projection(width: int, embed: int) -> nn.Sequential:
    """Return SAM's "neck", the convolutions after the last block.

    The input has `width` channels. The output is the image embedding, with `embed` channels.
    """
    return nn.Sequential(
        nn.Conv2d(width, embed, 1, bias=False),
        ChannelNorm(embed, EPSILON),
        nn.Conv2d(embed, embed, 3, padding=1, bias=False),
        ChannelNorm(embed, EPSILON),
    )
