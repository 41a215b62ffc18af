"""SAN's computation in the order of the official code, written plainly over the weights of our network.

The order is that of https://github.com/MendelXu/SAN, "Side Adapter Network", CVPR 2023: attention over all tokens with
an additive mask in the deep blocks, a map of attention vectors for each head of CLIP, attention weights of the side
network as a matrix, and all K × H × W scores. The embedded vocabulary is given, as the official code caches it.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models.san import network
from perf.semantic import plain as scored


def segment(model: network.San, image: np.ndarray, rows: Tensor) -> np.ndarray:
    """Return the label map (H, W) uint16 of a photograph; `rows` (K + 1, D) is the classifier."""
    inputs = model.preprocess(image)[0][None].to(model.device)
    maps, tokens, size = _shallow(model, inputs)
    queries, patches = _side(model.side_adapter_network, inputs, maps)
    masks, bias = _masks(model.side_adapter_network.mask_decoder, queries, patches)
    pooled = F.adaptive_max_pool2d(bias.flatten(1, 2), size).unflatten(1, bias.shape[1:3])
    logits = _embeddings(model.clip_rec_head, tokens, pooled)[0] @ rows.T
    return scored(masks[0], logits.softmax(-1)[:, :-1], model.geometry(image))


def _shallow(model: network.San, inputs: Tensor) -> tuple[Mapping[int, Tensor], Tensor, tuple[int, int]]:
    """Return CLIP's maps {i: (B, width, h', w')}, tokens (L, B, width) with the class token first, and (h', w')."""
    tower, ratio = model.clip_visual_extractor, model.variant.ratio
    patches = tower.conv1(F.interpolate(inputs, scale_factor=ratio, mode="bilinear", align_corners=False))
    size = patches.shape[2], patches.shape[3]
    first = tower.class_embedding.expand(len(patches), 1, -1)
    x = torch.cat([first, patches.flatten(2).transpose(1, 2)], 1) + tower.positions(size)
    x = tower.ln_pre(x).transpose(0, 1)
    maps = {}
    for i in range(len(tower.resblocks) + 1):
        x = _clip_block(tower.resblocks[i - 1], x) if i else x
        maps[i] = x[1:].permute(1, 2, 0).unflatten(2, size)
    return maps, x, size


def _clip_block(block: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return tokens (L, B, D) after a block; `mask` (B · N, L, L) is added to the attention's logits."""
    y, attention = block.ln_1(x), block.attn
    mixed, _ = F.multi_head_attention_forward(
        *(y, y, y, y.shape[2], attention.heads, attention.in_proj_weight, attention.in_proj_bias, None, None),
        *(False, 0.0, attention.out_proj.weight, attention.out_proj.bias),
        training=False,
        need_weights=False,
        attn_mask=mask,
    )
    x = x + mixed
    return x + block.mlp(block.ln_2(x))


def _side(side: Any, images: Tensor, maps: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Return queries (B, Q, C) and patches (B, C, h, w)."""
    patches, positions, size = side.vit_model(images)
    count = side.query_embed.shape[1]
    positions = torch.cat([side.query_pos_embed, positions], 1)
    x = _fused(side, torch.cat([side.query_embed.expand(len(images), -1, -1), patches], 1) + positions, 0, maps, size)
    for i, block in enumerate(side.vit_model.blocks, 1):
        x = _fused(side, _side_block(block, x if i == 1 else x + positions), i, maps, size)
    return x[:, :count], x[:, count:].transpose(1, 2).unflatten(2, size)


def _fused(side: Any, x: Tensor, block: int, maps: Mapping[int, Tensor], size: torch.Size) -> Tensor:
    if block >= len(side.fusion):
        return x
    norm, project = side.fusion_layers[f"layer_{block}"].input_proj
    features = maps[side.fusion[block]]
    centred = features - features.mean(1, keepdim=True)
    features = centred / (centred.pow(2).mean(1, keepdim=True) + norm.eps).sqrt()
    features = project(norm.weight[:, None, None] * features + norm.bias[:, None, None])
    added = F.interpolate(features, tuple(size), mode="bilinear", align_corners=False)
    count = side.query_embed.shape[1]
    return torch.cat([x[:, :count], x[:, count:] + added.flatten(2).transpose(1, 2)], 1)


def _side_block(block: Any, x: Tensor) -> Tensor:
    q, k, v = block.attn["qkv"](block.norm1(x)).unflatten(-1, (3, block.heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    x = x + block.attn["proj"]((weights @ v).transpose(1, 2).flatten(2))
    return x + block.mlp["fc2"](F.gelu(block.mlp["fc1"](block.norm2(x))))


def _masks(decoder: Any, queries: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return mask logits (B, Q, h, w) and attention bias (B, N, Q, h, w)."""
    q = decoder.query_mlp(queries)
    masks = torch.einsum("bqc,bchw->bqhw", q, decoder.pix_mlp(patches))
    vectors = decoder.attn_mlp(patches).unflatten(1, (decoder.heads, -1))
    bias = torch.einsum("bqc,bnchw->bnqhw", q, vectors)
    return masks, decoder.bias_scaling(bias[..., None])[..., 0]


def _embeddings(head: Any, tokens: Tensor, bias: Tensor) -> Tensor:
    """Return unit-norm embeddings (B, Q, D); `tokens` (L, B, width), `bias` (B, N, Q, h', w')."""
    (batch, heads, queries), seen = bias.shape[:3], len(tokens)
    mask = tokens.new_zeros(batch, heads, queries + seen, queries + seen)
    mask[..., :queries] = mask[..., :queries, queries] = -100
    mask[..., range(queries), range(queries)] = 0
    mask[..., :queries, queries + 1 :] = bias.flatten(3)
    x = torch.cat([tokens[:1].expand(queries, -1, -1), tokens])
    for block in head.resblocks:
        x = _clip_block(block, x, mask.flatten(0, 1))
    return F.normalize(head.ln_post(x[:queries]) @ head.proj, dim=-1).transpose(0, 1)
