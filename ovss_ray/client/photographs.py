"""Images that the client sends: files, bytes or arrays."""

import io
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from ovss_ray.errors import OvssError
from ovss_ray.io import files

Photograph = str | Path | bytes | np.ndarray
"""Path, URL or bytes of a JPEG, PNG or WebP, or pixels (H, W, 3) uint8 RGB. Grey and RGBA arrays also work."""
FORMS = "the path of a file or a URL (str or Path), the bytes of a file, or pixels (H, W, 3) uint8 RGB"
"""Accepted types of an image, for error messages"""


def encode(image: Photograph) -> bytes:
    """Return the bytes of an image file. An array is encoded as PNG.

    Raises OvssError if the file cannot be read, or if `image` is none of the types of Photograph.
    """
    if isinstance(image, str | Path):
        return files.read(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, np.ndarray):
        raise OvssError(f"an image must be {FORMS}; got {type(image).__name__}")
    try:
        if image.dtype not in (np.uint8, np.bool_) or not image.size:
            raise ValueError
        Image.fromarray(image).save(file := io.BytesIO(), "PNG", compress_level=1)
    except (TypeError, ValueError) as failure:
        raise OvssError(f"an image must be {FORMS}; got an array {image.shape} {image.dtype}") from failure
    return file.getvalue()


def encode_all(images: Sequence[Photograph]) -> list[bytes]:
    """Return the bytes of several image files.

    Raises OvssError in the cases of `encode`, and if `images` is a single image.
    """
    alone = images.ndim != 4 if isinstance(images, np.ndarray) else not isinstance(images, Sequence)
    if alone or isinstance(images, str | bytes | bytearray | memoryview):
        raise OvssError(f"images must be a list; got a single {type(images).__name__}. Write [image]")
    return [encode(image) for image in images]


def file_name(address: str | Path) -> str:
    """Return the file name in a path or URL. A URL's query is ignored, and a long name is cut to 255 characters."""
    text = str(address)
    return PurePosixPath(urlsplit(text).path if "://" in text else text.replace("\\", "/")).name[:255]
