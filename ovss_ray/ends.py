"""The ends of image files, as a sign of whether they are whole: a download that stopped leaves a file cut short.

Only a hint: a file that seems cut short is then read to the last pixel, which decides.
"""

import struct
import warnings
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ovss_ray import files
from ovss_ray.errors import OvssError

_UNREADABLE = (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, StopIteration, struct.error)
"""What Pillow raises on damaged files, and what a header without the numbers that are needed leads to."""
_TAIL = 16
"""bytes that are read at the end of a file"""
_PARTS = ((273, 279), (324, 325))
"""TIFF 6.0: tags of the offsets of strips and their byte counts; of tiles"""


def reached(uri: str | Path) -> bool:
    """Return whether a file ends as its format demands; False if that cannot be made out. Raises OvssError."""
    system, path = files.locate(uri)
    try:
        with system.open_input_file(path) as file:
            size = file.size()
            head = file.read(min(size, 16))
            file.seek(max(0, size - _TAIL))
            return _complete(file, head, file.read(_TAIL), size)
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be read: {failure.strerror or failure}") from failure


def _complete(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    if head.startswith(b"\x89PNG"):
        return tail.endswith(b"\x00\x00\x00\x00IEND\xaeB`\x82")
    if head.startswith((b"\xff\xd8\xff", b"\x00\x00\x00\x0cjP", b"\xff\x4f\xff\x51")):
        return tail.rstrip(b"\x00").endswith(b"\xff\xd9")
    if head.startswith(b"GIF8"):
        return tail.endswith(b"\x3b")
    if head.startswith(b"RIFF") and len(head) >= 8:
        return size >= struct.unpack_from("<I", head, 4)[0] + 8
    return _pixels_end(file) <= size


def _pixels_end(file: BinaryIO) -> float:
    """The byte behind the last pixel of a TIFF or BMP file; infinite if it cannot be made out, as of a PPM file."""
    file.seek(0)
    try:
        with warnings.catch_warnings(action="ignore"), closing(Image.open(file, formats=("TIFF", "BMP"))) as picture:
            if picture.format == "BMP":
                *_, offset, arguments = picture.tile[0]
                return offset + picture.height * int(arguments[1])  # type: ignore[index]
            tags = picture.tag_v2  # type: ignore[attr-defined]
            offsets, lengths = next(pair for pair in _PARTS if pair[0] in tags)
            return max(map(sum, zip(tags[offsets], tags[lengths], strict=True)))
    except _UNREADABLE:
        return float("inf")
