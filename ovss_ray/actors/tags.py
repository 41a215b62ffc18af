"""Find the words of an image: SAN chooses them from a list of names.

A name becomes a word of the image if SAN predicts the name for a mask. Later stages segment the image with these words.

For a tagger of your own, write a module with a function `load(config)` that returns the tagger. `config` is this
stage's Config. The tagger is a function of an image (H, W, 3) uint8 RGB. The tagger returns a list of (name, score). A
name is a string or a list of synonyms. An optional function `files(config)` returns the files on which the tags depend.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from ovss_ray import registry
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.files.cache import local_copy
from ovss_ray.models.network_config import NetworkConfig
from ovss_ray.pipeline import stage
from ovss_ray.pipeline.stage import Prepared
from ovss_ray.structures import words
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from torch import Tensor

    from ovss_ray.models.san.network import San

SAN = "san"
"""Value of the option `tagger` for the built-in tagger"""
LIST = ".txt"
"""Ending of a path in the option `words`. A string without this ending is the name of a benchmark"""
Tag = tuple[str | Sequence[str], float]
"""Name or synonyms, and score"""


class Stage(stage.Stage):
    """Find the words of an image (H, W, 3) uint8 RGB, and a score for each word.

    Words that SAN finds are sorted by the area of the word's largest mask, in descending order. The score of a word is
    the highest probability of the word for a mask. Words that a tagger of your own finds keep the tagger's order and
    scores.
    """

    reads = ("image",)
    writes = ("words",)
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("weights", "device", "batch")

    class Config(NetworkConfig):
        """The SAN network, the list of names, and the thresholds; or a tagger of your own."""

        family: ClassVar[str] = "ovss_ray.models.san"
        tagger: str = SAN
        """san, or the dotted name of a module of your own with a function `load`. For a tagger of your own,
        `threshold` applies to the tagger's scores, and this stage ignores `variant`, `words` and `area`"""
        variant: str = "san_tiny"
        """san_tiny, san_vit_b_16 or san_vit_large_14"""
        words: str | tuple[str, ...] = "scenes:all"
        """names to choose from: a list, the path of a .txt file with one name per line, or the name of a benchmark.
        The names of a benchmark are its class names"""
        threshold: float = Field(default=0.05, ge=0, le=1)
        """a name becomes a word only if its probability for a mask exceeds this value"""
        area: float = Field(default=0.003, ge=0, le=1)
        """a mask gives the image a word only if the mask covers more than this fraction of the image"""
        fallback: str = ""
        """word, such as "object", that is used for an image in which no word was found

        If `fallback` is empty, the image has no words, and no pixel of the image gets a class.
        """
        batch: int = Field(default=8, ge=1)
        """maximum number of images in one forward pass. Only images of the same padded size share a forward pass"""

        @field_validator("words")
        @classmethod
        def _absolute_list(cls, words: str | tuple[str, ...]) -> str | tuple[str, ...]:
            if isinstance(words, str):
                return files.absolute(words) if words.endswith(LIST) else words
            try:
                Vocabulary.of(words)
            except OvssError as failure:
                raise ValueError(str(failure)) from failure
            return words

        def path(self) -> str:
            """Return the absolute path of the list of names, or "" if `words` is not a path."""
            return self.words if isinstance(self.words, str) and self.words.endswith(LIST) else ""

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """Return the files on which the words depend.

        For SAN, the result has the network's files. If `words` is a path, the result also has the list of names. For a
        tagger of your own, the result has the files that the function `files` of the tagger's module returns. If the
        module has no function `files`, the result is (). Raises OvssError if a file or the tagger's module is missing,
        or if the list of names is empty.
        """
        if config.tagger != SAN:
            registry.find("ovss_ray.actors", config.tagger, "load")  # raises OvssError for an unknown module
            listed = registry.optional(config.tagger, "files")
            return tuple(listed(config)) if listed else ()
        if not config.path():
            return config.files()
        _listed(config.path())
        return (*config.files(), local_copy(config.path()))

    @classmethod
    def lists(cls, config: Config) -> tuple[str, ...]:
        """Return (name,) if SAN chooses words from the class names of the benchmark `name`; otherwise ()."""
        named = config.tagger == SAN and isinstance(config.words, str) and not config.path()
        return (str(config.words),) if named else ()

    @classmethod
    def elsewhere(cls, config: Config) -> tuple[str, ...]:
        """Return the names of the options that the run's digest ignores: "device", "batch" and usually "weights".

        The digest usually ignores "weights", because the digest has the checksums of the stage's files (see `files`).
        For a tagger of your own whose module has no function `files`, no checksums are known. In this case, the digest
        includes the option "weights", if it is set.
        """
        if config.tagger == SAN or not config.weights or registry.optional(config.tagger, "files"):
            return cls.where
        return tuple(name for name in cls.where if name != "weights")

    @classmethod
    def notes(cls, config: Config, benchmark: str) -> tuple[str, ...]:
        """Return a note for the report: the source of the words, and the thresholds.

        If SAN chooses words from the classes of `benchmark`, the note adds that words are restricted to these classes.
        """
        if config.tagger != SAN:
            return (f"words from the tagger {config.tagger}; threshold {config.threshold}",)
        listed = config.words if isinstance(config.words, str) else f"{len(config.words)} names of the config"
        restricted = ", which is the benchmark itself: words are restricted to its classes" * (listed == benchmark)
        return (f"words from {listed}{restricted}; threshold {config.threshold}, area {config.area}",)

    @classmethod
    def network_key(cls, config: Config) -> str | None:
        """Return a key of the loaded SAN; None for a user's tagger.

        If a stage `san` in the same worker has an equal key, both stages share one SAN.
        """
        return config.network_key() if config.tagger == SAN else None

    def __init__(self, config: Config, prepared: Prepared | None = None, network: "San | None" = None) -> None:
        super().__init__(config, prepared)
        self.tagger: Callable[[np.ndarray], Sequence[Tag]] | None = None
        if config.tagger != SAN:
            self.tagger = registry.find("ovss_ray.actors", config.tagger, "load")(config)
            return
        from ovss_ray.models.san import network as networks

        self.model = self.network = network or networks.load(
            config.variant, config.files(), config.resolved_device(), config.precision
        )
        if network:
            self.model.share()

    @cached_property
    def _names(self) -> Vocabulary:
        if self.config.path():
            return _listed(self.config.path())
        if isinstance(self.config.words, str):
            return self.benchmarks[self.config.words].vocabulary
        return Vocabulary.of(self.config.words)

    @cached_property
    def _classifier(self) -> "Tensor":
        """Classifier (K + 1, D) float32: an embedding for each of K names, then an embedding for "no object".

        K is the number of names from which SAN chooses. D is the dimension of SAN's embeddings.
        """
        from ovss_ray.models.san import network

        return network.classifier(self.model.ov_classifier, self._names)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Tag the images of a batch. Images of the same padded size share forward passes."""
        import torch

        from ovss_ray.models import photograph

        images = list(batch["image"])
        if self.tagger is not None:
            with self.config.computing():
                return {"words": column(self._tagged(self.tagger(image)) for image in images)}
        values: dict[int, dict[str, Any]] = {}
        with self.config.computing(), torch.inference_mode():
            sizes = [self.model.geometry(image).padded for image in images]
            for rows in photograph.alike(sizes, 1 if self.config.exact else self.config.batch):
                values |= zip(rows, self._tag([images[row] for row in rows]), strict=True)
        return {"words": column(values[row] for row in range(len(images)))}

    def _tagged(self, tags: Sequence[Tag]) -> dict[str, Any]:
        """Return the words of an image: the tags that a user's tagger returned, in the same order."""
        kept = [(names, float(score)) for names, score in tags if score > self.config.threshold]
        scores = [score for _, score in kept]
        return words.of([names for names, _ in kept], f"tags {self.config.tagger}", scores, self.config.fallback)

    def _tag(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        from ovss_ray.models.san import network

        features = self.model.features(images)
        best = network.class_probabilities(features.mask_embeddings @ self._classifier.T).max(-1)
        areas = (features.mask_logits > 0).flatten(2).float().mean(-1)
        rows = zip(best.indices.cpu().numpy(), best.values.cpu().numpy(), areas.cpu().numpy(), strict=True)
        return [self._words(*row) for row in rows]

    def _words(self, names: np.ndarray, probabilities: np.ndarray, areas: np.ndarray) -> dict[str, Any]:
        """Return the words of an image, the word with the largest mask first.

        Each argument is (Q,), one value per mask: index and probability of the best name, and area as a fraction of the
        image. A word's score is the word's highest probability.
        """
        counted = np.flatnonzero((areas > self.config.area) & (probabilities > self.config.threshold))
        scores: dict[int, float] = {}
        for query in counted[np.argsort(-areas[counted], kind="stable")]:
            name = int(names[query])
            scores[name] = max(scores.get(name, 0.0), float(probabilities[query]))
        source = f"tags {self.config.variant}"
        classes = [self._names.classes[name] for name in scores]
        return words.of(classes, source, list(scores.values()), self.config.fallback)


def _listed(path: str) -> Vocabulary:
    """Return the names in a text file. Each line has one name, or several synonyms that are separated by tabs.

    Raises OvssError if the file is unreadable or empty, or has an invalid name.
    """
    try:
        lines = files.read(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as failure:
        raise OvssError(f"{path}: not UTF-8 text ({failure}). Save the list of names as UTF-8") from failure
    names = [line.split("\t") for line in lines if line.strip()]
    if not names:
        raise OvssError(f"{path}: empty list. Write one name per line")
    try:
        return Vocabulary.of(names)
    except OvssError as failure:
        raise OvssError(f"{path}: {failure}") from failure
