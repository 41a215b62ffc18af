"""A SAM that takes a blink, as a stage for whole runs: the released modules with other numbers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from ovss_ray.actors import sam
from ovss_ray.models import fake

WIDTH, PIXELS = 32, 128


def build(checkpoint: None = None) -> Sam:
    """As segment_anything.build_sam does it."""
    encoder = ImageEncoderViT(
        img_size=PIXELS, embed_dim=WIDTH, depth=2, num_heads=2, out_chans=WIDTH, use_rel_pos=True, window_size=3,
        global_attn_indexes=(1,), norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    grid = (PIXELS // 16, PIXELS // 16)
    prompts = PromptEncoder(WIDTH, grid, (PIXELS, PIXELS), mask_in_chans=4)
    decoder = MaskDecoder(transformer_dim=WIDTH, transformer=TwoWayTransformer(2, WIDTH, 2, 64))
    return Sam(encoder, prompts, decoder, *sam.COLOURS.values()).eval()


registry: dict[str, Callable[..., Any]] = sam_model_registry
registry["small"] = build
sam.VARIANTS["sam_small"] = "small"


class Stage(sam.Stage):
    """`sam` of the variant sam_small; with made-up weights no mask passes the usual thresholds."""

    class Config(sam.Stage.Config):
        variant: str = "sam_small"
        points_per_side: int = 3
        pred_iou_thresh: float = -9.0
        stability_score_thresh: float = 0.0
        box_nms_thresh: float = 0.9


def save(path: Path) -> Path:
    """Write a checkpoint of it, a bare state dict as the published ones."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in build().state_dict().items()}
    torch.save({name: fake.tensor(name, tuple(shape)) for name, shape in shapes.items()}, path)
    return path
