"""Sizes and checkpoints of Fusioner, and the options of its input. No torch is imported here.

Source of the released sizes: https://github.com/chaofanma/Fusioner. That code has one variant, with CLIP ViT-L/14.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ovss_ray.models import zoo
from ovss_ray.models.clip_sizes import TINY, VIT_L_14, ClipSizes
from ovss_ray.models.zoo import Weights, by_hand, shipped

DataSet = Literal["pascal", "coco"]
"""Data set that a checkpoint was trained on. The data set's mean and standard deviation normalise the photographs"""
Resolution = Literal["original", "square_224"]
"""Preparation of the network's input: original or square_224

original: the photograph is cut into windows. If Variant.short_side is not 0, the photograph is resized first.
square_224: the photograph is resized to one square window.
"""


@dataclass(frozen=True)
class Variant:
    """Sizes of a Fusioner: its CLIP, the fusion, and the decoder."""

    clip: ClipSizes
    base: str
    """name of CLIP's checkpoint"""
    width: int = 512
    """number of channels in the fusion and in the decoder"""
    heads: int = 8
    layers: int = 12
    """blocks of the fusion"""
    colours: str = ""
    """name of the normalisation of photographs, a key of network.COLOURS

    If `colours` is empty, the name is the argument `data_set` of Fusioner's methods.
    """
    doublings: int = 3
    """number of the decoder's convolutions whose output is resized to twice its size"""
    short_side: int = 0
    """short side, in pixels, to which a photograph is resized before it is cut into windows; 0: no resize"""
    long_side: int = 2560
    """maximum of the long side of a resized photograph, in pixels"""
    every: int = 0
    """stride of the windows in pixels; 0: two thirds of a window's side"""
    templates: str = "fusioner"
    """key of text.TEMPLATES for the prompts of a class name"""

    @property
    def side(self) -> int:
        """Side n of a window in pixels."""
        return self.clip.pixels

    @property
    def stride(self) -> int:
        """Pixels from the start of a window to the start of the next window."""
        return self.every or 2 * self.side // 3


# fusioner_tiny: training halves scenes to about 128 × 160 pixels, so photographs get a short side of 128 pixels.
# models/tokens/scenes.txt contains all words of the templates "vild". Other words become "<unknown>".
VARIANTS = {
    "fusioner_vit_l_14": Variant(VIT_L_14, base="clip_vit_l_14"),
    "fusioner_tiny": Variant(
        TINY, base="clip_tiny", width=64, heads=4, layers=4, colours="clip", doublings=2, short_side=128,
        long_side=1024, every=64, templates="vild",
    ),
}  # fmt: skip
"""Network name → sizes. This project trains fusioner_tiny (configs/train_fusioner_tiny.yaml). fusioner_tiny knows only
the words in models/tokens/scenes.txt."""


def checkpoints(name: str) -> tuple[str, ...]:
    """Return the names of a network's two checkpoints: the trained part, and CLIP.

    The file of the first checkpoint may contain the trained part and CLIP. Then the second checkpoint is not needed.
    """
    return (name, VARIANTS[name].base)


def remaining(name: str, file: Path) -> tuple[str, ...]:
    """Return the names of the checkpoints to load in addition to `file`, the network's first checkpoint.

    If `file` contains CLIP, no other checkpoint is needed. Otherwise, CLIP's checkpoint is needed.
    """
    return () if zoo.has_entry(file, "img_model.") else checkpoints(name)[1:]


WEIGHTS: Mapping[str, Weights] = {
    "fusioner_vit_l_14": by_hand("", "none stated", "https://github.com/chaofanma/Fusioner"),
    "fusioner_tiny": shipped("fusioner_tiny.safetensors"),
}
"""Checkpoint name → file and source. Fusioner's authors published no checkpoint. The file of fusioner_tiny lacks
CLIP."""
