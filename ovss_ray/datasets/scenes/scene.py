"""Drawing of scenes: things in front of surfaces, and a map of the drawn regions.

A scene is bit-identical on every machine. So pixels are computed only with integers, basic arithmetic and square roots.
Sines and cosines are rounded to four decimals. Sums of floats have a fixed order in the code.

Dimensions: H W pixels of the scene, h w pixels of a part of the scene.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovss_ray.datasets.scenes.noise import Field, noise
from ovss_ray.datasets.scenes.patterns import PATTERNS, UNNAMED
from ovss_ray.datasets.scenes.shapes import SHAPES
from ovss_ray.datasets.scenes.surfaces import BACKGROUNDS, GROUNDS, SURFACES

COLOURS = {
    "red": (0.82, 0.10, 0.10),
    "orange": (0.98, 0.52, 0.06),
    "yellow": (0.97, 0.90, 0.15),
    "green": (0.12, 0.62, 0.18),
    "blue": (0.12, 0.28, 0.85),
    "purple": (0.50, 0.16, 0.62),
    "pink": (0.99, 0.62, 0.76),
    "brown": (0.42, 0.24, 0.10),
    "white": (0.95, 0.95, 0.94),
    "black": (0.07, 0.07, 0.08),
}
RADIUS = (0.11, 0.24)
"""Range of the radius of a thing, as a fraction of the scene's shorter side."""


@dataclass(frozen=True)
class Thing:
    """Appearance of a thing. If colour or pattern is None, it is random, and not part of the class name."""

    colour: str | None
    pattern: str | None
    shape: str


@dataclass(frozen=True)
class Scene:
    """Image that this package has drawn, and the regions of the image."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB"""
    regions: np.ndarray
    """(H, W) uint8: index into `contents`"""
    contents: tuple[str | Thing, ...]
    """surface or thing of each region; a region may be hidden completely by others"""


def draw(drawn: np.random.Generator, size: tuple[int, int], things: Sequence[Thing]) -> Scene:
    """Draw a scene of two or three surfaces, with `things` in front of them. The first thing is at the back.

    Surfaces, positions, sizes and light are random.
    """
    image, regions, surfaces = _ground(drawn, size)
    places: list[tuple[float, float, float]] = []
    for number, thing in enumerate(things, len(surfaces)):
        radius = float(drawn.uniform(*RADIUS)) * min(size)
        x, y = _place(drawn, size, radius, places)
        places.append((x, y, radius))
        _put(drawn, image, regions, thing, number, (x, y, radius))
    return Scene(_photograph(drawn, image), regions, (*surfaces, *things))


def surfaces_of(drawn: np.random.Generator) -> list[str]:
    """Choose the surfaces of a scene at random, and return their names from top to bottom.

    The first surface is the background, such as "sky". One or two grounds follow, such as "grass". `draw` calls this
    function before all other random choices. A generator with the same seed
    therefore gives the names of a scene that is not drawn.
    """
    return [str(drawn.choice(BACKGROUNDS)), *map(str, drawn.permutation(GROUNDS)[: drawn.integers(1, 3)])]


