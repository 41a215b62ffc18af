"""The last stage: it receives the columns, and counts nothing."""

import numpy as np

from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.vocabulary import Vocabularies


class Stage(stage.Stage):
    """Reads the array of the network. `exports` keeps the label files out of the run."""

    reads = ("scores",)
    writes = ("predicted_iou",)
    exports = True

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Return an empty column."""
        return {"predicted_iou": column(np.zeros(0, np.float32) for _ in batch["scores"])}
