"""A Fusioner that is made in a blink, and its checkpoint in the official format."""

from dataclasses import replace
from pathlib import Path

from ovss_ray.models import fake
from ovss_ray.models.clip_sizes import TINY
from ovss_ray.models.fusioner import fake as fusioner_fake
from ovss_ray.models.fusioner.variants import Variant

CLIP = replace(TINY, width=48, layers=2, grid=4, embed=32, text_width=32, text_heads=2, stem=0)
SMALL = Variant(CLIP, base="clip_tiny", width=32, heads=4, layers=2)
"""A Fusioner that has everything the real one has, with windows of 32 pixels every 21"""


def small_checkpoint(path: Path, seed: int = 0) -> Path:
    """Write a checkpoint of SMALL in the official format."""
    fake.save("fusioner_small", fusioner_fake.state_dict(SMALL, seed), path, seed)
    return path
