"""Drawn scenes as training sees them: every batch is a pure function of the seed and the step. Numpy and PIL only."""

from dataclasses import replace

import numpy as np
from PIL import Image

from ovss_ray.datasets import scenes
from ovss_ray.drawing.scene import Scene, Thing, draw
from ovss_ray.drawing.surfaces import SURFACES
from ovss_ray.training.config import SanTraining
from ovss_ray.vocabulary import Vocabulary

SHORT = 256
"""Pixels of the shorter side of all scenes here: what san_tiny resizes photographs to."""
WIDTHS = (256, 288, 320, 352)


class DrawnScenes:
    """Scenes for SAN: crops at first, whole ones at the end."""

    def __init__(self, config: SanTraining) -> None:
        self.config = config
        self.vocabulary = Vocabulary.of([*SURFACES, *map(scenes.name, scenes.TRAINED)])

    def batch(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The images (H, W, 3) uint8 and label maps (H, W) uint16 of a step."""
        config, drawn = self.config, np.random.default_rng([self.config.seed, step, 1])
        crop = config.crop if step < (1 - config.whole) * config.steps else None
        count = config.batch if crop or not config.crop else max(1, config.batch // 4)
        made = batch(config.seed, step, count, config.things)
        if crop:
            made = [cut(drawn, scene, crop) for scene in made]
        return [(scene.image, scenes.label_map(scene, self.vocabulary)) for scene in made]


def batch(
    seed: int, step: int, count: int, things: tuple[int, int], unnamed: float = 0.0, width: int | None = None
) -> list[Scene]:
    """Draw the scenes of a step, all of one size (256, width), of things that occur in training.

    They are drawn at other sizes and resized, as photographs are before they are segmented.
    """
    drawn = np.random.default_rng([seed, step])
    wide = width or int(drawn.choice(WIDTHS))
    return [_scene(drawn, things, unnamed, wide) for _ in range(count)]


def _scene(drawn: np.random.Generator, things: tuple[int, int], unnamed: float, width: int) -> Scene:
    chosen = [scenes.TRAINED[i] for i in drawn.integers(0, len(scenes.TRAINED), int(drawn.integers(*things)))]
    height = int(drawn.integers(*scenes.HEIGHTS))
    size = height, round(height * width / SHORT)
    made = draw(drawn, size, [_estranged(drawn, thing, unnamed) for thing in chosen])
    return resized(made, (SHORT, width))


def _estranged(drawn: np.random.Generator, thing: Thing, unnamed: float) -> Thing:
    """Now and then give a thing a colour, a pattern, or both, for which there is no word."""
    if drawn.random() < unnamed:
        thing = replace(thing, colour=None)
    return replace(thing, pattern=None) if drawn.random() < unnamed else thing


def resized(scene: Scene, size: tuple[int, int]) -> Scene:
    """Resize a scene to (H, W): bilinear for the image, as SAN does with photographs, nearest for the regions."""
    shape = size[1], size[0]
    image = Image.fromarray(scene.image).resize(shape, Image.Resampling.BILINEAR)
    regions = Image.fromarray(scene.regions).resize(shape, Image.Resampling.NEAREST)
    return replace(scene, image=np.asarray(image), regions=np.asarray(regions))


def coverage(regions: np.ndarray, cell: int, count: int) -> np.ndarray:
    """How much of each square cell belongs to each region: (H, W) uint8 → (count, H / cell, W / cell) float32."""
    height, width = regions.shape
    cells = regions.reshape(height // cell, cell, width // cell, cell)
    return np.stack([(cells == number).mean((1, 3), dtype=np.float32) for number in range(count)])


def visible(scene: Scene, pixels: int) -> list[int]:
    """The regions that show at least so many pixels."""
    counts = np.bincount(scene.regions.ravel(), minlength=len(scene.contents))
    return [number for number, count in enumerate(counts) if count >= pixels]


def crop(scene: Scene, region: int, side: int) -> np.ndarray:
    """Cut a square around a region, a little larger than it, resized to (side, side, 3) uint8."""
    rows, columns = np.nonzero(scene.regions == region)
    centre = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    half = 0.6 * max(np.ptp(rows), np.ptp(columns)) + 4
    box = (centre[1] - half, centre[0] - half, centre[1] + half, centre[0] + half)
    picture = Image.fromarray(scene.image).transform(
        (side, side), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR
    )
    return np.asarray(picture)


def cut(drawn: np.random.Generator, scene: Scene, side: int) -> Scene:
    """Cut a square (side, side) out of a scene at a random place."""
    height, width = scene.regions.shape
    top, left = int(drawn.integers(0, height - side + 1)), int(drawn.integers(0, width - side + 1))
    box = np.s_[top : top + side, left : left + side]
    return replace(scene, image=scene.image[box], regions=scene.regions[box])
