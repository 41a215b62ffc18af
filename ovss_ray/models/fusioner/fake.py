"""Fake weights of a Fusioner (see models/fake.py), with the official names. The predictions are meaningless."""

import torch
from torch import Tensor

from ovss_ray.models.checkpoint import shapes
from ovss_ray.models.fake import tensor
from ovss_ray.models.fusioner.network import IMAGE, Fusioner
from ovss_ray.models.fusioner.variants import Variant


def state_dict(variant: Variant, seed: int = 0) -> dict[str, Tensor]:
    """Return fake values, float32, for all tensors of an official checkpoint, including the frozen towers."""
    with torch.device("meta"):
        model = Fusioner(variant)
    blocks = f"{IMAGE}resblocks.", f"{IMAGE}transformer.resblocks."
    sizes = {name.replace(*blocks): shape for name, shape in shapes(model).items()}
    return {official: tensor(official, shape, seed) for official, shape in sizes.items()}
