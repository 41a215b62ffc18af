"""Photographs as SAN's official training sees them: any benchmark, rescaled, cut, flipped, and changed in colour."""

from functools import lru_cache

import numpy as np
from PIL import Image

from ovss_ray import files
from ovss_ray.columns import IGNORE
from ovss_ray.datasets import benchmark
from ovss_ray.training.config import SanTraining
from ovss_ray.vocabulary import Vocabulary

PADDING = 128
"""What is added to an image that is smaller than the crop."""
LONG_SIDE = 2560
HUE = 25
"""Hue is turned by as much at most, of 256: 36 of 360 degrees."""


class Photographs:
    """The images of a benchmark in an order that is drawn anew for each epoch."""

    def __init__(self, config: SanTraining) -> None:
        self.config = config
        self.benchmark = benchmark.load(config.data)
        self.items = list(self.benchmark.items(files.absolute(config.data_root or ""), config.split or "train"))
        self.vocabulary = Vocabulary.of(self.benchmark.labels)
        self.order = lru_cache(2)(
            lambda epoch: np.random.default_rng([config.seed, epoch]).permutation(len(self.items))
        )

    def batch(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The images (crop, crop, 3) uint8 and label maps (crop, crop) uint16 of a step; IGNORE is not counted."""
        count = self.config.batch
        return [self._one(number) for number in range(step * count, (step + 1) * count)]

    def _one(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, place = divmod(number, len(self.items))
        item = self.items[self.order(epoch)[place]]
        image = self.benchmark.image(item, files.read(item.image))
        truth = self.benchmark.truth(item, files.read(item.truth))
        drawn = np.random.default_rng([self.config.seed, number, 2])
        image, truth = rescaled(image, truth, int(drawn.choice(self.config.short_sides)))
        image, truth = cut(drawn, image, truth, self.config.crop or min(truth.shape))
        image = recoloured(drawn, image)
        return (image[:, ::-1], truth[:, ::-1]) if drawn.random() < 0.5 else (image, truth)


def rescaled(image: np.ndarray, truth: np.ndarray, short: int) -> tuple[np.ndarray, np.ndarray]:
    """Resize so that the shorter side is `short`, but the longer at most LONG_SIDE: bilinear, labels by the nearest."""
    height, width = truth.shape
    scale = min(short / min(height, width), LONG_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return (
        np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)),
        np.asarray(Image.fromarray(truth).resize(size, Image.Resampling.NEAREST)),
    )


def cut(drawn: np.random.Generator, image: np.ndarray, truth: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut out a square at a random place; what is missing on the right and at the bottom is grey and not counted."""
    top, left = (int(drawn.integers(0, max(0, length - side) + 1)) for length in truth.shape)
    image, truth = image[top : top + side, left : left + side], truth[top : top + side, left : left + side]
    missing = [(0, side - length) for length in truth.shape]
    return np.pad(image, [*missing, (0, 0)], constant_values=PADDING), np.pad(truth, missing, constant_values=IGNORE)


def recoloured(drawn: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Change brightness, contrast, saturation and hue, each half of the time (Liu et al., SSD, ECCV 2016, §2.2)."""
    contrast_first, *chosen = drawn.random(5) < 0.5
    changed = image.astype(np.float32)
    if chosen[0]:
        changed += drawn.uniform(-32, 32)
    contrast, saturation = (drawn.uniform(0.5, 1.5) if wanted else 1.0 for wanted in chosen[1:3])
    changed = (changed * (contrast if contrast_first else 1)).clip(0, 255)
    if chosen[2] or chosen[3]:
        hsv = np.array(Image.fromarray(changed.astype(np.uint8)).convert("HSV")).astype(np.int32)
        hsv[..., 1] = (hsv[..., 1] * saturation).clip(0, 255)
        hsv[..., 0] = (hsv[..., 0] + (drawn.integers(-HUE, HUE + 1) if chosen[3] else 0)) % 256
        changed = np.asarray(Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")).astype(np.float32)
    return (changed * (1 if contrast_first else contrast)).clip(0, 255).astype(np.uint8)
