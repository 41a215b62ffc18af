"""Vocabulary and ground-truth labels of a benchmark, and the label that each class counts as."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ovss_ray.errors import OvssError
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.masks import regions
from ovss_ray.structures.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Question:
    """Ground-truth labels and vocabulary for images of one benchmark.

    In a few-shot benchmark, all episodes of a class share one Question. In any other benchmark, all images share one.
    """

    labels: tuple[str, ...]
    """names of L labels. A pixel of the column `truth` is an index into `labels`, or IGNORE"""
    vocabulary: Vocabulary
    """K classes. A pixel of the column `prediction` is the index of a class, or NONE"""
    index: tuple[int, ...]
    """label index of each of the K classes; NONE for a class that counts as no label"""
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """name of a group of labels, such as "things" or "stuff" → indices of its labels"""
    part: str = ""
    """name of the class to segment, if the images are few-shot episodes; "" for other images"""

    def labelled(self, prediction: np.ndarray) -> np.ndarray:
        """Convert class indices to label indices, both (H, W) integers. NONE is unchanged.

        If every class i counts as label i, `prediction` is returned, and the values are not checked. In all other
        cases, the values are checked. Raises OvssError if a checked value is neither a class index nor NONE.
        """
        if self._table is None:
            return prediction
        wrong = prediction[((prediction < 0) | (prediction >= len(self.index))) & (prediction != NONE)]
        if len(wrong):
            raise OvssError(
                f"{len(wrong)} pixels of the prediction have values such as {wrong[0]}; there are {len(self.index)} "
                f"classes. Valid values are class indices below {len(self.index)}, and {NONE} for no class"
            )
        return self._table[prediction]

    def named(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the label of each region's best class, (R,) uint16, and the probability of this class, (R,) float64.

        `scores` (R, K) are logits. The best class is the candidate with the largest logit. If several candidates have
        the largest logit, the first of them is the best class. The probability is a softmax over the candidates.

        The benchmark's groups of labels, such as "things", are in `groups`. If there are no groups, or all groups are
        empty, all classes are candidates. Otherwise, a class is a candidate in two cases:

        - A group contains the label of the class.
        - The class counts as no label.

        The label of a class that counts as no label is NONE.
        """
        if not len(scores):
            return np.empty(0, np.uint16), np.empty(0)
        # a class that counts as no label is always a candidate
        grouped = set().union(*self.groups.values(), {NONE}) if any(self.groups.values()) else set(self.index)
        candidates = np.array([k for k, label in enumerate(self.index) if label in grouped])
        best, probability = regions.named(scores[:, candidates])
        return np.array(self.index, np.uint16)[candidates[best]], probability

    @cached_property
    def _table(self) -> np.ndarray | None:
        """Array uint16 that has the label of class i at index i; None if every class i counts as label i."""
        if self.index == tuple(range(len(self.labels))):
            return None
        table = np.full(NONE + 1, NONE, np.uint16)
        table[: len(self.index)] = self.index
        return table
