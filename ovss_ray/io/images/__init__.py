"""Decoders of photographs and label maps, from bytes to arrays. Dimensions: H W pixels."""

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.images.label_files import decode_colours as decode_colours
from ovss_ray.io.images.label_files import decode_labels as decode_labels
from ovss_ray.io.images.pillow_files import PIXELS as PIXELS
from ovss_ray.io.images.pillow_files import opened, orientation, pixels_of

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Value of the EXIF tag Orientation → operation that turns the stored pixels upright (EXIF 2.32)."""
_BITS = dict.fromkeys(("1", "L", "P", "LA", "La", "PA"), 8) | {"I;16": 16, "I;16B": 16, "I;16L": 16, "I": 32, "F": 32}
"""Pillow mode of an image of grey values or palette indices → bits per pixel. Other modes are in colour."""
HEAD = 1 << 16
"""Number of bytes of a remote image that are read first, to find the size in its header."""


def decode(data: bytes, name: str, *, upright: bool = True, cap: int = PIXELS) -> np.ndarray:
    """Decode a photograph to (H, W, 3) uint8 RGB. If `upright`, apply the EXIF orientation, as detectron2 does.

    16-bit grey is reduced to its high byte. Alpha is dropped. Raises OvssError if the image is damaged, or has more
    than `cap` pixels. Also raises OvssError for floating-point pixels, and for grey values outside 0 to 65535.
    """
    with pixels_of(data, name, cap) as picture:
        picture.load()
        turn = _TURNS.get(orientation(picture)) if upright else None
        return _rgb(picture if turn is None else picture.transpose(turn), name)


def size(uri: str | Path) -> tuple[int, int]:
    """Return H, W of the upright photograph, without decoding the photograph.

    A PNG file may store its EXIF orientation after the pixels. This function cannot find such an orientation, and
    returns the size of the stored pixels. In contrast, `decode` finds and applies this orientation.

    Raises OvssError if the file cannot be read.
    """
    if not files.is_local(str(uri)):
        data = files.beginning(uri, HEAD)
        try:
            return size_of(data, str(uri))
        except OvssError:  # the header is longer, or the file is damaged
            return size_of(files.read(uri), str(uri))
    with files.opened(uri) as file:
        return _size(file, str(uri))


def size_of(data: bytes, name: str) -> tuple[int, int]:
    """Return H, W of the upright photograph in the bytes `data`, without decoding the photograph.

    An EXIF orientation that a PNG stores after the pixels is not found (see `size`). Raises OvssError if the header of
    the image cannot be read. `name` is the name of the file in the error message.
    """
    return _size(io.BytesIO(data), name)


def _size(file: BinaryIO, name: str) -> tuple[int, int]:
    with opened(file, name) as picture:
        width, height = picture.size
        # For a TIFF, Pillow already returns the size of the upright image.
        sideways = picture.format != "TIFF" and orientation(picture) in (5, 6, 7, 8)
        return (width, height) if sideways else (height, width)


def bits(uri: str | Path) -> int:
    """Return the bits per pixel: 8, 16 or 32 for grey values and palette indices, 24 for colours.

    Images of 1, 2 or 4 bits count as 8 bits. Raises OvssError if the file cannot be read.
    """
    with files.opened(uri) as file, opened(file, str(uri)) as picture:
        return _BITS.get(picture.mode, 24)


def _rgb(picture: Image.Image, name: str) -> np.ndarray:
    if picture.mode == "F":
        raise OvssError(f"{name}: floating-point pixels are not supported. Save the image with 8 bits per channel")
    if not picture.mode.startswith("I"):
        return np.array(picture.convert("RGB"))
    grey = np.asarray(picture)
    if grey.min() < 0 or grey.max() > 65535:
        raise OvssError(
            f"{name}: found grey values from {grey.min()} to {grey.max()}, outside the range 0 to 65535 of 16-bit "
            "images. Save the image with 8 bits, that is, with grey values from 0 to 255"
        )
    # Pillow's reader of 16-bit RGB also keeps the high byte. In contrast, detectron2 clips 16-bit grey to white.
    return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)
