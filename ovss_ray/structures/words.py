"""Words of an image: the classes that a method may predict, if each image has a separate vocabulary.

A value of the column `words` is a dict:

    classes    list of words, each a list of names, the displayed name first; empty for an image without words
    source     origin of the words, such as "tags san_tiny"
    scores     list of floats, one per word, or None
    templates  prompts, as in Vocabulary.templates; may be missing
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ovss_ray.errors import OvssError
from ovss_ray.structures.columns import NONE, Batch, column
from ovss_ray.structures.vocabulary import Vocabulary, exact_mapping, folded

WORDS = "words"
"""Name of the column with the words of each image"""
# texts, because Ray would infer types from dicts
PACKED = (WORDS, "captions")
"""Columns whose values are dicts. Workers exchange the dicts as JSON texts"""
Words = Mapping[str, Any]
"""Value of the column `words` for one image (see the docstring of this module)"""
NOTE = (
    "mapping of words: exact. A word counts as the class that has the same name, apart from case; other words count as "
    "no class"
)
"""Sentence for the report of a run in which each image has its own vocabulary"""


def of(
    classes: Iterable[str | Iterable[str]], source: str, scores: Sequence[float] | None = None, fallback: str = "",
    base: Sequence[Sequence[str]] = (),
) -> dict[str, Any]:  # fmt: skip
    """Return a value of the column `words`, without surplus blanks and repeated names.

    A name is removed if it also occurs in `base` or in an earlier class. A class without remaining names is left out.
    If `base` is not empty, the classes of `base` come first, unchanged, and the value has no scores. If `base` and
    `classes` are empty, `fallback` becomes the only class. If `fallback` is "" too, the value has no classes.

    If `scores` is not None, `scores` must have one score per class in `classes`. Raises OvssError for a wrong number of
    scores. Raises OvssError for a name that is empty or has control characters.
    """
    listed = [(name,) if isinstance(name, str) else tuple(name) for name in classes]
    if scores is not None and len(scores) != len(listed):
        raise OvssError(f"{len(scores)} scores for {len(listed)} words. Give one score per word, or none at all")
    kept, used = [], {folded(name) for names in base for name in names}
    for position, names in enumerate(Vocabulary(tuple(listed)).classes if listed else ()):
        new: dict[str, str] = {}
        for name in map(_tidy, names):
            if folded(name) not in used:
                new.setdefault(folded(name), name)
        used |= set(new)
        if new:
            kept.append((list(new.values()), None if scores is None else float(scores[position])))
    if base:
        return {"classes": [*map(list, base), *(names for names, _ in kept)], "source": source, "scores": None}
    if not kept and fallback:
        return {"classes": [[fallback]], "source": f"{source}, fallback", "scores": None}
    kept_scores = None if scores is None else [score for _, score in kept]
    return {"classes": [names for names, _ in kept], "source": source, "scores": kept_scores}


def _tidy(name: str) -> str:
    """Return a name with composed accents (NFC), and single blanks between its parts."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", name)).strip()


def vocabulary(words: Words | None) -> Vocabulary | None:
    """Return the vocabulary of an image's words; None if the image has no words.

    Raises OvssError for an invalid name, or more words than a label map can hold.
    """
    classes = (words or {}).get("classes") or ()
    if len(classes) > NONE - 1:
        raise OvssError(f"{len(classes):,} words in one image; a label map can hold {NONE - 1:,}. Remove words")
    return Vocabulary.of(classes, (words or {}).get("templates") or ()) if classes else None


def packed(batch: Batch) -> Batch:
    """Encode the columns in PACKED as JSON texts, so that the batch can be sent to another worker."""
    return {name: column(map(_text, values)) if name in PACKED else values for name, values in batch.items()}


def _text(value: Any) -> str:
    return json.dumps(value, default=lambda array: array.tolist())


def unpacked(batch: Batch) -> Batch:
    """Decode the JSON texts in the columns PACKED. All other values are unchanged."""

    def read(value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value

    return {name: column(map(read, values)) if name in PACKED else values for name, values in batch.items()}


def as_classes(prediction: np.ndarray, words: Words, classes: Vocabulary) -> np.ndarray:
    """Convert word indices (H, W) to class indices (H, W) uint16, by exact_mapping. NONE is unchanged.

    Raises OvssError for a pixel that is neither the index of a word nor NONE.
    """
    names = words.get("classes") or ()
    table = np.full(NONE + 1, NONE, np.uint16)
    table[: len(names)] = exact_mapping(names, classes)
    wrong = prediction[((prediction < 0) | (prediction >= len(names))) & (prediction != NONE)]
    if len(wrong):
        raise OvssError(
            f"{len(wrong)} pixels of the prediction have values such as {wrong[0]}; the image has {len(names)} words. "
            f"Valid values are word indices below {len(names)}, and {NONE} for no word"
        )
    return table[prediction]
