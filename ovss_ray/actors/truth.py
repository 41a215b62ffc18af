"""Decode label files, as the benchmark of each image says."""

from collections.abc import Mapping
from functools import lru_cache

from ovss_ray import digests, stage
from ovss_ray.columns import Batch, column
from ovss_ray.vocabulary import Vocabularies


class Stage(stage.Stage):
    """truth_uri → truth (H, W) uint16: label indices, IGNORE where a pixel is not counted; and the file's digest."""

    reads = ("benchmark", "image_uri", "truth_uri", "part")
    writes = ("truth", "truth_digest")

    def __init__(self, config: stage.Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._benchmark = lru_cache(maxsize=64)(stage.find("ovss_ray.datasets", "benchmark", "load"))
        self._item = stage.find("ovss_ray.datasets", "benchmark", "Item")
        self._read = digests.Reader()

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Read and decode every label file. Raises OvssError that names the file."""
        items = map(self._item, batch["image_id"], batch["image_uri"], batch["truth_uri"], batch["part"])
        truths, digests_read = [], []
        for name, item in zip(batch["benchmark"], items, strict=True):
            data, digest = self._read(item.truth)
            truths.append(self._benchmark(name).truth(item, data))
            digests_read.append(digest)
        return {"truth": column(truths), "truth_digest": column(digests_read)}

    def parts(self) -> Mapping[str, float]:
        """The CPU seconds of the digests."""
        return {"digest": self._read.spent()}
