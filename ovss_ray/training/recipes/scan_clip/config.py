"""The config of the training of SCAN's region CLIP, which classifies regions. No torch is imported here."""

from typing import Annotated

from pydantic import Field

from ovss_ray.models.scan.variants import VARIANTS
from ovss_ray.training.config import Training, one_of


class Config(Training):
    """Settings of the fine-tuning of CLIP's image tower on masked crops with captions."""

    variant: Annotated[str, one_of(VARIANTS)] = "scan_tiny"
    """name of the network's variant, such as scan_tiny; it sets the sizes of the layers"""
    clip: str | None = None
    """checkpoint of the CLIP to start from; None: the shipped `clip_tiny`, for scan_tiny only"""
    data: str = "scenes"
    """training regions: scenes (drawn in memory), or the path of a table of masks and captions (training/pairs.py)"""
    data_root: str | None = None
    """folder of the table's images and masks; None: the folder of the table"""
    batch: int = Field(ge=1)
    """number of scenes per training step; if `data` is a table: number of rows per training step"""
    replace_ratio: float = Field(default=0.15, ge=0, le=1)
    """fraction of a crop's background tokens that the contextual shift replaces by a token of the whole photograph

    The contextual shift acts several times: after each block of CLIP that is listed in Variant.replaced.
    """
    blocks: int | None = Field(default=None, ge=1)
    """number of trained blocks, which are the last blocks of the image tower; None: the whole tower is trained"""
    quick: bool | None = None
    """activation of CLIP in training. True: QuickGELU; False: GELU; None: the variant's activation, as in inference"""
    things: tuple[int, int] = (4, 8)
    """range of the number of things in a drawn scene, end exclusive"""
    unnamed: float = Field(default=0.2, ge=0, le=1)
    """probability that a drawn thing's name lacks the colour; "striped star" is such a name

    With the same probability, the name lacks the pattern. A thing whose name lacks the colour has a random RGB colour.
    A thing whose name lacks the pattern has a random one of the patterns UNNAMED in `scenes.patterns`.
    """
    imperfect: float = Field(default=0.5, ge=0, le=1)
    """fraction of the drawn regions whose masks are distorted to resemble imperfect proposals"""
    negatives: int = Field(default=64, ge=0)
    """number of random class names per step: wrong answers for the regions, added to the names of the step's regions"""
    attributes: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """weights of the classification losses for pattern, colour and shape of drawn things"""
