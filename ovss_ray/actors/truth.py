"""Decode label files, as the benchmark of each image says."""

from functools import lru_cache

from ovss_ray import files, stage
from ovss_ray.columns import Batch, column
from ovss_ray.vocabulary import Vocabularies


class Stage(stage.Stage):
    """truth_uri → truth (H, W) uint16: label indices, IGNORE where a pixel is not counted."""

    reads = ("benchmark", "image_uri", "truth_uri", "part")
    writes = ("truth",)

    def __init__(self, config: stage.Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._benchmark = lru_cache(maxsize=64)(stage.find("ovss_ray.datasets", "benchmark", "load"))
        self._item = stage.find("ovss_ray.datasets", "benchmark", "Item")

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Read and decode every label file. Raises OvssError that names the file."""
        items = map(self._item, batch["image_id"], batch["image_uri"], batch["truth_uri"], batch["part"])
        return {
            "truth": column(
                self._benchmark(name).truth(item, files.read(item.truth))
                for name, item in zip(batch["benchmark"], items, strict=True)
            )
        }
