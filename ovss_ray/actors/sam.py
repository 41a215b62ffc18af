"""Propose regions with SAM: the same masks in the same order as the released automatic mask generator, in less time.

Kirillov et al., "Segment Anything", ICCV 2023, arXiv 2304.02643. See models/sam_layers/generator.py for the steps.
"""

from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from ovss_ray.models.sam.config import SamConfig
from ovss_ray.models.sam_layers.points import Options, Settings
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.vocabulary import Vocabularies


class Stage(stage.Stage):
    """Propose R regions of an image (H, W, 3) uint8 RGB.

    The stage writes their boxes (R, 4), their masks as `bits` (see structures/columns.py), and predicted_iou (R,).
    """

    reads = ("image",)
    writes = ("boxes", "bits", "predicted_iou")
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("weights", "device", "batch")

    class Config(Options, SamConfig):
        """The network, and the parameters of SAM's mask generator, with their original names and defaults."""

        batch: int = Field(default=4, ge=1)
        """maximum number of images or crops in one forward pass; 1 on a CPU or with `exact`"""
        pred_iou_thresh: float = 0.88
        crop_n_layers: int = Field(default=0, ge=0)
        crop_nms_thresh: float = 0.7
        crop_overlap_ratio: float = 512 / 1500
        crop_n_points_downscale_factor: int = Field(default=1, ge=1)

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """Return the checkpoint. Raises OvssError if it is missing and cannot be downloaded."""
        return config.files()

    def __init__(self, config: Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        from ovss_ray.models.sam.generator import Generator

        alone = config.exact or config.resolved_device() == "cpu"
        images = 1 if alone else config.batch
        parameters = config.model_dump(include=set(Settings.__dataclass_fields__))
        self.network = config.load(images)
        self.generator = Generator(self.network, Settings(**parameters), images)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Propose regions for every image, in the generator's order."""
        with self.config.computing():
            proposals = self.generator.generate(list(batch["image"]))
        columns = {
            "boxes": [masks.boxes for masks in proposals],
            "bits": [np.concatenate([np.empty(0, np.uint8), *masks.bits]) for masks in proposals],
            "predicted_iou": [masks.predicted_iou for masks in proposals],
        }
        return {name: column(values) for name, values in columns.items()}
