"""The CLIP from which a training of SCAN starts, and the weights that the training exports.

Weights that equal the weights of the shipped CLIP are not exported.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint, zoo
from ovss_ray.models.clip import resize_positions
from ovss_ray.models.scan.variants import VARIANTS, checkpoints

POSITIONS = "positional_embedding"


def towers(name: str, clip: str | None) -> tuple[checkpoint.State, checkpoint.State]:
    """Return the text tower and the image tower of the CLIP for the SCAN variant `name`.

    `clip` is the path of a checkpoint. If `clip` is None, the CLIP that is shipped for the variant is used. The
    position embedding is resized to the grid of the variant. Raises OvssError if the checkpoint is not a CLIP. Raises
    OvssError if `clip` is None and no CLIP is shipped for the variant.
    """
    _, *base = checkpoints(name)
    if not clip and not base:
        raise OvssError(
            f"clip: {name} has no shipped CLIP. Add --set clip=PATH with the path of a checkpoint of open_clip"
        )
    file = Path(clip) if clip else zoo.find(*base)
    words, visual = checkpoint.read_clip(file)
    grid, positions = VARIANTS[name].clip.grid, visual.get(POSITIONS, torch.empty(0))
    side = math.isqrt(max(0, len(positions) - 1))
    if positions.ndim != 2 or len(positions) != side**2 + 1:
        raise OvssError(
            f"clip: {file} is not a checkpoint of CLIP: its image tower has no position embedding of a square grid. "
            "Set `clip` to a checkpoint of open_clip or OpenAI"
        )
    patches = resize_positions(positions[None, 1:], (side, side), (grid, grid))[0]
    words = {key: value for key, value in words.items() if key != "attn_mask"}
    return words, visual | {POSITIONS: torch.cat([positions[:1], patches])}


def shipped(name: str) -> tuple[checkpoint.State, checkpoint.State]:
    """Return the text tower and the image tower of the CLIP that is shipped for the SCAN variant `name`.

    If no CLIP is shipped for the variant, return two empty dicts.
    """
    _, *base = checkpoints(name)
    return checkpoint.read_clip(zoo.find(*base)) if base else ({}, {})


def changed(state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> checkpoint.State:
    """Return the entries of a state dict that are missing in `base`, or have other values in `base`.

    Values are compared after they are rounded to half precision.
    """
    return {
        name: value
        for name, value in state.items()
        if name not in base
        or base[name].shape != value.shape
        or not torch.equal(value.detach().cpu().half(), base[name].half())
    }
