"""8-bit integers in the linear layers of image transformers on CPUs: the option `precision: int8`.

Weights are rounded to 8 bits, with one scale per output of a layer. Inputs are rounded to 7 bits, with one scale per
token. So the result of an image does not depend on the other images in the batch.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ovss_ray.errors import OvssError
from ovss_ray.models.clip import Attention

Network = TypeVar("Network", bound=nn.Module)
SMALLEST = 64  # smaller layers take little time
"""Minimum number of inputs, and of outputs, of an Int8Linear; smaller linear layers stay in fp32"""
# Inputs have 7 bits: with 8 bits, processors without VNNI instructions would overflow their 16-bit sums.
LARGEST_INPUT, LARGEST_WEIGHT = 63, 127
"""Largest absolute values of the integers that inputs and weights are rounded to"""


class Int8Linear(nn.Module):
    """Linear layer whose weight and inputs are rounded to integers. The output has the dtype float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Round the weight of a linear layer to int8.

        `weight` has the shape (outputs, inputs) and the dtype float32, and is on the CPU. `bias` has the shape
        (outputs,). If `bias` is None, the layer has no bias.
        """
        super().__init__()
        scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST_WEIGHT
        rounded = (weight / scales[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int64))
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output (…, O) float32 for `x` (…, I) float32.

        O is the number of outputs of the layer, and I is the number of inputs.
        """
        rows = x.flatten(0, -2)
        scales = rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST_INPUT
        # The operator takes unsigned numbers, so a zero is stored as `zero`.
        zero = LARGEST_INPUT + 1
        rounded = (rows / scales).round_().add_(zero).to(torch.uint8)
        weight = self.packed, self.scales, self.zeros
        output: Any = 1.0, 0, torch.float32, "none", [], ""  # scale, zero, dtype, and no further operation
        # Without torch.compile, torchao was 24 times slower than fp32. torch.ao.quantization is deprecated.
        products = torch.ops.onednn.qlinear_pointwise(rounded, 1.0, zero, *weight, None, *output)
        products = products.mul_(scales)
        return (products if self.bias is None else products.add_(self.bias)).unflatten(0, x.shape[:-1])


def placed(network: Network, device: str, precision: str, towers: Sequence[str]) -> Network:
    """Return the network on a device. If `precision` is "int8", replace linear layers by Int8Linear.

    A linear layer is replaced if it is in one of the submodules `towers`. Layers with fewer than 64 inputs or outputs
    are not replaced (see SMALLEST).

    With "int8", raises OvssError if the device is not a CPU, torch lacks oneDNN, or no layer can be replaced.
    """
    if precision == "int8":
        if torch.device(device).type != "cpu":
            raise OvssError(
                f"precision int8 is for CPUs, not for {device}. Set `precision` to bf16, or `device` to cpu"
            )
        _quantise(network, towers)
    return network.to(device)


def _quantise(network: nn.Module, towers: Sequence[str]) -> None:
    if not torch.backends.mkldnn.is_available():
        raise OvssError(
            "precision int8 needs oneDNN (mkldnn), which the installed torch lacks. Set `precision` to fp32"
        )
    modules = [module for name in towers for module in network.get_submodule(name).modules()]
    replaced = [_replace(module) for module in modules]
    if not any(replaced):
        raise OvssError(
            f"precision int8 would not change {type(network).__name__}. int8 needs an image transformer that has "
            f"linear layers with at least {SMALLEST} inputs and {SMALLEST} outputs; the network has none. "
            "Set `precision` to fp32"
        )


def _replace(module: nn.Module) -> bool:
    """Replace the linear layers among the children of a module. Return whether a layer was replaced.

    The class clip.Attention has one stacked matrix for the projections to queries, keys and values. In a module of
    this class, the stacked matrix is also replaced. Layers with fewer than 64 inputs or outputs are not replaced
    (see SMALLEST).
    """
    linear = [(name, child) for name, child in module.named_children() if isinstance(child, nn.Linear)]
    wide = [(name, child) for name, child in linear if min(child.weight.shape) >= SMALLEST]
    for name, child in wide:
        setattr(module, name, Int8Linear(child.weight.detach(), _detached(child.bias)))
    if isinstance(module, Attention) and module.in_proj_weight.shape[1] >= SMALLEST:
        module.stacked = Int8Linear(module.in_proj_weight.detach(), module.in_proj_bias.detach())
        return True
    return bool(wide)


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()
