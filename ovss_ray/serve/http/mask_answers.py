"""Answers of /v1/regions and /v1/prompt: masks with class names. Dimensions: R regions, K classes.

A row has the results of a model for one image (see serve.row).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from ovss_ray.serve.http.answers import Runs
from ovss_ray.structures.masks import rle
from ovss_ray.structures.masks.regions import Masks
from ovss_ray.structures.vocabulary import Vocabulary

WHOLE = slice(None)
"""Slice that selects all regions"""


class Name(BaseModel):
    """A possible class of a region, and its probability."""

    index: int = Field(description="position in the requested classes, from 0")
    name: str
    score: float = Field(description="probability among the requested classes")
    head: float | None = Field(default=None, description="this probability by the trained head alone; null if unknown")
    clip: float | None = Field(default=None, description="this probability by CLIP alone; null if unknown")


class Mask(BaseModel):
    """A region of the image, as a mask."""

    box: tuple[int, int, int, int] = Field(description="x0 y0 x1 y1 in pixels, half open")
    area: int = Field(description="pixels")
    predicted_iou: float = Field(
        description="IoU with an object as SAM predicts it, about 0 to 1; else the mask's stability"
    )
    rle: Runs
    names: list[Name] = Field(description="most probable classes, best first; empty if no classes were requested")


class Place(BaseModel):
    """A region's place in the ranking of a class."""

    region: int = Field(description="position among all regions, from 0; without pages that in `regions`")
    score: float = Field(description="probability of the class in this region, among the requested classes")


class Ranking(BaseModel):
    """A requested class, and the regions that fit it best."""

    index: int = Field(description="position in the requested classes, from 0")
    name: str
    regions: list[Place] = Field(description="highest score first; equal scores: best match to the name first")


class About(BaseModel):
    """Fields about the image and the model, which every answer contains."""

    image: str = Field(description="sha256 of the bytes that were sent; further prompts may pass it as `image`")
    width: int
    height: int
    model: str
    seconds: dict[str, float] = Field(description="seconds per stage")


class Regions(About):
    """All regions that were found in an image."""

    found: int = Field(description="number of regions found; `regions` lists the largest, up to a limit")
    regions: list[Mask] = Field(description="largest first")
    ranking: list[Ranking] | None = Field(
        default=None, description="for each requested class its `ranked` best regions; null if `ranked` is 0"
    )


class Prompted(About):
    """The possible masks for a prompt."""

    cached: bool = Field(description="whether the service had this image in its cache")
    masks: list[Mask] = Field(description="highest predicted IoU first")


def about(row: Mapping[str, Any], image: str, model: str) -> dict[str, Any]:
    """Return the fields that every answer contains, as a dict: name of a field of the class About → value.

    `image`: sha256 of the image. `model`: name of the model.
    """
    height, width = row["size"].tolist()
    return {"image": image, "width": width, "height": height, "model": model, "seconds": row["seconds"]}


def everything(
    row: Mapping[str, Any], words: Vocabulary, image: str, model: str, top: int, most: int, ranked: int = 0,
    page: slice = WHOLE,
) -> Regions:  # fmt: skip
    """Return the regions of a row, the largest region first. Empty regions are left out.

    - `image`: sha256 of the image
    - `top`: maximum number of classes per region
    - `most`: maximum number of regions on all pages together
    - `ranked`: number of regions in the ranking of each class; 0: the answer has no rankings
    - `page`: slice that selects the regions of one page for the answer

    The ranking of a class has the regions with the highest probability of the class, from all pages together.
    """
    areas = _areas(row)
    order = [i for i in np.argsort(-areas, kind="stable").tolist() if areas[i]]
    listed = order[:most]
    masks = _masks(row, listed[page], areas, words, top)
    ranking = rank(row["scores"][listed], words, ranked) if ranked else None
    return Regions(**about(row, image, model), found=len(order), regions=masks, ranking=ranking)


def rank(scores: np.ndarray, words: Vocabulary, ranked: int) -> list[Ranking]:
    """Return for each class the `ranked` regions with the highest probability of this class.

    `scores`: logits (R, K) float32. If regions have equal probabilities, the region with the highest logit comes first.
    For example, if there is a single class, all probabilities are 1.
    """
    norms = np.array([_log_sum_exp(row) for row in scores], np.float64)
    rankings = []
    for k, name in enumerate(words.names):
        logits = scores[:, k].astype(np.float64)
        odds = logits - norms
        # with a single class, all probabilities are 1, so the logits decide
        best = np.lexsort((-logits, -odds))[:ranked].tolist()
        places = [Place(region=i, score=float(np.exp(odds[i]))) for i in best]
        rankings.append(Ranking(index=k, name=name, regions=places))
    return rankings


def _log_sum_exp(logits: np.ndarray) -> float:
    """Return log Σ exp of logits (K,) float32, in float64."""
    most = float(logits.max())
    return most + float(np.log(np.exp(logits.astype(np.float64) - most).sum()))


def prompted(row: Mapping[str, Any], words: Vocabulary, image: str, model: str, top: int) -> Prompted:
    """Return the answer to a prompt. The mask with the highest predicted IoU comes first.

    `top`: maximum number of classes per mask. If the row has no column `scores`, the masks have no classes. `image`:
    sha256 of the image.
    """
    order = np.argsort(-row["predicted_iou"], kind="stable").tolist()
    masks = _masks(row, order, _areas(row), words, top)
    return Prompted(**about(row, image, model), cached=row["cached"], masks=masks)


def _areas(row: Mapping[str, Any]) -> np.ndarray:
    """Return the number of pixels of each region, (R,) int64."""
    return np.array([np.count_nonzero(mask) for mask in Masks(row["boxes"], row["bits"])], np.int64)


def _masks(row: Mapping[str, Any], order: list[int], areas: np.ndarray, words: Vocabulary, top: int) -> list[Mask]:
    """Return the regions with the indices `order`, each with its `top` most probable classes.

    `areas`: pixels of every region, (R,) int64.
    """
    masks, (height, width) = Masks(row["boxes"], row["bits"]), row["size"].tolist()
    boxes = row["boxes"].tolist()
    return [
        Mask(
            box=boxes[i],
            area=int(areas[i]),
            predicted_iou=float(row["predicted_iou"][i]),
            rle=Runs(size=(height, width), counts=rle.encode_region(boxes[i], masks[i], (height, width))),
            names=_names(row, i, words, top) if "scores" in row else [],
        )
        for i in order
    ]


def _names(row: Mapping[str, Any], region: int, words: Vocabulary, top: int) -> list[Name]:
    """Return the `top` most probable classes of a region, the most probable class first."""
    if "top_classes" in row:  # some models write the best classes with three probabilities each
        listed = zip(row["top_classes"][region].tolist(), row["top_scores"][region].tolist(), strict=True)
        return [
            Name(index=k, name=words.names[k], score=score, head=head, clip=None if math.isnan(clip) else clip)
            for k, (score, head, clip) in [*listed][:top]
        ]
    scores = row["scores"][region]
    odds = np.exp((scores - scores.max()).astype(np.float64))
    best = np.argsort(-scores, kind="stable")[:top].tolist()
    return [Name(index=k, name=words.names[k], score=float(odds[k] / odds.sum())) for k in best]
