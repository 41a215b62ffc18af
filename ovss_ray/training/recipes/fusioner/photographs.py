"""Photographs for Fusioner's training, with augmentation. Each photograph is paired with a class outside Config.fold.

The augmentation is that of the official code, with three differences. Resizing uses antialiasing. The variance of the
noise is constant, and not random. An affine map replaces the elastic transform. Pixels from outside the photograph are
black, and count as background.
"""

from collections.abc import Iterator
from functools import lru_cache, partial

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from ovss_ray.benchmarks.labels import look_up, value_table
from ovss_ray.benchmarks.listing import Item
from ovss_ray.datasets import coco20i, pascal5i
from ovss_ray.io import files, images
from ovss_ray.models.fusioner.network import Fusioner
from ovss_ray.models.fusioner.variants import DataSet
from ovss_ray.training.recipes.fusioner.config import Config
from ovss_ray.training.recipes.fusioner.samples import NOT_COUNTED, Window

NOISE = 30**0.5 / 255  # the official variance is random, 10 / 255² to 50 / 255²
"""Standard deviation of the noise, for pixel values in 0..1"""
CHANGES = {"pascal": (0.5, 20), "coco": (0.2, 10)}
"""Data set → (strength of the colour changes, maximum rotation in degrees)

torchvision's ColorJitter changes brightness, contrast, saturation and hue with this strength.
"""


class Photographs:
    """Training windows of photographs. A training list has pairs of a photograph and a class.

    Each epoch uses all pairs in a random order. Each pair gives one random window of the photograph, with the class.
    """

    def __init__(self, config: Config, model: Fusioner) -> None:
        self.config, self.model = config, model
        root = files.absolute(config.data_root or "")
        self.data_set: DataSet = "pascal" if config.data == "pascal5i" else "coco"
        if self.data_set == "pascal":
            items, words = pascal5i.training_items(config.fold, root, config.lists), pascal5i.WORDS
        else:
            items, words = coco20i.training_items(config.fold, root), coco20i.SPELLED
        self.items = list(items)
        self.values = {name: words.names.index(name) for name in dict.fromkeys(item.part for item in self.items)}
        self.names = list(self.values)
        self.highest = len(words) - 1
        self.change = changes(self.data_set, model.variant.side)
        self.order = lru_cache(2)(
            lambda epoch: np.random.default_rng([config.seed, epoch]).permutation(len(self.items))
        )

    def batch(self, step: int) -> Iterator[Window]:
        """Yield the windows of a step, each with one class."""
        count = self.config.batch
        return map(self._window, range(step * count, (step + 1) * count))

    def _window(self, number: int) -> Window:
        epoch, place = divmod(number, len(self.items))
        item = self.items[self.order(epoch)[place]]
        photograph = torch.from_numpy(images.decode(files.read(item.image), item.image)).permute(2, 0, 1)
        target = torch.from_numpy(self.target(item, files.read(item.truth)))
        seed = int(np.random.default_rng([self.config.seed, number, 2]).integers(2**63))
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's global generator
            torch.manual_seed(seed)
            changed, mask = self.change(tv_tensors.Image(photograph), tv_tensors.Mask(target))
        pixels = self.model.normalised(changed.permute(1, 2, 0).numpy(), self.data_set)
        return Window(pixels, [(item.part, mask.numpy())])

    def target(self, item: Item, data: bytes) -> np.ndarray:
        """Return the target (H, W) uint8 of the class of `item`, from the bytes `data` of a label file.

        Window.samples explains targets. Raises OvssError if a pixel is neither a class index nor NOT_COUNTED.
        """
        table = value_table(0, ignore=[NOT_COUNTED])
        table[: self.highest + 1] = 0
        table[self.values[item.part]] = 1
        labels = look_up(images.decode_labels(data, item.truth), table, item.truth)
        return np.minimum(labels, NOT_COUNTED).astype(np.uint8)


def changes(data_set: DataSet, side: int) -> v2.Transform:
    """Return a random transform. It maps a photograph (3, H, W) uint8 and its target (H, W) to side × side pixels."""
    strength, degrees = CHANGES[data_set]
    half = partial(v2.RandomApply, p=0.5)
    turn = partial(v2.RandomAffine, interpolation=v2.InterpolationMode.BILINEAR, fill=0)
    crops = [v2.RandomResizedCrop(side, scale=(0.5, 1.0)), v2.Compose([v2.Resize(side), v2.RandomCrop(side)])]
    further = [
        half([v2.ColorJitter(strength, strength, strength, strength)]),
        half([v2.GaussianNoise(sigma=NOISE)]),
        v2.RandomHorizontalFlip(),
        # in place of the official elastic transform: nearly an affine map, in which three points move by ≤ 20 pixels
        half([turn(9, translate=(0.06, 0.06), scale=(0.85, 1.15), shear=(-9, 9, -9, 9))]),
        half([turn(degrees, translate=(0.1, 0.1), scale=(0.9, 1.1))]),
    ]
    return v2.Compose([v2.RandomChoice(crops), half(further)])
