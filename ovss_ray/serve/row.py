"""What travels between the service's HTTP side and its workers: a request as a row of the pipeline, and back."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ovss_ray.vocabulary import Vocabulary

Row = dict[str, Any]
"""Column → value, of one image"""
Kind = Literal["segment", "regions", "prompt", "masks"]
"""What is asked: a label map, everything with names, what somebody points at with names, or without"""

GIVEN = ("image_id", "vocabulary", "error", "image", "size")
"""The columns that a request fills: no file, no truth, no benchmark."""
POINTED = (*GIVEN, "prompts", "cached")
"""Those of a request that points at something; whether its image was held says the worker in `cached`."""
FORGOTTEN = "send the image again"
"""The error of a row that names an image which is not held any more."""
SPECIMEN = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
"""An image (H, W, 3) uint8 that is sent through the pipeline before the first request is."""
NO_IMAGE = np.empty((0, 0, 3), np.uint8)
"""In the place of an image that the worker is to remember."""


def row(image: np.ndarray, vocabulary: Vocabulary) -> Row:
    """What the pipeline is given of an image (H, W, 3) uint8 RGB: the columns GIVEN."""
    size = np.array(image.shape[:2], np.int32)
    return {"image_id": "request", "vocabulary": vocabulary.digest, "error": "", "image": image, "size": size}


def pointed(image: np.ndarray, vocabulary: Vocabulary, question: Mapping[str, Any]) -> Row:
    """The columns POINTED of an image, or of NO_IMAGE; the question's `image` is what it is remembered by."""
    return {**row(image, vocabulary), "prompts": dict(question), "cached": False}
