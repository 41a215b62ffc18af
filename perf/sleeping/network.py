"""A network that sleeps, and returns an array of the size of a label map."""

import time
from typing import Any

import numpy as np

from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies
from perf.sleeping import SIZE


class Stage(stage.Stage):
    """Sleeps a fixed time per image. Each worker occupies a GPU by its config; the stage itself does not load torch."""

    reads = ("bits",)
    writes = ("scores",)

    class Config(Settings):
        """Options of this stage."""

        seconds: float = 0.125
        """seconds per image"""
        part: int = 1
        """the array has 1 / part of its real size"""

    config: Any

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Sleep, and return 2 × H × W bytes per image, as of a label map in uint16."""
        time.sleep(self.config.seconds * len(batch["bits"]))
        return {
            "scores": column(np.zeros((SIZE[0] // 2 // self.config.part, SIZE[1]), np.float32) for _ in batch["bits"])
        }
