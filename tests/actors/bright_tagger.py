"""A tagger for tests, without a network: light and dark, with their shares of the image."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def load(config: Any) -> Callable[[np.ndarray], list[tuple[Any, float]]]:
    def tag(image: np.ndarray) -> list[tuple[Any, float]]:
        light = float((image.mean(2) > 127).mean())
        return [(["light", "bright"], light), ("dark", 1 - light)]

    return tag


def files(config: Any) -> list[Path]:
    return [Path(__file__)]
