"""Photographs and label maps: from bytes to arrays. Letters in shapes: H W pixels."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from ovss_ray import files
from ovss_ray.errors import OvssError

PIXELS = 100_000_000
"""The most pixels an image may have by default. A small file can claim any size; its header is checked first."""

EXACT = ("PNG", "TIFF", "BMP", "GIF", "PPM")
"""Formats in which a label map comes back as it was saved."""
FORMATS = ("JPEG", "WEBP", "JPEG2000", *EXACT)
"""Formats that are read; the content decides, not the file's name. Pillow has more, one of which starts a program."""

_BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError, TypeError),
    *(ArithmeticError, AssertionError, AttributeError),  # such as of a PNG with a palette that is not there
)
"""What Pillow raises on damaged files, all of which it reads with Python code."""

_ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""
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


def decode(data: bytes, name: str, *, upright: bool = True, cap: int = PIXELS) -> np.ndarray:
    """Decode a photograph to (H, W, 3) uint8 RGB.

    As detectron2's reader does, the EXIF orientation is applied (`upright`) and everything is brought to RGB by
    Pillow's rules: palettes are looked up, grey is repeated, alpha is dropped, CMYK converted. 16-bit grey keeps its
    high byte, as 16-bit RGB does in Pillow, where detectron2 would clip it to white.

    Raises OvssError naming the file if it is no image, cut short or damaged, or has more pixels than `cap`.
    """
    with _opened(io.BytesIO(data), name, FORMATS) as picture:
        _affordable(picture, name, cap)
        _check_png(data)
        picture.load()
        turn = _TURNS.get(_orientation(picture)) if upright else None
        return _rgb(picture if turn is None else picture.transpose(turn), name)


def decode_labels(data: bytes, name: str, *, cap: int = PIXELS) -> np.ndarray:
    """Decode a label map of one number per pixel to (H, W): uint16, or int32 if the file holds 32-bit numbers.

    Palette files yield the indices, not the colours; 1-bit files yield 0 and 1.

    Raises OvssError naming the file if it is in colour or a JPEG, besides the errors of `decode`.
    """
    if data.startswith(b"\xff\xd8\xff"):
        raise OvssError(f"{name}: a JPEG, which does not keep the exact values of labels. Save them as PNG or TIFF")
    with _opened(io.BytesIO(data), name, EXACT) as picture:
        _affordable(picture, name, cap)
        _check_png(data)
        if picture.mode not in ("1", "L", "P") and not picture.mode.startswith("I"):
            raise OvssError(
                f"{name}: a label map holds one whole number per pixel, and this file is {picture.mode}. Colour-coded "
                "labels need a table of their colours: `encoding: rgb` in the YAML of a folder benchmark"
            )
        return np.array(picture).astype(np.int32 if picture.mode == "I" else np.uint16)


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
    with _opened(file, name, FORMATS) as picture:
        width, height = picture.size
        # A TIFF's size is turned by Pillow itself.
        sideways = picture.format != "TIFF" and _orientation(picture) in (5, 6, 7, 8)
        return (width, height) if sideways else (height, width)


def bits(uri: str | Path) -> int:
    """Return how many bits a pixel of an image file has, 24 or more for colours. Raises OvssError."""
    system, path = files.locate(uri)
    try:
        with system.open_input_file(path) as file, _opened(file, str(uri), FORMATS) as picture:
            return {"1": 8, "L": 8, "P": 8, "I": 32, "F": 32}.get(picture.mode, 16 if picture.mode[0] == "I" else 24)
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be read: {failure.strerror or failure}") from failure


@contextmanager
def _opened(file: BinaryIO, name: str, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """Open an image, its pixels not read yet, and turn what Pillow raises until it is closed into OvssError."""
    try:
        with Image.open(file, formats=formats) as picture:
            yield picture
    except UnidentifiedImageError as failure:
        file.seek(0)
        found = _looks_like(file.read(64))
        raise OvssError(f"{name}: not an image that is read here ({found}). Read are {', '.join(formats)}") from failure
    except Image.DecompressionBombError as failure:
        raise OvssError(f"{name}: far more pixels than the cap of {PIXELS:,}: {failure}") from failure
    except _BROKEN as failure:
        raise OvssError(f"{name}: the image is damaged, cut short or of a rare kind: {failure}") from failure


def _looks_like(beginning: bytes) -> str:
    if not beginning:
        return "the file is empty"
    if beginning.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; type `git lfs pull` in its repository"
    return "it looks like a web page" if beginning.lstrip().startswith(b"<") else f"it begins with {beginning[:8]!r}"


def _affordable(picture: Image.Image, name: str, cap: int) -> None:
    if picture.width * picture.height > cap:
        raise OvssError(
            f"{name}: {picture.width} × {picture.height} pixels, more than the cap of {cap:,}. Cut the image into tiles"
        )


def _check_png(data: bytes) -> None:
    """Raise SyntaxError unless the chunks of a PNG have the checksums that they state (its specification, §5.3).

    Pillow does not look at those of the pixels, so that a damaged label map would come out as other labels.
    """
    place, kind = 8 if data.startswith(b"\x89PNG") else len(data), b""
    while place < len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, place)
        (stated,) = struct.unpack_from(">I", data, place + 8 + length)
        if zlib.crc32(memoryview(data)[place + 4 : place + 8 + length]) != stated:
            raise SyntaxError(f"the checksum of its chunk at byte {place} does not fit")
        place += 12 + length


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if there is none or it cannot be made out."""
    try:
        # The base class's method: PNG's own would decode all pixels in search of a late tag.
        return Image.Image.getexif(picture).get(_ORIENTATION, 1)
    except _BROKEN:
        return 1


def _rgb(picture: Image.Image, name: str) -> np.ndarray:
    if picture.mode == "F":
        raise OvssError(f"{name}: floating-point pixels have no fixed range. Save the image with 8 bits per channel")
    if not picture.mode.startswith("I"):
        return np.array(picture.convert("RGB"))
    grey = np.asarray(picture)
    if grey.min() < 0 or grey.max() > 65535:
        raise OvssError(f"{name}: values {grey.min()} to {grey.max()}; at most 16 bits per channel are read")
    return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)
