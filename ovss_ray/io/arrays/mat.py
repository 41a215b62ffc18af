"""Reader of label maps in MATLAB files of format version 5, which MATLAB's `save` writes with -v6 or -v7.

Only integer matrices are read. Source: MathWorks, "MAT-File Format", Level 5.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from ovss_ray.errors import OvssError
from ovss_ray.io.images.pillow_files import PIXELS

HEADER = 128
"""Size of the header in bytes."""
MATRIX, COMPRESSED = 14, 15
"""Type numbers of the elements that are read. A file is a sequence of elements."""
STORED = {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4"}
"""MAT-5 data type → numpy dtype of the stored numbers. This dtype may be narrower than the dtype of the array."""
CLASSES = {8: np.int8, 9: np.uint8, 10: np.int16, 11: np.uint16, 12: np.int32, 13: np.uint32}
"""MAT-5 array class → numpy dtype of the array."""


# not scipy.io.loadmat: some damaged files crash it (bus error)
def label_map(data: bytes, variable: str, name: str) -> np.ndarray:
    """Return the variable `variable` of a file as (H, W) integers, in the variable's own dtype.

    `data` is the content of the file, and `name` is the file's name for messages. Raises OvssError if the file is
    damaged, or has no integer matrix `variable`.
    """
    try:
        if data[124:HEADER] != b"\x00\x01IM":
            raise ValueError("found no header of a little-endian MAT-file of version 5")
        for matrix in _matrices(data[HEADER:]):
            labels = _read(matrix, variable.encode())
            if labels is not None:
                return labels
    except (ValueError, struct.error, zlib.error) as failure:
        raise OvssError(f"{name}: cannot be read as a .mat file: {failure}. Unpack or download it again") from failure
    raise OvssError(
        f"{name}: no variable {variable!r} with one integer per pixel. Check that the file is from this data set"
    )


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type number and the content of each element."""
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        start = at + 8
        if kind >> 16:  # content of up to four bytes is inside the tag
            kind, length, start = kind & 0xFFFF, kind >> 16, at + 4
        if start + length > len(data):
            raise ValueError(f"truncated or damaged at an element of {length} bytes")
        yield kind, data[start : start + length]
        at = max(at + 8, start + length)
        at += 0 if kind == COMPRESSED else -at % 8  # only compressed content is not padded to 8 bytes


def _matrices(data: bytes) -> Iterator[bytes]:
    for kind, content in _elements(data):
        if kind == COMPRESSED:
            yield from (inner for kind, inner in _elements(_inflated(content)) if kind == MATRIX)
        elif kind == MATRIX:
            yield content


def _inflated(content: bytes) -> bytes:
    """Return the decompressed bytes of `content`.

    Raises ValueError if `content` is truncated, or if more than 4 · PIXELS bytes result. PIXELS is the default maximum
    number of pixels of an image. Raises zlib.error if `content` is damaged.
    """
    stream = zlib.decompressobj()
    inflated = stream.decompress(content, PIXELS * 4)
    if not stream.eof:
        raise ValueError("its compressed data are truncated or too large")
    return inflated


def _read(matrix: bytes, variable: bytes) -> np.ndarray | None:
    """Return a matrix as (H, W) integers; None if the matrix is not named `variable`, or has no integer type."""
    parts = [*_elements(matrix)]
    if len(parts) != 4 or parts[2][1] != variable:
        return None
    (_, flags), (_, shape), _, (kind, values) = parts
    height, width = struct.unpack("<ii", shape)
    kept = CLASSES.get(struct.unpack_from("<I", flags)[0] & 0xFF)
    if kept is None or kind not in STORED:
        return None
    numbers = np.frombuffer(values, STORED[kind])
    if min(height, width) < 1 or numbers.size != height * width:
        raise ValueError(f"{numbers.size} numbers do not fill {height} × {width} pixels")
    return numbers.reshape((height, width), order="F").astype(kept, order="C")
