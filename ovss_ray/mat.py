"""Label maps in MATLAB's files, version 5 (also called 6 and 7, when compressed), and nothing else that those may hold.

scipy.io.loadmat reads them too, but ends the process (bus error) at some damaged files. Source: MathWorks, "MAT-File
Format", Level 5.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from ovss_ray.errors import OvssError
from ovss_ray.images import PIXELS

HEADER = 128
MATRIX, COMPRESSED = 14, 15
"""Types of the elements that a file is made of"""
STORED = {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4"}
"""Type of an element → of the whole numbers in it, which may be smaller ones than the matrix is of"""
CLASSES = {8: np.int8, 9: np.uint8, 10: np.int16, 11: np.uint16, 12: np.int32, 13: np.uint32}
"""Class of a matrix → what it is of"""


def label_map(data: bytes, variable: str, name: str) -> np.ndarray:
    """Read the variable, (H, W) of whole numbers. Raises OvssError naming the file if it is damaged or has none."""
    try:
        if data[124:HEADER] != b"\x00\x01IM":
            raise ValueError("it has not the header of one of version 5, of little-endian numbers")
        for matrix in _matrices(data[HEADER:]):
            found = _read(matrix, variable.encode())
            if found is not None:
                return found
    except (ValueError, struct.error, zlib.error) as failure:
        raise OvssError(f"{name}: cannot be read as a .mat file: {failure}. Unpack or download it again") from failure
    raise OvssError(f"{name}: a .mat file without a {variable} of one whole number per pixel. Is it of this data set?")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each element. Up to four bytes stand in the tag itself; others fill up to eight, but for
    compressed ones."""
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        start = at + 8
        if kind >> 16:
            kind, length, start = kind & 0xFFFF, kind >> 16, at + 4
        if start + length > len(data):
            raise ValueError(f"it is cut short, or damaged at one of its elements of {length} bytes")
        yield kind, data[start : start + length]
        at = max(at + 8, start + length)
        at += 0 if kind == COMPRESSED else -at % 8


def _matrices(data: bytes) -> Iterator[bytes]:
    for kind, content in _elements(data):
        if kind == COMPRESSED:
            yield from (inner for kind, inner in _elements(_inflated(content)) if kind == MATRIX)
        elif kind == MATRIX:
            yield content


def _inflated(content: bytes) -> bytes:
    """Unpack, up to what the largest image allowed may need."""
    stream = zlib.decompressobj()
    inflated = stream.decompress(content, PIXELS * 4)
    if not stream.eof:
        raise ValueError("its compressed part is cut short, or too large")
    return inflated


def _read(matrix: bytes, variable: bytes) -> np.ndarray | None:
    """The matrix if it has this name, two dimensions, and whole numbers."""
    parts = [*_elements(matrix)]
    if len(parts) != 4 or parts[2][1] != variable:
        return None
    (_, flags), (_, shape), _, (kind, values) = parts
    height, width = struct.unpack("<ii", shape)
    kept = CLASSES.get(struct.unpack_from("<I", flags)[0] & 0xFF)
    if kept is None or kind not in STORED:
        return None
    found = np.frombuffer(values, STORED[kind])
    if min(height, width) < 1 or found.size != height * width:
        raise ValueError(f"{found.size} numbers are no {height} × {width} pixels")
    return found.reshape((height, width), order="F").astype(kept, order="C")
