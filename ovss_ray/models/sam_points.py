"""Where SAM's automatic generator looks, and what it keeps: its parameters, grids of points, and crops. No torch here.

Kirillov et al., 2023, §4 ("fully automatic stage") and appendix B ("cropping", "filtering", "postprocessing").
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ovss_ray.errors import OvssError
from ovss_ray.models.sam_variants import Size
from ovss_ray.regions import Box

EDGE = 20
"""Pixels: a mask whose box ends this near to the edge of a crop is thought to be cut off by it."""


@dataclass(frozen=True)
class Settings:
    """The parameters of the released SamAutomaticMaskGenerator, by its names and with its defaults."""

    points_per_side: int | None = 32
    """of the grid over the whole image; None: `point_grids` is given instead"""
    points_per_batch: int = 64
    """put to the decoder at a time, at most; answers do not depend on it"""
    pred_iou_thresh: float = 0.88
    """masks must be predicted to fit better than this; 0: any"""
    stability_score_thresh: float = 0.95
    """what the masks at two thresholds must have in common, as IoU; 0: anything"""
    stability_score_offset: float = 1.0
    """how far those two lie above and below 0, in logits"""
    box_nms_thresh: float = 0.7
    """of two masks whose boxes overlap more, as IoU, the one that is predicted to fit better is kept"""
    crop_n_layers: int = 0
    """layer n > 0 looks at the image again in 4ⁿ crops"""
    crop_nms_thresh: float = 0.7
    """as box_nms_thresh, between crops: the mask of the smaller crop is kept"""
    crop_overlap_ratio: float = 512 / 1500
    """of the crops in the first layer, as a share of the image's shorter side"""
    crop_n_points_downscale_factor: int = 1
    """points per side of a layer's crops are those of the layer before divided by this"""
    point_grids: tuple[np.ndarray, ...] | None = None
    """for each layer, points (n, 2) float64: x and y as shares of the width and height of a crop"""
    min_mask_region_area: int = 0
    """pixels: smaller holes are filled, and smaller pieces taken away; 0: none"""

    def grids(self) -> list[np.ndarray]:
        """The points of each layer, (n, 2) float64 in 0..1. Raises OvssError if a layer has none."""
        if (self.points_per_side is None) == (self.point_grids is None):
            raise OvssError("give either points_per_side or point_grids, and not both")
        if self.point_grids is not None:
            made = list(self.point_grids)
        else:
            side, factor = self.points_per_side or 0, self.crop_n_points_downscale_factor
            made = [grid(int(side / factor**layer)) for layer in range(self.crop_n_layers + 1)]
        if len(made) <= self.crop_n_layers or not all(map(len, made)):
            raise OvssError(
                f"{self.crop_n_layers} layers of crops need points in each; there are {[len(one) for one in made]}. "
                "Give fewer layers, more points_per_side, or a smaller crop_n_points_downscale_factor"
            )
        return made


def grid(side: int) -> np.ndarray:
    """The middles of side × side equal parts of a unit square, in reading order: (side², 2) float64, x and y."""
    if side < 1:
        return np.zeros((0, 2))
    offset = 1 / (2 * side)
    along = np.linspace(offset, 1 - offset, side)
    return np.stack(np.meshgrid(along, along), -1).reshape(-1, 2)


def crops(size: Size, layers: int, overlap: float) -> Iterator[tuple[int, Box]]:
    """Layer and box of every crop of an image of H, W pixels; first the whole image, then column by column.

    A crop that has no pixels, which an image of few has, is left out.
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
    """Which masks seem cut off by the edge of their crop, (R,) bool; the edge of the image itself cuts nothing off.

    `corners` (R, 4) are x0 y0 x1 y1 of the masks in the image, both ends inside.
    """
    near = [np.abs(corners - np.array(edges)) <= EDGE for edges in (crop, (0, 0, size[1], size[0]))]
    return (near[0] & ~near[1]).any(1)
