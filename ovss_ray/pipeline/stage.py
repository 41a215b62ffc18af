"""Base class of stages, and the entry of a stage in a config."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from ovss_ray.errors import OvssError
from ovss_ray.registry import find
from ovss_ray.structures.columns import Batch
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary
from ovss_ray.structures.words import NOTE, WORDS

Prepared = Mapping[str, np.ndarray]
"""Key (see Stage.key) → array that Stage.prepare returned, shared by all workers of a node."""
Benchmarks = Mapping[str, Any]
"""Name → benchmark (benchmarks.contract.Benchmark), loaded on first access, shared by the stages of a worker."""


class NoBenchmarks(dict[str, Any]):
    """Empty mapping for a stage that was built without benchmarks. An access raises OvssError."""

    def __missing__(self, name: str) -> Any:
        raise OvssError(f"benchmark {name!r} was not passed to this stage. Build the stage with build(benchmarks=…)")


class Stage(ABC):
    """Step of a pipeline that reads columns and writes columns. Built once per worker, then called with many batches.

    Row i of every column belongs to one image. A stage receives `image_id` and the columns in `reads`. A stage returns
    the columns in `writes`, with the same number of rows. Equal rows must give equal results. If a stage raises an
    exception, only the images that cause the exception fail.

    After a stage that writes `words`, the column `vocabulary` has the digest of each row's words. Stages that read
    `vocabulary` then skip rows without words.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    gpu: ClassVar[bool] = False
    """True if a GPU makes the stage faster; by default, a pool without such a stage gets no GPU"""
    where: ClassVar[tuple[str, ...]] = ()
    """names of options that do not change results, such as paths, device, batch size. The run's digest ignores them"""
    binary: ClassVar[bool] = False
    """True for a method that segments one class at a time

    For such a method, an image of a few-shot benchmark has two classes: background and the class to segment.
    """
    measures: ClassVar[bool] = False
    """True for the stage that computes metrics; the columns in `writes` have the names of metrics"""
    exports: ClassVar[bool] = False
    """True for a stage that writes files for later use

    A run with an exporting stage predicts label maps only if a stage writes `prediction`. A run that predicts no label
    maps needs no ground truth, unless a stage or a metric reads `truth`.
    """
    benchmarks: Benchmarks = NoBenchmarks()
    """name → benchmark, for all benchmarks of the run; `StageConfig.build` sets it before the first call"""
    network: Any = None
    """network that later stages of the same worker may use (see `network_key`); None if no network is shared"""

    class Config(Settings):
        """Options of this stage. A stage without options does not define this class."""

    def __init__(self, config: Any, prepared: Prepared | None = None) -> None:
        self.config = config
        self.prepared = prepared or {}

    @abstractmethod
    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Return the columns in `writes`, computed from the columns in `reads`."""

    @classmethod
    def columns(cls, options: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the columns that a stage with these options reads, and those that it writes."""
        return cls.reads, cls.writes

    def parts(self) -> Mapping[str, float]:
        """Return the seconds that parts of this stage took since the last call, such as {"digest": 0.2}.

        The records store these times.
        """
        return {}

    def kept(self) -> Mapping[str, int]:
        """Return cache name → bytes in the cache, for each cache of the stage. The online service reports the bytes."""
        return {}

    @classmethod
    def files(cls, config: Any) -> tuple[Path, ...]:
        """Return the stage's files, such as weights. The run's digest covers the contents of these files.

        Raises OvssError if a file is missing. The message names the expected path and a remedy.
        """
        return ()

    @classmethod
    def lists(cls, config: Any) -> tuple[str, ...]:
        """Return the benchmarks from which the stage takes class names, such as ("ade20k:150",).

        If one of these benchmarks is unknown, the run does not start.
        """
        return ()

    @classmethod
    def key(cls, config: Any, vocabulary: Vocabulary) -> str | None:
        """Return the cache key of `prepare`'s result for a vocabulary; None if there is nothing to prepare.

        The key covers everything that decides the result.
        """
        return None

    @classmethod
    def prepare(cls, config: Any, vocabularies: Sequence[Vocabulary]) -> list[np.ndarray]:
        """Return one array per vocabulary, such as its text embeddings.

        Each array is computed once, and cached under `key` for later runs. All workers receive it.
        """
        return []

    @classmethod
    def network_key(cls, config: Any) -> str | None:
        """Return a key of the stage's `network`; None if the stage shares no network.

        If an earlier stage of the same worker has an equal key, this stage uses the earlier stage's network. The
        constructor of this stage then gets the network as the argument `network`.
        """
        return None

    @classmethod
    def elsewhere(cls, config: Any) -> tuple[str, ...]:
        """Return the names of the options that the run's digest ignores; by default, the names in `where`."""
        return cls.where

    @classmethod
    def side(cls, config: Any) -> int | None:
        """Return n if the stage predicts label maps of n × n pixels; None if a label map has the photograph's size.

        If the result is n, the ground truth is resized to n × n pixels. Only a stage with `binary = True` may return n.
        The online service rejects a stage that returns n.
        """
        return None

    @classmethod
    def check(cls, config: Any, images: Iterable[str]) -> tuple[str, ...]:
        """Return warnings about the images of a run that is about to start. `images`: ids of the images.

        Raises OvssError for a fault that concerns all images.
        """
        return ()

    @classmethod
    def notes(cls, config: Any, benchmark: str) -> tuple[str, ...]:
        """Return sentences for the report of a benchmark: facts about the stage that its options do not show."""
        return ()