def _ground(drawn: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Draw the surfaces of a scene: a background, such as "sky", and below the background one or two grounds.

    Return the image (H, W, 3) float32, the regions (H, W) uint8, and the names of the surfaces. The region of a pixel
    is the index of its surface in these names.
    """
    height, width = size
    surfaces = surfaces_of(drawn)
    image = np.zeros((height, width, 3), np.float32)
    regions = np.zeros(size, np.uint8)
    rows = np.arange(height, dtype=np.float32)[:, None]
    edge = np.full(width, -1, np.float32)
    for number, surface in enumerate(surfaces):
        top = max(0, int(edge.min()))
        inside = rows[top:] >= edge
        np.copyto(image[top:], SURFACES[surface](drawn, (height - top, width)), where=inside[..., None])
        np.copyto(regions[top:], np.uint8(number), where=inside)
        fraction = drawn.uniform(0.3, 0.55) if number == 0 else drawn.uniform(0.68, 0.85)
        slant = (np.arange(width, dtype=np.float32) / width - 0.5) * np.float32(drawn.uniform(-0.25, 0.25) * height)
        edge = np.float32(fraction * height) + slant + noise(drawn, "soft", (1, width))[0] * np.float32(0.02 * height)
    return image, regions, surfaces


def _place(
    drawn: np.random.Generator, size: tuple[int, int], radius: float, places: Sequence[tuple[float, float, float]]
) -> tuple[float, float]:
    """Return the one of six random centres (x, y), in pixels, where a new thing hides earlier things least.

    `places`: (x, y, radius) of each earlier thing.
    """
    height, width = size
    margin = 0.7 * radius
    tried = [(float(drawn.uniform(0, width)), float(drawn.uniform(0, height))) for _ in range(6)]
    inner = [(min(max(x, margin), width - margin), min(max(y, margin), height - margin)) for x, y in tried]

    def room(place: tuple[float, float]) -> float:
        gaps = [math.sqrt((place[0] - x) ** 2 + (place[1] - y) ** 2) / (radius + r) for x, y, r in places]
        return min([1.0, *gaps])

    return max(inner, key=room)


def _put(
    drawn: np.random.Generator,
    image: np.ndarray,
    regions: np.ndarray,
    thing: Thing,
    number: int,
    place: tuple[float, float, float],
) -> None:
    """Draw a thing into `image`, and set the pixels of the thing in `regions` to `number`.

    `image`: (H, W, 3) float32. `regions`: (H, W) uint8. `number`: the index of the thing in `Scene.contents`. `place`:
    (x, y, radius) of the thing in pixels.
    """
    x, y, radius = place
    reach = math.ceil(1.25 * radius)
    top, left = max(0, int(y) - reach), max(0, int(x) - reach)
    box = np.s_[top : int(y) + reach + 1, left : int(x) + reach + 1]
    height, width = regions[box].shape
    down = ((np.arange(height, dtype=np.float32) + np.float32(top - y)) / np.float32(radius))[:, None]
    right = ((np.arange(width, dtype=np.float32) + np.float32(left - x)) / np.float32(radius))[None]
    u, v = _turned(drawn, right, down)
    inside = SHAPES[thing.shape](u * np.float32(drawn.uniform(0.88, 1.12)), v)
    main = _colour(drawn, thing.colour)
    period = np.float32(max(drawn.uniform(0.36, 0.55), 9 / radius))
    share = PATTERNS[thing.pattern or str(drawn.choice(UNNAMED))](drawn, *_turned(drawn, right, down), period)
    light = np.float32(drawn.uniform(-0.2, 0.2)) * right + np.float32(drawn.uniform(-0.2, 0.2)) * down
    light = 1 + light + np.float32(0.03) * noise(drawn, "soft", (height, width))
    painted = (main + (_second(drawn, main) - main) * share[..., None]) * light[..., None]
    np.copyto(image[box], painted, where=inside[..., None])
    np.copyto(regions[box], np.uint8(number), where=inside)


def _turned(drawn: np.random.Generator, right: Field, down: Field) -> tuple[Field, Field]:
    """Rotate the pixel coordinates `right` and `down` by a random angle. Return two arrays (h, w)."""
    angle = drawn.uniform(0, 2 * math.pi)
    cos, sin = np.float32(round(math.cos(angle), 4)), np.float32(round(math.sin(angle), 4))
    return cos * right + sin * down, cos * down - sin * right


def _colour(drawn: np.random.Generator, name: str | None) -> np.ndarray:
    """Return RGB, (3,) float32 in about 0..1, similar to the named colour. If `name` is None, the colour is random."""
    if name is None:
        return drawn.random(3).astype(np.float32)
    return np.array(COLOURS[name], np.float32) + drawn.uniform(-0.06, 0.06, 3).astype(np.float32)


def _second(drawn: np.random.Generator, main: np.ndarray) -> np.ndarray:
    """Return the second colour (3,) of a pattern: darker than `main` if `main` is light, else lighter than `main`."""
    strength = np.float32(drawn.uniform(0.55, 0.7))
    light = 0.3 * main[0] + 0.6 * main[1] + 0.1 * main[2] > 0.45
    return main * (1 - strength) if light else main + (1 - main) * strength


def _photograph(drawn: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Convert (H, W, 3) float32 in 0..1 to uint8 with the blur, exposure, tint and noise of a camera."""
    blur = np.float32(drawn.uniform(0, 0.33))
    for axis in (0, 1):
        soft = image.copy()
        ends = [tuple(slice(*part) if a == axis else slice(None) for a in range(2)) for part in ((1, None), (0, -1))]
        soft[ends[0]] += blur * (image[ends[1]] - image[ends[0]])
        soft[ends[1]] += blur * (image[ends[0]] - image[ends[1]])
        image = soft
    tint = (drawn.uniform(0.82, 1.1) * drawn.uniform(0.96, 1.04, 3)).astype(np.float32)
    grain = np.float32(drawn.uniform(0.005, 0.03)) * noise(drawn, "white", image.shape[:2])
    return ((image * tint + grain[..., None]).clip(0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
