"""Prompted instances for CLIP2SAM: from drawn scenes, or from a benchmark, with the official augmentation.

Dimensions: B samples, H W pixels of an image, n side of the input, R instances of an image, P prompts.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from torch import Tensor

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.listing import logged
from ovss_ray.datasets import scenes
from ovss_ray.datasets.scenes.scene import Scene, Thing
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.models.ovsam import inputs
from ovss_ray.models.sam_layers.prompts import FIRST_CORNER, LAST_CORNER, NOTHING, ON
from ovss_ray.models.sam_layers.sizes import fitted
from ovss_ray.structures.instances import COUNTED
from ovss_ray.structures.masks import regions
from ovss_ray.structures.vocabulary import Vocabulary
from ovss_ray.training import scenes as drawn_scenes
from ovss_ray.training.recipes.clip2sam.config import Config

TRIED = 100
"""Maximum number of photographs to try for a sample. A photograph needs an instance of at least `smallest` pixels"""


@dataclass(frozen=True)
class Sample:
    """An image in the size of the network's input or smaller, and its instances."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB"""
    masks: np.ndarray
    """(R, H, W) bool, R ≥ 1"""
    classes: np.ndarray
    """(R,) int64: class of each instance, as an index in the `vocabulary` of DrawnInstances or Photographs"""


class DrawnInstances:
    """Source of samples from drawn scenes. Each thing in a scene is an instance. Surfaces are not instances."""

    def __init__(self, config: Config, pixels: int) -> None:
        self.config, self.pixels = config, pixels
        self.vocabulary = Vocabulary.of(map(scenes.name, scenes.TRAINED))

    def batch(self, step: int) -> list[Sample]:
        """Return the samples of a step. A scene is left out if no thing in the scene has at least `smallest` pixels."""
        drawn = drawn_scenes.batch(self.config.seed, step, self.config.batch, self.config.things)
        return [sample for scene in drawn if len((sample := self._sample(scene)).masks)]

    def _sample(self, scene: Scene) -> Sample:
        height, width = scene.regions.shape
        scene = drawn_scenes.resized(scene, fitted(height, width, self.pixels))
        visible = drawn_scenes.visible(scene, self.config.smallest)
        numbers = [number for number in visible if isinstance(scene.contents[number], Thing)]
        names = [self.vocabulary.names.index(scenes.name(scene.contents[number])) for number in numbers]
        masks = scene.regions == np.array(numbers, np.uint8)[:, None, None]
        return Sample(scene.image, masks, np.array(names, np.int64))


class Photographs:
    """The photographs of a benchmark with their instances, shuffled in each epoch, with random flip, scale and crop."""

    def __init__(self, config: Config, pixels: int) -> None:
        self.config, self.pixels = config, pixels
        self.benchmark = catalog.load(config.data)
        if self.benchmark.instances is None:
            raise OvssError(f"data={config.data} has no instances. Use a benchmark such as coco:instances_48_17")
        self.items = list(logged(self.benchmark.items(files.absolute(config.data_root or ""), config.split or "train")))
        trained = self.benchmark.groups.get("base", range(len(self.benchmark.labels)))
        names: dict[int, list[str]] = {}
        for of_class, label in zip(self.benchmark.vocabulary.classes, self.benchmark.index, strict=True):
            names.setdefault(label, []).extend(of_class)
        self.vocabulary = Vocabulary.of([names[label] for label in trained])
        self.classes = np.full(1 << 16, -1, np.int64)
        self.classes[list(trained)] = np.arange(len(trained))
        self.order = lru_cache(2)(
            lambda epoch: np.random.default_rng([config.seed, epoch]).permutation(len(self.items))
        )

    def batch(self, step: int) -> list[Sample]:
        """Return the samples of a step. Raises OvssError if TRIED photographs in a row have no usable instance."""
        count = self.config.batch
        return [self._usable(number) for number in range(step * count, (step + 1) * count)]

    def _usable(self, number: int) -> Sample:
        """Return a sample of the photograph at place `number` in the sequence of all epochs.

        With 100 photographs, place 100 is the first photograph of the second epoch. If the photograph has no usable
        instance, return a sample of a random photograph. A usable instance has the status COUNTED, and at least
        `smallest` pixels after the augmentation. The class of a usable instance is one of the trained classes (see
        Config.data).
        """
        drawn = np.random.default_rng([self.config.seed, number, 2])
        for _ in range(TRIED):
            epoch, place = divmod(number, len(self.items))
            sample = self._sample(drawn, int(self.order(epoch)[place]))
            if len(sample.masks):
                return sample
            number = int(drawn.integers(len(self.items)))
        raise OvssError(
            f"data={self.config.data}: tried {TRIED} photographs, and none has an instance of at least "
            f"{self.config.smallest} pixels. Check the settings `data_root` and `split`"
        )

    def _sample(self, drawn: np.random.Generator, place: int) -> Sample:
        item = self.items[place]
        image = self.benchmark.image(item, files.read(item.image))
        assert self.benchmark.instances
        truth = self.benchmark.instances(item, files.read(item.truth))
        used = np.flatnonzero((truth.status == COUNTED) & (self.classes[truth.labels] >= 0))
        masks = regions.masks(truth.boxes, truth.bits, truth.size)[used].view(np.uint8)
        image, masks = augmented(drawn, image, masks, self.pixels, self.config.scales)
        large = masks.sum((1, 2)) >= self.config.smallest
        return Sample(image, masks[large], self.classes[truth.labels[used]][large])


