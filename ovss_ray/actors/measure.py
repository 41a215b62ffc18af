"""Compare prediction and truth where their pixels are; only the confusion cells travel on."""

from functools import lru_cache

import numpy as np

from ovss_ray import stage
from ovss_ray.columns import NONE, Batch, column
from ovss_ray.errors import OvssError
from ovss_ray.vocabulary import Vocabularies


class Stage(stage.Stage):
    """truth and prediction, both (H, W) uint16 → confusion: the cells that are not zero (see metrics.confusion)."""

    reads = ("benchmark", "part", "truth_uri", "truth", "prediction")
    writes = ("confusion",)

    def __init__(self, config: stage.Config, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._benchmark = lru_cache(maxsize=64)(stage.find("ovss_ray.datasets", "benchmark", "load"))
        self._counter = lru_cache(maxsize=8)(stage.find("ovss_ray.metrics", "confusion", "Counter"))

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Count every image. Raises OvssError that names the label file and what is wrong with it or the prediction."""
        rows = zip(*(batch[name] for name in self.reads), strict=True)
        return {"confusion": column(self._cells(*row) for row in rows)}

    def _cells(
        self, name: str, part: str, uri: str, truth: np.ndarray, prediction: np.ndarray
    ) -> dict[str, np.ndarray]:
        benchmark = self._benchmark(name)
        labels = len(benchmark.labels)
        try:
            return self._counter(labels)(truth, _labelled(prediction, benchmark.question(part)[1], labels))
        except OvssError as failure:
            raise OvssError(f"{uri}: {failure}") from failure


def _labelled(prediction: np.ndarray, index: tuple[int, ...], labels: int) -> np.ndarray:
    """Turn class indices into label indices; NONE stays. Raises OvssError for an index that is no class."""
    if index == tuple(range(labels)):
        return prediction  # the counter looks for values out of range by itself
    wrong = prediction[((prediction < 0) | (prediction >= len(index))) & (prediction != NONE)]
    if len(wrong):
        raise OvssError(
            f"{len(wrong)} pixels of the prediction have values such as {wrong[0]}; there are {len(index)} classes"
        )
    table = np.full(NONE + 1, NONE, np.uint16)
    table[: len(index)] = index
    return table[prediction]
