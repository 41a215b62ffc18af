"""SAM proposes regions: the masks of the released automatic generator, in its order, for a part of its work.

Kirillov et al., "Segment Anything", ICCV 2023, arXiv 2304.02643. A grid of points over the image is put to the network,
each answered by three masks; those that it predicts to fit badly, that change with the threshold, or that repeat others
are left out (models/sam_generator.py).
"""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from ovss_ray import files, stage, weights
from ovss_ray.actors.san import computing, device
from ovss_ray.columns import Batch, column
from ovss_ray.errors import UnknownName
from ovss_ray.models.sam_variants import VARIANTS
from ovss_ray.vocabulary import Vocabularies

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from ovss_ray.models.sam import Sam


class Network(stage.Config):
    """Which SAM, and how it is computed."""

    variant: str = "sam_vit_h"
    """sam_tiny, sam_vit_b, sam_vit_l, sam_vit_h, or MobileSAM: sam_mobile"""
    weights: str | None = None
    """the checkpoint; without it the one that `ovss weights fetch` has got or gets"""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """auto (a GPU if there is one), cpu, cuda or cuda:N"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16, for the image encoder and automatic masks, changes near-ties and is meant for GPUs; not timed on one yet"""
    compile: bool | Literal["reduce-overhead", "max-autotune"] = False
    """compile the image encoder when a worker starts (`python -m perf sam-encoder` shows what that costs and gains);
    a name is a mode of torch.compile: both record CUDA graphs. Fewer images than `batch` then cost what a batch does"""
    exact: bool = False
    """bit-identical answers on one kind of hardware: one image per forward, one thread, deterministic kernels"""

    @field_validator("weights")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        return path and files.absolute(path)

    @field_validator("variant")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in VARIANTS:
            raise ValueError(str(UnknownName("variant", name, VARIANTS)))
        return name

    def file(self) -> Path:
        """The checkpoint. Raises OvssError if it is not here and cannot be downloaded."""
        return weights.find(self.variant, self.weights)

    def load(self, images: int = 1) -> "Sam":
        """The network, where it is to be computed, for so many images at a time. Raises OvssError."""
        from ovss_ray.models import sam

        model = sam.load(self.variant, self.file(), device(self), self.precision)
        self.compiled(model, images)
        return model

    def compiled(self, model: "Sam", images: int) -> None:
        """Compile a network, if that is asked for, for so many images at a time."""
        if self.compile:
            with computing(self):  # under other settings it would be compiled again
                model.compile_for(images, "default" if self.compile is True else self.compile)


class Stage(stage.Stage):
    """image (H, W, 3) uint8 RGB → regions: boxes (R, 4), bits, predicted_iou (R,)."""

    reads = ("image",)
    writes = ("boxes", "bits", "predicted_iou")
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("weights", "device", "batch")

    class Config(Network):
        """The network, and the generator's parameters with its own names and defaults."""

        batch: int = Field(default=4, ge=1)
        """images, or crops, in one forward on a GPU, at most; a CPU, which gains nothing from more, is given one"""
        points_per_side: int = Field(default=32, ge=1)
        points_per_batch: int = Field(default=64, ge=1)
        """at most: a CPU is given as many as its cache holds"""
        pred_iou_thresh: float = 0.88
        stability_score_thresh: float = 0.95
        stability_score_offset: float = 1.0
        box_nms_thresh: float = 0.7
        crop_n_layers: int = Field(default=0, ge=0)
        crop_nms_thresh: float = 0.7
        crop_overlap_ratio: float = 512 / 1500
        crop_n_points_downscale_factor: int = Field(default=1, ge=1)
        min_mask_region_area: int = Field(default=0, ge=0)

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """The checkpoint. Raises OvssError if it is not here and cannot be downloaded."""
        return (config.file(),)

    def __init__(self, config: Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        from ovss_ray.models.sam_generator import Generator
        from ovss_ray.models.sam_points import Settings

        alone = config.exact or device(config) == "cpu"
        images = 1 if alone else config.batch
        given = config.model_dump(include=set(Settings.__dataclass_fields__))
        self.generator = Generator(config.load(images), Settings(**given), images)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Propose regions for every image, in the generator's order."""
        with computing(self.config):
            found = self.generator.generate(list(batch["image"]))
        made = {
            "boxes": [one.boxes for one in found],
            "bits": [np.concatenate([np.empty(0, np.uint8), *one.bits]) for one in found],
            "predicted_iou": [one.predicted_iou for one in found],
        }
        return {name: column(values) for name, values in made.items()}
