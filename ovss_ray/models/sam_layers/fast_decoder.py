"""SAM's mask decoder for many clicks on an image: the results of MaskHead.decode with a third of the computation.

The results are equal except for rounding. `FastDecoder.answer` predicts the IoU of the masks. Then the caller can
discard prompts before `FastDecoder.masks` computes masks.

Dimensions: B images, P prompts, M masks per prompt, T tokens, L cells, N heads; D channels of the embedding, c
of a head.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.sam_layers.decoder import Attention, MaskHead, TwoWayBlock
from ovss_ray.models.sam_layers.grid import EPSILON
from ovss_ray.models.sam_layers.prompts import PromptEncoder, Prompts


@dataclass(frozen=True)
class Seen:
    """Image embeddings, and the projections of the embeddings in the decoder's first TwoWayBlock.

    The projections are queries, keys and values. All prompts for an image share the image's embedding and projections.
    """

    image: Tensor
    """(B, L, D) float32: embeddings of the images' cells, plus SAM's embedding for "no mask prompt" """
    keys: Tensor
    values: Tensor
    queries: Tensor
    """(B, N, L, c): projections of L cells, for N heads of c channels; `keys` and `values` have the same shape"""
    positions: Tensor
    """(L, D) float32: position encodings of the cells"""


@dataclass(frozen=True)
class Answered:
    """Tokens and images after all blocks, from which masks are computed."""

    tokens: Tensor
    """(P, M, D) float32, or bfloat16 under autocast: a token for each mask"""
    image: Tensor
    """(P, L, D) of the same dtype as `tokens`: the cells of each prompt's image"""
    fit: Tensor
    """(P, M) float32: the predicted IoU of each mask; 1 if the decoder does not predict it"""


class FastDecoder:
    """The fast decoder with the weights of a network's prompt encoder and mask decoder."""

    def __init__(
        self, prompts: PromptEncoder, decoder: MaskHead, first: nn.Embedding, masks: int, fit: nn.Module | None = None
    ) -> None:
        """Keep the modules of a network. The FastDecoder and the network share the weights of these modules.

        `first.weight` (1, D) is the learned token that MaskHead.decode gets as its parameter `first`. `masks` is M:
        only the last M masks of the decoder are computed. `fit` is the layer that predicts the IoU of masks. If `fit`
        is None, the IoU is not predicted.
        """
        self.prompts, self.decoder, self.first, self.several, self.fit = prompts, decoder, first, masks, fit
        self.blocks = [block for block in self.decoder.transformer.layers if isinstance(block, TwoWayBlock)]

    def see(self, embeddings: Tensor) -> Seen:
        """Project image embeddings (B, D, g, g) for the first block. Return the embeddings and the projections."""
        # The first block gets the same cells for all prompts of an image, so it projects the cells once per image.
        dense = self.prompts.no_mask_embed.weight
        image = (embeddings.flatten(2) + dense[..., None]).transpose(1, 2)
        look, tell = self.blocks[0].cross_attn_token_to_image, self.blocks[0].cross_attn_image_to_token
        positions = self.prompts.positions()
        placed = image + positions
        return Seen(
            image.contiguous(),
            _heads(look.k_proj(placed), look),
            _heads(look.v_proj(image), look),
            _heads(tell.q_proj(placed), tell),
            positions,
        )

    def answer(self, seen: Seen, prompts: Prompts, which: Tensor | None = None) -> Answered:
        """Return the tokens and images after all blocks, for P prompts that consist of points.

        `which` (P,) int64 is the index of each prompt's image. If `which` is None, `seen` must be a single image.
        """
        tokens = self.prompts.tokens(prompts)
        outputs = torch.cat([self.first.weight, self.decoder.mask_tokens.weight])
        initial = torch.cat([outputs.expand(len(tokens), -1, -1), tokens], 1)
        tokens, image = _first(self.blocks[0], initial, seen, which)
        for block in self.blocks[1:]:
            tokens, image = _later(block, tokens, image, initial, seen.positions)
        transformer, wanted = self.decoder.transformer, slice(0, len(outputs))
        last = transformer.final_attn_token_to_image
        attended = _attend_to_image(last, (tokens + initial)[:, wanted], image + seen.positions, image)
        tokens = transformer.norm_final_attn(tokens[:, wanted] + attended)
        if self.fit is None:
            fit = torch.ones(len(tokens), self.several, device=tokens.device)
        else:
            with torch.autocast(tokens.device.type, enabled=False):  # thresholds and order depend on its last digits
                fit = self.fit(tokens[:, 0].float())
        return Answered(tokens[:, -self.several :], image, fit[:, -self.several :])

    def masks(self, answered: Answered, rows: Tensor) -> Tensor:
        """Return mask logits (n, M, 4 g, 4 g) float32 of the prompts with indices `rows` (n,) int64."""
        first, norm, _, second, _ = self.decoder.output_upscaling
        cells = _spread(first, answered.image[rows])
        scale, shift = norm.get_parameter("weight"), norm.get_parameter("bias")
        cells = F.gelu(F.layer_norm(cells, cells.shape[-1:], scale, shift, EPSILON))
        pixels = F.gelu(_spread(second, cells.flatten(1, 2))).flatten(1, 2)
        heads = self.decoder.output_hypernetworks_mlps[-self.several :]
        filters = torch.stack([head(answered.tokens[rows, i]) for i, head in enumerate(heads)], 1)
        grid = math.isqrt(answered.image.shape[1])
        shuffled = (filters @ pixels.transpose(1, 2)).unflatten(2, (grid, grid, 2, 2, 2, 2))
        return shuffled.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(len(rows), self.several, 4 * grid, 4 * grid)


