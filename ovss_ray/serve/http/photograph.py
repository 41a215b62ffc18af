"""The image of a request. The header of the image file is checked before the pixels are decoded.

The pixels are decoded by the same function as in batch runs.

Dimensions: H height and W width in pixels.
"""

import hashlib

import numpy as np
from fastapi import HTTPException
from PIL import Image

from ovss_ray.config.limits import Limits
from ovss_ray.errors import OvssError
from ovss_ray.io import images

NAME = "the image"
"""Phrase for the image of a request in error messages"""
SCANS = 100
"""Maximum number of scans in a JPEG, since each scan costs a pass over all pixels. Progressive JPEGs have about ten"""


def size(data: bytes, limits: Limits) -> tuple[int, int]:
    """Return height and width of an image in pixels, from its header alone.

    Raises HTTPException 415 if the file is not a JPEG, PNG or WebP. Raises HTTPException 413 for too many pixels or
    scans, and 422 for a damaged header.
    """
    if not taken(data):
        raise HTTPException(415, f"the image is not a JPEG, PNG or WebP: its file begins with {data[:8]!r}")
    try:
        height, width = images.size_of(data, NAME)
    except OvssError as failure:
        bomb = isinstance(failure.__cause__, Image.DecompressionBombError)
        raise HTTPException(413 if bomb else 422, str(failure)) from failure
    if height * width > limits.pixels or max(height, width) > limits.side:
        raise HTTPException(
            413,
            f"the image is too large: {width} × {height} pixels; the limit is {limits.pixels:,} pixels in all, and "
            f"{limits.side:,} per side. Send a smaller image",
        )
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > SCANS:
        raise HTTPException(413, f"the image is a JPEG with more than {SCANS} scans. Save it as a baseline JPEG")
    return height, width


def decode(data: bytes, limits: Limits) -> np.ndarray:
    """Return the pixels of an image file, (H, W, 3) uint8 RGB. The EXIF orientation is applied.

    Raises HTTPException 422 for a damaged file, or for more than `limits.pixels` pixels.
    """
    try:
        return images.decode(data, NAME, cap=limits.pixels)
    except OvssError as failure:
        raise HTTPException(422, str(failure)) from failure


def taken(data: bytes) -> bool:
    """Return whether the bytes of a file start with the signature of a JPEG, PNG or WebP."""
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return webp or data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))


def named(data: bytes, digest: str | None) -> str:
    """Return the sha256 of a prompt's image: `digest` if the request has it, else the sha256 of `data`.

    Raises HTTPException 422 if the request has both `data` and `digest`, or neither.
    """
    if bool(data) == (digest is not None):
        raise HTTPException(
            422, "send exactly one of the two: an image, or the field `image` with the sha256 of an earlier image"
        )
    return digest or sha256(data)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
