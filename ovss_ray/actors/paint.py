"""Paint regions with their classes, so that each pixel has at most one class.

A region gets the class with the highest probability. The probabilities of a region's classes are the softmax of the
region's scores over the vocabulary. Pixels without a region have no class and count as misses, unless the option
`uncovered` assigns a class.
"""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from ovss_ray.errors import OvssError
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import NONE, Batch, column
from ovss_ray.structures.masks.regions import Masks, named, shared
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary


class Stage(stage.Stage):
    """Paint the label map of an image from R regions and scores (R, K): prediction (H, W) uint16."""

    reads = ("size", "vocabulary", "boxes", "bits", "predicted_iou", "scores")
    writes = ("prediction",)

    class Config(Settings):
        """The selection of regions, their order, and the class of pixels without a region."""

        overlap: Literal["score", "smallest", "predicted_iou"] = "score"
        """region that sets the class of a pixel in several regions. score: the region with the highest class
        probability; smallest: the region with the smallest area; predicted_iou: the region with the highest predicted
        IoU"""
        threshold: float = Field(default=0.0, ge=0, le=1)
        """minimum probability of a region's class; regions below it are dropped"""
        uncovered: Literal["none", "nearest", "background"] = "none"
        """class of pixels without a region. none: no class; nearest: the class of the nearest pixel with a class;
        background: the class that the option `background` names"""
        background: str = ""
        """name of the class for `uncovered: background`"""
        contained: float | None = Field(default=None, gt=0, le=1)
        """fraction of a region, such as 0.9. The region is dropped if one larger region covers at least this fraction

        A larger region that `threshold` drops still counts. A larger region that `contained` drops does not count.
        None: `contained` drops no region.
        """

        @model_validator(mode="after")
        def _one_background(self) -> "Stage.Config":
            if (self.uncovered == "background") != bool(self.background):
                raise ValueError(
                    "only one of `background: CLASS` and `uncovered: background` is set. Set both or neither"
                )
            return self

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Paint the label map of every image.

        Raises OvssError for `uncovered: background` if the option `background` is not a class of the vocabulary.
        """
        rows = zip(*(batch[name] for name in self.reads), strict=True)
        return {
            "prediction": column(self._paint(size, vocabularies[digest], *regions) for size, digest, *regions in rows)
        }

    def _paint(
        self, size: np.ndarray, vocabulary: Vocabulary, boxes: np.ndarray, bits: np.ndarray, fit: np.ndarray,
        scores: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        masks = Masks(boxes, bits)
        labels, confidences = named(scores)
        areas = np.array([int(mask.sum()) for mask in masks] if self._needs_areas() else [0] * len(masks))
        kept = confidences >= self.config.threshold
        if self.config.contained is not None:
            kept &= _outermost(boxes, masks, areas, self.config.contained)
        priority = {"score": confidences, "smallest": -areas, "predicted_iou": fit}[self.config.overlap]
        painted = np.full(size, NONE, np.uint16)
        for i in np.lexsort((-np.arange(len(boxes)), priority)):  # visible regions last; on ties, the first region
            if kept[i]:
                x0, y0, x1, y1 = boxes[i]
                painted[y0:y1, x0:x1][masks[i]] = labels[i]
        return self._filled(painted, vocabulary)

    def _needs_areas(self) -> bool:
        return self.config.overlap == "smallest" or self.config.contained is not None

    def _filled(self, labels: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
        """Return a label map (H, W) uint16 whose pixels without a class are filled according to `uncovered`."""
        if self.config.uncovered == "background":
            labels[labels == NONE] = _index(self.config.background, vocabulary)
        return nearest(labels) if self.config.uncovered == "nearest" else labels


def nearest(labels: np.ndarray) -> np.ndarray:
    """Return a label map (H, W) uint16: each NONE pixel gets the class of the nearest pixel with a class.

    Distances are approximate, with an error of at most 2 %. So the class may come from a pixel that is slightly
    farther than the nearest one. If no pixel has a class, the label map is returned unchanged.
    """
    import cv2  # only where it is needed: tenths of a second to import

    covered = labels != NONE
    if covered.all() or not covered.any():
        return labels
    # approximate distances, from OpenCV's mask of 5 × 5 pixels
    _, source = cv2.distanceTransformWithLabels(
        (~covered).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(source.max() + 1, np.uint16)
    table[source[covered]] = labels[covered]
    return table[source]


def _index(name: str, vocabulary: Vocabulary) -> int:
    indices = [i for i, names in enumerate(vocabulary.classes) if name in names]
    if not indices:
        raise OvssError(
            f"background: {name!r} is not a class of the vocabulary ({', '.join(vocabulary.names[:10])}, …). Set "
            "`background` to a class of the vocabulary, or remove `background` and set `uncovered: none`"
        )
    return indices[0]


def _outermost(boxes: np.ndarray, masks: Masks, areas: np.ndarray, part: float) -> np.ndarray:
    """Return whether each region is kept, (R,) bool.

    A region is dropped if one larger kept region covers at least the fraction `part` of the dropped region's area.
    """
    stays = np.zeros(len(boxes), bool)
    for i in np.argsort(-areas, kind="stable"):  # of equal areas, the first counts as larger
        low, high = np.maximum(boxes[:, :2], boxes[i, :2]), np.minimum(boxes[:, 2:], boxes[i, 2:])
        common = np.clip(high - low, 0, None).prod(1)
        enough = part * areas[i]
        rivals = np.flatnonzero(stays & (common >= enough))
        stays[i] = not any(shared((boxes[i], masks[i]), (boxes[j], masks[j])) >= enough for j in rivals)
    return stays