def _first(block: TwoWayBlock, initial: Tensor, seen: Seen, which: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return tokens (P, T, D) and image (P, L, D) after the first block.

    `initial` (P, T, D) are the tokens before the first block. `seen` is the result of `FastDecoder.see`. `which` is the
    parameter of `FastDecoder.answer`.
    """
    parts = (seen.keys, seen.values, seen.queries, seen.image)
    keys, values, queries, image = (
        part.expand(len(initial), *part.shape[1:]) if which is None else part[which] for part in parts
    )
    look, tell = block.cross_attn_token_to_image, block.cross_attn_image_to_token
    tokens = block.norm1(block.self_attn(initial, initial, initial))
    attended = F.scaled_dot_product_attention(_heads(look.q_proj(tokens + initial), look), keys, values)
    tokens = block.norm2(tokens + look.out_proj(attended.transpose(1, 2).flatten(2)))
    tokens = block.norm3(tokens + block.mlp(tokens))
    scaled = _scaled(_heads(tell.k_proj(tokens + initial), tell))
    return tokens, block.norm4(_attend_to_tokens(tell, scaled @ queries.transpose(2, 3), tokens, image))


def _later(
    block: TwoWayBlock, tokens: Tensor, image: Tensor, initial: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return tokens (P, T, D) and image (P, L, D) after a block that is not the first."""
    look, tell = block.cross_attn_token_to_image, block.cross_attn_image_to_token
    q = tokens + initial
    tokens = block.norm1(tokens + block.self_attn(q, q, tokens))
    placed = image + positions
    tokens = block.norm2(tokens + _attend_to_image(look, tokens + initial, placed, image))
    tokens = block.norm3(tokens + block.mlp(tokens))
    scaled = _scaled(_heads(tell.k_proj(tokens + initial), tell))
    bias = scaled @ tell.q_proj.bias.unflatten(0, (tell.heads, -1))[..., None]
    scores = _absorbed(scaled, tell.q_proj) @ placed.transpose(1, 2)
    return tokens, block.norm4(_attend_to_tokens(tell, scores.unflatten(1, (tell.heads, -1)) + bias, tokens, image))


def _heads(x: Tensor, attention: Attention) -> Tensor:
    """Return tokens (…, T, N·c) split into heads (…, N, T, c)."""
    return x.unflatten(-1, (attention.heads, -1)).transpose(-2, -3)


def _scaled(q: Tensor) -> Tensor:
    """Return vectors (…, c) divided by √c, the scale of attention scores. Scale queries or keys, not both."""
    return q * q.shape[-1] ** -0.5


def _absorbed(q: Tensor, projection: nn.Linear) -> Tensor:
    """Return Wᵀq (P, N·T, D) for the queries q (P, N, T, c) of N heads.

    W (c, D) is the part of `projection.weight` that belongs to a query's head.
    """
    # For a cell x, (Wᵀq)·x equals q·(Wx). So the few queries are transformed, not the many cells.
    return (q @ projection.weight.unflatten(0, (q.shape[1], -1))).flatten(1, 2)


def _attend_to_image(attention: Attention, q: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """Return the output (P, T, D) of the attention from tokens `q` to the cells of `image` (P, L, D).

    `placed` is `image` plus the position encodings.
    """
    # The bias of the keys is left out: it adds the same number to all scores of a query, so softmax stays the same.
    queries = _absorbed(_scaled(_heads(attention.q_proj(q), attention)), attention.k_proj)
    gathered = ((queries @ placed.transpose(1, 2)).softmax(-1) @ image).unflatten(1, (attention.heads, -1))
    # The values are projected after the weighted sum over cells.
    weight = attention.v_proj.weight.unflatten(0, (attention.heads, -1))
    attended = (gathered @ weight.transpose(1, 2)).transpose(1, 2).flatten(2) + attention.v_proj.bias
    return attention.out_proj(attended)


def _attend_to_tokens(attention: Attention, scores: Tensor, tokens: Tensor, image: Tensor) -> Tensor:
    """Return images (P, L, D) after the L cells of each image attend to T tokens (P, T, D).

    `scores` (P, N, T, L) are the attention scores of N heads, before the softmax over T.
    """
    # The output matrix is applied to T token values, not to L cells.
    values = _heads(attention.v_proj(tokens), attention)
    said = (values @ attention.out_proj.weight.T.unflatten(0, (attention.heads, -1))).flatten(1, 2)
    said = (
        said + attention.out_proj.bias / attention.heads
    )  # softmax weights sum to 1 per head, so a cell gets the bias once
    return torch.baddbmm(image, scores.softmax(2).flatten(1, 2).transpose(1, 2), said)


def _spread(layer: nn.Module, cells: Tensor) -> Tensor:
    """Return 2 × 2 pixels per cell, (P, n, 4, C'), from n cells (P, n, C).

    `layer` is a transposed convolution of size and stride 2, computed here as a matrix product. C and C' are the
    numbers of channels before and after `layer`.
    """
    weight = layer.get_parameter("weight").permute(2, 3, 1, 0).flatten(0, 2)
    return F.linear(cells, weight, layer.get_parameter("bias").repeat(4)).unflatten(-1, (4, -1))
