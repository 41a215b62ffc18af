"""Initial values of networks that are trained from scratch."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from ovss_ray.models import checkpoint
from ovss_ray.training.config import Training

# the last matrix of each residual branch of a transformer block
PROJECTIONS = ("out_proj.weight", "c_proj.weight", "attn.proj.weight", "fc2.weight")
"""Name suffixes of weight matrices that `initialise` divides by √(2 · `blocks`), as in CLIP and GPT-2."""


def load_start(model: nn.Module, config: Training) -> None:
    """Load the checkpoint `config.start` into a network. If `start` is not set, the network is unchanged.

    Raises OvssError if the checkpoint does not fit the network.
    """
    if config.start:
        fault = f"start: {config.start} is not a checkpoint.pt of this recipe for {config.variant}"
        checkpoint.load_into(model, checkpoint.read(Path(config.start)), fault)


@torch.no_grad()
def initialise(module: nn.Module, blocks: int, seed: int) -> None:
    """Initialise all parameters of a module. `seed` determines the random values.

    Matrices and convolutions get normal values of variance 1 / fan-in. The matrices in PROJECTIONS are then divided by
    √(2 · `blocks`). `blocks` is the number of blocks in a transformer of the module. Embeddings get normal values with
    a standard deviation of 0.02, as in CLIP. The logit scale is 30.
    """
    generator = torch.Generator().manual_seed(seed)
    kinds = {f"{name}.weight": type(part) for name, part in module.named_modules()}
    for name, value in module.named_parameters():
        value.copy_(_first(name, value, kinds.get(name, nn.Module), blocks, generator))


def _first(name: str, value: Tensor, kind: type[nn.Module], blocks: int, generator: torch.Generator) -> Tensor:
    """Return the initial values of the parameter `name`, whose current values are `value`.

    If the parameter is the `weight` of a module, `kind` is the type of the module. For any other parameter, `kind` is
    nn.Module.
    """
    if issubclass(kind, nn.LayerNorm | nn.GroupNorm):
        return torch.ones_like(value)
    if name.endswith("logit_scale"):
        return torch.full_like(value, math.log(30))
    if name.endswith("bias"):
        return torch.zeros_like(value)
    drawn = torch.randn(value.shape, generator=generator).to(value)
    if "embed" in name and not issubclass(kind, nn.Linear | nn.Conv2d):
        return drawn * 0.02
    fan_in = value.shape[0] if name.endswith(("proj", "text_projection")) else math.prod(value.shape[1:])
    return drawn * fan_in**-0.5 / (math.sqrt(2 * blocks) if name.endswith(PROJECTIONS) else 1)
