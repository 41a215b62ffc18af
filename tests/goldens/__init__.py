"""What the writers of goldens share: the order that they get, the words, an image, and how arrays are saved."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ovss_ray.datasets import scenes

SEED = 0
NAMES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian", "bicyclist"),
    *("bus", "traffic light", "road marking", "wall, brick", "Dog", "sunglasses", "shopping bag", "window-blind"),
    "person's hat",
)
"""The vocabulary v20: capitals, commas, hyphens and apostrophes are in it."""
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Order:
    """What the command line asks for."""

    variant: str
    out: Path
    """the folder parity/"""
    checkout: Path | None
    photographs: Path | None
    """a folder with the photographs of `PHOTOGRAPHS`"""


def numpy(value: Tensor) -> np.ndarray:
    return value.detach().float().numpy()


def saved(path: Path, arrays: Arrays) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def drawn() -> np.ndarray:
    """Return a drawn scene (256, 256, 3) uint8, the same on every machine."""
    return scenes.of_address("all/validation/0")[0].image
