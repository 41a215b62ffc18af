"""Answers of /v1/segment. An answer lists the classes found in an image, and contains their masks or a PNG.

Dimensions: H height and W width in pixels, R regions, K classes.
"""

import base64
import colorsys
import io
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import BaseModel, Field

from ovss_ray.structures.columns import NONE
from ovss_ray.structures.masks import polygons as outlines
from ovss_ray.structures.masks import rle
from ovss_ray.structures.masks.regions import Masks, named
from ovss_ray.structures.vocabulary import Vocabulary

Output = Literal["png", "rle", "polygons", "overlay"]
"""Format of the masks: a PNG of class indices, COCO's run-length encoding, polygons, or a colour overlay"""
PALETTE_CLASSES = 255
"""Maximum number of classes in an 8-bit PNG with a palette. More classes need a 16-bit PNG"""
OVERLAY_WEIGHT = 0.5
"""Opacity of the classes' colours in an overlay, 0 to 1"""


class Runs(BaseModel):
    """A mask in COCO's compressed run-length encoding, as pycocotools decodes it."""

    size: tuple[int, int] = Field(description="height and width")
    counts: str


class Shape(BaseModel):
    """A connected component of a mask: an outline and holes, as polygons along pixel edges.

    The filled outline without the holes is exactly the component.
    """

    outline: outlines.Ring = Field(description="x and y of its corners; the last joins the first")
    holes: list[outlines.Ring] = Field(description="rings in the opposite direction")


class Found(BaseModel):
    """A class that was found in the image."""

    index: int = Field(description="position in the requested classes, from 0")
    name: str
    pixels: int
    area: float = Field(description="fraction of the image, 0 to 1")
    score: float | None = Field(
        default=None,
        description="mean probability of the class's regions, weighted by pixels; null if the method has none",
    )
    rle: Runs | None = None
    polygons: list[Shape] | None = None


class Word(BaseModel):
    """A class name that the model found in the image, or that the request added."""

    name: str
    synonyms: list[str] = Field(description="further names")
    source: str = Field(description="origin of the word, such as `tags san_tiny`, or `request`")
    score: float | None = Field(description="score by its source, such as a probability; null if there is none")


class Answer(BaseModel):
    """The classes that were found in an image."""

    height: int
    width: int
    classes: list[Found] = Field(description="classes that were found, in the order of the request")
    unnamed: int = Field(description="pixels without a class")
    none: int = Field(description="value of pixels without a class in `png`")
    png: str | None = Field(default=None, description="base64: a PNG whose pixels are class indices")
    overlay: str | None = Field(default=None, description="base64: a PNG of the classes' colours over the image")
    words: list[Word] | None = Field(
        default=None, description="words that the model has found in the image, if the request did not name the classes"
    )
    seconds: dict[str, float] = Field(description="seconds per stage")


def build(row: Mapping[str, Any], vocabulary: Vocabulary, output: Output) -> Answer:
    """Return the answer for a row that a model has computed.

    The answer has a mask of each class if `output` is "rle" or "polygons". The answer has no PNG (see `with_picture`).
    """
    labels: np.ndarray = row["prediction"]
    counts = np.bincount(labels.ravel(), minlength=NONE + 1)
    present = np.flatnonzero(counts[: len(vocabulary)]).tolist()
    scores = _scores(row, labels) if "scores" in row else {}
    masks = rle.encode(labels, present) if output == "rle" else []
    shapes = outlines.trace(labels, present) if output == "polygons" else {}
    height, width = labels.shape
    classes = [
        Found(
            index=k,
            name=vocabulary.names[k],
            pixels=int(counts[k]),
            area=int(counts[k]) / labels.size,
            score=scores.get(k),
            rle=Runs(size=(height, width), counts=masks[i]) if masks else None,
            polygons=[Shape(outline=ring.outline, holes=ring.holes) for ring in shapes[k]] if shapes else None,
        )
        for i, k in enumerate(present)
    ]
    none = NONE if len(vocabulary) > PALETTE_CLASSES else PALETTE_CLASSES
    unnamed = int(counts[NONE])
    return Answer(height=height, width=width, classes=classes, unnamed=unnamed, none=none, seconds=row["seconds"])


