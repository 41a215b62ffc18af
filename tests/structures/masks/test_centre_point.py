"""The centre of a mask: the recorded points of kornia, and a slow cascade with its formula."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovss_ray.structures.masks.centre_point import centre_point


def cascade(mask: np.ndarray, offset: float) -> np.ndarray:
    """kornia's formula in float64: value of each pixel, with offset(i) = ⌊3 i / 2⌋ (0.7.1) or i · 1.5 (0.9.0)."""
    reached = np.pad(~mask, 1, constant_values=True).astype(float)
    kernel = np.exp(-np.hypot(*np.mgrid[-1:2, -1:2]) / 0.35)
    values = np.zeros(reached.shape)
    for i in range(max(reached.shape)):
        padded = np.pad(reached, 1, mode="edge")
        height, width = reached.shape
        total = sum(kernel[y, x] * padded[y : y + height, x : x + width] for y in range(3) for x in range(3))
        with np.errstate(divide="ignore"):
            new = -0.35 * np.log(total)
        new[~np.isfinite(new)] = 0
        if not (new > 0).any():
            break
        values += np.where(new > 0, offset * i // 1 + new, 0)
        reached[new > 0] = 1
    return values[1:-1, 1:-1]


def test_the_points_of_sixty_masks_are_those_of_kornia(shared: Path) -> None:
    golden = np.load(shared / "parity/ovsam/golden_points.npz")
    count, *size = golden["shape"].tolist()
    masks = np.unpackbits(golden["masks"])[: count * np.prod(size)].reshape(count, *size).astype(bool)
    points = np.array([centre_point(mask) for mask in masks])
    assert len(points) == 60
    assert np.array_equal(points, golden["xy_kornia071"])
    assert np.array_equal(points, golden["xy_kornia090"])
    assert not np.array_equal(points, golden["xy_exact"])


@given(st.integers(0, 2**32 - 1), st.integers(1, 24), st.integers(1, 24))
def test_the_point_has_the_largest_value_of_the_slow_cascade(seed: int, height: int, width: int) -> None:
    generator = np.random.default_rng(seed)
    mask = np.kron(generator.random((-(-height // 5), -(-width // 5))) < 0.8, np.ones((5, 5)))[:height, :width] > 0
    mask &= generator.random(mask.shape) < generator.choice([0.9, 0.99, 1.0])
    values = cascade(mask, 1.5).round(9)  # pixels with the same neighbours differ in the last bits
    y, x = np.unravel_index(np.argmax(values), values.shape)
    assert centre_point(mask) == (x, y)


@pytest.mark.parametrize(
    ("mask", "point"),
    [
        (np.zeros((3, 4), bool), (0, 0)),
        (np.ones((1, 1), bool), (0, 0)),
        (np.ones((3, 5), bool), (2, 1)),
        (np.eye(4, dtype=bool)[::-1], (2, 1)),
    ],
)
def test_small_masks(mask: np.ndarray, point: tuple[int, int]) -> None:
    assert centre_point(mask) == point
