"""Use of an image's words as the image's vocabulary, and detection of images without words.

The words of an image are the classes that a method may predict for this image (see structures/words.py). Each row of a
batch is an image.
"""

from collections import ChainMap
from typing import Any

import numpy as np

from ovss_ray.errors import OvssError
from ovss_ray.pipeline.stage import Stage
from ovss_ray.structures import words
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary
from ovss_ray.structures.words import WORDS


def with_words(batch: Batch, vocabularies: Vocabularies, stage: str) -> tuple[Batch, Vocabularies]:
    """Replace each row's vocabulary by the row's words. Return the new batch, and a mapping with all vocabularies.

    In the new batch, `vocabulary` has the digest of each row's words, or "" for a row without words. The mapping has
    the given `vocabularies`, and the new vocabularies of the rows. If a row's words have no prompt templates, the
    templates of the row's previous vocabulary are used. If a row's words are invalid, the row gets an error that begins
    with `stage`.
    """
    new: dict[str, Vocabulary] = {}
    digests, errors, values = column(batch["vocabulary"]), column(batch["error"]), column(batch[WORDS])
    for row in range(len(values)):
        if errors[row] == "":
            before = vocabularies.get(digests[row])
            if before and before.templates and not (values[row] or {}).get("templates"):
                values[row] = {**(values[row] or {}), "templates": list(before.templates)}
            try:
                vocabulary = words.vocabulary(values[row])
            except OvssError as failure:
                errors[row] = f"{stage}: {failure}"
                continue
            digests[row] = vocabulary.digest if vocabulary else ""
            new |= {vocabulary.digest: vocabulary} if vocabulary else {}
    known: Any = vocabularies  # only read, though ChainMap asks for a mapping that can be written
    return {**batch, WORDS: values, "vocabulary": digests, "error": errors}, ChainMap(new, known)


def wordless(stage: Stage, batch: Batch) -> np.ndarray:
    """Return (n,) bool: True for each of n rows that the stage skips because the row has no words."""
    if WORDS not in batch or "vocabulary" not in stage.reads:
        return np.zeros(len(batch["error"]), bool)
    return np.array([not digest for digest in batch["vocabulary"]], bool)
