"""Decode photographs, each with the decoder of its benchmark."""

from collections.abc import Mapping

import numpy as np

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Item
from ovss_ray.io import digests
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies


class Stage(stage.Stage):
    """Decode the file at `image_uri` to the column `image`, (H, W, 3) uint8 RGB.

    The column `size` is [H, W], (2,) int32. The column `image_digest` is the digest of the file.
    """

    reads = ("benchmark", "image_uri", "truth_uri", "part")
    writes = ("image", "size", "image_digest")

    benchmarks: Mapping[str, Benchmark]

    def __init__(self, config: Settings, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._read = digests.Reader()

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Read and decode every photograph. Raises OvssError with the name of an unreadable file."""
        items = map(Item, batch["image_id"], batch["image_uri"], batch["truth_uri"], batch["part"])
        pictures, digests_read = [], []
        for name, item in zip(batch["benchmark"], items, strict=True):
            data, digest = self._read(item.image)
            pictures.append(self.benchmarks[name].image(item, data))
            digests_read.append(digest)
        sizes = column(np.array(image.shape[:2], np.int32) for image in pictures)
        return {"image": column(pictures), "size": sizes, "image_digest": column(digests_read)}

    def parts(self) -> Mapping[str, float]:
        """Return {"digest": n}, where n is the CPU seconds for digests of files since the last call of `parts`."""
        return {"digest": self._read.spent()}
