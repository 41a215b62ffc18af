"""Drawn scenes for training. Every batch is a pure function of the seed and the step. No torch is imported."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from ovss_ray.datasets import scenes
from ovss_ray.datasets.scenes.scene import Scene, Thing, draw
from ovss_ray.datasets.scenes.surfaces import SURFACES
from ovss_ray.structures.vocabulary import Vocabulary
from ovss_ray.training.config import MaskTraining

SHORT = 256
"""Shorter side of a training scene, in pixels. The variant san_tiny resizes photographs to the same shorter side"""
WIDTHS = (256, 288, 320, 352)


class DrawnScenes:
    """Drawn scenes for the training of SAN and SCAN: random crops first, whole scenes in the last steps."""

    def __init__(self, config: MaskTraining) -> None:
        self.config = config
        self.vocabulary = Vocabulary.of([*SURFACES, *map(scenes.name, scenes.TRAINED)])

    def batch(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (image, label map) for each scene of a step.

        An image is (H, W, 3) uint8, and a label map is (H, W) uint16.
        """
        config, drawn = self.config, np.random.default_rng([self.config.seed, step, 1])
        crop = config.crop if step < (1 - config.whole) * config.steps else None
        count = config.batch if crop or not config.crop else max(1, config.batch // 4)
        drawn_batch = batch(config.seed, step, count, config.things)
        if crop:
            drawn_batch = [cut(drawn, scene, crop) for scene in drawn_batch]
        return [(scene.image, scenes.label_map(scene, self.vocabulary)) for scene in drawn_batch]


def batch(
    seed: int, step: int, count: int, things: tuple[int, int], unnamed: float = 0.0, width: int | None = None
) -> list[Scene]:
    """Return the `count` scenes of a step, each resized to (256, `width`) pixels.

    The things are drawn from `datasets.scenes.TRAINED`. `things` is the range of the number of things in a scene, end
    exclusive. A thing gets the colour None with probability `unnamed`, and the pattern None with the same probability.
    None stands for a random value that is not part of the thing's name. If `width` is None, one random width in WIDTHS
    is used for the whole batch.
    """
    drawn = np.random.default_rng([seed, step])
    wide = width or int(drawn.choice(WIDTHS))
    return [_scene(drawn, things, unnamed, wide) for _ in range(count)]


def _scene(drawn: np.random.Generator, things: tuple[int, int], unnamed: float, width: int) -> Scene:
    things_drawn = [scenes.TRAINED[i] for i in drawn.integers(0, len(scenes.TRAINED), int(drawn.integers(*things)))]
    height = int(drawn.integers(*scenes.HEIGHTS))
    size = height, round(height * width / SHORT)
    scene = draw(drawn, size, [_estranged(drawn, thing, unnamed) for thing in things_drawn])
    return resized(scene, (SHORT, width))


def _estranged(drawn: np.random.Generator, thing: Thing, unnamed: float) -> Thing:
    """Return `thing`, in which colour and pattern are replaced by None at random.

    None stands for a random value that is not part of the thing's name. The colour is replaced with probability
    `unnamed`. Independently, the pattern is replaced with the same probability.
    """
    if drawn.random() < unnamed:
        thing = replace(thing, colour=None)
    return replace(thing, pattern=None) if drawn.random() < unnamed else thing


def resized(scene: Scene, size: tuple[int, int]) -> Scene:
    """Return a scene resized to `size`, (H, W) in pixels.

    The image is interpolated bilinearly, as in SAN. The regions are resized by nearest neighbour.
    """
    shape = size[1], size[0]
    image = Image.fromarray(scene.image).resize(shape, Image.Resampling.BILINEAR)
    regions = Image.fromarray(scene.regions).resize(shape, Image.Resampling.NEAREST)
    return replace(scene, image=np.asarray(image), regions=np.asarray(regions))


def coverage(regions: np.ndarray, cell: int, count: int) -> np.ndarray:
    """Return the fraction of each cell that each region covers: (count, H / cell, W / cell) float32.

    A cell is a square of `cell` × `cell` pixels. `regions` (H, W) uint8 has the region index of each pixel. In the
    padding of an image, the index is `count` or more. These pixels belong to no region.
    """
    height, width = regions.shape
    cells = regions.reshape(height // cell, cell, width // cell, cell)
    return np.stack([(cells == number).mean((1, 3), dtype=np.float32) for number in range(count)])


def visible(scene: Scene, pixels: int) -> list[int]:
    """Return the indices of regions with at least `pixels` visible pixels."""
    counts = np.bincount(scene.regions.ravel(), minlength=len(scene.contents))
    return [number for number, count in enumerate(counts) if count >= pixels]


def crop(scene: Scene, region: int, side: int) -> np.ndarray:
    """Return a square crop around a region, resized to (side, side, 3) uint8.

    The crop has a margin. Before the crop is resized, its side is 1.2 · s + 8 pixels. s is the longer side of the
    region's bounding box.
    """
    rows, columns = np.nonzero(scene.regions == region)
    centre = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    half = 0.6 * max(np.ptp(rows), np.ptp(columns)) + 4
    box = (centre[1] - half, centre[0] - half, centre[1] + half, centre[0] + half)
    picture = Image.fromarray(scene.image).transform(
        (side, side), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR
    )
    return np.asarray(picture)


def cut(drawn: np.random.Generator, scene: Scene, side: int) -> Scene:
    """Return a random square crop (side, side) of a scene."""
    height, width = scene.regions.shape
    top, left = int(drawn.integers(0, height - side + 1)), int(drawn.integers(0, width - side + 1))
    box = np.s_[top : top + side, left : left + side]
    return replace(scene, image=scene.image[box], regions=scene.regions[box])


def miou(segment: Callable[[np.ndarray, Vocabulary], np.ndarray], count: int) -> dict[str, float]:
    """Return the mIoU in percent on the first `count` validation scenes of scenes:seen and of scenes:held-out.

    `segment` returns the label map (H, W) uint16 of an image (H, W, 3) uint8. The keys `seen` and `held-out` have the
    mIoU over all classes. Keys such as `seen_things` and `seen_surfaces` have the mIoU over things or surfaces only.
    """
    figures: dict[str, float] = {}
    for key in ("seen", "held-out"):
        vocabulary = scenes.BENCHMARKS[key].vocabulary
        k = len(vocabulary)
        cells = np.zeros((k, k), np.int64)
        for number in range(count):
            scene, _ = scenes.of_address(f"{key}/validation/{number}")
            pairs = scenes.label_map(scene, vocabulary).astype(np.int64) * k + segment(scene.image, vocabulary)
            cells += np.bincount(pairs.ravel(), minlength=k * k).reshape(k, k)
        right, truth, predicted = cells.diagonal(), cells.sum(1), cells.sum(0)
        iou = 100 * np.where(truth > 0, right / np.maximum(1, truth + predicted - right), np.nan)
        surfaces = len(scenes.SURFACES)
        parts = {"": iou, "_things": iou[surfaces:], "_surfaces": iou[:surfaces]}
        figures |= {key + part: float(np.nanmean(values)) for part, values in parts.items()}
    return figures
