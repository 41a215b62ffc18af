"""Scores of runs in which each image has its own words.

A label is a class of the benchmark. For some scores, a mapping of words/mapping.py determines the label of each word.
The other scores are upper bounds, because the truth determines the label of each word. A pixel without a word is a
false negative of the pixel's true label. A pixel whose word has no label is also a false negative of the true label.

n[g, w] is the number of pixels of an image with the true label g and the word w.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ovss_ray.structures.columns import NONE
from ovss_ray.words.mapping import Word

Record = Mapping[str, Any]
"""Record of an image: the fields `classes`, `truth`, `word` and `pixels` of metrics/words.py, as lists."""
UNIT = 2**64
"""Integer that stands for a ratio of 1. Sums of integers do not depend on the order of images."""


def names(record: Record) -> list[Word]:
    """Return the words of an image."""
    return [tuple(word) for word in record["classes"]]


def pixels(record: Record, labels: int) -> np.ndarray:
    """Return the number of pixels n[g, w] of each label and word of an image, (labels, W + 1) int64.

    W is the number of words. The last column counts pixels without a word.
    """
    table = np.zeros((labels, len(record["classes"]) + 1), np.int64)
    word = np.asarray(record["word"], np.int64)
    where = np.asarray(record["truth"], np.int64), np.where(word == NONE, table.shape[1] - 1, word)
    np.add.at(table, where, np.asarray(record["pixels"], np.int64))
    return table


def mapped(record: Record, label_of: Mapping[Word, int]) -> dict[str, np.ndarray]:
    """Return numbers of pixels for pairs of true label and predicted label, as Cells (see metrics/confusion.py).

    `label_of` is word → predicted label of the word's pixels. For a word without a label, `label_of` has NONE. Pixels
    without a word also have the predicted label NONE. A pair of labels may occur several times.
    """
    table = np.full(NONE + 1, NONE, np.uint16)
    table[: len(record["classes"])] = [label_of[word] for word in names(record)]
    labels = {
        "truth": np.asarray(record["truth"], np.uint16),
        "prediction": table[np.asarray(record["word"], np.int64)],
    }
    return {**labels, "pixels": np.asarray(record["pixels"], np.int64)}


@dataclass(frozen=True)
class Recall:
    """Recall of the labels in the truth of images. A label is recalled if a word of the image is mapped to the label.

    `present` is the number of labels in the truth, summed over images. `recalled` is the number of recalled labels.
    """

    present: int = 0
    recalled: int = 0

    @classmethod
    def of(cls, records: Iterable[Record], label_of: Mapping[Word, int]) -> "Recall":
        """Return the recall over all records. `label_of`: word → label to which the word is mapped."""
        total = cls()
        for record in records:
            truth = set(record["truth"])
            total += cls(len(truth), len(truth & {label_of[word] for word in names(record)}))
        return total

    def __add__(self, other: "Recall") -> "Recall":
        return Recall(self.present + other.present, self.recalled + other.recalled)

    @property
    def percent(self) -> float:
        """The recall in percent; NaN if `present` is 0."""
        return 100.0 * self.recalled / self.present if self.present else float("nan")


@dataclass(frozen=True, eq=False)
class UpperBounds:
    """Scores for which each word's overlap with the truth determines the word's label. Names of words have no effect.

    The scores are upper bounds. They are not comparable with the mIoU of runs in which words are mapped by name.
    """

    counts: np.ndarray
    """(L, L + 1) int64: confusion matrix in pixels

    In each image, the predicted label of a word is the true label of most of the word's pixels. Rows are the L true
    labels. The last column counts pixels without a word.
    """
    best: int = 0
    """sum over the images of the image's mean IoU, in units of 1 / UNIT

    The IoU of a true label is the highest IoU of the label with any word of the image. The mean IoU of an image is over
    the image's true labels, without background.
    """
    images: int = 0
    """number of images whose truth has a label other than background"""
    cells: Mapping[tuple[int, Word], int] = field(default_factory=dict)
    """(label, word) → pixels in all images; pixels without a word are left out"""

    @classmethod
    def of(cls, records: Sequence[Record], labels: int, background: int | None = None) -> "UpperBounds":
        """Return the scores of all records of a benchmark with `labels` labels.

        The score `best_iou` (see `result`) leaves out the label with the index `background`. If `background` is None,
        no label is left out.
        """
        counts, best, images = np.zeros((labels, labels + 1), np.int64), 0, 0
        cells: dict[tuple[int, Word], int] = {}
        for record in records:
            table, words = pixels(record, labels), names(record)
            label = np.append(table[:, :-1].argmax(axis=0), labels)  # the lowest label on ties, as in vicss
            for column, target in enumerate(label):
                counts[:, target] += table[:, column]
            value = _best(table, background)
            best += value or 0
            images += value is not None
            for g, w in zip(*table[:, :-1].nonzero(), strict=True):
                key = int(g), words[w]
                cells[key] = cells.get(key, 0) + int(table[g, w])
        return cls(counts, best, images, cells)

    def __add__(self, other: "UpperBounds") -> "UpperBounds":
        keys = self.cells.keys() | other.cells
        cells = {key: self.cells.get(key, 0) + other.cells.get(key, 0) for key in keys}
        return UpperBounds(self.counts + other.counts, self.best + other.best, self.images + other.images, cells)

    def result(self) -> dict[str, float]:
        """Return the scores `overlap`, `hungarian` and `best_iou`, in percent.

        `overlap` is the mIoU of `counts`. `hungarian` is the mIoU if `assignment` determines the labels of words.
        `best_iou` is the mean best IoU of images (see `_best`).
        """
        hungarian = np.zeros_like(self.counts)
        label_of = assignment(self.cells, len(self.counts))
        for (label, word), number in self.cells.items():
            hungarian[label, label_of.get(word, len(self.counts))] += number
        hungarian[:, -1] = self.counts.sum(axis=1) - hungarian[:, :-1].sum(axis=1)
        best = 100.0 * self.best / UNIT / self.images if self.images else float("nan")
        return {"overlap": miou(self.counts), "hungarian": miou(hungarian), "best_iou": best}


def _best(table: np.ndarray, background: int | None) -> int | None:
    """Return the mean of the best IoUs of an image's true labels, in units of 1 / UNIT.

    `table` is n[g, w] (see `pixels`). The best IoU of a label is the highest IoU with a word. The label `background` is
    left out of the mean. If the truth has no other label, the result is None.
    """
    truth, shared = table.sum(axis=1), table[:, :-1]
    present = [int(g) for g in np.flatnonzero(truth) if g != background]
    union = truth[:, None] + shared.sum(axis=0) - shared
    pairs = ([(int(part), int(whole)) for part, whole in zip(shared[g], union[g], strict=True)] for g in present)
    best = [max((ratio(part, whole) for part, whole in of_label), default=0) for of_label in pairs]
    return (2 * sum(best) + len(best)) // (2 * len(best)) if best else None


def assignment(cells: Mapping[tuple[int, Word], int], labels: int) -> dict[Word, int]:
    """Return word → label, one to one, with the largest number of correctly labelled pixels (Hungarian algorithm).

    `cells` are (label, word) → pixels.
    """
    # sorted, so that ties do not depend on the order of images
    words = sorted({word for _, word in cells})
    table = np.zeros((labels, len(words)), np.int64)
    position = {word: i for i, word in enumerate(words)}
    for (label, word), number in cells.items():
        table[label, position[word]] = number
    chosen_labels, columns = linear_sum_assignment(table, maximize=True)
    return {words[column]: int(label) for label, column in zip(chosen_labels, columns, strict=True)}


def miou(counts: np.ndarray) -> float:
    """Return the mean IoU over the labels in the truth, in percent; NaN if the truth has no label.

    `counts` (L, L + 1) int64 is a confusion matrix. The last column counts pixels without a predicted label.
    """
    hits, truth = np.diagonal(counts), counts.sum(axis=1)
    union = truth + counts[:, :-1].sum(axis=0) - hits
    present = truth > 0
    return float((100.0 * hits[present] / union[present]).mean()) if present.any() else float("nan")


def ratio(part: int, whole: int) -> int:
    """Return part / whole in units of 1 / UNIT, rounded; 0 if the whole is 0."""
    return (2 * part * UNIT + whole) // (2 * whole) if whole else 0
