"""Noise to cut pieces out of: computed in whole numbers, so the same to the last bit on every machine."""

from collections.abc import Mapping
from functools import cache

import numpy as np

Field = np.ndarray
"""(h, w) float32."""


@cache
def _atlas() -> Mapping[str, Field]:
    """Noise of four roughnesses, each (800, 1000) float32 with a spread of about one, to cut pieces out of."""
    white = np.random.default_rng(0).integers(-1000, 1001, (800, 1000))
    made = {"white": white * (1.7 / 1000)}
    for name, radius, gain in (("fine", 1, 5.2e-3), ("soft", 6, 3.8e-2), ("cloud", 24, 1.45e-1)):
        blurred = _box_blur(_box_blur(white, radius), radius)
        made[name] = blurred * (gain / (2 * radius + 1) ** 4)
    made["cloud"] = 0.8 * made["cloud"] + 0.4 * made["soft"] + 0.2 * made["fine"]
    return {name: field.astype(np.float32) for name, field in made.items()}


def _box_blur(field: np.ndarray, radius: int) -> np.ndarray:
    """Sum over squares of side 2 · radius + 1, in whole numbers; the field goes on at the other side."""
    for axis in (0, 1):
        field = sum(np.roll(field, shift, axis) for shift in range(-radius, radius + 1))  # type: ignore[assignment]
    return field


def noise(drawn: np.random.Generator, kind: str, size: tuple[int, int]) -> Field:
    """A piece of noise (h, w), spread about one."""
    field = _atlas()[kind]
    top, left = (int(drawn.integers(0, most - side + 1)) for most, side in zip(field.shape, size, strict=True))
    return field[top : top + size[0], left : left + size[1]]
