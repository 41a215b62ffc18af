"""Photographs and label maps: from bytes to arrays. Letters in shapes: H W pixels."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ovss_ray import files
from ovss_ray.errors import OvssError
from ovss_ray.image_files import PIXELS as PIXELS
from ovss_ray.image_files import opened, orientation, pixels_of
from ovss_ray.label_files import decode_colours as decode_colours
from ovss_ray.label_files import decode_labels as decode_labels

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF 2.32, tag Orientation: value → what turns the stored pixels upright."""
_BITS = dict.fromkeys(("1", "L", "P", "LA", "La", "PA"), 8) | {"I;16": 16, "I;16B": 16, "I;16L": 16, "I": 32, "F": 32}
"""Mode of Pillow → bits of a label; all other modes are colours."""


def decode(data: bytes, name: str, *, upright: bool = True, cap: int = PIXELS) -> np.ndarray:
    """Decode a photograph to (H, W, 3) uint8 RGB.

    As detectron2's reader does, the EXIF orientation is applied (`upright`) and everything is brought to RGB by
    Pillow's rules: palettes are looked up, grey is repeated, alpha is dropped, CMYK converted. 16-bit grey keeps its
    high byte, as 16-bit RGB does in Pillow, where detectron2 would clip it to white.

    Raises OvssError naming the file if it is no image, cut short or damaged, or has more pixels than `cap`.
    """
    with pixels_of(data, name, cap) as picture:
        picture.load()
        turn = _TURNS.get(orientation(picture)) if upright else None
        return _rgb(picture if turn is None else picture.transpose(turn), name)


def size(uri: str | Path) -> tuple[int, int]:
    """Return H, W of a photograph as `decode` would give it, from the beginning of its file.

    An orientation that a PNG states after its pixels is not seen. Raises OvssError if it cannot be read.
    """
    system, path = files.locate(uri)
    try:
        with system.open_input_file(path) as file:
            return _size(file, str(uri))
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be read: {failure.strerror or failure}") from failure


def size_of(data: bytes, name: str) -> tuple[int, int]:
    """Return H, W of a photograph whose bytes are at hand; see `size`. Nothing is decoded."""
    return _size(io.BytesIO(data), name)


def _size(file: BinaryIO, name: str) -> tuple[int, int]:
    with opened(file, name) as picture:
        width, height = picture.size
        # A TIFF's size is turned by Pillow itself.
        sideways = picture.format != "TIFF" and orientation(picture) in (5, 6, 7, 8)
        return (width, height) if sideways else (height, width)


def bits(uri: str | Path) -> int:
    """Return the bits of a pixel as `decode_labels` gives it: 8, 16 or 32; 24 for colours. Raises OvssError.

    Files of fewer bits count as 8: programs choose those by the values that occur. Equal channels are not noticed here.
    """
    system, path = files.locate(uri)
    try:
        with system.open_input_file(path) as file, opened(file, str(uri)) as picture:
            return _BITS.get(picture.mode, 24)
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be read: {failure.strerror or failure}") from failure


def _rgb(picture: Image.Image, name: str) -> np.ndarray:
    if picture.mode == "F":
        raise OvssError(f"{name}: floating-point pixels have no fixed range. Save the image with 8 bits per channel")
    if not picture.mode.startswith("I"):
        return np.array(picture.convert("RGB"))
    grey = np.asarray(picture)
    if grey.min() < 0 or grey.max() > 65535:
        raise OvssError(f"{name}: values {grey.min()} to {grey.max()}; at most 16 bits per channel are read")
    return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)
