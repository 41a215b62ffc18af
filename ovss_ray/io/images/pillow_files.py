"""Open image files with Pillow. All errors become OvssError, and the number of pixels is limited."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from ovss_ray.errors import OvssError
from ovss_ray.io import file_kinds

PIXELS = 100_000_000
"""Default maximum number of pixels of an image. Larger images are refused before any pixel is decoded."""

EXACT = ("PNG", "TIFF", "BMP", "GIF", "PPM")
"""Lossless formats, for label maps."""
FORMATS = ("JPEG", "WEBP", "JPEG2000", *EXACT)
"""Accepted formats, detected from the content. Other Pillow formats are excluded (EPS would start Ghostscript)."""

BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError, KeyError, TypeError),
    *(ArithmeticError, AssertionError, AttributeError),  # for example for a palette PNG without a palette
)
"""Exceptions that Pillow raises for damaged files."""

_ORIENTATION = 0x0112
"""EXIF tag of the camera's orientation."""


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raise OvssError if the `with` block fails because an image is damaged, or larger than Pillow accepts."""
    try:
        yield
    except Image.DecompressionBombError as failure:
        raise OvssError(
            f"{name}: far more pixels than the limit of {PIXELS:,} ({failure}). Cut the image into tiles"
        ) from failure
    except BROKEN as failure:
        raise OvssError(
            f"{name}: the image is damaged, truncated or of an unsupported kind: {failure}. Download or export it again"
        ) from failure


@contextmanager
def opened(file: BinaryIO, name: str) -> Iterator[ImageFile.ImageFile]:
    """Open an image for a `with` block. Pixels are read only if the block reads them.

    Raises OvssError for an unsupported or damaged file. Damage may be found on opening, or later in the block.
    """
    with readable(name):
        try:
            picture = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError as failure:
            file.seek(0)
            kind = file_kinds.described(file.read(64))
            raise OvssError(
                f"{name}: not an image of a supported format ({kind}). Supported: {', '.join(FORMATS)}"
            ) from failure
        with picture:
            yield picture


@contextmanager
def pixels_of(data: bytes, name: str, cap: int) -> Iterator[ImageFile.ImageFile]:
    """Open an image to read its pixels. Raises OvssError for more than `cap` pixels and for a wrong PNG checksum."""
    with opened(io.BytesIO(data), name) as picture:
        if picture.width * picture.height > cap:  # a small file may declare a huge image
            raise OvssError(
                f"{name}: {picture.width} × {picture.height} pixels, more than the limit of {cap:,}. "
                "Cut the image into tiles"
            )
        # Pillow ignores checksums of pixel data, so a damaged label map would be read with wrong labels.
        _check_png(data)
        yield picture


def _check_png(data: bytes) -> None:
    """Raise SyntaxError if a chunk of a PNG has a wrong checksum (PNG specification, §5.3)."""
    place, kind = 8 if data.startswith(b"\x89PNG") else len(data), b""
    while place < len(data) and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, place)
        (stated,) = struct.unpack_from(">I", data, place + 8 + length)
        if zlib.crc32(memoryview(data)[place + 4 : place + 8 + length]) != stated:
            raise SyntaxError(f"wrong checksum of the chunk at byte {place}")
        place += 12 + length


def orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if it is missing or damaged."""
    try:
        # The base class's method: PNG's own would decode all pixels in search of a late tag.
        return Image.Image.getexif(picture).get(_ORIENTATION, 1)
    except BROKEN:
        return 1
