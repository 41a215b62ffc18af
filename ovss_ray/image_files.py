"""Image files: opened by Pillow, with one kind of error and a cap on their pixels."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from ovss_ray import file_kinds
from ovss_ray.errors import OvssError

PIXELS = 100_000_000
"""The most pixels an image may have by default. A small file can claim any size; its header is checked first."""

EXACT = ("PNG", "TIFF", "BMP", "GIF", "PPM")
"""Formats in which a label map comes back as it was saved."""
FORMATS = ("JPEG", "WEBP", "JPEG2000", *EXACT)
"""Formats that are read; the content decides, not the file's name. Pillow has more, one of which starts a program."""

BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError, TypeError),
    *(ArithmeticError, AssertionError, AttributeError),  # such as of a PNG with a palette that is not there
)
"""What Pillow raises on damaged files, all of which it reads with Python code."""

_ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn whatever a damaged image makes Pillow, or a reader of this package, raise into OvssError."""
    try:
        yield
    except Image.DecompressionBombError as failure:
        raise OvssError(f"{name}: far more pixels than the cap of {PIXELS:,}: {failure}") from failure
    except BROKEN as failure:
        raise OvssError(f"{name}: the image is damaged, cut short or of a rare kind: {failure}") from failure


@contextmanager
def opened(file: BinaryIO, name: str) -> Iterator[ImageFile.ImageFile]:
    """Open an image, its pixels not read yet. Raises OvssError for whatever fails until it is closed."""
    with readable(name):
        try:
            picture = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError as failure:
            file.seek(0)
            kind = file_kinds.described(file.read(64))
            raise OvssError(
                f"{name}: not an image that is read here ({kind}). Read are {', '.join(FORMATS)}"
            ) from failure
        with picture:
            yield picture


@contextmanager
def pixels_of(data: bytes, name: str, cap: int) -> Iterator[ImageFile.ImageFile]:
    """Open an image whose pixels are to be read. Raises OvssError for more than `cap`, or a PNG with a false sum."""
    with opened(io.BytesIO(data), name) as picture:
        if picture.width * picture.height > cap:
            raise OvssError(
                f"{name}: {picture.width} × {picture.height} pixels, more than the cap of {cap:,}. "
                "Cut the image into tiles"
            )
        _check_png(data)
        yield picture


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


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) if there is none or it cannot be made out."""
    try:
        # The base class's method: PNG's own would decode all pixels in search of a late tag.
        return Image.Image.getexif(picture).get(_ORIENTATION, 1)
    except BROKEN:
        return 1
