"""Shapes of drawn things, such as a ring or a star. Coordinates are in units of the thing's radius.

Dimensions: h w pixels of the box around the thing.
"""

from collections.abc import Callable, Mapping

import numpy as np

Field = np.ndarray
"""Coordinate u or v of each pixel, (h, w) float32."""

_NORMALS = [(0.0, 1.0), (0.951057, 0.309017), (0.587785, -0.809017), (-0.587785, -0.809017), (-0.951057, 0.309017)]
"""Unit normals (x, y) of the five lines on which the edges of a five-pointed star lie."""


def _ball(u: Field, v: Field) -> np.ndarray:
    return u * u + v * v < np.float32(0.81)


def _ring(u: Field, v: Field) -> np.ndarray:
    radius = u * u + v * v
    return (radius < 1) & (radius > np.float32(0.36))


def _bar(u: Field, v: Field) -> np.ndarray:
    return (abs(u) < 1) & (abs(v) < np.float32(0.34))


def _triangle(u: Field, v: Field) -> np.ndarray:
    return (v > np.float32(-0.5)) & (np.float32(1.732051) * abs(u) + v < 1)


def _star(u: Field, v: Field) -> np.ndarray:
    """Return the pixels inside a star, (h, w) bool."""
    # A pixel is inside the star if it is on the inner side of at least four of the five lines.
    behind = sum((np.float32(x) * u + np.float32(y) * v < np.float32(0.34)).astype(np.uint8) for x, y in _NORMALS)
    return (behind >= 4) & (u * u + v * v < np.float32(1.2))


def _cross(u: Field, v: Field) -> np.ndarray:
    along, across = np.maximum(abs(u), abs(v)), np.minimum(abs(u), abs(v))
    return (along < 1) & (across < np.float32(0.3))


def _moon(u: Field, v: Field) -> np.ndarray:
    bitten = u - np.float32(0.5)
    return (u * u + v * v < 1) & (bitten * bitten + v * v > np.float32(0.68))


def _bow(u: Field, v: Field) -> np.ndarray:
    return (abs(u) < np.float32(0.87)) & (abs(v) < np.float32(0.75) * abs(u) + np.float32(0.05))


SHAPES: Mapping[str, Callable[[Field, Field], np.ndarray]] = {
    "ball": _ball,
    "ring": _ring,
    "bar": _bar,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "moon": _moon,
    "bow": _bow,
}
"""Name of a shape → function that returns the pixels inside the shape, (h, w) bool.

The arguments of the function are two coordinates u and v of each pixel, (h, w) float32. The axes of u and v are
perpendicular, and meet in the centre of the thing.
"""
