"""The config of CLIP2SAM's training. No torch is imported here."""

from typing import Annotated

from pydantic import Field

from ovss_ray.models.ovsam.variants import VARIANTS
from ovss_ray.training.config import Training, one_of


class Config(Training):
    """Settings of the training of Open-Vocabulary SAM's feature pyramid, mask decoder and class head."""

    variant: Annotated[str, one_of(name for name in VARIANTS if not name.endswith("_demo"))] = "ovsam_rn50x16"
    """name of the network's variant, such as ovsam_tiny; it sets the sizes of the layers"""
    clip: str | None = None
    """checkpoint of the CLIP; None: the shipped or downloaded checkpoint"""
    teacher: str | None = None
    """checkpoint of a SAM, for the prompt encoder and the initial decoder

    If `teacher` is None, the variant ovsam_tiny uses the shipped sam_tiny. All other variants use the downloaded SAM
    ViT-H.
    """
    neck: str | None = None
    """checkpoint of the neck, such as a file that the recipe `sam2clip` wrote; None: the downloaded checkpoint"""
    train_neck: bool = False
    """True: the neck is trained too; False: it is frozen, as in the official training"""
    data: str = "scenes"
    """training images: scenes (drawn in memory), or a benchmark with instances such as coco:instances_48_17

    If the benchmark has a group "base", only the classes of this group are trained.
    """
    data_root: str | None = None
    split: str | None = None
    """split of the benchmark; default: train"""
    scales: tuple[float, float] = (0.9, 2.0)
    """range of the random long side of a photograph before the crop, in multiples of the network's input side"""
    things: tuple[int, int] = (3, 7)
    """range of the number of things in a drawn scene, end exclusive"""
    smallest: int = Field(default=32, ge=1)
    """minimum mask area of a prompted instance, in pixels of the network's input"""
    prompts: int = Field(default=40, ge=1)
    """number of prompts per image, each for one instance. If an image has fewer instances, instances are repeated"""
    boxes: float = Field(default=0.5, ge=0, le=1)
    """fraction of the prompts that are boxes; the other prompts are random points of the mask"""
    points: int = Field(default=12544, ge=1)
    """points per mask at which the mask losses are computed"""
    no_object: float = Field(default=0.1, ge=0)
    """weight of the class "no object" in the class loss"""
