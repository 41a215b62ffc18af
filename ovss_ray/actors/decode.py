"""Decode photographs, as the benchmark of each says."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from ovss_ray import digests, stage
from ovss_ray.columns import Batch, column
from ovss_ray.vocabulary import Vocabularies


class Stage(stage.Stage):
    """image_uri → image (H, W, 3) uint8 RGB, its size (H, W) int32, and the digest of the file."""

    reads = ("benchmark", "image_uri", "truth_uri", "part")
    writes = ("image", "size", "image_digest")

    def __init__(self, config: stage.Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._benchmark = lru_cache(maxsize=64)(stage.find("ovss_ray.datasets", "benchmark", "load"))
        self._item = stage.find("ovss_ray.datasets", "benchmark", "Item")
        self._read = digests.Reader()

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Read and decode every photograph. Raises OvssError that names the file."""
        items = map(self._item, batch["image_id"], batch["image_uri"], batch["truth_uri"], batch["part"])
        pictures, digests_read = [], []
        for name, item in zip(batch["benchmark"], items, strict=True):
            data, digest = self._read(item.image)
            pictures.append(self._benchmark(name).image(item, data))
            digests_read.append(digest)
        sizes = column(np.array(image.shape[:2], np.int32) for image in pictures)
        return {"image": column(pictures), "size": sizes, "image_digest": column(digests_read)}

    def parts(self) -> Mapping[str, float]:
        """The CPU seconds of the digests."""
        return {"digest": self._read.spent()}
