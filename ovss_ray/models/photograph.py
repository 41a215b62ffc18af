"""Photographs in the form that networks expect, and clear errors for other arrays.

Dimensions: H W pixels of a photograph, h w of the resized one, Hp Wp of the padded one.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovss_ray.models.semantic import Geometry

Size = tuple[int, int]
"""H, W in pixels."""


class Colours(NamedTuple):
    """Mean and standard deviation (3, 1, 1) float32 of training photographs, for RGB in 0..255."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> "Colours":
        """Return Colours from three means and three standard deviations, for R, G and B in 0..255."""
        return cls(torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None])


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of CLIP's training photographs, for RGB in 0..1. CLIP_MEAN is the mean of these photographs."""
CLIP = Colours.of([255 * value for value in CLIP_MEAN], [255 * value for value in CLIP_STD])
"""Mean and standard deviation of CLIP's training photographs, for RGB in 0..255, without rounding"""
IMAGENET = Colours.of((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""Mean and standard deviation of ImageNet's photographs, for RGB in 0..255, as in detectron2's configurations"""


class Lengths(Protocol):
    """Protocol: limits for the sides of a resized photograph, in pixels. A network's Variant has these fields."""

    @property
    def short_side(self) -> int:
        """Short side of a resized photograph, unless the long side would then exceed `long_side`.

        If the long side would exceed `long_side`, the short side becomes shorter than `short_side`.
        """

    @property
    def long_side(self) -> int:
        """Maximum of the long side of a resized photograph."""


class Sides(Lengths, Protocol):
    """Limits for the sides of a network's resized and padded input, in pixels."""

    @property
    def multiple(self) -> int:
        """Divisor of the sides of a padded photograph."""


WANTED = "A photograph is a NumPy array (H, W, 3) of uint8, RGB"


def rgb(image: Any) -> np.ndarray:
    """Return a photograph as (H, W, 3) uint8 RGB. Grey (H, W) or (H, W, 1) becomes RGB; an alpha channel is dropped.

    Raises ValueError for any other shape, dtype or type.
    """
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{_described(image)}. {WANTED}. {_advice(image)}")
    layers = image[..., None] if image.ndim == 2 else image
    if image.dtype != np.uint8 or layers.ndim != 3 or layers.shape[2] not in (1, 3, 4) or not image.size:
        raise ValueError(f"{_described(image)}. {WANTED}. {_array_advice(image)}")
    return np.repeat(layers, 3, 2) if layers.shape[2] == 1 else np.ascontiguousarray(layers[..., :3])


def _described(image: Any) -> str:
    shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape is None:
        return f"the image is a {type(image).__qualname__}, not an array"
    return f"the image is a {type(image).__name__} of shape {tuple(shape)} and dtype {dtype}"


def _advice(image: Any) -> str:
    """Return the sentence that says how to convert `image`, which is not a NumPy array, to a NumPy array."""
    if hasattr(image, "convert"):
        return "For a Pillow image, type numpy.asarray(ImageOps.exif_transpose(image).convert('RGB'))"
    if isinstance(image, str | bytes) or hasattr(image, "__fspath__"):
        return "For a file, type ovss_ray.io.images.decode(pathlib.Path(file).read_bytes(), file)"
    return "For a tensor, type image.cpu().numpy()"


def _array_advice(image: np.ndarray) -> str:
    """Return the sentence that says how to convert an array to the expected shape and dtype."""
    if not image.size:
        return "This array has no pixels"
    if image.ndim == 3 and image.shape[0] in (1, 3, 4) and image.shape[2] not in (1, 3, 4):
        return "The colour channels come first here: type image.transpose(1, 2, 0)"
    if image.ndim == 4:
        return "Pass the images of a batch one by one"
    if image.dtype != np.uint8:
        return "Scale the values to 0 to 255: for floats in 0 to 1, type (image * 255).round().astype(numpy.uint8)"
    return "Grey (H, W) or (H, W, 1), and RGBA (H, W, 4), also work"


def resized_size(height: int, width: int, sides: Lengths) -> Size:
    """Return the size (h, w) of a resized photograph, rounded as by detectron2's ResizeShortestEdge.

    The short side becomes `sides.short_side`. If the long side would then exceed `sides.long_side`, the long side
    becomes `sides.long_side` instead, and the aspect ratio is kept.
    """
    # detectron2's order of float operations, on which the rounding depends
    scale = sides.short_side * 1.0 / min(height, width)
    lengths = [sides.short_side * 1.0 if side == min(height, width) else scale * side for side in (height, width)]
    if max(lengths) > sides.long_side:
        shrink = sides.long_side * 1.0 / max(lengths)
        lengths = [length * shrink for length in lengths]
    rounded = [max(1, int(length + 0.5)) for length in lengths]  # a strip 10,000 times as long as wide keeps one pixel
    return rounded[0], rounded[1]


def padded_size(height: int, width: int, sides: Sides) -> Size:
    """Return the size (Hp, Wp) of the network's input for a photograph of `height` × `width` pixels."""
    padded = [-(-side // sides.multiple) * sides.multiple for side in resized_size(height, width, sides)]
    return padded[0], padded[1]


def geometry(image: np.ndarray, sides: Sides) -> Geometry:
    """Return the sizes of a photograph (H, W, 3): padded, resized, original."""
    size = (image.shape[0], image.shape[1])
    return Geometry(padded_size(*size, sides), resized_size(*size, sides), size)


def alike(sizes: Sequence[Size], most: int) -> Iterator[list[int]]:
    """Yield lists of indices of photographs. All photographs of a list have the same padded size.

    `sizes` has the padded size of each photograph. A list has at most `most` indices.
    """
    groups: dict[Size, list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(size, []).append(index)
    for indices in groups.values():
        yield from (indices[begin : begin + most] for begin in range(0, len(indices), most))


def resized(image: np.ndarray, size: Size) -> Tensor:
    """Return a photograph (H, W, 3) uint8 as a tensor (3, h, w) uint8, resized by PIL's bilinear filter.

    `size` is (h, w).
    """
    height, width = size
    pixels = np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def padded(pixels: Tensor, colours: Colours, size: Size) -> Tensor:
    """Normalise pixels (3, h, w) uint8, and add zeros at the right and bottom. Return (3, Hp, Wp) float32.

    `size` is (Hp, Wp).
    """
    canvas = torch.zeros(3, *size)
    canvas[:, : pixels.shape[1], : pixels.shape[2]].copy_(pixels).sub_(colours.mean).div_(colours.std)
    return canvas
