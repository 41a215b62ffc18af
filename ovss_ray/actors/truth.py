"""Decode label files, each with the decoder of its benchmark."""

from collections.abc import Mapping

import cv2
import numpy as np

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Item
from ovss_ray.io import digests
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import IGNORE, Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies


class Stage(stage.Stage):
    """Decode an image's label file to label indices and IGNORE, (H, W) uint16, and compute the file's digest."""

    reads = ("benchmark", "image_uri", "truth_uri", "part")
    writes = ("truth", "truth_digest")

    benchmarks: Mapping[str, Benchmark]

    class Config(Settings):
        """The size of the label maps, set by the run (see runs.complete)."""

        side: int | None = None
        """side in pixels of the square to which label maps are resized, by nearest neighbour; None: no resizing"""

    def __init__(self, config: Settings, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._read = digests.Reader()

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Read and decode every label file. Raises OvssError with the name of an unreadable file."""
        items = map(Item, batch["image_id"], batch["image_uri"], batch["truth_uri"], batch["part"])
        truths, digests_read = [], []
        for name, item in zip(batch["benchmark"], items, strict=True):
            data, digest = self._read(item.truth)
            benchmark, side = self.benchmarks[name], self.config.side
            labels = benchmark.truth(item, data)
            truths.append(labels if side is None else squared(benchmark, item.part, labels, side))
            digests_read.append(digest)
        return {"truth": column(truths), "truth_digest": column(digests_read)}

    def parts(self) -> Mapping[str, float]:
        """Return the CPU seconds that digests took since the last call, as {"digest": seconds}."""
        return {"digest": self._read.spent()}


def squared(benchmark: Benchmark, part: str, labels: np.ndarray, side: int) -> np.ndarray:
    """Return a label map (H, W) uint16, resized to (side, side) as OpenCV's INTER_NEAREST does.

    `part` is Item.part, the class of a few-shot episode. If the resized map has no pixel of this class, all pixels
    become IGNORE.
    """
    square = cv2.resize(labels, (side, side), interpolation=cv2.INTER_NEAREST)
    if part in benchmark.alone and not (square == benchmark.alone[part][1][1]).any():
        square.fill(IGNORE)
    return square
