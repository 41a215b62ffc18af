"""Made-up populations of images with the class frequencies of ADE20K-150, of which samples are drawn.

A population is a list of confusion cells, so the true value of every metric is known. It has 20,000 images and 150
classes. In a sample of 2,000 images, the commonest class occurs in about 1,200 images and the rarest in about 6. An
image has a difficulty that all of its classes share. Two methods see the same images and difficulties.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ovss_ray.metrics import confusion
from ovss_ray.reports.resampling import Cells

CLASSES = 150
IMAGES = 20_000
PIXELS = 250_000
"""pixels of an image"""


@dataclass(frozen=True, eq=False)
class Population:
    """Cells of many images, sorted by image."""

    cells: Cells
    starts: np.ndarray
    """(images + 1,) int64: index of the first cell of each image"""

    @classmethod
    def of(cls, presence: np.ndarray, areas: np.ndarray, shares: np.ndarray, seed: int) -> "Population":
        """Return the cells of a method: each class of an image has hits, and misses in two other classes.

        All arrays are (images, CLASSES). `presence` bool; `areas` int64 pixels; `shares` float64, of each class's hits.
        """
        generator = np.random.default_rng(seed)
        image, truth = np.nonzero(presence)
        pixels = areas[image, truth]
        hits = np.rint(pixels * shares[image, truth]).astype(np.int64)
        near = np.rint((pixels - hits) * generator.beta(4, 1, len(hits))).astype(np.int64)
        lengths = presence.sum(axis=1)
        first = np.repeat(np.cumsum(lengths) - lengths, lengths)
        neighbour = truth[first + generator.integers(0, lengths[image])]  # perhaps the class itself: then a hit
        rate = np.sqrt(presence.mean(axis=0))
        absent = generator.choice(CLASSES, len(hits), p=rate / rate.sum())
        columns = np.concatenate([truth, neighbour, absent])
        counts = np.concatenate([hits, near, pixels - hits - near])
        images, truths = np.tile(image, 3), np.tile(truth, 3)
        order = np.argsort(images, kind="stable")
        kept = order[counts[order] > 0]
        starts = np.searchsorted(images[kept], np.arange(len(presence) + 1))
        parts = (images[kept], truths[kept], columns[kept], counts[kept])
        return cls(_cells(*parts, _mious(starts, *parts[1:])), starts)

    def sample(self, drawn: np.ndarray) -> Cells:
        """Return the cells of the images `drawn`, (n,) int64, as a set of n images."""
        first, last = self.starts[drawn], self.starts[drawn + 1]
        image = np.repeat(np.arange(len(drawn)), last - first)
        place = np.arange(len(image)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
        where = place + np.repeat(first, last - first)
        cells = self.cells
        return _cells(image, cells.truth[where], cells.prediction[where], cells.pixels[where], cells.image_miou[drawn])


def pair(seed: int, better: float = 0.0) -> tuple[Population, Population]:
    """Return the populations of two methods; the second one's hits are more frequent by `better` logits."""
    generator = np.random.default_rng(seed)
    rank = np.arange(CLASSES)
    frequency = 0.6 * (1 + rank / 6) ** -1.15 * np.exp(-np.maximum(rank - 100, 0) / 30)
    presence = generator.random((IMAGES, CLASSES)) < frequency
    presence[:, 0] |= ~presence.any(axis=1)
    weights = presence * generator.lognormal(0, 1.2, presence.shape)
    areas = np.maximum(np.rint(PIXELS * weights / weights.sum(axis=1, keepdims=True)), presence).astype(np.int64)
    skill = generator.normal(0.5, 1.2, CLASSES) + generator.normal(0, 0.8, (IMAGES, 1))
    shares = (1 / (1 + np.exp(-skill - gain - generator.normal(0, 1, presence.shape))) for gain in (0.0, better))
    first, second = (Population.of(presence, areas, share, seed + k) for k, share in enumerate(shares, 1))
    return first, second


def swapped(first: Cells, second: Cells, where: np.ndarray) -> tuple[Cells, Cells]:
    """Return the cells of two methods after exchanging their images `where`, (n,) bool."""
    return _joined(first, ~where, second, where), _joined(second, ~where, first, where)


def _joined(first: Cells, of_first: np.ndarray, second: Cells, of_second: np.ndarray) -> Cells:
    kept = first, of_first[first.image], second, of_second[second.image]
    image, truth, prediction, pixels = (
        np.concatenate([getattr(kept[0], name)[kept[1]], getattr(kept[2], name)[kept[3]]])
        for name in ("image", "truth", "prediction", "pixels")
    )
    return _cells(image, truth, prediction, pixels, np.where(of_first, first.image_miou, second.image_miou))


def _cells(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, pixels: np.ndarray, mious: np.ndarray
) -> Cells:
    ids = tuple(f"{k:06}" for k in range(len(mious)))
    return Cells(ids, np.arange(len(mious)), image, truth, prediction, pixels, mious, CLASSES)


def _mious(starts: np.ndarray, truth: np.ndarray, prediction: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the images' own mIoU, (images,) float64 percent."""
    offsets = pa.array(starts, pa.int32())
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array(values.astype(kind)))
        for values, kind in zip((truth, prediction, pixels), (np.uint16, np.uint16, np.int64), strict=True)
    ]
    return confusion.per_image(pa.StructArray.from_arrays(lists, fields=list(confusion.schema)))["miou"]
