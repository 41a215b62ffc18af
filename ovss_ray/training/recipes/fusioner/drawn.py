"""Windows of drawn scenes for Fusioner's training, each with several classes."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
from PIL import Image
from torch.nn import functional as F

from ovss_ray.datasets import scenes
from ovss_ray.datasets.scenes.scene import Scene
from ovss_ray.models import photograph
from ovss_ray.models.fusioner.network import Fusioner
from ovss_ray.models.fusioner.windows import PADDING
from ovss_ray.training import scenes as drawn_scenes
from ovss_ray.training.recipes.fusioner.config import Config
from ovss_ray.training.recipes.fusioner.samples import NOT_COUNTED, Window

SMALLEST = 24
"""Minimum number of a region's pixels in a window. A region with fewer pixels adds no class to the window"""


def names() -> list[str]:
    """Return the names of the training classes: all surfaces, and all things of training scenes.

    A thing gives up to four names, with or without its pattern, and with or without its colour. For example, a striped
    red star gives "striped red star", "striped star", "red star" and "star".
    """
    things = [
        scenes.name(replace(thing, colour=thing.colour if colour else None, pattern=thing.pattern if pattern else None))
        for thing in scenes.TRAINED
        for colour, pattern in product((True, False), repeat=2)
    ]
    return [*scenes.SURFACES, *dict.fromkeys(things)]


class Drawn:
    """Windows of scenes that are drawn in memory, each with several classes."""

    def __init__(self, config: Config, model: Fusioner) -> None:
        self.config, self.model = config, model
        self.names = names()

    def batch(self, step: int) -> Iterator[Window]:
        """Yield the windows of a step.

        A class of a window is the name of a region that has at least SMALLEST pixels in the window.
        """
        config = self.config
        drawn = np.random.default_rng([config.seed, step, 1])
        count = -(-config.batch // config.questions)
        for number, scene in enumerate(drawn_scenes.batch(config.seed, step, count, config.things, config.unnamed)):
            yield self.window(drawn, scene, min(config.questions, config.batch - number * config.questions))

    def window(self, drawn: np.random.Generator, scene: Scene, count: int) -> Window:
        """Return a random window of a scene, with `count` samples (see Window.samples).

        If the window has fewer than `count` classes, some classes get several samples. The window may extend beyond
        the right and bottom edges of the scene, by at most Config.overhang pixels.
        """
        side, overhang = self.model.variant.side, self.config.overhang
        height, width = scene.regions.shape
        size = photograph.resized_size(height, width, self.model.variant)
        pixels = self.model.normalised(photograph.resized(scene.image, size).permute(1, 2, 0).numpy())
        regions = np.asarray(Image.fromarray(scene.regions).resize(size[::-1], Image.Resampling.NEAREST))
        top, left = (max(0, int(drawn.integers(-overhang, length - side + overhang + 1))) for length in size)
        box = np.s_[..., top : top + side, left : left + side]
        contents = [scenes.name(content) for content in scene.contents]
        padded = F.pad(pixels, (0, overhang, 0, overhang), value=PADDING)[box]
        inside = np.pad(regions.astype(np.int64), (0, overhang), constant_values=-1)[box]
        visible = np.bincount(inside[inside >= 0], minlength=len(contents))
        names = list(dict.fromkeys(name for name, seen in zip(contents, visible, strict=True) if seen >= SMALLEST))
        classes = np.resize(drawn.permutation(names), count).tolist()
        return Window(padded, [(name, _target(inside, contents, name)) for name in classes])


def _target(regions: np.ndarray, contents: list[str], name: str) -> np.ndarray:
    """Return the target (n, n) uint8 of the class `name` in a window (see Window.samples).

    `contents` has the names of the scene's regions. `regions` (n, n) int64 has the region index of each pixel, or −1
    outside the scene. Outside the scene, the target is NOT_COUNTED.
    """
    words = set(name.split())  # a region named "striped red star" has all words of "red star", so both names fit
    table = np.array([*(words <= set(content.split()) for content in contents), NOT_COUNTED], np.uint8)
    return table[regions]
