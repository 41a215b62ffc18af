"""Number of pixels per true label and predicted word, for runs in which images have different lists of words.

In these runs, the column `prediction` of an image has indices into the image's words. `ovss report RUN --mapping NAME`
maps the words of a finished run to classes (see words/scoring.py). Pixels without a word (NONE) are counted. Pixels
whose truth is IGNORE are not counted.

    words_per_image    mean number of words of an image
    pixels_with_word   percentage of counted pixels whose prediction is a word, not NONE
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ovss_ray.errors import OvssError
from ovss_ray.structures.columns import IGNORE, NONE
from ovss_ray.structures.question import Question

reads = ("truth", "prediction", "words")
schema = pa.struct(
    [
        ("classes", pa.list_(pa.list_(pa.string()))),
        ("source", pa.string()),
        ("scores", pa.list_(pa.float64())),
        ("truth", pa.list_(pa.uint16())),
        ("word", pa.list_(pa.uint16())),
        ("pixels", pa.list_(pa.int64())),
    ]
)
sums = pa.struct(
    [
        ("images", pa.int64()),
        ("words", pa.list_(pa.struct([("names", pa.list_(pa.string())), ("images", pa.int64())]))),
        (
            "cells",
            pa.list_(pa.struct([("truth", pa.uint16()), ("names", pa.list_(pa.string())), ("pixels", pa.int64())])),
        ),
    ]
)
title = "Words of the images"
order = 7
headings = {"words_per_image": "words per image", "pixels_with_word": "pixels with a word, %"}
counts = {"distinct_words": "distinct words"}

Word = tuple[str, ...]
"""A predicted word, as the tuple of its names; the first name is displayed."""
NOTHING: Word = ()
"""Empty tuple, the key under which pixels without a word (predicted as NONE) are counted."""


def measure(question: Question, truth: np.ndarray, prediction: np.ndarray, words: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of one image: its words, and the number of pixels of each pair of a true label and a word.

    `words` is the image's value of the column `words` (see structures/words.py). `truth` (H, W) has label indices or
    IGNORE. `prediction` (H, W) has indices into the list words["classes"], or NONE.

    Raises OvssError if `truth` and `prediction` differ in size, or if one of them has a value out of range.
    """
    classes = [list(names) for names in words.get("classes") or ()]
    if truth.shape != prediction.shape:
        raise OvssError(
            f"the prediction has {' × '.join(map(str, prediction.shape))} pixels and the truth "
            f"{' × '.join(map(str, truth.shape))}; both must have the same size"
        )
    counted = truth != IGNORE
    cells, pixels = np.unique(truth[counted].astype(np.int64) << 16 | prediction[counted], return_counts=True)
    labels, indices = cells >> 16, cells & 0xFFFF
    if (wrong := (indices >= len(classes)) & (indices != NONE)).any() or (labels >= len(question.labels)).any():
        value = (
            f"index {indices[wrong][0]} in the prediction, but the image has {len(classes)} words"
            if wrong.any()
            else f"label {labels.max()} in the truth"
        )
        raise OvssError(
            f"a pixel value is out of range: {value}. Predict only indices into the image's words, or {NONE}. In the "
            "truth, use only label indices of the benchmark, or the value for ignored pixels"
        )
    return {
        "classes": classes,
        "source": str(words.get("source") or ""),
        "scores": words.get("scores"),
        "truth": labels.astype(np.uint16),
        "word": indices.astype(np.uint16),
        "pixels": pixels.astype(np.int64),
    }


@dataclass(frozen=True)
class Partial:
    """Numbers of words and pixels, summed over a set of images. Addition is exact, associative and commutative."""

    images: int = 0
    words: Mapping[Word, int] = field(default_factory=dict)
    """word → number of occurrences of the word in the lists of all images"""
    cells: Mapping[tuple[int, Word], int] = field(default_factory=dict)
    """(true label, word) → number of pixels; the word NOTHING stands for pixels without a word"""

    @classmethod
    def of(cls, records: pa.StructArray | pa.ChunkedArray, labels: int) -> "Partial":
        """Return the sum over `records`, the values of the column `words`. Nulls are skipped.

        Raises OvssError unless all label indices are below `labels`, the number of labels.
        """
        words: Counter[Word] = Counter()
        cells: Counter[tuple[int, Word]] = Counter()
        images = 0
        for record in (record for record in records.to_pylist() if record):
            images += 1
            names = [tuple(names) for names in record["classes"]]
            words.update(names)
            for label, word, pixels in zip(record["truth"], record["word"], record["pixels"], strict=True):
                cells[label, NOTHING if word == NONE else names[word]] += pixels
        if (largest := max((label for label, _ in cells), default=0)) >= labels:
            raise OvssError(
                f"the run's records have label indices up to {largest}, but the benchmark has {labels} labels, "
                "counted from 0. Perhaps the records are from another version of the benchmark. Choose a new --out"
            )
        return cls(images, dict(words), dict(cells))

    def __add__(self, other: "Partial") -> "Partial":
        cells = Counter(self.cells)
        cells.update(other.cells)
        words = Counter(self.words)
        words.update(other.words)
        return Partial(self.images + other.images, dict(words), dict(cells))

    def folded(self) -> dict[str, Any]:
        """Convert this Partial to a dict with the keys "images", "words" and "cells".

        The dict fits the Arrow type `sums` of this module. `of_folded` converts the dict back to a Partial.
        """
        words = [{"names": list(word), "images": number} for word, number in sorted(self.words.items())]
        cells = [
            {"truth": label, "names": list(word), "pixels": pixels}
            for (label, word), pixels in sorted(self.cells.items())
        ]
        return {"images": self.images, "words": words, "cells": cells}

    @classmethod
    def of_folded(cls, values: Mapping[str, Any]) -> "Partial":
        """Return a Partial from `values`, the dict that `folded` returns."""
        words = {tuple(word["names"]): word["images"] for word in values["words"]}
        cells = {(cell["truth"], tuple(cell["names"])): cell["pixels"] for cell in values["cells"]}
        return cls(values["images"], words, cells)

    def result(self) -> dict[str, float]:
        """Return words per image (NaN without images), and the percentage of pixels with words (NaN without pixels)."""
        pixels = sum(self.cells.values())
        named = pixels - sum(count for (_, word), count in self.cells.items() if word == NOTHING)
        return {
            "words_per_image": sum(self.words.values()) / self.images if self.images else float("nan"),
            "pixels_with_word": 100.0 * named / pixels if pixels else float("nan"),
        }

    def counted(self) -> dict[str, int]:
        """Return the number of distinct words."""
        return {"distinct_words": len(self.words)}
