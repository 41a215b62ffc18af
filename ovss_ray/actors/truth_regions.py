"""The perfect proposer: ground-truth regions, so that all remaining error is classification error."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import IGNORE, Batch, column
from ovss_ray.structures.masks import regions
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies


class Stage(stage.Stage):
    """Split the truth (H, W) uint16 into regions of one label each, which cover all pixels except IGNORE."""

    reads = ("truth",)
    writes = ("boxes", "bits", "predicted_iou")

    class Config(Settings):
        """The definition of a region."""

        split: Literal["components", "labels"] = "components"
        """components: connected pixels of one label; labels: all pixels of one label, the "oracle masks" of most
        papers"""

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Split every ground-truth label map into regions with a predicted IoU of 1."""
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
    """Yield box and mask (h, w) bool of each connected component of a label map (H, W). The mask has the box's size."""
    numbers, boxes = regions.components(truth)
    for number, (x0, y0, x1, y1) in enumerate(boxes, 1):
        yield (x0, y0, x1, y1), numbers[y0:y1, x0:x1] == number
