"""Readers of simple image formats: PGM, PPM, and BMP with a palette.

Label maps need the stored numbers, but Pillow returns the displayed grey or colour. Dimensions: H W pixels, C channels.
"""

import re
import struct

import numpy as np
from PIL import ImageFile


def is_floating(data: bytes) -> bool:
    """Return whether a file of the PPM family has floating-point numbers."""
    return data.startswith((b"Pf", b"PF"))


def portable(picture: ImageFile.ImageFile, data: bytes) -> np.ndarray:
    """Return the stored samples of a PGM or PPM, (H, W, C) uint16.

    Raises ValueError for any other format, a truncated file, or several images. Also raises ValueError for a sample
    that is negative, or above the maximum sample in the header.
    """
    channels = {b"P2": 1, b"P3": 3, b"P5": 1, b"P6": 3}.get(data[:2])
    if channels is None:
        raise ValueError(f"neither a PGM nor a PPM: it begins with {data[:6]!r}")
    limit, count = greatest(picture, data), picture.width * picture.height * channels
    start = picture.tile[0].offset
    if data[:2] in (b"P2", b"P3"):
        *tokens, rest = [*re.sub(rb"#[^\r\n]*", b"", data[start:]).split(None, count), b""][: count + 1]
        samples = np.array([int(token) for token in tokens])
    else:
        rest = data[start + count * (1 if limit < 256 else 2) :]
        samples = np.frombuffer(data, np.uint8 if limit < 256 else ">u2", count, start)
    if rest.lstrip()[:1] == b"P":
        raise ValueError("several images in one file, expected one label map")
    if len(samples) < count:
        raise ValueError(f"found {len(samples)} samples, expected {count} (height × width × channels)")
    if samples.min() < 0 or samples.max() > limit:
        raise ValueError(f"found samples outside 0 to {limit}, the range in the header")
    return samples.astype(np.uint16).reshape(picture.height, picture.width, channels)


def greatest(picture: ImageFile.ImageFile, data: bytes) -> int:
    """Return the maximum sample, which the header of a PGM or PPM states as maxval. For a PBM, return 1."""
    header = re.sub(rb"#[^\r\n]*", b"", data[: picture.tile[0].offset])
    return 1 if header[:2] in (b"P1", b"P4") else int(header.split()[-1])


def bitmap_bits(data: bytes) -> int:
    """Return the bits per pixel of a BMP."""
    return struct.unpack_from("<H", data, 24 if _is_core(data) else 28)[0]


def _is_core(data: bytes) -> bool:
    """Return whether a BMP has the short header of OS/2."""
    return struct.unpack_from("<I", data, 14) == (12,)


def bitmap(picture: ImageFile.ImageFile, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return indices (H, W) uint8 and palette (n, 3) uint8 RGB of a BMP with a palette.

    Raises ValueError for a truncated file, or a run-length encoded image in black and white.
    """
    (length,) = struct.unpack_from("<I", data, 14)
    compression, colours = (0, 0) if _is_core(data) else struct.unpack_from("<I12xI", data, 30)
    bits, entry = bitmap_bits(data), 3 if _is_core(data) else 4
    palette = np.frombuffer(data, np.uint8, (colours or 1 << bits) * entry, 14 + length).reshape(-1, entry)[:, 2::-1]
    if compression:
        if picture.mode == "1":
            raise ValueError("run-length encoded BMP in black and white is not supported; save it as PNG")
        return np.array(picture), palette
    stride = (picture.width * bits + 31) // 32 * 4
    rows = np.frombuffer(data, np.uint8, stride * picture.height, picture.tile[0].offset)
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)  # the first pixel of a byte is in its high bits
    indices = (rows.reshape(picture.height, stride, 1) >> shifts) & ((1 << bits) - 1)
    indices = indices.reshape(picture.height, -1)[:, : picture.width]
    upside_down = _is_core(data) or data[25] != 0xFF
    return (indices[::-1] if upside_down else indices), palette
