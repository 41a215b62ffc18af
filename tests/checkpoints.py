"""Checkpoints for tests: with the golden weights of the reference material, and small ones that are made in a blink."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovss_ray.models import fake
from ovss_ray.models.san import fake as san_fake
from ovss_ray.models.san.variants import VARIANTS

SMALL = replace(
    VARIANTS["san_vit_b_16"],
    width=48,
    heads=4,
    layers=4,
    grid=7,
    embed=32,
    text_width=32,
    text_heads=2,
    text_layers=2,
    shallow=3,
    fusion=(0, 1, 3),
    side_width=24,
    side_heads=3,
    side_layers=4,
    queries=12,
    mask_width=16,
)
"""A SAN that has everything the real ones have, at a thousandth of the work."""


def golden_overrides(shared: Path, overrides_file: str) -> dict[str, np.ndarray]:
    """The three recentred biases of a set of goldens, such as vit_b_16_seed0_overrides.npz."""
    with np.load(shared / "parity" / "san" / overrides_file) as stored:
        return dict(stored)


def golden_checkpoint(shared: Path, variant: str, overrides_file: str, path: Path) -> Path:
    """Write a checkpoint in the official format with the weights that the goldens were made with (seed 0)."""
    state = san_fake.state_dict(VARIANTS[variant], 0, golden_overrides(shared, overrides_file))
    fake.save(variant, state, path)
    return path


def small_state(seed: int = 0) -> dict[str, Tensor]:
    """All entries of an official checkpoint of SMALL."""
    return san_fake.state_dict(SMALL, seed)


def small_checkpoint(path: Path, seed: int = 0) -> Path:
    """Write a checkpoint of SMALL in the official format."""
    torch.save({"model": small_state(seed), "iteration": 0}, path)
    return path