class StageConfig(Settings):
    """Name and options of a stage. Both are part of the run's digest."""

    use: str
    """name of a module in ovss_ray/actors, or dotted name of your own module"""
    options: dict[str, Any] = Field(default_factory=dict)
    """options of the stage, checked by its `Config`"""

    def kind(self) -> type[Stage]:
        """Return the stage's class. Raises OvssError if there is no such stage."""
        return find("ovss_ray.actors", self.use, "Stage")

    def reads(self) -> tuple[str, ...]:
        """Return the columns that the stage reads with its options."""
        return self.kind().columns(self.options)[0]

    def writes(self) -> tuple[str, ...]:
        """Return the columns that the stage writes with its options."""
        return self.kind().columns(self.options)[1]

    def key(self, vocabulary: Vocabulary) -> str | None:
        """Return the cache key of the stage's prepared array for a vocabulary; None if there is nothing to prepare."""
        return self.kind().key(self.settings(), vocabulary)

    def identity(self) -> dict[str, Any]:
        """Return the stage's name and options for the run's digest.

        Options that do not change the results are left out (see Stage.elsewhere). Examples are paths and the device.
        """
        settings = self.settings()
        ignored = set(self.kind().elsewhere(settings))
        return {"use": self.use, "options": settings.model_dump(mode="json", exclude=ignored)}

    def gives_words(self) -> bool:
        """Return whether the stage gives each image its own words. Later stages use them as the image's vocabulary."""
        return WORDS in self.writes() and not self.kind().measures

    def notes(self, benchmark: str) -> tuple[str, ...]:
        """Return the stage's sentences for the report of a benchmark, each with the name of the stage."""
        notes = (*self.kind().notes(self.settings(), benchmark), *((NOTE,) if self.gives_words() else ()))
        return tuple(f"{self.use}: {note}" for note in notes)

    def settings(self) -> Settings:
        """Return the checked options. Raises pydantic.ValidationError."""
        return self.kind().Config(**self.options)

    def build(
        self, prepared: Prepared | None = None, *, benchmarks: Benchmarks | None = None, network: Any = None
    ) -> Stage:
        """Return an instance of the stage, for use in a worker.

        `prepared` has the results of `Stage.prepare`. `benchmarks` becomes the attribute `benchmarks` of the stage.
        `network` is the network of a stage with an equal `network_key`. If `network` is None, the stage loads its own
        network.
        """
        shared = {} if network is None else {"network": network}
        stage: Stage = self.kind()(self.settings(), prepared, **shared)
        if benchmarks is not None:  # not an argument of the constructor, since users' stages define their own
            stage.benchmarks = benchmarks
        return stage


def build_all(
    stages: Sequence[StageConfig], prepared: Prepared | None = None, benchmarks: Benchmarks | None = None
) -> dict[str, Stage]:
    """Build the stages of one worker, and return them by name. Stages with equal network keys share a network."""
    networks: dict[str, Any] = {}
    built: dict[str, Stage] = {}
    for stage in stages:
        key = stage.kind().network_key(stage.settings())
        built[stage.use] = stage.build(prepared, benchmarks=benchmarks, network=networks.get(key or ""))
        if key:
            networks.setdefault(key, built[stage.use].network)
    return built
