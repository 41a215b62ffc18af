"""The networks, usable without any pipeline: torch and the model libraries only, and torch only once one is loaded."""

import importlib
from typing import TYPE_CHECKING, Any

from ovss_ray import weights as checkpoints
from ovss_ray.errors import UnknownName

if TYPE_CHECKING:
    from pathlib import Path


def load(name: str, weights: "str | Path | None" = None, device: str = "cpu", precision: str = "fp32") -> Any:
    """Load a network with its weights, ready for inference: load("san_vit_b_16") is a models.san.San.

    `weights` is a checkpoint in the official format; without it the file is looked for and, if need be, downloaded
    (weights.find). `precision` is "fp32" (TF32 off) or "bf16" (the vision towers under autocast). Raises UnknownName
    for a name that is not in weights.WEIGHTS, and OvssError for a checkpoint that is missing or does not fit.
    """
    if name not in checkpoints.WEIGHTS:
        raise UnknownName("model", name, checkpoints.WEIGHTS)
    family = importlib.import_module(f"ovss_ray.models.{name.partition('_')[0]}")
    return family.load(name, checkpoints.find(name, weights), device, precision)
