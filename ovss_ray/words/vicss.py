"""The metrics of vicss, the code of Conti et al., "Vocabulary-free Image Classification and Semantic Segmentation".

All metrics except `hard` are means over images. Means over images are not comparable with mIoU. Class 0 is
"background", even if no label has this name. Metrics of the kinds hard, overlap and nearest replace each word by a
class:

    hard      the class with the same name, byte for byte, or background if no class has this name
    overlap   the class that the word overlaps most in the image's truth, and the lowest class on ties
    nearest   the most similar class; a comment in `Judge._add` explains a fault of vicss that is repeated here

Metrics of the kind soft weight the pixels of each word by similarities. Sums are over the words w of an image:

    T[g]      number of pixels of class g in the truth
    N[w]      number of pixels of word w
    n[g, w]   number of pixels that have class g in the truth, and word w
    c(g, w)   similarity of class g and word w, or 0 if the similarity is negative
    I[g]      Σ c(g, w) n[g, w]
    U[g]      Σ c(g, w) N[w] + T[g] - I[g]

The soft IoU of class g is I[g] / U[g]. The soft recall of class g is I[g] / T[g].

For `hard`, pixels are summed over all images. The macro mean is the mean over the classes that occur, including
background. The micro mean is one ratio of sums over all classes.

For the other metrics, an image has one value for each class in its truth, except background. The micro mean is the mean
of the values of all images and classes. For the macro mean, the values of each class are first averaged over images.
The macro mean is the mean of these averages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ovss_ray.structures.vocabulary import folded
from ovss_ray.words.mapping import Word
from ovss_ray.words.scoring import UNIT, Record, names, pixels, ratio
from ovss_ray.words.similarity import UNIT as SIMILARITY_UNIT

BACKGROUND = "background"
OF_IMAGES = ("jaccard_overlap", "jaccard_nearest", "jaccard_soft", "recall_soft")
"""Metrics that are means over images, in the order of `Sums.ratios`. The last three need similarities."""


@dataclass(frozen=True, eq=False)
class Judge:
    """Classes of a benchmark in the order of vicss, background first, and similarities of words and classes."""

    labels: tuple[str, ...]
    """names of the benchmark's labels"""
    similar: Mapping[Word, np.ndarray] | None = None
    """word → (K,) int64 similarities to `classes`, in units of 1 / similarity.UNIT

    If None, only the metrics hard and overlap are computed.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes, background first."""
        return (BACKGROUND, *(name for name in self.labels if folded(name) != BACKGROUND))

    def sum(self, records: Sequence[Record]) -> "Sums":
        """Return the sums over records."""
        total = Sums.zero(len(self.classes))
        for record in records:
            self._add(total, record)
        return total

    def _add(self, total: "Sums", record: Record) -> None:
        """Add the values of an image's record to `total`, in place."""
        table, words = self._table(record), names(record)
        place = {name: index for index, name in reversed(list(enumerate(self.classes)))}
        hard = np.array([*(place.get(word[0], 0) for word in words), 0], np.int64)
        for column, target in enumerate(hard):
            total.counts[:, target] += table[:, column]
        truth, shared = table.sum(axis=1), table[:, :-1]
        present = [int(g) for g in np.flatnonzero(truth) if g]
        total.pairs[present] += 1
        self._hit(total.ratios[0], present, truth, shared, shared.argmax(axis=0))
        if self.similar is not None:
            similar = np.array([self.similar[word] for word in words], np.int64).reshape(len(words), len(truth))
            allowed = similar.copy()
            # The fault of vicss: the similarities of classes that are absent from the truth should become 0. Instead,
            # for each class g in the truth, those of class ~g = K-1-g become 0.
            allowed[:, ~np.flatnonzero(truth)] = 0
            self._hit(total.ratios[1], present, truth, shared, allowed.argmax(axis=1))
            self._soften(total.ratios[2:], present, truth, shared, np.maximum(similar, 0))

    def _table(self, record: Record) -> np.ndarray:
        """Return the number of pixels n[g, w] of each class and word of an image, (K, W + 1) int64.

        W is the number of words. The rows are in the order of `classes`. The last column counts pixels without a word.
        """
        table = pixels(record, len(self.labels))
        is_background = np.array([folded(name) == BACKGROUND for name in self.labels])
        return np.vstack([table[is_background].sum(axis=0)[None], table[~is_background]])

    def _hit(
        self, ratios: np.ndarray, present: Sequence[int], truth: np.ndarray, shared: np.ndarray, classes: np.ndarray
    ) -> None:
        """Compute the IoU of each class in `present` for one image, and add the IoUs to `ratios` (K,) in place.

        `truth` (K,) is T[g]. `shared` (K, W) is n[g, w]. The module's docstring defines T[g] and n[g, w]. `classes`
        (W,) has the index of the class that replaces each word.
        """
        for g in present:
            of_class = shared[:, classes == g]
            hits = int(of_class[g].sum())
            ratios[g] += ratio(hits, int(of_class.sum()) + int(truth[g]) - hits)

    def _soften(
        self, ratios: np.ndarray, present: Sequence[int], truth: np.ndarray, shared: np.ndarray, similar: np.ndarray
    ) -> None:
        """Add an image's soft IoU and soft recall of each class in `present` to `ratios` (2, K).

        The module's docstring defines soft IoU, soft recall, T[g], n[g, w] and c(g, w). `truth` (K,) is T[g]. `shared`
        (K, W) is n[g, w]. `similar` (W, K) has c(g, w) at [w, g], in units of 1 / SIMILARITY_UNIT.
        """
        exact, of_word = similar.astype(object), shared.sum(axis=0).astype(object)  # integers of any size
        for g in present:
            hits = int((exact[:, g] * shared[g].astype(object)).sum())
            whole = int(truth[g]) * SIMILARITY_UNIT
            ratios[0][g] += ratio(hits, int((exact[:, g] * of_word).sum()) + whole - hits)
            ratios[1][g] += ratio(hits, whole)


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over a set of images, from which `result` computes the metrics.

    All values are integers, so addition is exact, associative and commutative.
    """

    counts: np.ndarray
    """(K, K) int64: number of pixels of each class in the truth (rows) and each class in the prediction (columns)"""
    ratios: np.ndarray
    """(4, K) object: value of each metric in OF_IMAGES for each class, summed over images, in units of 1 / UNIT"""
    pairs: np.ndarray
    """(K,) int64: number of images with each class in the truth; 0 for background"""

    @classmethod
    def zero(cls, classes: int) -> "Sums":
        """Return the sums over an empty set of images."""
        ratios = np.zeros((len(OF_IMAGES), classes), np.int64).astype(object)
        return cls(np.zeros((classes, classes), np.int64), ratios, np.zeros(classes, np.int64))

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.counts + other.counts, self.ratios + other.ratios, self.pairs + other.pairs)

    def result(self, similar: bool = True) -> dict[str, float]:
        """Return name → mean, from 0 to 1, such as "jaccard_hard_macro"; NaN if there are no values.

        If `similar` is False, the metrics that need similarities are left out.
        """
        hits, truth = np.diagonal(self.counts), self.counts.sum(axis=1)
        union = truth + self.counts.sum(axis=0) - hits
        occurs = union > 0
        means = {
            "jaccard_hard_macro": _mean(hits[occurs] / union[occurs]),
            "jaccard_hard_micro": _mean([hits.sum() / union.sum()] if occurs.any() else []),
            "recall_hard_macro": _mean(hits[occurs] / np.maximum(truth[occurs], 1)),
            "recall_hard_micro": _mean([hits.sum() / truth.sum()] if truth.any() else []),
        }
        present = np.flatnonzero(self.pairs)
        for name, sums in zip(OF_IMAGES[: None if similar else 1], self.ratios, strict=False):
            means[f"{name}_macro"] = _mean([int(sums[g]) / UNIT / int(self.pairs[g]) for g in present])
            means[f"{name}_micro"] = _mean([int(sums.sum()) / UNIT / int(self.pairs.sum())] if len(present) else [])
        return means


def _mean(values: np.ndarray | Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