def picture(row: Mapping[str, Any], vocabulary: Vocabulary, image: np.ndarray, output: Output, note: str = "") -> bytes:
    """Return a PNG file that shows the predicted classes of an image (H, W, 3) uint8 RGB.

    If `output` is "png", the pixels are class indices. Otherwise, the classes' colours are blended with the image.
    `note`: content of the text chunk "ovss_ray" of the PNG file. If `note` is empty, the file has no such chunk.
    """
    labels = row["prediction"]
    drawn = indexed(labels, vocabulary) if output == "png" else overlay(labels, vocabulary, image)
    text = PngInfo()
    if note:
        text.add_itxt("ovss_ray", note)
    drawn.save(file := io.BytesIO(), "PNG", compress_level=1, pnginfo=text)
    return file.getvalue()


def with_picture(answer: Answer, output: Output, png: bytes) -> Answer:
    """Return a copy of the answer that contains `png`, encoded in base64, in the field named by `output`."""
    return answer.model_copy(update={output: base64.b64encode(png).decode()})


def _scores(row: Mapping[str, Any], labels: np.ndarray) -> dict[int, float]:
    """Return class index → weighted mean of the probabilities of the class's regions.

    `labels`: label map (H, W) uint16. A region belongs to its most probable class. The weight of a region is the number
    of the region's pixels that have the region's class in `labels`. If all weights of a class are 0, the result does
    not contain the class.
    """
    called, sure = named(row["scores"])
    if "merged" in row:
        called = row["merged"][called]
    sums: dict[int, list[float]] = {}
    for (x0, y0, x1, y1), mask, k, score in zip(
        row["boxes"].tolist(), Masks(row["boxes"], row["bits"]), called.tolist(), sure.tolist(), strict=True
    ):
        pixels = int((labels[y0:y1, x0:x1][mask] == k).sum())
        total = sums.setdefault(k, [0.0, 0.0])
        total[0] += score * pixels
        total[1] += pixels
    return {k: score / pixels for k, (score, pixels) in sums.items() if pixels}


def indexed(labels: np.ndarray, vocabulary: Vocabulary) -> Image.Image:
    """Return the label map (H, W) uint16 as an image of class indices.

    If the vocabulary has at most 255 classes (PALETTE_CLASSES), the image has 8 bits per pixel and a palette.
    Otherwise, the image has 16 bits per pixel.
    """
    if len(vocabulary) > PALETTE_CLASSES:
        return Image.fromarray(np.ascontiguousarray(labels))
    image = Image.fromarray(np.where(labels == NONE, PALETTE_CLASSES, labels).astype(np.uint8))
    image.putpalette(np.concatenate([colours(PALETTE_CLASSES), [[0, 0, 0]]]).astype(np.uint8).tobytes())
    return image


def overlay(labels: np.ndarray, vocabulary: Vocabulary, image: np.ndarray) -> Image.Image:
    """Return the image (H, W, 3) uint8, blended with the colours of its label map `labels` (H, W) uint16.

    Pixels without a class stay as they are.
    """
    table = np.concatenate([colours(len(vocabulary)), [[0, 0, 0]]])
    indices = np.minimum(labels, len(vocabulary))
    blended = image.copy()
    for top in range(0, len(image), 256):  # 256 rows at a time: float64 sums take eight times the bytes of pixels
        rows = slice(top, top + 256)
        mixed = (1 - OVERLAY_WEIGHT) * image[rows] + OVERLAY_WEIGHT * table[indices[rows]]
        blended[rows] = np.where((labels[rows] == NONE)[..., None], image[rows], mixed)
    return Image.fromarray(blended)


@lru_cache(maxsize=8)
def colours(count: int) -> np.ndarray:
    """Return class colours (count, 3) float64, 0 to 255. Consecutive classes differ in hue and in shade."""
    shades = [(0.85, 0.95), (0.55, 0.85), (0.95, 0.65)]
    # multiples of the golden ratio spread the hues evenly for any count
    rgb = [colorsys.hsv_to_rgb(0.618034 * k % 1, *shades[k % len(shades)]) for k in range(count)]
    return np.array(rgb) * 255
