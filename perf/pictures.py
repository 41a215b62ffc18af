"""Photographs and label maps to measure with: real ones where they lie beside the project, else drawn ones."""

from pathlib import Path

import numpy as np
from PIL import Image

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "real"
"""CamVid and others, which are never part of the project."""


def photograph(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A drawn photograph (H, W, 3) uint8: coloured regions with a little noise."""
    drawn = np.random.default_rng(seed)
    colours = drawn.integers(30, 220, (24, 3))
    return np.clip(colours[regions(24, size, seed)] + drawn.normal(0, 6, (*size, 3)), 0, 255).astype(np.uint8)


def regions(labels: int, size: tuple[int, int], seed: int = 0, count: int = 24) -> np.ndarray:
    """A drawn label map (H, W) uint16: the pixels nearest to each of some points, with wavy borders."""
    drawn = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    y, x = y + 8 * np.sin(x / 9), x + 6 * np.cos(y / 7)
    points = drawn.uniform((0, 0), size, (count, 2))
    nearest = np.argmin([(y - py) ** 2 + (x - px) ** 2 for py, px in points], 0)
    return drawn.integers(0, labels, count).astype(np.uint16)[nearest]


def label_maps(labels: int, size: tuple[int, int], count: int = 8) -> tuple[str, list[np.ndarray]]:
    """Where they are from, and coherent label maps (H, W) uint16: CamVid's, resized to the nearest, or drawn ones.

    CamVid's few labels are spread over those asked for, so that the cells lie as far apart as they would.
    """
    files = sorted((REAL / "CamVid" / "valannot").glob("*.png"))
    if not files:
        return "drawn", [regions(labels, size, seed) for seed in range(count)]
    maps = []
    for file in files[:: max(1, len(files) // count)][:count]:
        with Image.open(file) as picture:
            values = np.asarray(picture.resize(size[::-1], Image.Resampling.NEAREST)).astype(np.uint16)
        maps.append(values * np.uint16(max(1, labels // 12)) % np.uint16(labels))
    return "CamVid", maps
