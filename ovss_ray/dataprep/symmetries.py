"""Functions that mirror, turn or transpose arrays. They restore label maps that were mirrored, turned or transposed."""

from collections.abc import Callable

import numpy as np

Symmetry = Callable[[np.ndarray], np.ndarray]
UPRIGHT: dict[int, Symmetry] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.T, 2),
    8: lambda a: np.rot90(a),
}
"""EXIF orientation → symmetry that turns an array (H, W) of stored pixels upright."""
STORED = "drawn on the stored pixels, while the photographs are turned upright by their EXIF orientation"
"""Description of an error: labels fit the stored pixels of a photograph, but not the upright photograph."""
MIRRORED: dict[str, Symmetry] = {
    "flipped left to right": UPRIGHT[2],
    "flipped upside down": UPRIGHT[4],
    "turned by 180°": UPRIGHT[3],
    "transposed (rows and columns are swapped)": UPRIGHT[5],
    "turned by 90° to the left": UPRIGHT[6],
    "turned by 90° to the right": UPRIGHT[8],
    "transposed and turned by 180°": UPRIGHT[7],
}
"""Description of an error in label files → symmetry that undoes the error."""
