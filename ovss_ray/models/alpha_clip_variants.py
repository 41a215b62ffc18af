"""AlphaCLIP's numbers, and the ways to show it a region. No torch here: configs are checked without it.

Source of the real ones' numbers: https://github.com/openai/CLIP (MIT) and https://github.com/SunzeY/AlphaCLIP
(Apache-2.0). The tiny ones are trained by this project on drawn scenes (configs/train_*_tiny.yaml).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ovss_ray import weights
from ovss_ray.errors import OvssError


@dataclass(frozen=True)
class Variant:
    """One CLIP, and whether its image tower has a fourth channel for the region."""

    width: int
    """channels of the image tower"""
    heads: int
    layers: int
    patch: int
    """side of a patch in pixels"""
    grid: int
    """side of the patch grid that the position embedding is for"""
    embed: int
    """D: channels of the space that images and words share"""
    text_width: int
    text_heads: int
    text_layers: int
    base: str
    """the CLIP that the text tower is taken from; empty for plain CLIP, which has no fourth channel"""
    text_vocabulary: int = 49408
    context: int = 77
    stem: int = 0
    """residual blocks of a convolutional stem (models.clip.Stem); 0: the plain patch projection"""
    words: str = ""
    """the table of words that prompts are cut into; none: CLIP's byte pairs"""
    seen: int = 0
    """side of the patch grid that is looked at, for which the position embedding is resized; 0: `grid`"""
    partial: bool = False
    """whether AlphaCLIP's file has only what its training changed, and the base the rest of the image tower"""

    @property
    def pixels(self) -> int:
        """The side n of the square that the image tower looks at."""
        return self.patch * (self.seen or self.grid)


_B = Variant(768, 12, 12, 16, 14, 512, 512, 8, 12, base="clip_vit_b_16")
_L = Variant(1024, 16, 24, 14, 16, 768, 768, 12, 12, base="clip_vit_l_14")
_TINY = Variant(
    128, 4, 6, 8, 16, 128, 128, 4, 2, base="clip_tiny", text_vocabulary=65, context=24, stem=3, words="scenes",
    seen=10, partial=True,
)  # fmt: skip
_ALPHA = {
    "alpha_clip_vit_b_16": _B,
    "alpha_clip_vit_l_14": _L,
    "alpha_clip_vit_l_14_336": replace(_L, grid=24, base="clip_vit_l_14_336"),
    "alpha_clip_tiny": _TINY,
}
VARIANTS = {**_ALPHA, **{variant.base: replace(variant, base="", partial=False) for variant in _ALPHA.values()}}


class Look(BaseModel):
    """How a region is shown to CLIP. Image and mask always go through one geometric transform together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fit: Literal["pad_square", "center_crop"] = "pad_square"
    """how a picture becomes a square: pad_square pads with black, as in AlphaCLIP's training, and shows everything;
    center_crop cuts the long side, as in its evaluation on ImageNet-S, and loses regions near the ends"""
    context: Literal["full", "crop", "crop_square"] = "full"
    """full shows the whole image, as in training; crop the region's box and its surroundings, which makes small regions
    large; crop_square widens that to a square where the image allows, so that nothing need be padded"""
    padding: float = Field(default=0.15, ge=0)
    """how far a crop reaches beyond the box on each side, as a fraction of the box's long side"""
    background: Literal["keep", "blur", "black", "mean"] = "keep"
    """what lies outside of the mask: keep leaves it, for AlphaCLIP, which sees the mask by itself; blur (Gaussian,
    15 × 15), black and mean (CLIP's mean colour) hide it, so that plain CLIP knows what is meant"""
    marker: Literal["none", "ellipse"] = "none"
    """ellipse draws a red line around the region, which makes plain CLIP look there (Shtedritski et al., ICCV 2023)"""
    alpha: Literal["mask", "ones"] = "mask"
    """what AlphaCLIP's fourth channel gets: the region, or everything, which makes it an ordinary CLIP; plain CLIP has
    no such channel"""


class Naming(BaseModel):
    """How the classes of a vocabulary are put into words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    templates: Literal["single", "vild"] | tuple[str, ...] = "single"
    """single is "a photo of a {}."; vild averages 14 sentences (text.TEMPLATES); or your own, each with one {}"""
    synonyms: Literal["whole", "first", "max", "mean"] = "whole"
    """what the names of a class make: whole one prompt, joined by commas, as SAN does; first the prompt of the first
    name; max a prompt each, and the best counts, for names that mean unlike things; mean their mean embedding"""

    @field_validator("templates")
    @classmethod
    def _one_gap(cls, templates: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for template in templates if isinstance(templates, tuple) else ():
            if template.count("{}") != 1 or template.count("{") + template.count("}") != 2:
                raise ValueError(
                    f"the template {template!r} must have one {{}}, where the name goes, and no other brace"
                )
        if not templates:
            raise ValueError("at least one template is needed")
        return templates


def files(name: str, given: Sequence[str | Path | None]) -> tuple[Path, ...]:
    """The checkpoints of a network: one; of an AlphaCLIP two, the CLIP it is made of and its image tower.

    `given` are paths in this order; None is looked for, and downloaded if need be. Raises OvssError.
    """
    base = VARIANTS[name].base if name in VARIANTS else ""
    names = (base, name) if base else (name,)
    if len(given) > len(names):
        raise OvssError(f"{name} has {len(names)} checkpoints ({', '.join(names)}), and {len(given)} paths were given")
    paths = [*given, *[None] * (len(names) - len(given))]
    return tuple(weights.find(one, path) for one, path in zip(names, paths, strict=True))
