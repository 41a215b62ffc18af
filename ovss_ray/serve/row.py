"""Requests as rows, with one value per column. The HTTP side of the service sends a row to workers and gets it back."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ovss_ray.structures.vocabulary import Vocabulary

Row = dict[str, Any]
"""Name of a column → its value for one image"""
Kind = Literal["segment", "regions", "prompt", "masks", "words"]
"""Kind of answer.

segment: a label map.
regions: all regions of the image, with class names.
prompt: masks for a prompt, with class names.
masks: masks for a prompt, without class names.
words: class names that a stage finds in the image."""

REQUEST_COLUMNS = ("image_id", "benchmark", "vocabulary", "error", "image", "size")
"""Columns of a request's row. The row has no file and no ground truth, and its `benchmark` is empty."""
PROMPT_COLUMNS = (*REQUEST_COLUMNS, "prompts", "cached")
"""Columns of a prompt request's row. `cached` is True if the image was in the worker's cache."""
FORGOTTEN = "send the image again"
"""Error of a row if the request has only the digest of an image that is no longer cached"""
SPECIMEN = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
"""Test image (H, W, 3) uint8, on which every model is run before the first request"""
NO_IMAGE = np.empty((0, 0, 3), np.uint8)
"""Placeholder (0, 0, 3) uint8 in a row if the client sent only the digest of a cached image"""


class Delayed(Exception):
    """Error for a request that exceeded its time limit after a long wait in a queue. Clients may retry."""


class TooSlow(Exception):
    """Error for a request that exceeded its time limit after a computation of at least half the limit.

    A retry would be too slow again.
    """


def row(image: np.ndarray, vocabulary: Vocabulary) -> Row:
    """Return the row of a request (see REQUEST_COLUMNS) for an image (H, W, 3) uint8 RGB."""
    size = np.array(image.shape[:2], np.int32)
    words = vocabulary.digest
    return {"image_id": "request", "benchmark": "", "vocabulary": words, "error": "", "image": image, "size": size}


def pointed(image: np.ndarray, vocabulary: Vocabulary, question: Mapping[str, Any]) -> Row:
    """Return the row of a prompt request (see PROMPT_COLUMNS).

    `image` is (H, W, 3) uint8 RGB, or NO_IMAGE. `question` has the points and the box of the prompt.
    `question["image"]` is the SHA-256 of the image.
    """
    return {**row(image, vocabulary), "prompts": dict(question), "cached": False}


def outside(question: Mapping[str, Any], image: np.ndarray) -> str:
    """Return an error message if a point or box corner is outside an image (H, W, 3), else ""."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = question.get("box") or (0, 0, 0, 0)
    for x, y in [*question.get("points", ()), (x0, y0), (x1, y1)]:
        if not (0 <= x <= width and 0 <= y <= height):
            return f"point {x:g}, {y:g} is outside the image: {width} × {height} pixels (upright)"
    return ""
