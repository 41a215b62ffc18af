"""A SAM that takes a blink, as a stage for whole runs: the network of tests.official_sam, whose masks are specks."""

from pathlib import Path

import torch

from ovss_ray.actors import sam
from ovss_ray.models.sam.variants import VARIANTS
from tests import official_sam

VARIANTS["sam_small"] = official_sam.SMALL


class Stage(sam.Stage):
    """`sam` of the variant sam_small; with made-up weights no mask passes the usual thresholds."""

    class Config(sam.Stage.Config):
        variant: str = "sam_small"
        points_per_side: int = 3
        pred_iou_thresh: float = -9.0
        stability_score_thresh: float = 0.0
        box_nms_thresh: float = 0.9


def save(path: Path) -> Path:
    """Write a checkpoint of it, a bare state dict as the published ones."""
    torch.save(official_sam.speckled(official_sam.SMALL, 0.1, seed=1), path)
    return path
