"""The released modules of SAM with the numbers of one of our variants, and state dicts for both."""

from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor

from ovss_ray.models import fake
from ovss_ray.models.photograph import IMAGENET
from ovss_ray.models.sam.variants import Variant


def build(variant: Variant) -> Sam:
    """As segment_anything.build_sam does it."""
    encoder = ImageEncoderViT(
        img_size=variant.pixels, patch_size=variant.patch, embed_dim=variant.width, depth=variant.layers,
        num_heads=variant.heads, mlp_ratio=4, out_chans=variant.embed, qkv_bias=True, use_rel_pos=True,
        window_size=variant.window, global_attn_indexes=variant.globals,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    grid, pixels = (variant.grid, variant.grid), (variant.pixels, variant.pixels)
    prompts = PromptEncoder(variant.embed, grid, pixels, variant.mask_width)
    transformer = TwoWayTransformer(
        variant.decoder_layers, variant.embed, variant.decoder_heads, mlp_dim=variant.decoder_mlp
    )
    decoder = MaskDecoder(transformer_dim=variant.embed, transformer=transformer, iou_head_hidden_dim=variant.fit_width)
    return Sam(encoder, prompts, decoder, *(value.flatten().tolist() for value in IMAGENET)).eval()


def state(variant: Variant, seed: int = 0) -> dict[str, Tensor]:
    """Made-up values for every entry that the released modules have, and for nothing else."""
    with torch.device("meta"):
        entries = build(variant).state_dict()
    return {name: fake.tensor(name, tuple(value.shape), seed) for name, value in entries.items()}


SMALL = Variant(
    width=32, heads=2, layers=3, globals=(1,), pixels=128, window=3, embed=32,
    decoder_heads=2, decoder_mlp=64, fit_width=24,
)  # fmt: skip
"""All that the real ones have, such as windows that do not fill the grid, at a thousandth of the work."""


def speckled(variant: Variant, shift: float, seed: int = 0) -> dict[str, Tensor]:
    """As `state`, but masks are specks, of boxes of many sizes, and smooth: a plain random network's fill the image.

    One channel of what the decoder upscales becomes a constant, on which all masks have the weight −shift; and the
    four pixels that a transposed convolution makes of one are alike.
    """
    made = state(variant, seed)
    for layer in (0, 3):
        weight = made[f"mask_decoder.output_upscaling.{layer}.weight"]
        weight[:] = weight[:, :, :1, :1].clone()
    weight[:, 0] = 0
    made["mask_decoder.output_upscaling.3.bias"][0] = 1
    for mask in range(4):
        made[f"mask_decoder.output_hypernetworks_mlps.{mask}.layers.2.weight"][0] = 0
        made[f"mask_decoder.output_hypernetworks_mlps.{mask}.layers.2.bias"][0] = -shift
    return made
