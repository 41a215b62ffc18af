"""SAM proposes regions: the released automatic mask generator, as it is.

Kirillov et al., "Segment Anything", ICCV 2023, arXiv 2304.02643; the package `segment-anything`, an optional extra. A
grid of points over the image is put to the network, each answered by three masks; those that it predicts to fit badly,
that change with the threshold, or that repeat others are left out.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from ovss_ray import files, regions, stage, weights
from ovss_ray.actors.san import computing, device
from ovss_ray.columns import Batch, column
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.vocabulary import Vocabularies

VARIANTS = {"sam_vit_b": "vit_b", "sam_vit_l": "vit_l", "sam_vit_h": "vit_h"}
"""Our names of the networks, and those of segment_anything.sam_model_registry."""
COLOURS = {"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (58.395, 57.12, 57.375)}
"""What SAM's input is normalised by, for RGB in 0..255."""
MASKS_BYTES = 1 << 31
"""The most that the masks of one batch of points, three float32 each in full resolution, may take."""


class Stage(stage.Stage):
    """image (H, W, 3) uint8 RGB → regions: boxes (R, 4), bits, predicted_iou (R,)."""

    reads = ("image",)
    writes = ("boxes", "bits", "predicted_iou")
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("weights", "device")

    class Config(stage.Config):
        """The network, and the generator's parameters with its own names and defaults."""

        variant: str = "sam_vit_h"
        """sam_vit_b, sam_vit_l or sam_vit_h"""
        weights: str | None = None
        """the checkpoint; without it the one that `ovss weights fetch` has got or gets"""
        device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
        """auto (a GPU if there is one), cpu, cuda or cuda:N"""
        exact: bool = False
        """bit-identical answers on one kind of hardware: one thread, deterministic kernels"""
        points_per_side: int = Field(default=32, ge=1)
        points_per_batch: int = Field(default=64, ge=1)
        """at most: fewer for large images, whose masks take more memory"""
        pred_iou_thresh: float = 0.88
        stability_score_thresh: float = 0.95
        stability_score_offset: float = 1.0
        box_nms_thresh: float = 0.7
        crop_n_layers: int = Field(default=0, ge=0)
        crop_nms_thresh: float = 0.7
        crop_overlap_ratio: float = 512 / 1500
        crop_n_points_downscale_factor: int = Field(default=1, ge=1)
        min_mask_region_area: int = Field(default=0, ge=0)

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

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """The checkpoint. Raises OvssError if it is not here and cannot be downloaded, or the package is missing."""
        if importlib.util.find_spec("segment_anything") is None:
            raise OvssError("the stage `sam` needs the package segment-anything. Type: pip install 'ovss_ray[sam]'")
        return (weights.find(config.variant, config.weights),)

    def __init__(self, config: Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self.model = load(config.variant, self.files(config)[0], device(config))

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Propose regions for every image, in the generator's order."""
        with computing(self.config):
            found = [self._propose(image) for image in batch["image"]]
        return {name: column(one[i] for one in found) for i, name in enumerate(self.writes)}

    def _propose(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        made = self._generator(image).generate(image)
        fit = np.array([one["predicted_iou"] for one in made], np.float32)
        return *regions.pack(_masks(made)), fit

    def _generator(self, image: np.ndarray) -> Any:
        """The generator for an image of this size; its masks come as run lengths, not all of them in full at once."""
        from segment_anything import SamAutomaticMaskGenerator

        given = self.config.model_dump(exclude={"variant", "weights", "device", "exact"})
        most = MASKS_BYTES // (3 * 4 * image.shape[0] * image.shape[1])
        given["points_per_batch"] = max(1, min(given["points_per_batch"], most))
        return SamAutomaticMaskGenerator(self.model, **given, output_mode="uncompressed_rle")


def load(variant: str, file: Path, device: str) -> Any:
    """Load a segment_anything.modeling.Sam for inference from an official checkpoint. Raises OvssError."""
    import torch
    from segment_anything import sam_model_registry

    from ovss_ray.models import checkpoint

    with torch.device("meta"):
        model = sam_model_registry[VARIANTS[variant]]()
    checkpoint.fill(model, checkpoint.read(file), file, variant, {})
    for name, colour in COLOURS.items():  # buffers that no checkpoint has
        setattr(model, name, torch.tensor(colour)[:, None, None])
    if torch.device(device).type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return model.to(device)


def _masks(made: list[dict[str, Any]]) -> Iterator[np.ndarray]:
    """The masks that a generator has made, each (H, W) bool."""
    from segment_anything.utils.amg import rle_to_mask

    for one in made:
        yield rle_to_mask(one["segmentation"])
