"""The config of Fusioner's training. No torch is imported here."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ovss_ray.models.fusioner.variants import VARIANTS, Resolution
from ovss_ray.training.config import Training, one_of

_OF_SCENES = ("things", "unnamed", "questions", "overhang")
WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "scenes": ("data_root", "fold", "lists"),
    "pascal5i": _OF_SCENES,
    "coco20i": (*_OF_SCENES, "lists"),
}
"""Value of `data` → settings without effect for this value"""


class Config(Training):
    """Settings of the training of Fusioner's fusion and decoder on the tokens of a frozen CLIP."""

    variant: Annotated[str, one_of(VARIANTS)] = "fusioner_tiny"
    """name of the network's variant, such as fusioner_tiny; it sets the sizes of the layers"""
    batch: int = Field(default=32, ge=1)
    """number of samples per step; a sample is a window of a training image, together with one class in the window"""
    clip: str | None = None
    """checkpoint of the CLIP

    If `clip` is None, the variant fusioner_tiny uses the shipped clip_tiny. The variant fusioner_vit_l_14 uses the
    checkpoint that `ovss weights fetch clip_vit_l_14` downloads.
    """
    data: Literal["scenes", "pascal5i", "coco20i"] = "scenes"
    """training images: scenes (drawn in memory), or photographs of pascal5i or coco20i

    If `data` is pascal5i or coco20i, only the classes outside `fold` are trained.
    """
    data_root: str | None = None
    fold: int = Field(default=0, ge=0, le=3)
    """fold of pascal5i or coco20i whose classes are not trained, but measured on the validation episodes"""
    lists: Literal["hsnet", "fusioner"] = "hsnet"
    """training lists of pascal5i, one per fold, with pairs of a photograph and a class

    hsnet: the lists of HSNet and LSeg, 13,680 pairs. fusioner: the official lists, which add 1,875 pairs. Only results
    with hsnet are comparable with HSNet and LSeg.
    """
    resolution: Resolution = "original"
    """resolution of the photographs on which the training measures the network's scores

    original: each photograph is cut into windows. square_224: each photograph is resized to one square window.
    """
    start: str | None = None
    """checkpoint with the initial fusion and decoder; CLIP is always read from `clip`"""
    undecayed: Literal["vectors"] = "vectors"
    """kind of the fusion's parameters that have no weight decay; "vectors" is the only value

    Vectors are parameters of at most one dimension. All parameters of the decoder have no weight decay.
    """
    decay: Literal["cosine"] = "cosine"
    """schedule of the fusion's learning rate after the warm-up; "cosine" is the only value

    The learning rate falls from `rate` to `final_rate` along half a period of the cosine.
    """
    final_rate: float = Field(default=2e-6, ge=0)
    """learning rate of the fusion at the end of the schedule; `rate` is the learning rate after the warm-up"""
    final_weight_decay: float = Field(default=0.4, ge=0)
    """weight decay of the fusion's matrices at the end of the training; `weight_decay` is the value at the start"""
    decoder_rate: float = Field(default=1e-3, gt=0)
    """learning rate of the decoder, which has neither warm-up nor weight decay"""
    final_decoder_rate: float | None = Field(default=None, ge=0)
    """learning rate of the decoder at the end of a cosine schedule; None: constant, as in the official code"""
    things: tuple[int, int] = (3, 7)
    """range of the number of things in a drawn scene, end exclusive"""
    unnamed: float = Field(default=0.2, ge=0, le=1)
    """probability that the name of a drawn thing lacks the colour, such as "striped star"

    If the colour is not in the name, the thing has a random RGB colour.

    `unnamed` is also the probability that the name lacks the pattern, such as "red star". If the pattern is not in the
    name, the thing has a random pattern from the list `scenes.patterns.UNNAMED`.
    """
    questions: int = Field(default=4, ge=1)
    """number of samples per drawn scene

    A sample is a window and a class in the window. All samples of a scene share one window, so CLIP encodes this
    window only once.
    """
    overhang: int = Field(default=32, ge=0)
    """maximum number of pixels by which a window extends beyond a drawn scene"""

    @model_validator(mode="after")
    def _only_what_is_read(self) -> "Config":
        """Raise ValueError for a setting that has no effect and differs from its default."""
        for name in ("cooldown", *WITHOUT_EFFECT[self.data]):
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default:  # a saved config contains all settings, so defaults are valid
                reason = "in Fusioner's training" if name == "cooldown" else f"with data={self.data}"
                raise ValueError(
                    f"{name}={value} has no effect {reason}. Remove `{name}`, or set `{name}` to its default {default}"
                )
        return self

    @model_validator(mode="after")
    def _scenes_of_a_fitting_size(self) -> "Config":
        if self.data == "scenes" and not VARIANTS[self.variant].short_side:
            resized = ", ".join(name for name, sizes in VARIANTS.items() if sizes.short_side)
            raise ValueError(
                f"data=scenes needs a variant that resizes images before windows are cut, but variant={self.variant} "
                f"does not resize images. Set `variant` to {resized}, or set `data` to pascal5i or coco20i"
            )
        return self
