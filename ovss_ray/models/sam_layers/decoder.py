"""SAM's two-way transformer, and the mask decoder that contains it (Kirillov et al., 2023, §3 and appendix A).

The parameters have the official names.

Dimensions: P prompts, M masks per prompt, N tokens per prompt; T = 1 + M + N tokens in the transformer; g side of the
embedding, L = g² cells, D channels.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.layers import ChannelNorm, Mlp, MlpBlock
from ovss_ray.models.sam_layers.grid import EPSILON
from ovss_ray.models.sam_layers.prompts import embedding


class DecoderSizes(Protocol):
    """Protocol: sizes of a mask decoder. A network's Variant has these fields."""

    @property
    def embed(self) -> int:
        """D: channels of the image embedding and of the tokens."""

    @property
    def decoder_layers(self) -> int:
        """Number of two-way blocks."""

    @property
    def decoder_heads(self) -> int:
        """Number of attention heads."""

    @property
    def decoder_mlp(self) -> int:
        """Hidden channels of the blocks' MLPs."""


class Attention(nn.Module):
    """Multi-head attention between two sets of tokens, computed in `inner` channels."""

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return outputs (P, T, D) of queries (P, T, D), keys (P, L, D) and values (P, L, D)."""
        parts = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        seen = F.scaled_dot_product_attention(*(x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in parts))
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class TwoWayBlock(nn.Module):
    """Self-attention of tokens, attention from tokens to the image, an MLP, and attention from image to tokens."""

    def __init__(self, sizes: DecoderSizes, first: bool) -> None:
        super().__init__()
        width, heads = sizes.embed, sizes.decoder_heads
        self.first = first
        self.self_attn = Attention(width, width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, width // 2, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MlpBlock(width, sizes.decoder_mlp, nn.ReLU())
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, width // 2, heads)

    def forward(self, tokens: Tensor, image: Tensor, initial: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (P, T, D) and image (P, L, D) after the block.

        `initial` (P, T, D) are the tokens before the first block. `positions` (L, D) are the position encodings of the
        cells.
        """
        # In the first block, `tokens` equals `initial`, so the self-attention does not add `initial`.
        q = tokens if self.first else tokens + initial
        seen = self.self_attn(q, q, tokens)
        tokens = self.norm1(seen if self.first else tokens + seen)
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + initial, image + positions, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        seen = self.cross_attn_image_to_token(image + positions, tokens + initial, tokens)
        return tokens, self.norm4(image + seen)


class TwoWayTransformer(nn.Module):
    """The two-way blocks, and a final attention from the tokens to the image."""

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        width = sizes.embed
        self.layers = nn.ModuleList(TwoWayBlock(sizes, first=i == 0) for i in range(sizes.decoder_layers))
        self.final_attn_token_to_image = Attention(width, width // 2, sizes.decoder_heads)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, initial: Tensor, image: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (P, T, D) after the final attention, and image cells (P, L, D) after the last block.

        `initial` (P, T, D) are the tokens before the first block. `image` (P, L, D) are the cells before the first
        block. `positions` (L, D) are the position encodings of the cells.
        """
        tokens = initial
        for layer in self.layers:
            tokens, image = layer(tokens, image, initial, positions)
        seen = self.final_attn_token_to_image(tokens + initial, image + positions, image)
        return self.norm_final_attn(tokens + seen), image


class MaskHead(nn.Module):
    """Decoder that gets image embeddings and prompt tokens, and predicts the logits of M masks per prompt.

    The transformer gets the prompt tokens, M mask tokens, and one extra learned token, such as SAM's IoU token. The
    extra token is an argument of `decode`. Its weights may be a submodule of the decoder, with the name `token`.
    """

    def __init__(self, sizes: DecoderSizes, masks: int, token: str = "") -> None:
        super().__init__()
        width = sizes.embed
        self.transformer = TwoWayTransformer(sizes)
        if token:  # before the mask tokens: training draws initial values in the order of registration
            self.add_module(token, embedding(1, width))
        self.mask_tokens = embedding(masks, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, 2),
            ChannelNorm(width // 4, EPSILON),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Mlp(width, width, width // 8, nn.Linear) for _ in range(masks))

    def decode(self, first: Tensor, image: Tensor, tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the transformer's output (P, D) for the token `first`, and mask logits (P, M, 4 g, 4 g).

        `first` (1, D) is a learned token, such as SAM's IoU token. `image` (P, D, g, g) has an image embedding for each
        prompt. `tokens` (P, N, D) are the prompt tokens. `positions` (L, D) are the position encodings of the cells.
        """
        outputs = torch.cat([first, self.mask_tokens.weight])
        initial = torch.cat([outputs.expand(len(tokens), -1, -1), tokens], 1)
        answers, cells = self.transformer(initial, image.flatten(2).transpose(1, 2), positions)
        upscaled = self.output_upscaling(cells.transpose(1, 2).unflatten(2, image.shape[-2:]))
        heads = enumerate(self.output_hypernetworks_mlps, 1)
        filters = torch.stack([head(answers[:, i]) for i, head in heads], 1)
        return answers[:, 0], (filters @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
