"""Compute the metrics of each image in the worker that holds its pixels; only a few numbers per image are sent on."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ovss_ray import metrics
from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.errors import OvssError
from ovss_ray.io import inline
from ovss_ray.metrics import Metric
from ovss_ray.pipeline import stage
from ovss_ray.structures import words
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.question import Question
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies
from ovss_ray.structures.words import WORDS


class Stage(stage.Stage):
    """Compute the metrics of each image. Each metric has a column of the same name (see ovss_ray.metrics)."""

    reads: tuple[str, ...] = ("benchmark", "part", "truth_uri")
    writes: tuple[str, ...] = ()
    measures = True
    # set by the run, whose identity already lists metrics from the user's modules
    where = ("metrics", "binary", "words")

    benchmarks: Mapping[str, Benchmark]

    class Config(Settings):
        """The metrics to compute. Each run sets these options; a config must not set them (see runs.complete)."""

        metrics: tuple[str, ...] = (metrics.MAIN,)
        """names of metrics"""
        binary: bool = False
        """whether a stage of the run segments one class at a time (see Benchmark.for_binary)"""
        words: bool = False
        """whether predictions are indices into the words of each image (see structures.words)"""

    def __init__(self, config: Any, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self.reads, self.writes = self.columns(config.model_dump())
        self._metrics = tuple(map(metrics.load, config.metrics))
        self._question = lru_cache(maxsize=64)(self._asked)

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the columns that the metrics read, and the columns that they write."""
        names = tuple(options.get("metrics", (metrics.MAIN,)))
        needed = [name for metric in map(metrics.load, names) for name in metric.reads]
        needed += [WORDS] if options.get("words") else []
        return tuple(dict.fromkeys((*cls.reads, *needed))), names

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Compute all metrics of every image.

        Raises OvssError if a metric cannot be computed, for example if the prediction and the truth differ in size.
        """
        questions = list(map(self._question, batch["benchmark"], batch["part"]))
        mapped = self._mapped(batch, questions)
        of_words = {metric.name for metric in self._metrics if WORDS in metric.reads}
        return {
            metric.name: column(self._values(metric, batch if metric.name in of_words else mapped, questions))
            for metric in self._metrics
        }

    def _mapped(self, batch: Batch, questions: Sequence[Question]) -> Batch:
        """Return the batch with the class index of each pixel in the column `prediction`.

        If the option `words` is True, the predictions are word indices, and words.as_classes converts them. If the
        option `words` is False, or the batch has no predictions, the batch is returned unchanged.
        """
        if not (self.config.words and "prediction" in batch):
            return batch
        rows = zip(batch["prediction"], batch[WORDS], questions, strict=True)
        mapped = (words.as_classes(prediction, value, question.vocabulary) for prediction, value, question in rows)
        return {**batch, "prediction": column(mapped)}

    def _values(self, metric: Metric, batch: Batch, questions: Sequence[Question]) -> Iterator[Any]:
        """Yield the value of a metric for each image. Values of a metric from a user's module are checked."""
        rows = zip(questions, *(batch[name] for name in metric.reads), strict=True)
        for uri, arguments in zip(batch["truth_uri"], rows, strict=True):
            try:
                value = metric.measure(*arguments)
                yield metric.checked(value) if "." in metric.name else value
            except OvssError as failure:
                raise OvssError(f"{inline.shown(uri)}: {failure}") from failure

    def _asked(self, name: str, part: str) -> Question:
        benchmark = self.benchmarks[name].for_binary() if self.config.binary else self.benchmarks[name]
        return Question(benchmark.labels, *benchmark.question(part), benchmark.groups, part)
