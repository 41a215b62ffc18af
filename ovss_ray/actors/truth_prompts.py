"""Create a prompt for each true instance of an image: a point in the mask, or the annotated box.

    centre_point  the innermost pixel of the mask, as in the evaluation of Open-Vocabulary SAM
    random_point  a pixel of the mask, all with the same probability
    box           the annotated box
    noisy_box     the annotated box with Gaussian noise, as in SAM's training

Crowds and invalid annotations get no prompt. Random draws depend only on the seed and on the image's id.

Open-Vocabulary SAM: Yuan et al., ECCV 2024, arXiv 2401.02955. SAM: Kirillov et al., ICCV 2023, appendix A.
"""

import zlib
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ovss_ray.models.sam_layers.sizes import fitted
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.instances import COUNTED
from ovss_ray.structures.masks.centre_point import centre_point
from ovss_ray.structures.masks.regions import Masks
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies

NOISE, MOST_NOISE = 0.1, 20.0
"""Standard deviation of a coordinate's noise, as a fraction of the box's side, and maximum noise in pixels."""


class Stage(stage.Stage):
    """Create one prompt for each valid true instance of an image, in the order of the instances.

    An instance is valid if its status is COUNTED. Instances with the status CROWD or INVALID get no prompt.
    """

    reads = ("size", "true_boxes", "true_bits", "true_frames", "true_status")
    writes = ("prompt_points", "prompt_boxes", "prompt_instances")

    class Config(Settings):
        """The kind of the prompts."""

        kind: Literal["centre_point", "random_point", "box", "noisy_box"] = "centre_point"
        side: int | None = Field(default=1024, ge=1)
        """long side, in pixels, to which masks are resized to find centre points; None: no resizing"""
        seed: int = Field(default=0, ge=0)
        """seed of random_point and noisy_box"""

    @classmethod
    def notes(cls, config: Any, benchmark: str) -> tuple[str, ...]:
        """Return a note for the report: the kind of the prompts, and the annotations without a prompt."""
        seed = f", seed {config.seed}" if config.kind in ("random_point", "noisy_box") else ""
        return (f"one prompt per instance: {config.kind}{seed}; crowds and invalid annotations are not counted",)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Return the prompts of every image."""
        rows = zip(batch["image_id"], *(batch[name] for name in self.reads), strict=True)
        prompts = [self._prompts(*row) for row in rows]
        return {name: column(row[i] for row in prompts) for i, name in enumerate(self.writes)}

    def _prompts(
        self, image_id: str, size: np.ndarray, boxes: np.ndarray, bits: np.ndarray, frames: np.ndarray,
        status: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
        """Return points (N, P, 2), boxes (N, B, 4) and instance indices (N,) of an image's N prompts.

        For points, P is 1 and B is 0. For boxes, P is 0 and B is 1.
        """
        counted = np.flatnonzero(status == COUNTED)
        random = np.random.default_rng([self.config.seed, zlib.crc32(image_id.encode())])
        height, width = size.tolist()
        n = len(counted)
        if self.config.kind in ("box", "noisy_box"):
            corners = frames[counted].astype(np.float64)
            if self.config.kind == "noisy_box":
                corners = _noisy(corners, (height, width), random)
            return np.empty((n, 0, 2)), corners[:, None], counted
        masks = Masks(boxes, bits)
        points = np.empty((n, 1, 2))
        for row, i in enumerate(counted):
            mask, (x0, y0, *_) = masks[i], boxes[i]
            if self.config.kind == "random_point":
                points[row, 0] = _random_pixel(mask, random) + np.array([x0, y0])
            else:
                full = np.zeros((height, width), np.uint8)
                full[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]] = mask
                points[row, 0] = centre(full, self.config.side)
        return points, np.empty((n, 0, 4)), counted


def centre(mask: np.ndarray, side: int | None) -> np.ndarray:
    """Return x, y of the centre point of a mask (H, W) uint8, in pixels of `mask`.

    If `side` is not None, the mask is first resized to a long side of `side` pixels.
    """
    if side is None:
        return np.array(centre_point(mask > 0), np.float64)
    import cv2  # imported here: the import takes tenths of a second, and checking a config does not need it

    # rounded as in mmcv, and as for SAM's input
    height, width = fitted(mask.shape[0], mask.shape[1], side)
    resized = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.array(centre_point(resized > 0)) / (width / mask.shape[1], height / mask.shape[0])


def _random_pixel(mask: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return x, y of a random pixel of a mask (h, w) bool; 0, 0 for an empty mask."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return np.zeros(2)
    place = int(random.integers(len(rows)))
    return np.array([columns[place], rows[place]], np.float64)


def _noisy(corners: np.ndarray, size: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Return boxes (N, 4) with noise, clipped to an image of `size` H, W.

    If a side would become shorter than 1 pixel, the box has no noise.
    """
    sides = np.tile(corners[:, 2:] - corners[:, :2], 2)
    shift = np.clip(random.normal(size=corners.shape) * NOISE * sides, -MOST_NOISE, MOST_NOISE)
    moved = np.clip(corners + shift, 0, np.tile(size[::-1], 2))
    fits = (moved[:, 2:] - moved[:, :2] >= 1).all(1, keepdims=True)
    return np.where(fits, moved, corners)
