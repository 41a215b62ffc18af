"""The config of the training of SAM. No torch is imported here."""

from typing import Annotated

from pydantic import Field

from ovss_ray.models.sam.variants import VARIANTS
from ovss_ray.training.config import Training, one_of


class Config(Training):
    """Settings of the training of SAM's whole network on drawn scenes."""

    variant: Annotated[str, one_of(VARIANTS)] = "sam_tiny"
    things: tuple[int, int] = (4, 9)
    """range of the number of things in a scene, end exclusive"""
    unnamed: float = Field(default=0.3, ge=0, le=1)
    """probability that the name of a drawn thing lacks the colour

    The name lacks the pattern with the same probability, independently of the colour. A thing with the name "striped
    star" has a random colour. A thing with the name "red star" has a random pattern that occurs in no class name, such
    as rings.
    """
    prompts: int = Field(default=8, ge=1)
    """number of prompts per scene, each for a random region"""
    boxes: float = Field(default=0.5, ge=0, le=1)
    """fraction of the prompts that start with a box; the other prompts start with a click"""
    answers: int = Field(default=3, ge=1)
    """largest number of answers per prompt. After each answer but the last, a click corrects the answer"""
