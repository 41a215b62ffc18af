"""From regions and their scores to one class per pixel.

A region is given the class of its best score; its score is that class's probability, the softmax over the vocabulary of
100 · cosine. Where regions overlap the one on top decides. Pixels that no region covers are called nothing, and so are
misses, unless something else is asked for.
"""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from ovss_ray import stage
from ovss_ray.columns import NONE, Batch, column
from ovss_ray.errors import OvssError
from ovss_ray.regions import Masks
from ovss_ray.vocabulary import Vocabularies, Vocabulary


class Stage(stage.Stage):
    """Regions and scores (R, K) → prediction (H, W) uint16."""

    reads = ("size", "vocabulary", "boxes", "bits", "predicted_iou", "scores")
    writes = ("prediction",)

    class Config(stage.Config):
        """Which regions count, which is on top, and what becomes of the rest of the image."""

        overlap: Literal["score", "smallest", "predicted_iou"] = "score"
        """what is on top: the region that is named most surely, the smallest, or the one whose mask fits best as its
        proposer thinks; at a tie the earlier one"""
        threshold: float = Field(default=0.0, ge=0, le=1)
        """regions whose best class has a lower probability than this are left out"""
        uncovered: Literal["none", "nearest", "background"] = "none"
        """pixels without a region: none leaves them without a class, nearest gives them the class of the nearest pixel
        that has one, background a class of the vocabulary"""
        background: str = ""
        """the name of that class"""
        contained: float | None = Field(default=None, gt=0, le=1)
        """leave out a region if at least this part of it lies inside a larger one that stays; of equal ones the first
        stays. For methods that want whole things and no parts of them"""

        @model_validator(mode="after")
        def _one_background(self) -> "Stage.Config":
            if (self.uncovered == "background") != bool(self.background):
                raise ValueError("background: CLASS and uncovered: background are given together or not at all")
            return self

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Paint the label map of every image. Raises OvssError if the background is no class of the vocabulary."""
        rows = zip(*(batch[name] for name in self.reads), strict=True)
        return {
            "prediction": column(self._paint(size, vocabularies[digest], *regions) for size, digest, *regions in rows)
        }

    def _paint(
        self, size: np.ndarray, vocabulary: Vocabulary, boxes: np.ndarray, bits: np.ndarray, fit: np.ndarray,
        scores: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        masks = Masks(boxes, bits)
        labels, sure = named(scores)
        areas = np.array([int(mask.sum()) for mask in masks] if self._needs_areas() else [0] * len(masks))
        chosen = sure >= self.config.threshold
        if self.config.contained is not None:
            chosen &= _outermost(boxes, masks, areas, self.config.contained)
        above = {"score": sure, "smallest": -areas, "predicted_iou": fit}[self.config.overlap]
        made = np.full(size, NONE, np.uint16)
        for i in np.lexsort((-np.arange(len(boxes)), above)):  # what is on top comes last
            if chosen[i]:
                x0, y0, x1, y1 = boxes[i]
                made[y0:y1, x0:x1][masks[i]] = labels[i]
        return self._filled(made, vocabulary)

    def _needs_areas(self) -> bool:
        return self.config.overlap == "smallest" or self.config.contained is not None

    def _filled(self, labels: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
        """Do with the pixels that have no class what the config says."""
        if self.config.uncovered == "background":
            labels[labels == NONE] = _index(self.config.background, vocabulary)
        return nearest(labels) if self.config.uncovered == "nearest" else labels


def named(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best class of each region, scores (R, K) → (R,) uint16, the first on ties; its probability (R,) float64.

    Raises OvssError for more classes than a label map can name.
    """
    if scores.shape[1] > NONE:
        raise OvssError(f"{scores.shape[1]} classes are asked for; a label map can name {NONE}")
    if not len(scores):
        return np.empty(0, np.uint16), np.empty(0)
    best = scores.argmax(1)
    top = scores[np.arange(len(scores)), best]
    return best.astype(np.uint16), 1 / np.exp((scores - top[:, None]).astype(np.float64)).sum(1)


def nearest(labels: np.ndarray) -> np.ndarray:
    """Give pixels of NONE the class of the nearest pixel that has one, by OpenCV's 5 × 5 distance (2 % off at most)."""
    import cv2  # only where it is asked for: tenths of a second to import

    covered = labels != NONE
    if covered.all() or not covered.any():
        return labels
    _, source = cv2.distanceTransformWithLabels(
        (~covered).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(source.max() + 1, np.uint16)
    table[source[covered]] = labels[covered]
    return table[source]


def _index(name: str, vocabulary: Vocabulary) -> int:
    found = [i for i, names in enumerate(vocabulary.classes) if name in names]
    if not found:
        raise OvssError(
            f"background: {name!r} is no class of the vocabulary ({', '.join(vocabulary.names[:10])}, …). Write the "
            "name of one, or uncovered: none"
        )
    return found[0]


def _outermost(boxes: np.ndarray, masks: Masks, areas: np.ndarray, part: float) -> np.ndarray:
    """Which regions do not lie inside a larger one that stays, (R,) bool. Compares masks, not boxes."""
    stays = np.zeros(len(boxes), bool)
    for i in np.argsort(-areas, kind="stable"):
        low, high = np.maximum(boxes[:, :2], boxes[i, :2]), np.minimum(boxes[:, 2:], boxes[i, 2:])
        common = np.clip(high - low, 0, None).prod(1)
        enough = part * areas[i]
        rivals = np.flatnonzero(stays & (common >= enough))
        stays[i] = not any(_shared(boxes, masks, int(i), int(j), (*low[j], *high[j])) >= enough for j in rivals)
    return stays


def _shared(boxes: np.ndarray, masks: Masks, i: int, j: int, area: tuple[int, ...]) -> int:
    """How many pixels two regions have in common, all of which lie in an area x0 y0 x1 y1."""
    x0, y0, x1, y1 = area
    one, other = (masks[k][y0 - boxes[k, 1] : y1 - boxes[k, 1], x0 - boxes[k, 0] : x1 - boxes[k, 0]] for k in (i, j))
    return int((one & other).sum())
