"""The config of the training of AlphaCLIP. No torch is imported here."""

from typing import Literal

from pydantic import Field

from ovss_ray.models.alpha_clip.variants import Look
from ovss_ray.training.config import Training


class Config(Training):
    """Settings of the training of AlphaCLIP's alpha channel and the last blocks of its CLIP."""

    variant: Literal["alpha_clip_tiny"] = "alpha_clip_tiny"
    base: str | None = None
    """checkpoint of the CLIP, or of a SAN that contains the CLIP; None: the shipped checkpoint"""
    look: Look = Look()
    """options for the crop and the masking of a region, in training and measurements"""
    blocks: int = Field(default=4, ge=1)
    """number of blocks of the image tower that are trained, counted from the end"""
    things: tuple[int, int] = (4, 8)
    """range of the number of things in a scene, end exclusive"""
    unnamed: float = Field(default=0.2, ge=0, le=1)
    """probability that a drawn thing's name lacks the colour. The name lacks the pattern with the same probability"""
    imperfect: float = Field(default=0.5, ge=0, le=1)
    """fraction of the regions whose masks are distorted to resemble imperfect proposals"""
    ones: float = Field(default=0.1, ge=0, le=1)
    """fraction of the things for which the mask is replaced by an alpha channel of 1 at every pixel"""
    negatives: int = Field(default=64, ge=0)
    """number of negative names per step, in addition to the names in the batch"""
    attributes: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """weights of the classification losses for pattern, colour and shape"""
