"""What a request for regions or a prompt is answered: masks with their names. Letters: R regions, K classes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from ovss_ray.regions import Masks
from ovss_ray.serve import rle
from ovss_ray.serve.answer import Runs
from ovss_ray.vocabulary import Vocabulary


class Name(BaseModel):
    """A class that a region may be called by."""

    name: str
    score: float = Field(description="its probability among the classes that were asked for")


class Mask(BaseModel):
    """A region of the image."""

    box: tuple[int, int, int, int] = Field(description="x0 y0 x1 y1 in pixels, half open")
    area: int = Field(description="pixels")
    predicted_iou: float = Field(description="how well it fits a thing, as SAM thinks: about 0 to 1")
    rle: Runs
    names: list[Name] = Field(description="the best ones, the best first; none if no classes were asked for")


class About(BaseModel):
    """What every answer says of its image."""

    image: str = Field(description="sha256 of the bytes that were sent, by which a prompt may name the image")
    width: int
    height: int
    model: str
    seconds: dict[str, float] = Field(description="that each stage took")


class Regions(About):
    """Everything that was found in an image."""

    found: int = Field(description="how many regions there are; the largest of them, up to a limit, are told")
    regions: list[Mask] = Field(description="the largest first")


class Prompted(About):
    """What somebody may have meant who pointed at something."""

    cached: bool = Field(description="whether the image had been looked at before")
    masks: list[Mask] = Field(description="the one that is thought to fit best first")


def about(row: Mapping[str, Any], image: str, model: str) -> dict[str, Any]:
    """The fields of About, of a row that has gone through the pipeline."""
    height, width = row["size"].tolist()
    return {"image": image, "width": width, "height": height, "model": model, "seconds": row["seconds"]}


def everything(row: Mapping[str, Any], words: Vocabulary, image: str, model: str, top: int, most: int) -> Regions:
    """Tell the largest regions of a row, `most` of them, each with its `top` best names. Empty ones are left out."""
    areas = _areas(row)
    order = [i for i in np.argsort(-areas, kind="stable").tolist() if areas[i]]
    told = _told(row, order[:most], areas, words, top)
    return Regions(**about(row, image, model), found=len(order), regions=told)


def prompted(row: Mapping[str, Any], words: Vocabulary, image: str, model: str, top: int) -> Prompted:
    """Tell the masks of a row whose prompt was answered, with names if it has scores."""
    order = np.argsort(-row["predicted_iou"], kind="stable").tolist()
    told = _told(row, order, _areas(row), words, top)
    return Prompted(**about(row, image, model), cached=row["cached"], masks=told)


def _areas(row: Mapping[str, Any]) -> np.ndarray:
    """Pixels of each region, (R,) int64."""
    return np.array([np.count_nonzero(mask) for mask in Masks(row["boxes"], row["bits"])], np.int64)


def _told(row: Mapping[str, Any], order: list[int], areas: np.ndarray, words: Vocabulary, top: int) -> list[Mask]:
    """Some regions of a row, areas (R,), in an order."""
    masks, (height, width) = Masks(row["boxes"], row["bits"]), row["size"].tolist()
    boxes = row["boxes"].tolist()
    return [
        Mask(
            box=boxes[i],
            area=int(areas[i]),
            predicted_iou=float(row["predicted_iou"][i]),
            rle=Runs(size=(height, width), counts=rle.encode_region(boxes[i], masks[i], (height, width))),
            names=_names(row["scores"][i], words, top) if "scores" in row else [],
        )
        for i in order
    ]


def _names(scores: np.ndarray, words: Vocabulary, top: int) -> list[Name]:
    """The best classes of one region, scores (K,) float32; the first of those that tie, as on a label map."""
    odds = np.exp((scores - scores.max()).astype(np.float64))
    best = np.argsort(-scores, kind="stable")[:top].tolist()
    return [Name(name=words.names[k], score=float(odds[k] / odds.sum())) for k in best]
