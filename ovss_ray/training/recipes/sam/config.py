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
    """probability that the name of a drawn thing lacks the colour, such as "striped star"

    If the colour is not in the name, the thing has a random RGB colour.

    `unnamed` is also the probability that the name lacks the pattern, such as "red star". If the pattern is not in the
    name, the thing has a random pattern from the list `scenes.patterns.UNNAMED`.
    """
    prompts: int = Field(default=8, ge=1)
    """number of prompts per scene, each for a random region"""
    boxes: float = Field(default=0.5, ge=0, le=1)
    """fraction of the prompts that start with a box; the other prompts start with a click"""
    answers: int = Field(default=3, ge=1)
    """maximum number of answers to a prompt in a step

    The number of answers increases by one from step to step. After the maximum, it is 1 again: 1, 2, 3, 1, 2, … for
    `answers: 3`. Between two answers, the prompt gets one more click.
    """
