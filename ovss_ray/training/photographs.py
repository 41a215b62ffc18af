"""Photographs with the augmentation of SAN's official training: resizing, random crops, flips, colour jitter."""

from functools import lru_cache

import numpy as np
from PIL import Image

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.listing import logged
from ovss_ray.io import files
from ovss_ray.structures.columns import IGNORE
from ovss_ray.structures.vocabulary import Vocabulary
from ovss_ray.training.config import MaskTraining

PADDING = 128
"""Pixel value, 0 to 255, of the padding of an image that is smaller than the crop"""
LONG_SIDE = 2560
"""Maximum of the longer side of a resized photograph, in pixels"""
HUE = 25
"""Largest change of hue, in 256ths of the colour circle: about 35 degrees"""


class Photographs:
    """The images of a benchmark, shuffled in each epoch."""

    def __init__(self, config: MaskTraining) -> None:
        self.config = config
        self.benchmark = catalog.load(config.data)
        items = self.benchmark.items(files.absolute(config.data_root or ""), config.split or "train")
        self.items = list(logged(items))
        self.vocabulary = Vocabulary.of(self.benchmark.labels)
        self.order = lru_cache(2)(
            lambda epoch: np.random.default_rng([config.seed, epoch]).permutation(len(self.items))
        )

    def batch(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the pairs of a step: an image (n, n, 3) uint8, and its label map (n, n) uint16.

        n is the setting `crop`. If `crop` is None, n is the shorter side of the resized photograph.
        """
        count = self.config.batch
        return [self._example(number) for number in range(step * count, (step + 1) * count)]

    def _example(self, number: int) -> tuple[np.ndarray, np.ndarray]:
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
    """Return image (H, W, 3) uint8 and labels (H, W) uint16, resized to a shorter side of `short` pixels.

    If the longer side would exceed LONG_SIDE, the longer side is resized to LONG_SIDE instead.
    """
    height, width = truth.shape
    scale = min(short / min(height, width), LONG_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return (
        np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)),
        np.asarray(Image.fromarray(truth).resize(size, Image.Resampling.NEAREST)),
    )


def cut(drawn: np.random.Generator, image: np.ndarray, truth: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a random crop of an image (H, W, 3), and the same crop of its labels (H, W).

    The crop has `side` × `side` pixels. If H or W is smaller than `side`, the crop is padded at the bottom or right.
    Padded pixels of the image have the value PADDING. Padded pixels of the labels have the value IGNORE.
    """
    top, left = (int(drawn.integers(0, max(0, length - side) + 1)) for length in truth.shape)
    image, truth = image[top : top + side, left : left + side], truth[top : top + side, left : left + side]
    missing = [(0, side - length) for length in truth.shape]
    return np.pad(image, [*missing, (0, 0)], constant_values=PADDING), np.pad(truth, missing, constant_values=IGNORE)


def recoloured(drawn: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) uint8 with random brightness, contrast, saturation and hue.

    Each of the four properties is changed with probability 0.5, as in SSD (Liu et al., ECCV 2016, §2.2).
    """
    contrast_first, *applied = drawn.random(5) < 0.5
    changed = image.astype(np.float32)
    if applied[0]:
        changed += drawn.uniform(-32, 32)
    contrast, saturation = (drawn.uniform(0.5, 1.5) if applies else 1.0 for applies in applied[1:3])
    changed = (changed * (contrast if contrast_first else 1)).clip(0, 255)
    if applied[2] or applied[3]:
        hsv = np.array(Image.fromarray(changed.astype(np.uint8)).convert("HSV")).astype(np.int32)
        hsv[..., 1] = (hsv[..., 1] * saturation).clip(0, 255)
        hsv[..., 0] = (hsv[..., 0] + (drawn.integers(-HUE, HUE + 1) if applied[3] else 0)) % 256
        changed = np.asarray(Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")).astype(np.float32)
    return (changed * (1 if contrast_first else contrast)).clip(0, 255).astype(np.uint8)
