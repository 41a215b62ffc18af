"""Sizes and checkpoints of AlphaCLIP and CLIP, and the options for regions and prompts. No torch is imported here.

Sources of the released sizes: https://github.com/openai/CLIP (MIT) and https://github.com/SunzeY/AlphaCLIP
(Apache-2.0). This project trains the tiny networks (configs/train_*_tiny.yaml).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ovss_ray.models.clip_sizes import TINY, VIT_B_16, VIT_L_14, VIT_L_14_336, ClipSizes
from ovss_ray.models.zoo import Weights, shipped


@dataclass(frozen=True, kw_only=True)
class Variant(ClipSizes):
    """Sizes of a CLIP, or of an AlphaCLIP, whose image tower has a fourth channel for the region."""

    base: str
    """for an AlphaCLIP: name of the CLIP whose text tower it uses; empty for a plain CLIP"""
    seen: int = 0
    """number of patches along a side of the input; 0: the same number as in the position embedding

    The position embedding has `grid` × `grid` patches. If `seen` is not 0, the position embedding is resized to
    `seen` × `seen` patches.
    """
    partial: bool = False
    """True: the AlphaCLIP's checkpoint has only those tensors of the image tower that AlphaCLIP's training changed

    All other tensors of the image tower are read from the checkpoint of the CLIP that `base` names.
    """

    @property
    def pixels(self) -> int:
        """Side n of the image tower's square input, in pixels."""
        return self.patch * (self.seen or self.grid)


_B = Variant(**vars(VIT_B_16), base="clip_vit_b_16")
_L = Variant(**vars(VIT_L_14), base="clip_vit_l_14")
_TINY = Variant(**vars(TINY), base="clip_tiny", seen=10, partial=True)
_ALPHA = {
    "alpha_clip_vit_b_16": _B,
    "alpha_clip_vit_l_14": _L,
    "alpha_clip_vit_l_14_336": Variant(**vars(VIT_L_14_336), base="clip_vit_l_14_336"),
    "alpha_clip_tiny": _TINY,
}
VARIANTS = {**_ALPHA, **{variant.base: replace(variant, base="", partial=False) for variant in _ALPHA.values()}}


def checkpoints(name: str) -> tuple[str, ...]:
    """Return the names of a network's checkpoints: one for a CLIP, two for an AlphaCLIP (its CLIP, its image tower)."""
    base = VARIANTS[name].base if name in VARIANTS else ""
    return (base, name) if base else (name,)


def _clip(file: str, sha256: str) -> Weights:
    url = f"https://openaipublic.azureedge.net/clip/models/{sha256}/{file}"
    page, others = "https://github.com/openai/CLIP", ("retrieve.weights", "cased.weights", "dense_cased.weights")
    return Weights(file, url, sha256, None, "MIT", page, option="alpha_clip.base", other_options=others)


def _alpha_clip(file: str) -> Weights:
    url = f"https://download.openxlab.org.cn/models/SunzeY/AlphaCLIP/weight/{file}"
    licence = "for research (the code is Apache-2.0)"
    page = "https://github.com/SunzeY/AlphaCLIP/blob/main/model-zoo.md"
    return Weights(file, url, None, None, licence, page)


WEIGHTS: Mapping[str, Weights] = {
    "clip_tiny": shipped("san_tiny.safetensors", option="alpha_clip.base", part_of="san_tiny"),
    "alpha_clip_tiny": shipped("alpha_clip_tiny.safetensors"),
    "clip_vit_b_16": _clip("ViT-B-16.pt", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    "clip_vit_l_14": _clip("ViT-L-14.pt", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
    "clip_vit_l_14_336": _clip("ViT-L-14-336px.pt", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"),
    "alpha_clip_vit_b_16": _alpha_clip("clip_b16_grit+mim_fultune_4xe.pth"),
    "alpha_clip_vit_l_14": _alpha_clip("clip_l14_grit+mim_fultune_6xe.pth"),
    "alpha_clip_vit_l_14_336": _alpha_clip("clip_l14_336_grit_20m_4xe.pth"),
}
"""Checkpoint name → file and source. An AlphaCLIP's file contains no text tower. A CLIP can also be
read from a SAN's file."""


class Look(BaseModel):
    """Options for the input image of a region. The image's geometric transform also applies to the region's mask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fit: Literal["pad_square", "center_crop"] = "pad_square"
    """transform to a square. pad_square: black padding, as in AlphaCLIP's training. center_crop: the ends of the long
    side are cut, as in AlphaCLIP's evaluation; regions in the cut parts are lost"""
    context: Literal["full", "crop", "crop_square"] = "full"
    """part of the photograph that CLIP sees. full: the whole photograph, as in AlphaCLIP's training. crop: the region's
    box with a margin. crop_square: the crop, extended to a square within the photograph"""
    padding: float = Field(default=0.15, ge=0)
    """margin of a crop on each side, as a fraction of the box's long side"""
    background: Literal["keep", "blur", "black", "mean"] = "keep"
    """pixels outside the mask. keep: unchanged; blur: Gaussian blur of 15 × 15 pixels; black: black; mean: CLIP's mean
    colour. keep suits AlphaCLIP, and the other values suit plain CLIP"""
    marker: Literal["none", "ellipse"] = "none"
    """ellipse: draw a red ellipse around the region, for plain CLIP (Shtedritski et al., ICCV 2023). none: draw
    nothing"""
    alpha: Literal["mask", "ones"] = "mask"
    """AlphaCLIP's fourth channel. mask: the region's mask; ones: 1 at every pixel. Plain CLIP ignores this option"""


class Naming(BaseModel):
    """Options for the prompts of a vocabulary's classes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    templates: Literal["single", "vild"] | tuple[str, ...] = "single"
    """sentences into which a class name is inserted at {}. The embeddings of the sentences are averaged.
    single: "a photo of a {}."; vild: ViLD's 14 sentences; or a list of your own"""
    synonyms: Literal["whole", "first", "max", "mean"] = "whole"
    """prompts of a class with several names. whole: one prompt with all names, as in SAN. first: the first name.
    max: a prompt per name; the highest score counts. mean: a prompt per name; the mean embedding counts.
    If classes share a name, see classifier.prompts for the texts of these classes"""

    @field_validator("templates")
    @classmethod
    def _one_gap(cls, templates: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for template in templates if isinstance(templates, tuple) else ():
            if template.count("{}") != 1 or template.count("{") + template.count("}") != 2:
                raise ValueError(
                    f"the template {template!r} must have one {{}} in place of the class name, and no other brace. "
                    "Write a template such as 'a photo of a {}.'"
                )
        if not templates:
            raise ValueError("no templates: pass at least one sentence with {} in place of the name")
        return templates
