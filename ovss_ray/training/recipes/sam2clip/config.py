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
    """checkpoint of the frozen CLIP

    If `clip` is None, the checkpoint depends on `variant`. The variant ovsam_tiny uses the shipped clip_tiny. All other
    variants use the downloaded CLIP RN50x16.
    """
    teacher: str | None = None
    """checkpoint of the SAM whose image embeddings the neck learns to predict

    If `teacher` is None, the checkpoint depends on `variant`. The variant ovsam_tiny uses the shipped sam_tiny. All
    other variants use the downloaded SAM ViT-H.
    """
    data: str = "scenes"
    """training images: scenes (drawn in memory), or a benchmark such as sa1b"""
    data_root: str | None = None
    split: str | None = None
    """split of the benchmark; default: train"""
    targets: str | None = None
    """folder of SAM features, written by the stage sam_features; None: compute the features in every step"""
    begin: Literal["positions", "encoder"] = "positions"
    """parts of the SAM's image encoder that are copied into the neck before the training

    positions: only the position embedding is copied. encoder: the position embedding, the blocks and the final
    projection are copied. begin=encoder needs a SAM whose image encoder has layers of the same sizes as the neck.
    """
    things: tuple[int, int] = (4, 9)
    """range of the number of things in a drawn scene, end exclusive"""
    unnamed: float = Field(default=0.3, ge=0, le=1)
    """probability that a drawn thing's name lacks the colour; "striped star" is such a name

    With the same probability, the name lacks the pattern. A thing whose name lacks the colour has a random RGB colour.
    A thing whose name lacks the pattern has a random one of the patterns UNNAMED in `scenes.patterns`.
    """

    @model_validator(mode="after")
    def _targets_of_files(self) -> Self:
        if self.data == "scenes" and self.targets:
            raise ValueError(
                "the setting `targets` has no effect with data=scenes, because SAM's features of drawn scenes are "
                "computed in every step. Remove `targets`"
            )
        return self
