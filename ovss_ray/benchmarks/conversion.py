"""Functions that convert image files to the prepared forms of data sets."""

import io

import numpy as np
from PIL import Image

from ovss_ray.io import images


def copy_image(data: bytes, name: str) -> bytes:
    """Return an image file unchanged. Raises OvssError if it cannot be decoded."""
    images.decode(data, name)
    return data


def encode(pixels: np.ndarray, kind: str = "PNG", **options: int) -> bytes:
    """Encode pixels (H, W) or (H, W, 3) as an image file.

    `kind`: Pillow's name of the file format. `options`: options of Pillow for this format, such as quality for JPEG.
    """
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind, **options)
    return sink.getvalue()
