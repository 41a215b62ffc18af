"""The column of a photograph of real size, in place of a decoded file."""

from typing import Any

import numpy as np

from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies
from perf.sleeping import SIZE


class Stage(stage.Stage):
    """Writes H × W × 3 bytes for each image. The column `image` itself would bring the decoder into the run."""

    reads = ("image_uri",)
    writes = ("bits",)

    class Config(Settings):
        """Options of this stage."""

        part: int = 1
        """the column has 1 / part of its real size"""

    config: Any

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Return the column."""
        return {
            "bits": column(np.zeros(3 * SIZE[0] * SIZE[1] // self.config.part, np.uint8) for _ in batch["image_uri"])
        }
