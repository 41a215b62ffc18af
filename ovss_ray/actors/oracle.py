"""The perfect segmenter: its prediction is the truth. What does not reach 100 % with it has a fault."""

from functools import lru_cache

import numpy as np

from ovss_ray import stage
from ovss_ray.columns import IGNORE, NONE, Batch, column
from ovss_ray.errors import OvssError
from ovss_ray.vocabulary import Vocabularies


class Stage(stage.Stage):
    """truth (H, W) uint16 and the photograph's size → prediction (H, W) uint16.

    For each label it names the first class that counts as it.
    """

    reads = ("truth", "size", "benchmark", "part")
    writes = ("prediction",)

    def __init__(self, config: stage.Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._benchmark = stage.find("ovss_ray.datasets", "benchmark", "load")
        self._classes = lru_cache(maxsize=64)(self._table)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Name every pixel rightly; NONE where the truth is IGNORE. Raises OvssError if labels have another size."""
        for truth, size in zip(batch["truth"], batch["size"], strict=True):
            if truth.shape != tuple(size):
                raise OvssError(
                    f"the photograph has {size[0]} × {size[1]} pixels (height × width), and its labels have "
                    f"{truth.shape[0]} × {truth.shape[1]}: they must have one size"
                )
        tables = map(self._classes, batch["benchmark"], batch["part"])
        return {"prediction": column(table[truth] for table, truth in zip(tables, batch["truth"], strict=True))}

    def _table(self, benchmark: str, part: str) -> np.ndarray:
        """(65536,) uint16: label → class."""
        _, index = self._benchmark(benchmark).question(part)
        table = np.full(IGNORE + 1, NONE, np.uint16)
        table[list(reversed(index))] = np.arange(len(index))[::-1]
        return table
