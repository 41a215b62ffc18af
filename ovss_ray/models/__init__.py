"""Families of networks. The networks can also be used without a pipeline.

Torch is imported only when a network is loaded. A family is a folder of this package, or a package of the user. A
family has these files:

- `variants.py`: VARIANTS maps the name of each network to an object with the sizes of the network's layers.
  WEIGHTS maps the name of each checkpoint to a zoo.Weights.
  `variants.py` must not import torch.
  If a network has several checkpoints, `variants.py` defines a function `checkpoints(name)`.
  `checkpoints(name)` returns the names of the network's checkpoints.
  If the file of the first checkpoint may contain the other checkpoints too, define a function `remaining(name, file)`.
  `file` is the file of the first checkpoint.
  `remaining(name, file)` returns the names of the checkpoints that `file` lacks.
- `network.py`: `load(name, files, device, precision)` returns the network, ready for inference.
  `files` are the paths of the checkpoints to load, in the order of `checkpoints(name)`.
- `weights/`: the checkpoints that are shipped with the family. In WEIGHTS, the `url` of a shipped checkpoint is empty.
- `fake.py`, optional: `state_dict(variant, seed)` returns a state dict with fake values (see models/fake.py).

Families do not import each other. Code that they share is in the modules of this package, such as `clip.py`.
"""

import importlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ovss_ray.models import zoo

if TYPE_CHECKING:
    from pathlib import Path


def load(
    name: str,
    weights: "str | Path | Sequence[str | Path] | None" = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> Any:
    """Load a network with its weights, ready for inference: load("san_vit_b_16") returns a models.san.network.San.

    For a network of your own, `name` is PACKAGE:VARIANT, such as "my_package.my_family:tiny" (see `ovss_ray.models`).
    `weights` is the path of a checkpoint in the official format. For a network with several checkpoints, `weights` may
    be a list of paths, such as [CLIP, image tower] for AlphaCLIP. If `weights` is None, the shipped or published
    checkpoint is used, after a download if needed. `precision` is "fp32" (TF32 off), "bf16" (the vision towers under
    autocast) or "int8" (see runtime/int8.py). Raises UnknownName for an unknown name, and OvssError for a checkpoint
    that is missing or does not fit.
    """
    family, variant = zoo.family_of(name)
    paths = [weights] if weights is None or isinstance(weights, str | os.PathLike) else list(weights)
    files = zoo.files(name, paths)
    return importlib.import_module(f"{family}.network").load(variant, files, device, precision)
