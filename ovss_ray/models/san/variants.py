"""Sizes and checkpoints of SAN. No torch is imported here.

Source of the released sizes: the configurations of https://github.com/MendelXu/SAN (MIT).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ovss_ray.models.clip_sizes import TINY, VIT_B_16, VIT_L_14_336, ClipSizes
from ovss_ray.models.zoo import HUB, Weights, shipped


@dataclass(frozen=True, kw_only=True)
class Variant(ClipSizes):
    """Sizes of a SAN: its CLIP, the place where CLIP's image tower is split in two, and the side network."""

    ratio: float
    """scale factor of both sides, from the padded photograph to CLIP's input"""
    shallow: int
    """number of first blocks of CLIP's image tower, which feed the side network; the other blocks classify masks"""
    fusion: tuple[int, ...]
    """numbers of the CLIP blocks whose outputs are added to the patches of the side network

    The output of CLIP block `fusion[k]` is added after k blocks of the side network. CLIP's blocks count from 1. If
    `fusion[k]` is 0, the input of CLIP's first block is added."""
    side_width: int = 240
    side_heads: int = 6
    side_layers: int = 8
    side_patch: int = 16
    side_grid: int = 40
    queries: int = 100
    mask_width: int = 256
    """channels of the query vectors and patch vectors, whose dot products are the mask logits"""
    short_side: int = 640
    long_side: int = 2560
    multiple: int = 32


VARIANTS = {
    "san_vit_b_16": Variant(**vars(VIT_B_16), ratio=0.5, shallow=9, fusion=(0, 3, 6, 9)),
    "san_vit_large_14": Variant(**vars(VIT_L_14_336), ratio=0.7, shallow=18, fusion=(0, 6, 12, 18)),
    "san_tiny": Variant(
        **vars(TINY), ratio=0.5, shallow=4, fusion=(0, 2, 4), side_width=128, side_heads=4, side_layers=6, side_patch=8,
        side_grid=32, queries=32, mask_width=128, short_side=256, long_side=1024,
    ),
}  # fmt: skip
"""Network name → sizes. san_tiny is trained by this project on drawn scenes (configs/train_*.yaml)."""


def _official(file: str) -> Weights:
    page = HUB + "Mendel192/san"
    licence = "MIT (of the code, https://github.com/MendelXu/SAN); the page says what holds for the weights"
    return Weights(file, f"{page}/resolve/main/{file}", None, None, licence, page)


WEIGHTS: Mapping[str, Weights] = {
    "san_tiny": shipped("san_tiny.safetensors"),
    "san_vit_b_16": _official("san_vit_b_16.pth"),
    "san_vit_large_14": _official("san_vit_large_14.pth"),
}
