"""Detect truncated image files, for example after an interrupted download, from their last bytes.

The result is only a hint. If a file may be truncated, `ovss check` reads the whole file.
"""

import os
import struct
import warnings
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ovss_ray.io import files

_UNREADABLE = (OSError, SyntaxError, ValueError, KeyError, IndexError, TypeError, StopIteration, struct.error)
"""Exceptions of Pillow and struct for damaged files and incomplete headers."""
_TAIL = 16
"""bytes to read at the end of a file."""
_PARTS = ((273, 279), (324, 325))
"""Pairs of TIFF 6.0 tags for byte offsets and byte counts: first of strips, then of tiles."""


def reached(uri: str | Path) -> bool:
    """Return whether an image file ends as its format requires; False for unknown formats.

    Raises OvssError if the file cannot be read.
    """
    with files.opened(uri) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(16)
        file.seek(max(0, size - _TAIL))
        return _complete(file, head, file.read(_TAIL), size)


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
    """Return the byte offset where the pixels of a TIFF or BMP end; infinity if the offset is unknown."""
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
