"""The config of SAN's training. No torch is imported here."""

from typing import Annotated

from ovss_ray.models.san.variants import VARIANTS
from ovss_ray.training.config import MaskTraining, one_of


class Config(MaskTraining):
    """Settings of the training of SAN's side network next to a frozen CLIP."""

    variant: Annotated[str, one_of(VARIANTS)] = "san_tiny"
    """name of the network's variant, such as san_tiny; it sets the sizes of the layers"""
    clip: str
    """checkpoint of the frozen CLIP: a file that the recipe `clip` has written, or an official SAN checkpoint"""
    positions: bool = True
    """True: CLIP's position embedding is trained too, as in the official recipe"""
