"""Draw the picture of the README: `uv run python -m examples.picture docs/scenes.png`.

The rows are the first three images of `scenes:held-out`. The columns are the image, the ground truth and the prediction
of `san_tiny`, which chooses among 42 class names.
"""

import sys
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import ovss_ray
from ovss_ray.datasets import scenes
from ovss_ray.datasets.scenes.scene import COLOURS

PANEL = (200, 170)
"""W, H in pixels of one image in the picture."""
GAP, HEADING = 6, 20
"""Pixels between the panels, and above the first row."""
SMALL = 250
"""Pixels: smaller segments get no name."""
TONES = 26
"""Colours of an image in the picture, which keeps the file small."""
SURFACES = {
    **{"sky": "#9cc9ee", "sunset": "#f3b6a0", "forest": "#5d8a66", "wall": "#c9b8a6", "grass": "#9fce8a"},
    **{"sand": "#ead9a8", "snow": "#eef3f7", "gravel": "#a9a9b0", "water": "#6fa8c8", "wood": "#b98f62"},
}


def main(out: str) -> None:
    """Segment the scenes and write the picture as a PNG file."""
    vocabulary = scenes.BENCHMARKS["held-out"].vocabulary
    model = ovss_ray.load_model("san_tiny")
    width, height = PANEL
    picture = Image.new("RGB", (3 * width + 2 * GAP, HEADING + 3 * height + 2 * GAP), "white")
    write = ImageDraw.Draw(picture)
    for column, heading in enumerate(("image", "ground truth", "san_tiny, zero-shot")):
        write.text((column * (width + GAP) + 2, 2), heading, "black", ImageFont.load_default(13))
    for row in range(3):
        scene, _ = scenes.of_address(f"held-out/validation/{row}")
        truth = scenes.label_map(scene, vocabulary)
        prediction = model.segment(scene.image, vocabulary)
        image = Image.fromarray(scene.image).resize(PANEL).quantize(TONES, kmeans=1, dither=Image.Dither.NONE)
        panels = (image.convert("RGB"), *(named(labels, vocabulary.names) for labels in (truth, prediction)))
        for column, panel in enumerate(panels):
            picture.paste(panel, (column * (width + GAP), HEADING + row * (height + GAP)))
    picture.quantize(160, kmeans=1, dither=Image.Dither.NONE).save(out, optimize=True)


def named(labels: np.ndarray, names: tuple[str, ...]) -> Image.Image:
    """Colour a label map (H, W) by class, and write the names of its larger segments where they do not overlap."""
    small = np.asarray(Image.fromarray(labels).resize(PANEL, Image.Resampling.NEAREST))
    panel = Image.fromarray(np.array([colour(name) for name in names], np.uint8)[small])
    write, font = ImageDraw.Draw(panel), ImageFont.load_default(10)
    written: list[tuple[float, float, float]] = []
    for label, x, y in sorted(segments(small), key=lambda segment: segment[0] in range(len(SURFACES))):
        half = font.getlength(names[label]) / 2 + 3
        x = min(max(x, half), PANEL[0] - half)
        if all(abs(x - left) >= half + other or abs(y - top) >= 11 for left, top, other in written):
            write.text((x, y), names[label], "black", font, "mm", stroke_width=2, stroke_fill="white")
            written.append((x, y, half))
    return panel


def segments(labels: np.ndarray) -> Iterator[tuple[int, float, float]]:
    """Yield the label of each larger segment, and its innermost pixel x, y."""
    for label in np.unique(labels).tolist():
        count, numbers, sizes, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))
        for number in range(1, count):
            if sizes[number, cv2.CC_STAT_AREA] >= SMALL:
                inside = np.pad((numbers == number).astype(np.uint8), 1)
                y, x = np.unravel_index(cv2.distanceTransform(inside, cv2.DIST_L2, 5).argmax(), inside.shape)
                yield label, float(x), float(y)


def colour(name: str) -> tuple[int, int, int]:
    """Return the colour of a class, RGB: that of its colour word, or that of its surface."""
    if name in SURFACES:
        red, green, blue = (int(SURFACES[name][start : start + 2], 16) for start in (1, 3, 5))
    else:
        red, green, blue = (round(255 * value) for value in COLOURS[name.split()[1]])
    return red, green, blue


if __name__ == "__main__":
    main(sys.argv[1])
