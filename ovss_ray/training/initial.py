"""First values of networks that are trained from nothing."""

import math

import torch
from torch import Tensor, nn

PROJECTIONS = ("out_proj.weight", "c_proj.weight", "attn.proj.weight", "fc2.weight")
"""What ends a residual branch: smaller by the root of the number of branches (CLIP's model.py, GPT-2)."""


@torch.no_grad()
def initialise(module: nn.Module, blocks: int, seed: int) -> None:
    """Fill a module whose values are arbitrary; `blocks` is the depth of its residual towers.

    Matrices and convolutions get normal values of variance 1 / fan-in, embeddings small ones (0.02, CLIP's own), norms
    one and zero, biases zero, and the temperature 30.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.LayerNorm)}
    for name, value in module.named_parameters():
        value.copy_(_first(name, value, name in norms, blocks, generator))


def _first(name: str, value: Tensor, norm: bool, blocks: int, generator: torch.Generator) -> Tensor:
    if norm:
        return torch.ones_like(value)
    if name.endswith("logit_scale"):
        return torch.full_like(value, math.log(30))
    if name.endswith("bias"):
        return torch.zeros_like(value)
    drawn = torch.randn(value.shape, generator=generator).to(value)
    if "embed" in name and "patch_embed" not in name:
        return drawn * 0.02
    fan_in = value.shape[0] if name.endswith(("proj", "text_projection")) else math.prod(value.shape[1:])
    return drawn * fan_in**-0.5 / (math.sqrt(2 * blocks) if name.endswith(PROJECTIONS) else 1)
