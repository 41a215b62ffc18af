"""Initial CLIP of SCAN's trainings, and the choice of the weights that a training exports.

If the project ships a CLIP for the variant of SCAN, weights that equal this CLIP's are not exported.
"""

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

    The towers are read from the file `clip`, or from the shipped checkpoint. The position embedding is resized to the
    variant's grid. Raises OvssError if `clip` is empty and this variant has no shipped CLIP.
    """
    _, *base = checkpoints(name)
    if not clip and not base:
        raise OvssError(f"clip: {name} has no shipped CLIP. Add --set clip=PATH, such as a checkpoint of open_clip")
    words, visual = checkpoint.read_clip(Path(clip) if clip else zoo.find(*base))
    grid, positions = VARIANTS[name].clip.grid, visual[POSITIONS]
    side = round((len(positions) - 1) ** 0.5)
    patches = resize_positions(positions[None, 1:], (side, side), (grid, grid))[0]
    words = {key: value for key, value in words.items() if key != "attn_mask"}
    return words, visual | {POSITIONS: torch.cat([positions[:1], patches])}


def shipped(name: str) -> tuple[checkpoint.State, checkpoint.State]:
    """Return the two towers of the CLIP that is shipped for the SCAN variant `name`; both empty if none is shipped.

    A checkpoint of this variant stores only the entries that differ from these towers.
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
