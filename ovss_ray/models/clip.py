"""CLIP's transformers (Radford et al., 2021, arXiv 2103.00020), with access to intermediate features.

The parameters have the names and layouts of open_clip and of OpenAI's releases.

Dimensions: B batch, L tokens, N heads, D channels, h w pixels, h' w' rows and columns of patches.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.clip_sizes import ClipSizes
from ovss_ray.models.layers import ChannelNorm

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Function that maps queries, keys and values (B, N, L, D/N) to attention outputs (B, N, M, D/N)

The outputs belong to the last M queries. Each function has a fixed choice of M, such as L or 1.
"""
After = Callable[[int, Tensor], Tensor]
"""Function from a block's number (counted from 1) and output (B, L, width) to the input of the next block."""


class QuickGELU(nn.Module):
    """x · sigmoid(1.702 x), the approximation of GELU that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation elementwise."""
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head attention with the projections of queries, keys and values stacked in one (3 D, D) matrix."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.stacked: nn.Module | None = None  # replaces the product with in_proj_weight (models/runtime/int8.py)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Return tokens (B, L, D) after attention by the function `attend`.

        If `attend` returns outputs only for the last M queries, the result is (B, M, D).
        """
        stacked = self.stacked(x) if self.stacked else F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = stacked.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out_proj(attend(q, k, v).transpose(1, 2).flatten(2))

    def across(
        self, queries: Tensor, keys: Tensor, values: Tensor, attend: Attend = F.scaled_dot_product_attention
    ) -> Tensor:
        """Return outputs (B, Q, D) of cross-attention. `queries` are (B, Q, D); `keys` and `values` are (B, L, D)."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
        )
        return self.out_proj(attend(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A transformer block with a norm before attention and a norm before the MLP; `quick` chooses QuickGELU."""

    def __init__(self, width: int, heads: int, quick: bool = True) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU() if quick else nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x: Tensor, attend: Attend = F.scaled_dot_product_attention) -> Tensor:
        """Return tokens (B, L, D) after the block. If `attend` returns only the last few tokens, so does the block."""
        mixed = self.attn(self.ln_1(x), attend)
        x = x[:, -mixed.shape[1] :] + mixed
        return x + self.mlp(self.ln_2(x))


class Stem(nn.Module):
    """Convolutions instead of CLIP's patch projection, so that a patch's feature also depends on neighbouring patches.

    Source: Xiao et al., "Early convolutions help transformers see better", NeurIPS 2021, arXiv 2106.14881. `depth` is
    the number of residual blocks.
    """

    def __init__(self, width: int, patch: int, depth: int) -> None:
        super().__init__()
        halvings = patch.bit_length() - 1
        widths = [3, *(width >> (halvings - 1 - i) for i in range(halvings))]
        self.shrink = nn.ModuleList(nn.Conv2d(before, after, 3, 2, 1) for before, after in pairwise(widths))
        self.norms = nn.ModuleList(ChannelNorm(after) for after in widths[1:])
        self.blocks = nn.ModuleList(ConvBlock(width) for _ in range(depth))

    def forward(self, images: Tensor) -> Tensor:
        """Return patch features (B, width, h / patch, w / patch) of images (B, 3, h, w)."""
        return self.maps(images)[-1]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return feature maps (B, C, h / 2ⁱ, w / 2ⁱ), one after each convolution i of stride 2.

        Convolutions count from 1. C is the number of output channels of convolution i. The last map has also passed
        through the residual blocks.
        """
        x, maps = images.contiguous(memory_format=torch.channels_last), []
        for shrink, norm in zip(self.shrink, self.norms, strict=True):
            x = F.gelu(norm(shrink(x)))
            maps.append(x)
        for block in self.blocks:
            x = block(x)
        return [*maps[:-1], x]


class ConvBlock(nn.Module):
    """A residual block: norm, 3 × 3 convolution, GELU, pointwise convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.c_proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, width, h, w) after the block."""
        return x + self.c_proj(F.gelu(self.conv(self.norm(x))))


class ImageTower(nn.Module):
    """The first blocks of CLIP's image tower, from pixels to tokens.

    `stem` is the number of residual blocks in the Stem. If `stem` is 0, CLIP's patch projection replaces the Stem.
    """

    def __init__(
        self, width: int, heads: int, layers: int, patch: int, grid: int, stem: int = 0, quick: bool = True
    ) -> None:
        super().__init__()
        self.grid = grid
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(grid * grid + 1, width))
        self.conv1 = Stem(width, patch, stem) if stem else nn.Conv2d(3, width, patch, patch, bias=False)
        self.ln_pre = nn.LayerNorm(width)
        self.resblocks = nn.ModuleList(Block(width, heads, quick) for _ in range(layers))

    def forward(self, images: Tensor, taps: Sequence[int]) -> tuple[dict[int, Tensor], Tensor]:
        """Return maps {i: (B, width, h', w')} and the last block's tokens (B, 1 + h'·w', width).

        `images` (B, 3, h, w) are normalised. `taps` are the numbers i of the maps. Map 0 is the input of block 1, and
        map i is the output of block i. The class token is the first token, and is not in the maps.

        If h is not a multiple of the patch side, the last row of patches is incomplete. If w is not, the last column of
        patches is incomplete. A Stem keeps incomplete patches. CLIP's patch projection drops incomplete patches.
        """
        x, size = self.embed(images)
        maps = {0: as_map(x[:, 1:], size)}
        for i, block in enumerate(self.resblocks, 1):
            x = block(x)
            maps[i] = as_map(x[:, 1:], size)
        return {i: maps[i] for i in taps}, x

    def embed(self, images: Tensor) -> tuple[Tensor, torch.Size]:
        """Return the first block's input (B, 1 + h'·w', width), and the grid (h', w'). `images`: (B, 3, h, w)."""
        patches = self.conv1(images)
        return self.tokens(patches), patches.shape[-2:]

    def tokens(self, patches: Tensor) -> Tensor:
        """Convert patch features (B, width, h', w') to the first block's input (B, 1 + h'·w', width)."""
        first = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        x = torch.cat([first, patches.flatten(2).transpose(1, 2)], 1)
        return self.ln_pre(x + self.positions(patches.shape[-2:]))

    def positions(self, size: Sequence[int]) -> Tensor:
        """Return position embeddings (1 + h'·w', width): for the class token, then for a grid (h', w') of patches."""
        first, patches = self.positional_embedding[:1], self.positional_embedding[1:]
        return torch.cat([first, resize_positions(patches[None], (self.grid, self.grid), size)[0]])


class WholeImageTower(ImageTower):
    """CLIP's image tower with its last norm and projection, from pixels to the embedding of an image."""

    def __init__(
        self, width: int, heads: int, layers: int, patch: int, grid: int, embed: int, stem: int = 0, quick: bool = True
    ) -> None:
        super().__init__(width, heads, layers, patch, grid, stem, quick)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed))

    @classmethod
    def of(cls, sizes: ClipSizes) -> "WholeImageTower":
        """Return an image tower with the sizes of a CLIP. The caller must set the weights."""
        return cls(
            sizes.width, sizes.heads, sizes.layers, sizes.patch, sizes.grid, sizes.embed, sizes.stem, sizes.quick
        )

    def encode(self, patches: Tensor, after: After | None = None) -> Tensor:
        """Return the embeddings (B, D), not normalised, of images or regions.

        `patches` (B, width, h', w') are features of patches, such as the output of `conv1`. `after` may change the
        tokens (B, h'·w' + 1, width) between two blocks. The class token is the last of these tokens, but the first
        token in the other methods.
        """
        size = patches.shape[-2:]
        first = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        positions = self.positions(size).roll(-1, 0)
        x = self.ln_pre(torch.cat([patches.flatten(2).transpose(1, 2), first], 1) + positions)
        *blocks, last = self.resblocks
        for number, block in enumerate(blocks, 1):
            x = block(x)
            x = after(number, x) if after else x
        return self.project(last(x, _last_only)[:, 0])

    def project(self, class_tokens: Tensor) -> Tensor:
        """Return embeddings (B, D), not normalised, of class tokens (B, width) after the last block."""
        return self.ln_post(class_tokens) @ self.proj


