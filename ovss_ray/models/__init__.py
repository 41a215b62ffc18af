"""The networks, usable without any pipeline: torch and the model libraries only, and torch only once one is loaded."""

import importlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ovss_ray import weights as checkpoints
from ovss_ray.errors import UnknownName
from ovss_ray.models import alpha_clip_variants

if TYPE_CHECKING:
    from pathlib import Path

FAMILIES = {"san_": "san", "alpha_clip_": "alpha_clip", "clip_": "alpha_clip", "sam_": "sam"}
"""How the names of networks begin, and the module that has them."""


def load(
    name: str,
    weights: "str | Path | Sequence[str | Path] | None" = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> Any:
    """Load a network with its weights, ready for inference: load("san_vit_b_16") is a models.san.San.

    `weights` is a checkpoint in the official format, for an AlphaCLIP two, (CLIP, image tower); without it the file is
    looked for and, if need be, downloaded (weights.find). `precision` is "fp32" (TF32 off) or "bf16" (the vision towers
    under autocast). Raises UnknownName for a name that is not in weights.WEIGHTS, and OvssError for a checkpoint that
    is missing or does not fit.
    """
    known = [one for one in checkpoints.WEIGHTS if one.startswith(tuple(FAMILIES))]
    if name not in known:
        raise UnknownName("model", name, known)
    family = next(module for prefix, module in FAMILIES.items() if name.startswith(prefix))
    module = importlib.import_module(f"ovss_ray.models.{family}")
    given = [weights] if weights is None or isinstance(weights, str | os.PathLike) else weights
    files = alpha_clip_variants.files(name, given)
    return module.load(name, files if family == "alpha_clip" else files[0], device, precision)
