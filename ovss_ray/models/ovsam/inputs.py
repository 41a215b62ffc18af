"""Inputs of Open-Vocabulary SAM (photographs and prompts), and the record of an encoded photograph.

Dimensions: P prompts, n points per prompt, H W pixels of a photograph; h w pixels of the resized photograph,
g side of the image embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from ovss_ray.errors import OvssError
from ovss_ray.models import photograph
from ovss_ray.models.sam_layers.prompts import ON, Prompts
from ovss_ray.models.sam_layers.sizes import Size, fitted

Path = Literal["evaluation", "demo"]
PATHS: tuple[Path, ...] = ("evaluation", "demo")
"""Modes of the official code. "evaluation" resizes with OpenCV, and fuses the scores of the head and of CLIP. "demo"
resizes with PIL's antialiased filter, pools regions to 7 × 7 cells, and takes the head's scores alone."""
Numbers = Sequence[Any] | np.ndarray


@dataclass(frozen=True)
class Placed:
    """The sizes of a photograph before and after the resize, and the scales of its coordinates."""

    size: Size
    """H, W: size of the photograph"""
    resized: Size
    """h, w: size of the photograph inside the network's input"""
    scale: tuple[float, float]
    """factors for x and y, from pixels of the photograph to pixels of the input"""


@dataclass(frozen=True)
class Embedded:
    """An encoded image, ready for any number of prompts."""

    neck: Tensor
    """(1, embed, g, g) float32: the image embedding, from which masks are decoded"""
    pyramid: tuple[Tensor, ...]
    """(1, embed, 4 g / 2ⁱ, 4 g / 2ⁱ) float32, for i from 0 to 3: the feature pyramid, which the class head reads"""
    clip: Tensor
    """(1, C, h', w') float32: the map that CLIP's branch reads; Backbone.seen or Tower.seen is the index of this map"""
    placed: Placed
    path: Path

    @property
    def nbytes(self) -> int:
        """Bytes of all maps. For ovsam_rn50x16: 110 MB, of which the pyramid's first map takes 67 MB."""
        return sum(level.nbytes for level in (self.neck, *self.pyramid, self.clip))


def placed(image: np.ndarray, path: Path, pixels: int) -> Placed:
    """Return the size of a photograph (H, W, 3), its size after the resize, and the factors of the resize.

    `pixels` is the side of the network's square input. Raises OvssError for an unknown `path`.
    """
    if path not in PATHS:
        raise OvssError(f"unknown mode path={path!r}; pass one of {PATHS}")
    height, width = image.shape[:2]
    if path == "demo":
        scale = pixels / max(height, width)
        resized = max(1, int(height * scale)), max(1, int(width * scale))
        return Placed((height, width), resized, (scale, scale))
    resized = fitted(height, width, pixels)
    return Placed((height, width), resized, (resized[1] / width, resized[0] / height))


def network_input(image: np.ndarray, path: Path, pixels: int) -> Tensor:
    """Return the network's input (3, pixels, pixels) float32 for a photograph (H, W, 3) uint8 RGB.

    The photograph is resized bilinearly: by OpenCV for "evaluation", by Pillow's antialiased filter for "demo". It is
    then normalised with ImageNet's mean and standard deviation, and padded with zeros at the right and bottom.
    """
    height, width = placed(image, path, pixels).resized
    if path == "demo":
        resized = photograph.resized(image, (height, width))
    else:
        resized = torch.from_numpy(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)).permute(2, 0, 1)
    return photograph.padded(resized, photograph.IMAGENET, (pixels, pixels))


def padded_input(image: np.ndarray, pixels: int) -> Tensor:
    """Return the input (3, pixels, pixels) float32 of an image (h, w, 3) uint8 RGB, padded but not resized."""
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return photograph.padded(planes, photograph.IMAGENET, (pixels, pixels))


def prompts(points: Numbers | None, labels: Numbers | None, corners: Numbers | None, where: Placed) -> Prompts:
    """Return P prompts in pixels of the network's input, on the CPU.

    `points` and `corners` are in pixels of the photograph. `points` (P, 2) have x and y of one point per prompt.
    `points` (P, n, 2) have n points per prompt. `labels` (P, n) are 1 for points on the object, and 0 for other points.
    If `labels` is None, all labels are 1. `corners` (P, 4) have the box x0 y0 x1 y1 of each prompt. If both `points`
    and `corners` are given, a prompt consists of its points and its box.

    Raises OvssError if both `points` and `corners` are None, for labels without points, and for arrays of other shapes.
    """
    if points is None and corners is None:
        raise OvssError("empty prompt; pass points, boxes, or both")
    places = signs = rectangles = None
    if points is not None:
        array = _array("points", points, (2, 3), 2)
        array = array[:, None] if array.ndim == 2 else array
        places = torch.from_numpy(array * np.array(where.scale))
        signs = torch.from_numpy(_signs(labels, array.shape[:2]))
    elif labels is not None:
        raise OvssError("labels without points; pass points, too, or remove labels")
    if corners is not None:
        rectangles = scaled_boxes(corners, where)
    if places is not None and rectangles is not None and len(places) != len(rectangles):
        raise OvssError(f"{len(places)} prompts have points and {len(rectangles)} have boxes; pass one box per prompt")
    return Prompts.of(places, signs, rectangles)


def _signs(labels: Numbers | None, shape: tuple[int, ...]) -> np.ndarray:
    """Return labels of 0 and 1 as int64 of `shape` (P, n). If `labels` is None, all are 1.

    A flat list (P·n,) is reshaped. Raises OvssError for other shapes, and for labels that are neither 0 nor 1.
    """
    if labels is None:
        return np.full(shape, ON, np.int64)
    try:
        array = np.asarray(labels, np.float64)
    except (TypeError, ValueError) as failure:
        raise OvssError(
            f"labels: expected 0 or 1 for each of the {shape[1]} points of a prompt, found {labels!r}"
        ) from failure
    if array.shape not in (shape, (shape[0] * shape[1],)) or not np.isin(array, (0, 1)).all():
        raise OvssError(
            f"labels: expected 0 or 1 per point, in an array (P, n) of shape {shape}, "
            f"found an array of shape {array.shape}: {labels!r}"
        )
    return array.reshape(shape).astype(np.int64)


def scaled_boxes(corners: Numbers, where: Placed, scale: bool = True) -> Tensor:
    """Return boxes (P, 4) float32: `corners`, scaled from pixels of the photograph to pixels of the network's input.

    If `scale` is False, the boxes are not scaled. Raises OvssError for other shapes, and for values that are not finite
    numbers.
    """
    array = _array("boxes", corners, (2,), 4)
    return torch.from_numpy(array * np.array(where.scale * 2) if scale else array).float()


def _array(what: str, values: Numbers, dimensions: tuple[int, ...], last: int) -> np.ndarray:
    """Return `values` as a float64 array.

    `dimensions` are the allowed numbers of axes. The last axis must have the length `last`. Raises OvssError for other
    shapes, for empty arrays, and for values that are not finite numbers. The error messages call the array `what`.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as failure:
        raise OvssError(f"{what}: expected numbers, found {values!r}") from failure
    if array.ndim not in dimensions or array.shape[-1] != last or not array.size or not np.isfinite(array).all():
        shapes = " or ".join("(" + "P, n, "[: 3 * (n - 1)] + f"{last})" for n in dimensions)
        raise OvssError(f"{what}: expected finite numbers of shape {shapes}, found an array of shape {array.shape}")
    return array
