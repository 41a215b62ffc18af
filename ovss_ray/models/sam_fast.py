"""SAM's mask decoder for many clicks on an image: the answers of sam_decoder's, for a third of the work.

What the decoder computes is the same in exact arithmetic; what is left out is work that is done over and over again:

- Before its first block has answered, all prompts see the same image: its projections are made once per image.
- Later, an image of L cells is seen by T tokens, L ≫ T. So the image is not projected: a score (Wq q)·(Wk x) is
  (Wkᵀ Wq q)·x, values are gathered before Wv is applied to what was gathered, and what the image is told by a token is
  carried through the output's matrix before it is spread over the cells. A bias of keys adds the same to the scores of
  all cells, which softmax does not see.
- How well masks fit is known from the tokens alone. Only prompts that are asked for it get masks, and never the mask
  for prompts with one meaning. Channels stay last in the upscaling, whose transposed convolutions, of stride and size
  2, are matrix products; pixels are put in order once, in the masks.

Letters: B images, P prompts, T tokens, N heads, L cells, D channels of the embedding, c those of a head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.sam import Sam
from ovss_ray.models.sam_decoder import MASKS, Attention, Prompts, TwoWayBlock
from ovss_ray.models.sam_encoder import EPSILON

SEVERAL = MASKS - 1
"""The masks of a prompt that may mean several things, a click: the first of the decoder's is not among them."""


@dataclass(frozen=True)
class Seen:
    """Images as all prompts see them at first."""

    image: Tensor
    """(B, L, D) float32"""
    keys: Tensor
    values: Tensor
    queries: Tensor
    """(B, N, L, c) each, of the first block"""
    positions: Tensor
    """(L, D) float32: those of the cells"""


@dataclass(frozen=True)
class Answered:
    """What prompts have made of tokens and image: all that masks are made of."""

    tokens: Tensor
    """(P, SEVERAL, D) float32, or what the network is computed in"""
    image: Tensor
    """(P, L, D) likewise"""
    fit: Tensor
    """(P, SEVERAL) float32: the predicted IoU of each mask"""


class FastDecoder:
    """The decoder of a Sam, with its weights."""

    def __init__(self, model: Sam) -> None:
        self.model = model
        self.decoder = model.mask_decoder
        self.blocks = [block for block in self.decoder.transformer.layers if isinstance(block, TwoWayBlock)]

    def see(self, embeddings: Tensor) -> Seen:
        """Project images, embedded as (B, D, g, g), for the first block."""
        dense = self.model.prompt_encoder.no_mask_embed.weight
        image = (embeddings.flatten(2) + dense[..., None]).transpose(1, 2)
        look, tell = self.blocks[0].cross_attn_token_to_image, self.blocks[0].cross_attn_image_to_token
        positions = self.model.prompt_encoder.positions()
        placed = image + positions
        return Seen(
            image.contiguous(),
            _heads(look.k_proj(placed), look),
            _heads(look.v_proj(image), look),
            _heads(tell.q_proj(placed), tell),
            positions,
        )

    def answer(self, seen: Seen, prompts: Prompts, which: Tensor | None = None) -> Answered:
        """Put prompts without masks, P in number, to images; `which` (P,) int64 says to which if there are several."""
        tokens = self.model.prompt_encoder.tokens(prompts)
        own = torch.cat([self.decoder.iou_token.weight, self.decoder.mask_tokens.weight])
        asked = torch.cat([own.expand(len(tokens), -1, -1), tokens], 1)
        tokens, image = _first(self.blocks[0], asked, seen, which)
        for block in self.blocks[1:]:
            tokens, image = _later(block, tokens, image, asked, seen.positions)
        transformer, wanted = self.decoder.transformer, slice(0, 1 + MASKS)
        last = transformer.final_attn_token_to_image
        found = _look(last, (tokens + asked)[:, wanted], image + seen.positions, image)
        tokens = transformer.norm_final_attn(tokens[:, wanted] + found)
        with torch.autocast(tokens.device.type, enabled=False):  # thresholds and order depend on its last digits
            fit = self.decoder.iou_prediction_head(tokens[:, 0].float())
        return Answered(tokens[:, -SEVERAL:], image, fit[:, -SEVERAL:])

    def masks(self, answered: Answered, rows: Tensor) -> Tensor:
        """The masks of some prompts, `rows` (n,) int64: logits (n, SEVERAL, 4 g, 4 g) float32."""
        first, norm, _, second, _ = self.decoder.output_upscaling
        cells = _spread(first, answered.image[rows])
        scale, shift = norm.get_parameter("weight"), norm.get_parameter("bias")
        cells = F.gelu(F.layer_norm(cells, cells.shape[-1:], scale, shift, EPSILON))
        pixels = F.gelu(_spread(second, cells.flatten(1, 2))).flatten(1, 2)
        heads = self.decoder.output_hypernetworks_mlps[-SEVERAL:]
        filters = torch.stack([head(answered.tokens[rows, i]) for i, head in enumerate(heads)], 1)
        grid = self.model.variant.grid
        shuffled = (filters @ pixels.transpose(1, 2)).unflatten(2, (grid, grid, 2, 2, 2, 2))
        return shuffled.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(len(rows), SEVERAL, 4 * grid, 4 * grid)


