"""What a request is answered: which classes there are and how large, and one picture or the masks of it.

Letters in shapes: H W pixels, R regions, K classes.
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

from ovss_ray.actors.paint import named
from ovss_ray.columns import NONE
from ovss_ray.regions import Masks
from ovss_ray.serve import outlines, rle
from ovss_ray.vocabulary import Vocabulary

Output = Literal["png", "rle", "polygons", "overlay"]
"""Beside the classes: a PNG of class indices, the masks in COCO's run lengths or as outlines, or a PNG of colours over
the image."""
FEW = 255
"""Classes that an 8-bit PNG with a palette can name; more take a 16-bit PNG."""
VEIL = 0.5
"""How much of an overlay is the class's colour."""


class Runs(BaseModel):
    """A mask as COCO has it, which pycocotools decodes."""

    size: tuple[int, int] = Field(description="height and width")
    counts: str


class Shape(BaseModel):
    """A connected part of a mask, along the edges of its pixels: filled, it is that part and nothing else."""

    outline: outlines.Ring = Field(description="x and y of its corners; the last is joined to the first")
    holes: list[outlines.Ring] = Field(description="likewise, the other way around")


class Found(BaseModel):
    """A class that was found in the image."""

    index: int = Field(description="the class's place among those asked for, from 0")
    name: str
    pixels: int
    area: float = Field(description="its part of the image, 0 to 1")
    score: float | None = Field(
        default=None,
        description="mean probability of the regions called so, weighted by their pixels; null if the method has none",
    )
    rle: Runs | None = None
    polygons: list[Shape] | None = None


class Answer(BaseModel):
    """What was found in an image."""

    height: int
    width: int
    classes: list[Found] = Field(description="those that were found, in the order in which they were asked for")
    unnamed: int = Field(description="pixels without a class")
    none: int = Field(description="the value of such pixels in `png`")
    png: str | None = Field(default=None, description="base64: a PNG whose pixels are indices of classes")
    overlay: str | None = Field(default=None, description="base64: a PNG of the classes' colours over the image")
    seconds: dict[str, float] = Field(description="that each stage took")


def build(row: Mapping[str, Any], vocabulary: Vocabulary, output: Output) -> Answer:
    """Say what a row that has gone through the pipeline shows, with masks if those are asked for."""
    labels: np.ndarray = row["prediction"]
    counts = np.bincount(labels.ravel(), minlength=NONE + 1).tolist()
    present = [k for k in range(len(vocabulary)) if counts[k]]
    scores = _scores(row, labels) if "scores" in row else {}
    masks = rle.encode(labels, present) if output == "rle" else []
    shapes = outlines.trace(labels, present) if output == "polygons" else {}
    height, width = labels.shape
    classes = [
        Found(
            index=k,
            name=vocabulary.names[k],
            pixels=counts[k],
            area=counts[k] / labels.size,
            score=scores.get(k),
            rle=Runs(size=(height, width), counts=masks[i]) if masks else None,
            polygons=[Shape(outline=one.outline, holes=one.holes) for one in shapes[k]] if shapes else None,
        )
        for i, k in enumerate(present)
    ]
    none = NONE if len(vocabulary) > FEW else FEW
    return Answer(height=height, width=width, classes=classes, unnamed=counts[NONE], none=none, seconds=row["seconds"])


def picture(row: Mapping[str, Any], vocabulary: Vocabulary, image: np.ndarray, output: Output, note: str = "") -> bytes:
    """The PNG that is asked for, of an image (H, W, 3) uint8 RGB; a note goes into its text "ovss_ray"."""
    labels = row["prediction"]
    made = indexed(labels, vocabulary) if output == "png" else overlay(labels, vocabulary, image)
    text = PngInfo()
    if note:
        text.add_itxt("ovss_ray", note)
    made.save(file := io.BytesIO(), "PNG", compress_level=1, pnginfo=text)
    return file.getvalue()


def with_picture(answer: Answer, output: Output, png: bytes) -> Answer:
    """The answer with its PNG, in base64, under the name by which it was asked for."""
    return answer.model_copy(update={output: base64.b64encode(png).decode()})


def _scores(row: Mapping[str, Any], labels: np.ndarray) -> dict[int, float]:
    """Class → mean probability of the regions that were called so, weighted by their pixels that the map left to it."""
    called, sure = named(row["scores"])
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
    """A picture whose pixels are class indices: with a palette where 8 bits are enough, else of 16 bits."""
    if len(vocabulary) > FEW:
        return Image.fromarray(np.ascontiguousarray(labels))
    made = Image.fromarray(np.where(labels == NONE, FEW, labels).astype(np.uint8))
    made.putpalette(np.concatenate([colours(FEW), [[0, 0, 0]]]).astype(np.uint8).tobytes())
    return made


def overlay(labels: np.ndarray, vocabulary: Vocabulary, image: np.ndarray) -> Image.Image:
    """The image (H, W, 3) uint8 with the colours of its classes laid over it; where there is none it stays."""
    table = np.concatenate([colours(len(vocabulary)), [[0, 0, 0]]])
    here = np.minimum(labels, len(vocabulary))
    made = image.copy()
    for top in range(0, len(image), 256):  # some rows at a time: the sums are eight times as large as the pixels
        rows = slice(top, top + 256)
        mixed = (1 - VEIL) * image[rows] + VEIL * table[here[rows]]
        made[rows] = np.where((labels[rows] == NONE)[..., None], image[rows], mixed)
    return Image.fromarray(made)


@lru_cache(maxsize=8)
def colours(count: int) -> np.ndarray:
    """Colours of classes (count, 3) float64, 0 to 255: hues a golden ratio of the circle apart, in three shades."""
    shades = [(0.85, 0.95), (0.55, 0.85), (0.95, 0.65)]
    made = [colorsys.hsv_to_rgb(0.618034 * k % 1, *shades[k % len(shades)]) for k in range(count)]
    return np.array(made) * 255
