"""CLIP's transformers (Radford et al., 2021, arXiv 2103.00020), cut open so that other networks can join in.

The parameters have the names and layouts of open_clip and of OpenAI's releases, so that their checkpoints fit. The
activation is the QuickGELU of OpenAI's weights throughout. Letters: B batch, L tokens, N heads, D channels.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

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


class Stem(nn.Module):
    """Convolutions in the place of CLIP's patch projection: each patch is seen with its surroundings.

    A small tower learns shapes far sooner this way (Xiao et al., "Early convolutions help transformers see better",
    NeurIPS 2021, arXiv 2106.14881). Convolutions of stride 2 lead to patches, `depth` residual blocks follow.
    """

    def __init__(self, width: int, patch: int, depth: int) -> None:
        super().__init__()
        halvings = patch.bit_length() - 1
        widths = [3, *(width >> (halvings - 1 - i) for i in range(halvings))]
        self.shrink = nn.ModuleList(nn.Conv2d(before, after, 3, 2, 1) for before, after in pairwise(widths))
        self.norms = nn.ModuleList(ChannelNorm(after) for after in widths[1:])
        self.blocks = nn.ModuleList(ConvBlock(width) for _ in range(depth))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, h, w) → (B, width, h / patch, w / patch)."""
        x = images.contiguous(memory_format=torch.channels_last)
        for shrink, norm in zip(self.shrink, self.norms, strict=True):
            x = F.gelu(norm(shrink(x)))
        for block in self.blocks:
            x = block(x)
        return x


class ConvBlock(nn.Module):
    """A residual block: norm, 3 × 3 convolution, GELU, pointwise convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.c_proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) → the same shape."""
        return x + self.c_proj(F.gelu(self.conv(self.norm(x))))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map, at each position by itself."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) → the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ImageTower(nn.Module):
    """The first blocks of CLIP's image tower, from pixels to tokens; `stem` is the depth of a Stem, 0 for none."""

    def __init__(self, width: int, heads: int, layers: int, patch: int, grid: int, stem: int = 0) -> None:
        super().__init__()
        self.grid = grid
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(grid * grid + 1, width))
        self.conv1 = Stem(width, patch, stem) if stem else nn.Conv2d(3, width, patch, patch, bias=False)
        self.ln_pre = nn.LayerNorm(width)
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, images: Tensor, taps: Sequence[int]) -> tuple[dict[int, Tensor], Tensor]:
        """Normalised images (B, 3, h, w) → {i: map (B, width, h', w')}, and the tokens (B, 1 + h'·w', width).

        Map i of `taps` is what block i leaves (1-based; 0: what the first block is given), without the class token,
        which comes first among the tokens. A last row or column that does not fill a patch is dropped.
        """
        x, size = self.embed(images)
        maps = {0: as_map(x[:, 1:], size)}
        for i, block in enumerate(self.resblocks, 1):
            x = block(x)
            maps[i] = as_map(x[:, 1:], size)
        return {i: maps[i] for i in taps}, x

    def embed(self, images: Tensor) -> tuple[Tensor, torch.Size]:
        """Normalised images (B, 3, h, w) → what the first block is given (B, 1 + h'·w', width), and (h', w')."""
        patches = self.conv1(images)
        size = patches.shape[-2:]
        first = self.class_embedding.to(patches.dtype).expand(len(images), 1, -1)
        x = torch.cat([first, patches.flatten(2).transpose(1, 2)], 1)
        return self.ln_pre(x + self.positions(size)), size

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
    """CLIP's text tower, and what SAN keeps beside it: the temperature, and a learned embedding for "no object".

    `words` names a table of whole words (text.tokenise) for a tower that does not use CLIP's byte pairs.
    """

    def __init__(
        self, vocabulary: int, context: int, width: int, heads: int, layers: int, embed: int, words: str = ""
    ) -> None:
        super().__init__()
        self.context = context
        self.words = words
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
