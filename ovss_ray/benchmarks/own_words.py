"""Own words: class names that the user chooses for a benchmark, and the benchmark's label for each class.

Metrics compare the labels of the predicted classes with the truth (see structures.question).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.vocabulary import Vocabulary


@dataclass(frozen=True)
class OwnWords:
    """Class names and prompt templates of a user for one benchmark, as plain data for workers."""

    vocabulary: Vocabulary | None
    """classes that replace those of the benchmark; None: only the templates are replaced"""
    index: tuple[int, ...] = ()
    """label index to which each class is mapped, or NONE for a class that is mapped to no label"""
    templates: tuple[str, ...] = ()
    """prompt templates; empty: those of the method"""
    file: str = ""
    """file of the words; empty for words in the config"""
    sha256: str = ""
    """SHA-256 of the content of `file` in hex digits; if `file` is empty, SHA-256 of the words in the config"""

    def applied(self, benchmark: Benchmark) -> Benchmark:
        """Return the benchmark with the user's words. The labels and the truth of the benchmark do not change.

        If `vocabulary` is None, the user's prompt templates replace those of the benchmark, and the classes do not
        change. Otherwise, `vocabulary` replaces the classes and the prompt templates.
        """
        if self.vocabulary is not None:
            return replace(benchmark, vocabulary=self.vocabulary, index=self.index, own_words=True)
        parts, alone = (
            {part: (self._prompted(words), index) for part, (words, index) in questions.items()}
            for questions in (benchmark.parts, benchmark.alone)
        )
        return replace(benchmark, vocabulary=self._prompted(benchmark.vocabulary), parts=parts, alone=alone)

    @property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 of words, labels and templates. The file's formatting has no effect."""
        classes = self.vocabulary and self.vocabulary.classes
        return hashlib.sha256(json.dumps([classes, self.index, self.templates]).encode()).hexdigest()[:12]

    def card(self, benchmark: Benchmark) -> dict[str, Any]:
        """Return a dict for the report, which describes the user's words and templates.

        The dict has the file, the SHA-256, the number of words, and the templates. If `vocabulary` is not None, the
        dict also lists the label of each word, and labels without a word.
        """
        words = self.vocabulary or benchmark.vocabulary
        return {
            "file": self.file,
            "sha256": self.sha256,
            "words": len(words),
            "mapping": [] if self.vocabulary is None else _pairs(words, self.index, benchmark.labels),
            "without_word": [] if self.vocabulary is None else _without(self.index, benchmark.labels),
            "templates": list(self.templates),
        }

    def _prompted(self, words: Vocabulary) -> Vocabulary:
        return replace(words, templates=self.templates)


def _pairs(words: Vocabulary, index: Sequence[int], labels: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return (name, label) of each word. If a word is mapped to no label, the label is None."""
    return [(name, None if k == NONE else labels[k]) for name, k in zip(words.names, index, strict=True)]


def _without(index: Sequence[int], labels: Sequence[str]) -> list[str]:
    """Return the labels to which no word is mapped."""
    named = set(index)
    return [label for k, label in enumerate(labels) if k not in named]
