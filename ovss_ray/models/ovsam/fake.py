"""Fake weights of an Open-Vocabulary SAM (see models/fake.py). The predicted classes are meaningless.

A bias of the mask decoder is shifted, so that masks cover only parts of the image.
"""

import torch
from torch import Tensor

from ovss_ray.models import fake
from ovss_ray.models.checkpoint import shapes
from ovss_ray.models.layers import Mlp
from ovss_ray.models.ovsam.network import Ovsam
from ovss_ray.models.ovsam.parts import WORDS
from ovss_ray.models.ovsam.variants import Variant
from ovss_ray.models.sam_layers.prompts import ON, Prompts

CLICKS = 16
"""Number of random clicks over which `_recentre` computes the mean and the standard deviation of mask logits"""


def state_dict(variant: Variant, seed: int = 0) -> dict[str, Tensor]:
    """Return all tensors of the official state dict and of CLIP's text tower, under their official names, float32."""
    with torch.device("meta"):
        model = Ovsam(variant)
    state = {name: _tensor(name, tuple(shape), seed) for name, shape in shapes(model).items()}
    model.load_state_dict(state, assign=True)
    _recentre(model.eval().requires_grad_(False), seed)
    return {name.removeprefix(WORDS): value for name, value in state.items()}


def _tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return a fake tensor. Variances of batch norms are near 1, and counters of batches are 0."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape)
    value = fake.tensor(name.removeprefix(WORDS), shape, seed)
    return 1 + 5 * value.abs() if name.endswith("running_var") else value


@torch.inference_mode()
def _recentre(model: Ovsam, seed: int) -> None:
    """Shift a bias of the mask decoder and a bias of the text tower.

    With the shifted bias of the mask decoder, masks cover only parts of an image. The function
    `recentre_words` in models/fake.py describes the shift in the text tower.
    """
    variant, drawn = model.variant, torch.Generator().manual_seed(seed)
    image = torch.randn(CLICKS, variant.embed, variant.grid, variant.grid, generator=drawn)
    points = variant.pixels * torch.rand(CLICKS, 1, 2, generator=drawn)
    prompts = Prompts.of(points, torch.full((CLICKS, 1), ON))
    decoder, upscaled = model.mask_decoder.mask_decoder, []
    hook = decoder.output_upscaling.register_forward_hook(lambda module, inputs, output: upscaled.append(output))
    logits = model.decode(image, prompts)
    hook.remove()
    # with plain random weights, masks cover nearly the whole image; now the mean logit becomes minus the deviation
    mean, excess = upscaled[0].mean((0, 2, 3)), logits.mean() + logits.std()
    first = decoder.output_hypernetworks_mlps[0]
    assert isinstance(first, Mlp)
    first.last()[1].sub_(excess * mean / mean.square().sum())
    fake.recentre_words(model.words)
