"""Noise for textures. It is computed in integers, so that it is bit-identical on every machine."""

from collections.abc import Mapping
from functools import cache

import numpy as np

Field = np.ndarray
"""Array with a value per pixel, (h, w) float32."""


@cache
def _atlas() -> Mapping[str, Field]:
    """Return name → noise (800, 1000) float32 with a standard deviation of about 1.

    The names are white, fine, soft and cloud, from rough noise to smooth noise.
    """
    white = np.random.default_rng(0).integers(-1000, 1001, (800, 1000))
    atlas = {"white": white * (1.7 / 1000)}
    for name, radius, gain in (("fine", 1, 5.2e-3), ("soft", 6, 3.8e-2), ("cloud", 24, 1.45e-1)):
        blurred = _box_blur(_box_blur(white, radius), radius)
        atlas[name] = blurred * (gain / (2 * radius + 1) ** 4)
    atlas["cloud"] = 0.8 * atlas["cloud"] + 0.4 * atlas["soft"] + 0.2 * atlas["fine"]
    return {name: field.astype(np.float32) for name, field in atlas.items()}


def _box_blur(field: np.ndarray, radius: int) -> np.ndarray:
    """Return an array of sums: each element is the sum of all elements of `field` in a square around the element.

    The side of the square is 2 · radius + 1. Squares wrap around the edges of `field`.
    """
    for axis in (0, 1):
        field = sum(np.roll(field, shift, axis) for shift in range(-radius, radius + 1))  # type: ignore[assignment]
    return field


def noise(drawn: np.random.Generator, kind: str, size: tuple[int, int]) -> Field:
    """Return a random crop, (h, w) float32, of the noise named `kind`: white, fine, soft or cloud."""
    field = _atlas()[kind]
    top, left = (int(drawn.integers(0, most - side + 1)) for most, side in zip(field.shape, size, strict=True))
    return field[top : top + size[0], left : left + size[1]]
