"""The perfect segmenter: it predicts the ground truth. A metric below 100 % shows an error in data or evaluation."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.errors import OvssError
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import IGNORE, NONE, Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary, exact_mapping


class Stage(stage.Stage):
    """Predict the true class of each pixel: prediction (H, W) uint16 from truth (H, W) uint16.

    A pixel gets the first class with the pixel's true label, or NONE if there is no such class. If an image has its own
    words, the words replace the classes. A word has the label of the class with the same name.
    """

    reads = ("truth", "size", "benchmark", "part", "vocabulary")
    writes = ("prediction",)

    benchmarks: Mapping[str, Benchmark]

    def __init__(self, config: Settings, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._classes = lru_cache(maxsize=64)(self._table)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Return the true class of every pixel, NONE where the truth is IGNORE.

        Raises OvssError if photograph and labels differ in size.
        """
        for truth, size in zip(batch["truth"], batch["size"], strict=True):
            if truth.shape != tuple(size):
                raise OvssError(
                    f"size mismatch: the photograph has {size[0]} × {size[1]} pixels (height × width), its labels have "
                    f"{truth.shape[0]} × {truth.shape[1]}. Check that the label file belongs to this photograph"
                )
        tables = map(self._classes, batch["benchmark"], batch["part"], map(vocabularies.get, batch["vocabulary"]))
        return {"prediction": column(table[truth] for table, truth in zip(tables, batch["truth"], strict=True))}

    def _table(self, benchmark: str, part: str, words: Vocabulary | None) -> np.ndarray:
        """Return the prediction for each true label: an array (65536,) uint16, indexed by label.

        Predictions are indices into `words` or, if `words` is None, into the benchmark's classes. The prediction for a
        label without a class is NONE.
        """
        classes, index = self.benchmarks[benchmark].question(part)
        if words and words.digest != classes.digest:
            matches = exact_mapping(words.classes, classes).tolist()
            index = tuple(NONE if k == NONE else index[k] for k in matches)
        table = np.full(IGNORE + 1, NONE, np.uint16)
        table[list(reversed(index))] = np.arange(len(index))[::-1]
        return table
