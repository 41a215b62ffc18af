"""Photographs and prompts in the form that Open-Vocabulary SAM expects.

Dimensions: P prompts, n points per prompt; H W pixels of a photograph, h w of the resized one; g side of the image
embedding.
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
"""Modes of the official code.

In mode "evaluation", the class scores of the head CLIP2SAM and the class scores of CLIP are fused. In mode "demo",
only the class scores of the head CLIP2SAM are used.
"""
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
    """feature pyramid, from which the head CLIP2SAM pools regions

    The pyramid has four maps. Each map is (1, `variant.embed`, rows, columns) float32.
    """
    clip: Tensor
    """(1, channels, rows, columns) float32: map of CLIP's image tower, which is pooled over regions"""
    placed: Placed
    path: Path

    @property
    def nbytes(self) -> int:
        """Bytes of all maps. For ovsam_rn50x16: 110 MB, of which the pyramid's first map takes 67 MB."""
        return sum(level.nbytes for level in (self.neck, *self.pyramid, self.clip))


def placed(image: np.ndarray, path: Path, pixels: int) -> Placed:
    """Return the sizes and scales of a photograph (H, W, 3) in a network's input of `pixels` × `pixels`.

    `path` is the mode "evaluation" or "demo". The mode selects the rounding of sizes. Raises OvssError for other modes.
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

    If `path` is "evaluation", the photograph is resized with OpenCV. If `path` is "demo", it is resized with Pillow's
    antialiased filter. The resized photograph is normalised with ImageNet's mean and standard deviation, then
    zero-padded at the right and bottom.
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
    """Return P prompts on the CPU, with points and boxes in pixels of the network's input.

    Coordinates in `points` and `corners` are in pixels of the photograph.

    - `points` (P, n, 2): x and y of n points per prompt. If n is 1, `points` may also be (P, 2).
    - `labels` (P, n) or (P · n,): 1 for a point on the object, 0 for any other point; default: all 1.
    - `corners` (P, 4): a box x0 y0 x1 y1 per prompt.

    Raises OvssError for other shapes, for labels without points, and if `points` and `corners` are both None.
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
        raise OvssError(
            f"points are for {len(places)} prompts, but boxes for {len(rectangles)}. Pass a point and a box per prompt"
        )
    return Prompts.of(places, signs, rectangles)


def _signs(labels: Numbers | None, shape: tuple[int, ...]) -> np.ndarray:
    """Return the labels of all points as an int64 array (P, n). `shape` is (P, n).

    `labels` is (P, n) or (P · n,), and each label is 0 or 1. If `labels` is None, all labels are 1. Raises OvssError
    for other shapes and other values.
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
            f"labels: expected 0 or 1 per point, in an array of shape {shape}, found an array of shape {array.shape}: "
            f"{labels!r}"
        )
    return array.reshape(shape).astype(np.int64)


def scaled_boxes(corners: Numbers, where: Placed, scale: bool = True) -> Tensor:
    """Return boxes (P, 4) float32 from `corners` (P, 4), which are in pixels of the photograph.

    If `scale` is True, the returned boxes are in pixels of the network's input. If `scale` is False, the returned boxes
    stay in pixels of the photograph. Raises OvssError if `corners` has another shape, no rows, or values that are not
    finite.
    """
    array = _array("boxes", corners, (2,), 4)
    return torch.from_numpy(array * np.array(where.scale * 2) if scale else array).float()


def _array(what: str, values: Numbers, dimensions: tuple[int, ...], last: int) -> np.ndarray:
    """Return `values` as a float64 array.

    `dimensions` are the allowed numbers of axes. `last` is the length of the last axis. Raises OvssError for other
    shapes, for empty arrays, and for values that are not finite.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as failure:
        raise OvssError(f"{what}: expected numbers, found {values!r}") from failure
    if array.ndim not in dimensions or array.shape[-1] != last or not array.size or not np.isfinite(array).all():
        shapes = " or ".join("(" + "P, n, "[: 3 * (n - 1)] + f"{last})" for n in dimensions)
        raise OvssError(f"{what}: expected finite numbers of shape {shapes}, found an array of shape {array.shape}")
    return array
