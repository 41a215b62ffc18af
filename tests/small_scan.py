"""A SCAN that is made in a blink, and its checkpoint in the official format."""

from dataclasses import replace
from pathlib import Path

from ovss_ray.models import fake
from ovss_ray.models.clip_sizes import ClipSizes
from ovss_ray.models.scan import fake as scan_fake
from ovss_ray.models.scan.variants import VARIANTS

CLIP = ClipSizes(
    width=48, heads=4, layers=4, patch=8, grid=4, embed=32, text_width=32, text_heads=2, text_layers=2, quick=False,
    text_vocabulary=65, context=24, words="scenes",
)  # fmt: skip
SMALL = replace(
    VARIANTS["scan_vitB"], clip=CLIP, levels=(2, 3, 4), replaced=(1, 3), backbone_width=32,
    backbone_depths=(1, 1, 2, 1), backbone_heads=(1, 2, 4, 8), window=4, hidden=32, heads=4,
    encoder_layers=2, encoder_inner=48, decoder_layers=4,
    decoder_inner=48, embed_hidden=48, queries=12, calibration_layers=2, short_side=64, long_side=256,
)  # fmt: skip
"""A SCAN that has everything the real ones have, at a thousandth of the work."""


def small_checkpoint(path: Path, seed: int = 0) -> Path:
    """Write a checkpoint of SMALL in the official format."""
    fake.save("scan_small", scan_fake.state_dict(SMALL, seed), path, seed)
    return path