def _first(block: TwoWayBlock, asked: Tensor, seen: Seen, which: Tensor | None) -> tuple[Tensor, Tensor]:
    """The first block, over images that no prompt has changed yet: tokens (P, T, D), image (P, L, D)."""
    parts = (seen.keys, seen.values, seen.queries, seen.image)
    keys, values, queries, image = (
        part.expand(len(asked), *part.shape[1:]) if which is None else part[which] for part in parts
    )
    look, tell = block.cross_attn_token_to_image, block.cross_attn_image_to_token
    tokens = block.norm1(block.self_attn(asked, asked, asked))
    found = F.scaled_dot_product_attention(_heads(look.q_proj(tokens + asked), look), keys, values)
    tokens = block.norm2(tokens + look.out_proj(found.transpose(1, 2).flatten(2)))
    tokens = block.norm3(tokens + block.mlp(tokens))
    told = _scaled(_heads(tell.k_proj(tokens + asked), tell))
    return tokens, block.norm4(_tell(tell, told @ queries.transpose(2, 3), tokens, image))


def _later(
    block: TwoWayBlock, tokens: Tensor, image: Tensor, asked: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """A block over what prompts have made of the image: tokens (P, T, D), image (P, L, D)."""
    look, tell = block.cross_attn_token_to_image, block.cross_attn_image_to_token
    q = tokens + asked
    tokens = block.norm1(tokens + block.self_attn(q, q, tokens))
    placed = image + positions
    tokens = block.norm2(tokens + _look(look, tokens + asked, placed, image))
    tokens = block.norm3(tokens + block.mlp(tokens))
    told = _scaled(_heads(tell.k_proj(tokens + asked), tell))
    bias = told @ tell.q_proj.bias.unflatten(0, (tell.heads, -1))[..., None]
    scores = _absorbed(told, tell.q_proj) @ placed.transpose(1, 2)
    return tokens, block.norm4(_tell(tell, scores.unflatten(1, (tell.heads, -1)) + bias, tokens, image))


def _heads(x: Tensor, attention: Attention) -> Tensor:
    """(…, T, N·c) → (…, N, T, c)."""
    return x.unflatten(-1, (attention.heads, -1)).transpose(-2, -3)


def _scaled(q: Tensor) -> Tensor:
    """Divide queries, or keys that are as few, by the root of their channels."""
    return q * q.shape[-1] ** -0.5


def _absorbed(q: Tensor, projection: nn.Linear) -> Tensor:
    """Vectors (P, N, T, c) whose products with projected cells are wanted → those with the cells, (P, N·T, D)."""
    return (q @ projection.weight.unflatten(0, (q.shape[1], -1))).flatten(1, 2)


def _look(attention: Attention, q: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """Tokens (P, T, D) look at the cells of their images (P, L, D), of which `placed` also tells the place."""
    asked = _absorbed(_scaled(_heads(attention.q_proj(q), attention)), attention.k_proj)
    gathered = ((asked @ placed.transpose(1, 2)).softmax(-1) @ image).unflatten(1, (attention.heads, -1))
    weight = attention.v_proj.weight.unflatten(0, (attention.heads, -1))
    found = (gathered @ weight.transpose(1, 2)).transpose(1, 2).flatten(2) + attention.v_proj.bias
    return attention.out_proj(found)


def _tell(attention: Attention, scores: Tensor, tokens: Tensor, image: Tensor) -> Tensor:
    """Images (P, L, D) and what their cells are told by tokens (P, T, D), of the scores (P, N, T, L)."""
    values = _heads(attention.v_proj(tokens), attention)
    said = (values @ attention.out_proj.weight.T.unflatten(0, (attention.heads, -1))).flatten(1, 2)
    said = said + attention.out_proj.bias / attention.heads  # of which each cell gets one per head in all
    return torch.baddbmm(image, scores.softmax(2).flatten(1, 2).transpose(1, 2), said)


def _spread(layer: nn.Module, cells: Tensor) -> Tensor:
    """A transposed convolution of stride and size 2: cells (P, n, C) → the four of each, (P, n, 4, C')."""
    weight = layer.get_parameter("weight").permute(2, 3, 1, 0).flatten(0, 2)
    return F.linear(cells, weight, layer.get_parameter("bias").repeat(4)).unflatten(-1, (4, -1))
