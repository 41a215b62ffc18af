"""The config of the training of a small CLIP. No torch is imported here."""

from typing import Annotated

from pydantic import Field

from ovss_ray.models.san.variants import VARIANTS
from ovss_ray.training.config import Training, one_of


class Config(Training):
    """Settings of the training of a small CLIP on regions of drawn scenes, with the regions' names as captions."""

    variant: Annotated[str, one_of(VARIANTS)] = "san_tiny"
    """name of the network's variant, such as san_tiny; it sets the sizes of the layers"""
    negatives: int = Field(default=64, ge=0)
    """number of negative names per step, in addition to the names in the batch"""
    unnamed: float = Field(default=0.2, ge=0, le=1)
    """probability that a drawn thing's name lacks the colour. The name lacks the pattern with the same probability"""
    things: tuple[int, int] = (4, 8)
    """range of the number of things in a scene, end exclusive"""
    crops: int = Field(default=8, ge=0)
    """number of crops per step, trained in addition to the whole scenes; a crop shows one thing"""
    attributes: tuple[float, float, float] = (0.5, 0.5, 1.0)
    """weights of the classification losses for pattern, colour and shape"""
    heads: float = 1.0
    """weight of the losses of the attribute heads, which classify early feature maps"""
    attribute_steps: int = Field(default=0, ge=0)
    """number of steps at the start that train neither the blocks of the image tower nor the text tower

    These steps train only the layers before the first block, and an attribute head on these layers. The head classifies
    pattern, colour and shape of each patch.
    """
