"""Decode photographs, as the benchmark of each says."""

from functools import lru_cache

import numpy as np

from ovss_ray import files, stage
from ovss_ray.columns import Batch, column
from ovss_ray.vocabulary import Vocabularies


class Stage(stage.Stage):
    """image_uri → image (H, W, 3) uint8 RGB, and its size (H, W) int32."""

    reads = ("benchmark", "image_uri", "truth_uri", "part")
    writes = ("image", "size")

    def __init__(self, config: stage.Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._benchmark = lru_cache(maxsize=64)(stage.find("ovss_ray.datasets", "benchmark", "load"))
        self._item = stage.find("ovss_ray.datasets", "benchmark", "Item")

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Read and decode every photograph. Raises OvssError that names the file."""
        items = map(self._item, batch["image_id"], batch["image_uri"], batch["truth_uri"], batch["part"])
        found = [
            self._benchmark(name).image(item, files.read(item.image))
            for name, item in zip(batch["benchmark"], items, strict=True)
        ]
        return {"image": column(found), "size": column(np.array(image.shape[:2], np.int32) for image in found)}
