"""Parameters of SAM's automatic mask generator: thresholds, grids of points, and crops. No torch is imported here.

Kirillov et al., 2023, §4 ("fully automatic stage") and appendix B ("cropping", "filtering", "postprocessing").
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, Field

from ovss_ray.errors import OvssError
from ovss_ray.models.sam_layers.sizes import Size
from ovss_ray.structures.masks.regions import Box

EDGE = 20
"""Maximum distance in pixels at which a mask's box is near a side of the crop or image

The function `cut_off` compares each side of the box with the same side of the crop and of the image."""


class Options(BaseModel):
    """Base class of the configs of the stages `sam` and `ovsam_everything`.

    The fields are those parameters of Settings that both stages have. The defaults are the released defaults.
    """

    points_per_side: int = Field(default=32, ge=1)
    points_per_batch: int = Field(default=64, ge=1)
    """maximum number of points in one pass of the decoder. If the CPU's cache or the GPU's memory is too small for this
    number, a pass has fewer points"""
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    min_mask_region_area: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Settings:
    """The parameters of the released SamAutomaticMaskGenerator, with their names and defaults."""

    points_per_side: int | None = 32
    """points per side of the grid over the whole image. If None, `point_grids` contains the points"""
    points_per_batch: int = 64
    """maximum number of points in one call of the decoder; it does not change results"""
    pred_iou_thresh: float = 0.88
    """predicted IoU above which a mask is kept. If 0, all masks are kept"""
    stability_score_thresh: float = 0.95
    """minimum stability of a mask. If 0, all masks are kept

    The stability is the IoU of two masks, which have the same logits but different thresholds. The thresholds are
    `stability_score_offset` and −`stability_score_offset`."""
    stability_score_offset: float = 1.0
    """absolute value of the two logit thresholds that define the stability (see `stability_score_thresh`)"""
    box_nms_thresh: float = 0.7
    """IoU of two boxes above which only the mask of higher predicted IoU is kept"""
    crop_n_layers: int = 0
    """number of layers of crops after layer 0, which is the whole image; layer n has 4ⁿ crops"""
    crop_nms_thresh: float = 0.7
    """IoU of two masks' boxes above which only the mask from the smaller crop is kept

    If an image has several crops, the masks of all crops are compared with each other."""
    crop_overlap_ratio: float = 512 / 1500
    """overlap of neighbouring crops in layer 1, as a fraction of the image's shorter side

    Each further layer has half the overlap of the layer before."""
    crop_n_points_downscale_factor: int = 1
    """factor by which the points per side decrease from layer to layer"""
    point_grids: tuple[np.ndarray, ...] | None = None
    """for each layer, points (n, 2) float64 x y, as fractions of a crop's sides

    If None, the points are regular grids with `points_per_side` points per side."""
    min_mask_region_area: int = 0
    """minimum number of pixels of a mask's holes and separate pieces; 0: no minimum

    Smaller holes are filled. Smaller pieces are removed, but the largest piece always stays."""

    def grids(self) -> list[np.ndarray]:
        """Return the points of each layer, (n, 2) float64 in 0..1. Raises OvssError if a layer has no points."""
        if (self.points_per_side is None) == (self.point_grids is None):
            raise OvssError("set either points_per_side or point_grids, and leave the other None")
        if self.point_grids is not None:
            grids = list(self.point_grids)
        else:
            side, factor = self.points_per_side or 0, self.crop_n_points_downscale_factor
            grids = [grid(int(side / factor**layer)) for layer in range(self.crop_n_layers + 1)]
        if len(grids) <= self.crop_n_layers or not all(map(len, grids)):
            raise OvssError(
                f"each layer of crops, from 0 to {self.crop_n_layers}, needs points; "
                f"points per layer: {list(map(len, grids))}. Lower crop_n_layers or crop_n_points_downscale_factor, "
                "raise points_per_side, or add arrays to point_grids"
            )
        return grids


def grid(side: int) -> np.ndarray:
    """Return the centres x, y of side × side equal cells of a unit square, row-major, (side², 2) float64."""
    if side < 1:
        return np.zeros((0, 2))
    offset = 1 / (2 * side)
    along = np.linspace(offset, 1 - offset, side)
    return np.stack(np.meshgrid(along, along), -1).reshape(-1, 2)


def crops(size: Size, layers: int, overlap: float) -> Iterator[tuple[int, Box]]:
    """Yield the layer and the box of each crop of an image. Layer 0 comes first, and is the whole image.

    Crops of further layers are yielded column by column. Empty crops, which occur in tiny images, are left out.
    """
    height, width = size
    yield 0, (0, 0, width, height)
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(overlap * min(size) * (2 / count))
        w, h = (math.ceil((shared * (count - 1) + side) / count) for side in (width, height))
        for column in range(count):
            for row in range(count):
                x, y = column * (w - shared), row * (h - shared)
                if x < width and y < height:
                    yield layer, (x, y, min(x + w, width), min(y + h, height))


def cut_off(corners: np.ndarray, crop: Box, size: Size) -> np.ndarray:
    """Return (R,) bool: True for each mask that the crop possibly cuts off.

    `corners` (R, 4) are the masks' boxes x0 y0 x1 y1 in the image, ends inclusive. `size` is (H, W) of the image.

    A mask is possibly cut off at the left if two conditions hold. First, the left side of the mask's box is near the
    left side of the crop. Second, the left side of the mask's box is not near the left side of the image. The rule for
    the other three sides is the same. Two sides are near each other if they are at most EDGE pixels apart.
    """
    near = [np.abs(corners - np.array(edges)) <= EDGE for edges in (crop, (0, 0, size[1], size[0]))]
    return (near[0] & ~near[1]).any(1)
