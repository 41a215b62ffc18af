"""A stage of your own: every pixel gets the most frequent class of its neighbourhood.

examples/majority.yaml puts it behind `san_tiny`. Run it from the root of the repository:

    PYTHONPATH=. uv run ovss evaluate examples/majority.yaml --benchmark scenes:seen --limit 8
"""

import cv2
import numpy as np
from pydantic import Field

from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies


class Stage(stage.Stage):
    """prediction (H, W) uint16 → prediction (H, W) uint16, smoothed."""

    reads = ("prediction",)
    writes = ("prediction",)

    class Config(Settings):
        """The options of this stage, set by `--set examples.majority.side=9` or in the YAML file."""

        side: int = Field(default=5, ge=1)
        """pixels: side of the square neighbourhood"""

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Smooth the label maps of a batch."""
        return {"prediction": column(smoothed(labels, self.config.side) for labels in batch["prediction"])}


def smoothed(labels: np.ndarray, side: int) -> np.ndarray:
    """Return the most frequent label in a square around each pixel, (H, W); the lowest label wins ties."""
    present = np.unique(labels)
    votes = np.stack([cv2.blur((labels == label).astype(np.float32), (side, side)) for label in present])
    return present[votes.argmax(0)]
