"""The perfect proposer: regions are cut out of the truth. What is then wrong is the naming alone."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from ovss_ray import regions, stage
from ovss_ray.columns import IGNORE, Batch, column
from ovss_ray.vocabulary import Vocabularies


class Stage(stage.Stage):
    """truth (H, W) uint16 → regions that cover all its pixels but those of IGNORE, each of one label."""

    reads = ("truth",)
    writes = ("boxes", "bits", "predicted_iou")

    class Config(stage.Config):
        """What a region is."""

        split: Literal["components", "labels"] = "components"
        """components: connected pixels of one label, as a proposer would find them; labels: all pixels of a label, the
        usual "oracle masks" of papers"""

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Cut every truth into regions; they fit it perfectly."""
        cut = [self._cut(truth) for truth in batch["truth"]]
        return {
            "boxes": column(boxes for boxes, _ in cut),
            "bits": column(bits for _, bits in cut),
            "predicted_iou": column(np.ones(len(boxes), np.float32) for boxes, _ in cut),
        }

    def _cut(self, truth: np.ndarray) -> regions.Regions:
        if self.config.split == "labels":
            return regions.pack(truth == label for label in np.unique(truth[truth != IGNORE]))
        return regions.join(_parts(truth))


def _parts(truth: np.ndarray) -> Iterator[tuple[regions.Box, np.ndarray]]:
    """Each connected part of a truth: its box, and its mask inside that."""
    numbers, boxes = regions.components(truth)
    for number, (x0, y0, x1, y1) in enumerate(boxes, 1):
        yield (x0, y0, x1, y1), numbers[y0:y1, x0:x1] == number
