"""The config of SAM2CLIP's training. No torch is imported here."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ovss_ray.models.ovsam.variants import VARIANTS
from ovss_ray.training.config import Training, one_of


class Config(Training):
    """Settings of the training of Open-Vocabulary SAM's neck on the frozen features of CLIP."""

    variant: Annotated[str, one_of(VARIANTS)] = "ovsam_rn50x16"
    """name of the network's variant, such as ovsam_tiny; it sets the sizes of the layers"""
    clip: str | None = None
    """checkpoint of the CLIP

    If `clip` is None, the variant ovsam_tiny uses the shipped clip_tiny. All other variants use the downloaded CLIP
    RN50x16.
    """
    teacher: str | None = None
    """checkpoint of the SAM

    If `teacher` is None, the variant ovsam_tiny uses the shipped sam_tiny. All other variants use the downloaded SAM
    ViT-H.
    """
    data: str = "scenes"
    """training images: scenes (drawn in memory), or a benchmark such as sa1b"""
    data_root: str | None = None
    split: str | None = None
    """split of the benchmark; default: train"""
    targets: str | None = None
    """folder of SAM features, written by the stage sam_features; None: compute the features in every step"""
    begin: Literal["positions", "encoder"] = "positions"
    """parts of the neck that are copied from the SAM's image encoder at the start

    If `begin` is positions, only the position embedding is copied. If `begin` is encoder, the blocks and the final
    projection are copied too. The value encoder needs a SAM whose image encoder has the sizes of the neck.
    """
    things: tuple[int, int] = (4, 9)
    """range of the number of things in a drawn scene, end exclusive"""
    unnamed: float = Field(default=0.3, ge=0, le=1)
    """probability that the colour of a drawn thing is random and not part of the name, as in "striped star"

    The same probability applies to the pattern, independently of the colour.
    """

    @model_validator(mode="after")
    def _targets_of_files(self) -> Self:
        if self.data == "scenes" and self.targets:
            raise ValueError(
                "the setting `targets` has no effect with data=scenes, which always computes features. Remove `targets`"
            )
        return self