def augmented(
    drawn: np.random.Generator, image: np.ndarray, masks: np.ndarray, pixels: int, scales: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Flip, resize and crop an image (H, W, 3) and masks (R, H, W) uint8 at random. Return image and bool masks.

    The long side is resized to `pixels` times a factor in the range `scales`. The crop is at most `pixels` × `pixels`.
    """
    if drawn.random() < 0.5:
        image, masks = image[:, ::-1], masks[:, :, ::-1]
    height, width = fitted(masks.shape[1], masks.shape[2], round(pixels * drawn.uniform(*scales)))
    top, left = (int(drawn.integers(0, max(0, side - pixels) + 1)) for side in (height, width))
    box = np.s_[top : top + pixels, left : left + pixels]
    image = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_LINEAR)[box]
    cut = [cv2.resize(np.ascontiguousarray(m), (width, height), interpolation=cv2.INTER_NEAREST)[box] for m in masks]
    return image, np.stack(cut).astype(bool) if cut else np.zeros((0, *image.shape[:2]), bool)


def stacked(samples: list[Sample], config: Config, pixels: int, drawn: np.random.Generator) -> dict[str, Tensor]:
    """Return a batch of B samples as a dict. Each sample has `config.prompts` prompts, so P is B · `config.prompts`.

    - `images` (B, 3, n, n) float32, normalised
    - `which` (P,) int64: index of each prompt's sample
    - `points` (P, 2, 2) float32: x, y of two box corners, or of a click and a padding point, in pixels of the input
    - `labels` (P, 2) int64: SAM's label of each point, such as FIRST_CORNER
    - `frames` (P, 4) float32: tight box of each prompt's mask, in pixels of the input
    - `truth` (P, n, n) uint8: mask of each prompt
    - `classes` (P,) int64: class of each prompt
    """
    rows = [_prompts(sample, config, drawn) for sample in samples]
    points, labels, frames, numbers = (np.concatenate(part) for part in zip(*rows, strict=True))
    which = np.repeat(np.arange(len(samples)), config.prompts)
    masks = [samples[i].masks[number].view(np.uint8) for i, number in zip(which, numbers, strict=True)]
    return {
        "images": torch.stack([inputs.padded_input(sample.image, pixels) for sample in samples]),
        "which": torch.from_numpy(which),
        "points": torch.from_numpy(points),
        "labels": torch.from_numpy(labels),
        "frames": torch.from_numpy(frames),
        "truth": torch.from_numpy(np.stack([_padded(mask, pixels) for mask in masks])),
        "classes": torch.from_numpy(np.concatenate([s.classes[n] for s, (*_, n) in zip(samples, rows, strict=True)])),
    }


def _prompts(sample: Sample, config: Config, drawn: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return the random prompts of a sample as four arrays, with one row per prompt:

    - two points per prompt, as in the entry `points` of `stacked`
    - SAM's label of each point, as in the entry `labels` of `stacked`
    - tight box of the mask of the prompted instance, as in the entry `frames` of `stacked`
    - index of the prompted instance in the sample, int64
    """
    count = len(sample.masks)
    numbers = np.resize(drawn.permutation(count), config.prompts)
    tight = np.array([regions.box_of(mask) for mask in sample.masks], np.float32)
    boxed = drawn.random(config.prompts) < config.boxes
    points = [
        tight[number].reshape(2, 2) if box else _point(sample.masks[number], drawn)
        for number, box in zip(numbers, boxed, strict=True)
    ]
    labels = np.where(boxed[:, None], (FIRST_CORNER, LAST_CORNER), (ON, NOTHING))
    return np.stack(points), labels, tight[numbers], numbers


def _point(mask: np.ndarray, drawn: np.random.Generator) -> np.ndarray:
    """Return two points (2, 2) float32: a random pixel of a mask (H, W) bool, and a padding point.

    The first row is x, y of the pixel. The second row is 0, 0.
    """
    rows, columns = np.nonzero(mask)
    place = drawn.integers(len(rows))
    return np.array([[columns[place], rows[place]], [0, 0]], np.float32)


def _padded(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Pad a mask (H, W) with zeros at the right and bottom, to (pixels, pixels)."""
    height, width = mask.shape
    return np.pad(mask, ((0, pixels - height), (0, pixels - width)))
