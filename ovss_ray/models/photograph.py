"""Photographs as networks take them, and a clear error for arrays that are none."""

from typing import Any

import numpy as np

WANTED = "A photograph is a NumPy array (H, W, 3) of uint8, RGB"


def rgb(image: Any) -> np.ndarray:
    """Return a photograph as (H, W, 3) uint8 RGB: grey, (H, W) or (H, W, 1), is repeated, and alpha is dropped.

    Raises ValueError, with shape and dtype, for anything else: its colours would have to be guessed.
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
    """Say how to make an array of what is none."""
    if hasattr(image, "convert"):
        return "Of an image of Pillow, type numpy.asarray(ImageOps.exif_transpose(image).convert('RGB'))"
    if isinstance(image, str | bytes) or hasattr(image, "__fspath__"):
        return "Of a file, type ovss_ray.images.decode(pathlib.Path(file).read_bytes(), file)"
    return "Of a tensor, type image.cpu().numpy()"


def _array_advice(image: np.ndarray) -> str:
    """Say how to bring an array to what is wanted."""
    if not image.size:
        return "This one has no pixels"
    if image.ndim == 3 and image.shape[0] in (1, 3, 4) and image.shape[2] not in (1, 3, 4):
        return "The colours come first here: type image.transpose(1, 2, 0)"
    if image.ndim == 4:
        return "Give the images of a batch one by one"
    if image.dtype != np.uint8:
        return "Bring the values to 0 to 255: of floats in 0 to 1, type (image * 255).round().astype(numpy.uint8)"
    return "Grey (H, W) or (H, W, 1), and RGBA (H, W, 4), are taken too"