def as_map(tokens: Tensor, size: Sequence[int]) -> Tensor:
    """Return tokens (B, h'·w', D) in row-major order as a map (B, D, h', w'). `size` is (h', w')."""
    return tokens.transpose(1, 2).unflatten(2, tuple(size))


def resize_positions(embedding: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """Return position embeddings (1, h'·w', D) for a grid of h' × w' patches. `size` is (h', w').

    `embedding` (1, r·c, D) has position embeddings for a grid of r × c patches, without class token. `grid` is (r, c).
    If `grid` and `size` differ, the embeddings are resized bicubically.
    """
    if tuple(grid) == tuple(size):
        return embedding
    resized = F.interpolate(as_map(embedding.float(), grid), tuple(size), mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2)


class TextTower(nn.Module):
    """CLIP's text tower, and CLIP's temperature (`logit_scale`).

    `words` is the name of the tokeniser's word table (text.tokenise). If `words` is empty, the tokens are CLIP's byte
    pairs.
    """

    def __init__(
        self, vocabulary: int, context: int, width: int, heads: int, layers: int, embed: int, words: str = "",
        quick: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.context = context
        self.words = words
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.text_projection = nn.Parameter(torch.empty(width, embed))
        self.logit_scale = nn.Parameter(torch.empty(()))
        # Not nn.Embedding(…): its random values, drawn on the meta device, would import the whole of torch.compile.
        self.token_embedding = nn.Embedding.from_pretrained(torch.empty(vocabulary, width), freeze=False)
        self.transformer = nn.ModuleDict(
            {"resblocks": nn.ModuleList(Block(width, heads, quick) for _ in range(layers))}
        )
        self.ln_final = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return unit-norm embeddings (B, D) of B prompts.

        `tokens` (B, L) int64 have no padding. The last token of each prompt is the end token.
        """
        return F.normalize(self.last_tokens(tokens) @ self.text_projection, dim=-1)

    def last_tokens(self, tokens: Tensor) -> Tensor:
        """Return each prompt's features (B, width) at its last token, after `ln_final`. `tokens` are (B, L) int64."""
        # Attention is causal, so padding after the last token would not change the features.
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        *blocks, last = self.transformer["resblocks"].children()
        for block in blocks:
            x = block(x, _causal)
        return self.ln_final(last(x, _last_only)[:, 0])


def text_sizes(sizes: ClipSizes) -> dict[str, Any]:
    """Return the arguments of TextTower for a CLIP."""
    return {
        "vocabulary": sizes.text_vocabulary, "context": sizes.context, "width": sizes.text_width,
        "heads": sizes.text_heads, "layers": sizes.text_layers, "embed": sizes.embed, "words": sizes.words,
        "quick": sizes.quick,
    }  # fmt: skip


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _last_only(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q[:, :, -1:], k, v)
