"""Textures of the ground and background of a drawn scene.

Dimensions: H W pixels of the texture.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ovss_ray.datasets.scenes.noise import Field, noise

BACKGROUNDS = ("sky", "sunset", "forest", "wall")
GROUNDS = ("grass", "sand", "snow", "gravel", "water", "wood")


def _mixed(drawn: np.random.Generator, low: Sequence[float], high: Sequence[float], field: Field) -> np.ndarray:
    """Return a mix (H, W, 3) of two colours, after a small random change of each colour.

    `field` (H, W) is the share of `high`, 0 to 1.
    """
    first, second = (np.array(c, np.float32) + drawn.uniform(-0.04, 0.04, 3).astype(np.float32) for c in (low, high))
    return first + (second - first) * field[..., None]


def _rows(size: tuple[int, int]) -> Field:
    return np.broadcast_to(np.linspace(0, 1, size[0], dtype=np.float32)[:, None], size)


def _sky(drawn: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    clouds = (noise(drawn, "cloud", size) * np.float32(0.5)).clip(0, 1)
    return _mixed(drawn, (0.36, 0.60, 0.92), (0.93, 0.95, 0.98), (clouds + 0.3 * _rows(size)).clip(0, 1))


def _sunset(drawn: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    glow = (1.8 * _rows(size) + np.float32(0.08) * noise(drawn, "cloud", size)).clip(0, 1)
    return _mixed(drawn, (0.42, 0.22, 0.42), (0.99, 0.60, 0.28), glow)


def _forest(drawn: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    leaves = 0.4 + np.float32(0.22) * noise(drawn, "soft", size) + np.float32(0.18) * noise(drawn, "fine", size)
    return _mixed(drawn, (0.04, 0.13, 0.05), (0.22, 0.42, 0.14), leaves.clip(0, 1))


def _wall(drawn: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return the texture of a brick wall. Every second row is shifted by half a brick."""
    brick = int(drawn.integers(10, 17))
    row, column = np.arange(size[0]) + drawn.integers(0, 40), np.arange(size[1]) + drawn.integers(0, 40)
    moved = column[None] + (row // brick % 2 * brick)[:, None]
    mortar = (row % brick < 2)[:, None] | (moved % (2 * brick) < 2)
    bricks = 0.5 + np.float32(0.15) * noise(drawn, "fine", size)
    return _mixed(drawn, (0.48, 0.20, 0.15), (0.74, 0.72, 0.68), np.where(mortar, np.float32(1), bricks * 0.4))


def _grass(drawn: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    blades = 0.5 + np.float32(0.3) * noise(drawn, "white", (size[0] // 5 + 2, size[1]))
    start = int(drawn.integers(0, 5))
    upright = np.repeat(blades, 5, axis=0)[start : start + size[0]]
    return _mixed(drawn, (0.18, 0.40, 0.08), (0.52, 0.72, 0.22), upright.clip(0, 1))


def _sand(drawn: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    grains = 0.5 + np.float32(0.14) * noise(drawn, "white", size) + np.float32(0.15) * noise(drawn, "cloud", size)
    return _mixed(drawn, (0.72, 0.60, 0.40), (0.92, 0.82, 0.62), grains.clip(0, 1))


def _snow(drawn: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    drifts = 0.6 + np.float32(0.25) * noise(drawn, "cloud", size)
    return _mixed(drawn, (0.74, 0.80, 0.90), (0.97, 0.98, 1.00), drifts.clip(0, 1))


def _gravel(drawn: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    stones = 0.5 + np.float32(0.32) * noise(drawn, "fine", size)
    return _mixed(drawn, (0.25, 0.25, 0.26), (0.66, 0.64, 0.62), stones.clip(0, 1))


def _water(drawn: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return the texture of waves: noise that is stretched horizontally by a factor of 4."""
    waves = np.repeat(noise(drawn, "fine", (size[0], size[1] // 4 + 1)), 4, axis=1)[:, : size[1]]
    return _mixed(drawn, (0.02, 0.22, 0.36), (0.30, 0.62, 0.70), (0.4 + np.float32(0.28) * waves).clip(0, 1))


def _wood(drawn: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return the texture of planks: dark gaps, and noise that is stretched horizontally by a factor of 12."""
    plank = int(drawn.integers(24, 44))
    row = np.arange(size[0]) + drawn.integers(0, 40)
    grain = np.repeat(noise(drawn, "fine", (size[0], size[1] // 12 + 2)), 12, axis=1)[:, : size[1]]
    field = np.where((row % plank < 2)[:, None], np.float32(0), 0.6 + np.float32(0.15) * grain)
    return _mixed(drawn, (0.30, 0.18, 0.09), (0.80, 0.58, 0.36), field.clip(0, 1))


SURFACES: Mapping[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "sky": _sky,
    "sunset": _sunset,
    "forest": _forest,
    "wall": _wall,
    "grass": _grass,
    "sand": _sand,
    "snow": _snow,
    "gravel": _gravel,
    "water": _water,
    "wood": _wood,
}
"""Name → function of generator and size (H, W) that returns a texture, (H, W, 3) float32 in about 0..1."""
