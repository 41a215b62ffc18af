"""Two-colour patterns, such as stripes, that are painted on a thing of a drawn scene.

Dimensions: h w pixels of the box around the thing.
"""

from collections.abc import Callable, Mapping

import numpy as np

from ovss_ray.datasets.scenes.noise import Field, noise


def _cell(x: Field, period: np.float32) -> Field:
    """Return the fractional part of x / period, 0 to 1."""
    scaled = x / period
    return scaled - np.floor(scaled)


def _plain(drawn: np.random.Generator, s: Field, t: Field, period: np.float32) -> Field:
    return np.zeros(np.broadcast_shapes(s.shape, t.shape), np.float32)


def _striped(drawn: np.random.Generator, s: Field, t: Field, period: np.float32) -> Field:
    return (_cell(s, period) < np.float32(0.42)).astype(np.float32)


def _spotted(drawn: np.random.Generator, s: Field, t: Field, period: np.float32) -> Field:
    x, y = _cell(s, period) - np.float32(0.5), _cell(t, period) - np.float32(0.5)
    return (x * x + y * y < np.float32(0.105)).astype(np.float32)


def _checked(drawn: np.random.Generator, s: Field, t: Field, period: np.float32) -> Field:
    side = np.float32(2) * period
    return ((_cell(s, side) < np.float32(0.5)) ^ (_cell(t, side) < np.float32(0.5))).astype(np.float32)


def _rings(drawn: np.random.Generator, s: Field, t: Field, period: np.float32) -> Field:
    return (_cell(np.sqrt(s * s + t * t), period) < np.float32(0.5)).astype(np.float32)


def _zigzag(drawn: np.random.Generator, s: Field, t: Field, period: np.float32) -> Field:
    return _striped(drawn, s + abs(_cell(t, np.float32(2) * period) - np.float32(0.5)) * period, t, period)


def _blotched(drawn: np.random.Generator, s: Field, t: Field, period: np.float32) -> Field:
    return (noise(drawn, "soft", s.shape) > np.float32(0.2)).astype(np.float32)


def _halved(drawn: np.random.Generator, s: Field, t: Field, period: np.float32) -> Field:
    return (s > 0).astype(np.float32)


def _shaded(drawn: np.random.Generator, s: Field, t: Field, period: np.float32) -> Field:
    return (np.float32(0.5) + np.float32(0.5) * s).clip(0, 1)


PATTERNS: Mapping[str, Callable[[np.random.Generator, Field, Field, np.float32], Field]] = {
    "plain": _plain,
    "striped": _striped,
    "spotted": _spotted,
    "checked": _checked,
    "rings": _rings,
    "zigzag": _zigzag,
    "blotched": _blotched,
    "halved": _halved,
    "shaded": _shaded,
}
"""Name of a pattern → function that returns the share of the second colour in each pixel.

The shares are an array (h, w) float32 in 0..1. The arguments of the function are:

- a random generator
- two coordinates s and t of each pixel, (h, w) float32
- the period of the pattern

The axes of s and t are perpendicular, and meet in the centre of the thing. The unit of s, t and the period is the
thing's radius.
"""
NAMED = ("plain", "striped", "spotted", "checked")
"""Patterns that occur in class names. The others only make training images more varied."""
UNNAMED = tuple(name for name in PATTERNS if name not in NAMED)
