"""Results of requests, decoded from the service's answers."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from ovss_ray.errors import OvssError
from ovss_ray.io import images
from ovss_ray.serve.http.answers import Answer
from ovss_ray.serve.http.mask_answers import Mask, Prompted, Regions
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.masks import rle


@dataclass(frozen=True)
class Segmentation:
    """A label map from the service, and the classes in it."""

    labels: np.ndarray
    """(H, W) uint16: index of each pixel's class; columns.NONE for pixels without a class

    Index k stands for the class in `answer.classes` whose attribute `index` is k.
    """
    answer: Answer
    """the service's answer, with classes and areas; its field `png` is None, since `labels` replaces it"""


AnswerT = TypeVar("AnswerT", Regions, Prompted)


@dataclass(frozen=True)
class Found(Generic[AnswerT]):
    """Regions that the service has found, with or without a prompt."""

    masks: np.ndarray
    """(R, H, W) bool, one mask per region"""
    answer: AnswerT
    """boxes, areas, class names and scores, in the order of `masks`"""


def segmentation(answer: Answer) -> Segmentation:
    """Convert a validated answer of /v1/segment to a Segmentation. Raises OvssError if the answer has no PNG."""
    labels = images.decode_labels(picture(answer.png), "the answer")
    return Segmentation(np.where(labels == answer.none, NONE, labels), answer.model_copy(update={"png": None}))


def regions(answer: Regions) -> Found[Regions]:
    """Convert a validated answer of /v1/regions to regions with decoded masks."""
    return Found(_masks(answer.regions, answer.height, answer.width), answer)


def prompted(answer: Prompted) -> Found[Prompted]:
    """Convert a validated answer of /v1/prompt to regions with decoded masks."""
    return Found(_masks(answer.masks, answer.height, answer.width), answer)


def decode_segmentation(document: Any) -> Segmentation:
    """Convert the parsed JSON of /v1/segment to a Segmentation. Raises OvssError if the JSON has no PNG."""
    return segmentation(Answer.model_validate(document))


def decode_regions(document: Any) -> Found[Regions]:
    """Convert the parsed JSON of /v1/regions to regions with decoded masks."""
    return regions(Regions.model_validate(document))


def decode(document: Any) -> Any:
    """Convert the parsed JSON of /v1/segment to a Segmentation, or the parsed JSON of /v1/regions to a Found.

    Raises OvssError if the JSON of /v1/segment has no PNG.
    """
    return decode_regions(document) if "regions" in document else decode_segmentation(document)


def picture(encoded: str | None) -> bytes:
    """Decode the base64 text of an answer's PNG to bytes. Raises OvssError if the text is None."""
    if encoded is None:
        raise OvssError(
            "the service's answer lacks the PNG that the client requested. Probably, the client and the service have "
            "different versions of ovss_ray. Install the version of ovss_ray that the service has"
        )
    return base64.b64decode(encoded)


def _masks(encoded_masks: Sequence[Mask], height: int, width: int) -> np.ndarray:
    masks = np.zeros((len(encoded_masks), height, width), bool)
    for mask, encoded in zip(masks, encoded_masks, strict=True):
        mask[:] = rle.decode(encoded.rle.counts, (height, width))
    return masks
