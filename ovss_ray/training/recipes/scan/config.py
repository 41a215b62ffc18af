"""The config of the training of SCAN's mask network. No torch is imported here."""

from typing import Annotated, Literal

from pydantic import Field

from ovss_ray.models.scan.variants import VARIANTS
from ovss_ray.training.config import MaskTraining, one_of


class Config(MaskTraining):
    """Settings of the training of SCAN's backbone, mask network and calibration next to a frozen CLIP."""

    variant: Annotated[str, one_of(VARIANTS)] = "scan_tiny"
    """name of the network's variant, such as scan_tiny; it sets the sizes of the layers"""
    clip: str | None = None
    """checkpoint of the CLIP, such as a file of open_clip; None: the shipped `clip_tiny`, for scan_tiny only"""
    backbone: str | None = None
    """checkpoint of a pretrained Swin, in the format of its authors; None: random values"""
    regions: str | None = None
    """checkpoint of the CLIP that classifies regions, as written by the recipe `scan_clip`; None: the CLIP of `clip`

    The training does not change the CLIP for regions. The weights file that the training exports contains this CLIP.
    """
    auxiliary: Literal["official", "all"] = "official"
    """outputs of the decoder for which losses are computed

    The decoder has an initial output, and one output after each layer. all: every output has losses. official: the
    output after the second-last layer has no losses, as in the official code. Every other output has losses.
    """
    mask_threshold: float = Field(default=0.4, ge=0, le=1)
    """probability above which a pixel belongs to a region, for validation only"""
    ensemble_weight: float = Field(default=0.7, gt=0, le=1)
    """weight of the region CLIP in the fused class scores, for validation only"""
    replace_ratio: float = Field(default=0.15, ge=0, le=1)
    """fraction of the background tokens that the contextual shift replaces, for validation only"""
