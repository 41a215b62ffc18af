"""CLIP's transformers (Radford et al., 2021, arXiv 2103.00020), cut open so that other networks can join in.

The parameters have the names and layouts of open_clip and of OpenAI's releases, so that their checkpoints fit. The
activation is the QuickGELU of OpenAI's weights throughout. Letters: B batch, L tokens, N heads, D channels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys, values (B, N, L, D/N) → values for the queries, or for the last of them."""


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), the approximation of GELU that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to every element."""
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head attention with the projections of queries, keys and values stacked in one (3 D, D) matrix."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Let tokens (B, L, D) attend to each other as `attend` says; returns as many tokens as that does."""
        stacked = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = stacked.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out_proj(attend(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A transformer block with the norms before attention and MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, attend: Attend = F.scaled_dot_product_attention) -> Tensor:
        """Carry tokens (B, L, D) through the block; only the last ones if `attend` answers for those alone."""
        mixed = self.attn(self.ln_1(x), attend)
        x = x[:, -mixed.shape[1] :] + mixed
        return x + self.mlp(self.ln_2(x))


class ImageTower(nn.Module):
    """The first blocks of CLIP's image tower, from pixels to tokens."""

    def __init__(self, width: int, heads: int, layers: int, patch: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(grid * grid + 1, width))
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.ln_pre = nn.LayerNorm(width)
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, images: Tensor, taps: Sequence[int]) -> tuple[dict[int, Tensor], Tensor]:
        """Normalised images (B, 3, h, w) → {i: map (B, width, h', w')}, and the tokens (B, 1 + h'·w', width).

        Map i of `taps` is what block i leaves (1-based; 0: what the first block is given), without the class token,
        which comes first among the tokens. A last row or column that does not fill a patch is dropped.
        """
        patches = self.conv1(images)
        size = patches.shape[-2:]
        first = self.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        x = torch.cat([first, patches.flatten(2).transpose(1, 2)], 1)
        x = self.ln_pre(x + self.positions(size))
        maps = {0: as_map(x[:, 1:], size)}
        for i, block in enumerate(self.resblocks, 1):
            x = block(x)
            maps[i] = as_map(x[:, 1:], size)
        return {i: maps[i] for i in taps}, x

    def positions(self, size: Sequence[int]) -> Tensor:
        """The position embedding for a grid of this size, (1 + h'·w', width); the class token's is never resized."""
        first, patches = self.positional_embedding[:1], self.positional_embedding[1:]
        return torch.cat([first, resize_positions(patches[None], (self.grid, self.grid), size)[0]])


def as_map(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """Tokens (B, h·w, D) in reading order → a map (B, D, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, tuple(size))


def resize_positions(embedding: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """Resize a position embedding (1, L, D) from a grid to another: bicubic, no antialiasing, no aligned corners."""
    if tuple(grid) == tuple(size):
        return embedding
    resized = F.interpolate(as_map(embedding.float(), grid), tuple(size), mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2)


class TextTower(nn.Module):
    """CLIP's text tower, and what SAN keeps beside it: the temperature, and a learned embedding for "no object"."""

    def __init__(self, vocabulary: int, context: int, width: int, heads: int, layers: int, embed: int) -> None:
        super().__init__()
        self.context = context
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.text_projection = nn.Parameter(torch.empty(width, embed))
        self.logit_scale = nn.Parameter(torch.empty(()))
        # Not nn.Embedding(…): its random values, drawn on the meta device, would import the whole of torch.compile.
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(vocabulary, width), freeze=False)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(Block(width, heads) for _ in range(layers))})
        self.ln_final = nn.LayerNorm(width)
        self.bg_embed = nn.Parameter(torch.empty(1, embed))

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed prompts of one length, tokens (B, L) that end with the end-of-text token → (B, D) of unit norm.

        The mask is causal, so the last token alone is read and nothing behind it could change it: padding is not
        needed. The last block computes no other token.
        """
        return F.normalize(self.last_tokens(tokens) @ self.text_projection, dim=-1)

    def last_tokens(self, tokens: Tensor) -> Tensor:
        """What ln_final makes of the last token of each prompt: tokens (B, L) → (B, width)."""
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        *blocks, last = self.transformer["resblocks"].children()
        for block in blocks:
            x = block(x, _causal)
        return self.ln_final(last(x, _last_only)[:, 0])

    def classifier(self, embeddings: Tensor) -> Tensor:
        """Append "no object" to class embeddings (K, D) of unit norm, times the temperature → (K + 1, D)."""
        rows = torch.cat([embeddings, self.bg_embed])
        return F.normalize(rows, dim=-1) * self.logit_scale.exp()


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _last_only(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[:, :, -1:], k, v)
