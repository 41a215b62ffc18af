"""The image of a request: looked at before it is decoded, then decoded as the batch path does. Shapes: H W pixels."""

import numpy as np
from fastapi import HTTPException
from PIL import Image

from ovss_ray import images
from ovss_ray.errors import OvssError
from ovss_ray.limits import Limits

NAME = "the image"
"""What it is called in messages."""
SCANS = 100
"""Scans of a JPEG, at most. Progressive ones have about ten; each costs a walk over all pixels, and takes few bytes."""


def size(data: bytes, limits: Limits) -> tuple[int, int]:
    """H, W of an image of a kind and size that is taken, from its header alone.

    Raises HTTPException: 415 for what its content does not show to be JPEG, PNG or WebP, 413 for too many pixels, 422
    for a damaged file.
    """
    if not taken(data):
        raise HTTPException(415, f"{NAME} is no JPEG, PNG or WebP: it begins with {data[:8]!r}")
    try:
        height, width = images.size_of(data, NAME)
    except OvssError as failure:
        bomb = isinstance(failure.__cause__, Image.DecompressionBombError)
        raise HTTPException(413 if bomb else 422, str(failure)) from failure
    if height * width > limits.pixels or max(height, width) > limits.side:
        raise HTTPException(
            413,
            f"{NAME} has {width} × {height} pixels. At most {limits.pixels:,} are taken, and {limits.side:,} on a side",
        )
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > SCANS:
        raise HTTPException(413, f"{NAME} is a JPEG of more than {SCANS} scans. Save it anew")
    return height, width


def decode(data: bytes, limits: Limits) -> np.ndarray:
    """The image, upright, (H, W, 3) uint8 RGB: as the batch path decodes it. Raises HTTPException 422 if damaged."""
    try:
        return images.decode(data, NAME, cap=limits.pixels)
    except OvssError as failure:
        raise HTTPException(422, str(failure)) from failure


def taken(data: bytes) -> bool:
    """Whether the content begins as a JPEG, PNG or WebP does."""
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return webp or data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))
