"""Accuracy of the classes that a method predicts for prompted instances.

    instance_accuracy = instances whose predicted label is correct / instances

The metric evaluates only instances that have a prompt. Crowds and invalid annotations have no prompt (see
actors/truth_prompts.py). The accuracy is computed over the instances of all images; it is not a mean over classes. If
the benchmark has groups, such as base and novel, labels outside the groups are never predicted (see Question.named).
OVSAM's code calls this accuracy `score`. Values are percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ovss_ray.errors import OvssError
from ovss_ray.structures.question import Question

reads = ("true_labels", "prompt_instances", "scores")
schema = pa.struct(
    [("label", pa.list_(pa.uint16())), ("predicted", pa.list_(pa.uint16())), ("score", pa.list_(pa.float64()))]
)
sums = pa.struct([("hits", pa.list_(pa.int64())), ("instances", pa.list_(pa.int64()))])
title = "Classes of prompted instances, in percent"
order = 7
headings = {"instance_accuracy": "accuracy of instances"}
live = {"instance_accuracy": "accuracy of instances"}
group_headings = {"instance_accuracy": "accuracy"}
class_headings = {"instance_accuracy": "accuracy of instances"}


def measure(
    question: Question, true_labels: np.ndarray, prompt_instances: np.ndarray, scores: np.ndarray
) -> dict[str, np.ndarray]:
    """Return `label`, `predicted` and `score` of each of N prompted instances.

    `label` (N,) uint16 is the true label. `predicted` (N,) uint16 is the predicted label. `score` (N,) float64 is the
    softmax probability of the predicted class (see Question.named).

    `true_labels` (R,) are the labels of all R instances of the image. `prompt_instances` (N,) has the index in
    `true_labels` of each prompt's instance. `scores` (N, K) are logits of K classes. Raises OvssError unless each
    prompt has one row in `scores`.
    """
    if len(scores) != len(prompt_instances):
        raise OvssError(
            f"{len(scores)} rows of scores for {len(prompt_instances)} prompts. Use a stage that scores one mask per "
            "prompt, such as alpha_clip after sam_prompt with `per: instance`"
        )
    predicted, probability = question.named(scores)
    return {"label": true_labels[prompt_instances], "predicted": predicted, "score": probability}


@dataclass(frozen=True, eq=False)
class Partial:
    """Two numbers per label, summed over images: all instances, and correctly classified instances.

    Addition is exact, associative and commutative.
    """

    hits: np.ndarray
    """(L,) int64: number of correctly classified instances of each label"""
    instances: np.ndarray
    """(L,) int64: number of instances of each label"""

    @classmethod
    def of(cls, records: pa.StructArray | pa.ChunkedArray, labels: int) -> "Partial":
        """Return the sum over `records`, the values of the column `instance_accuracy`. Nulls are skipped.

        `labels` is the number of labels. Raises OvssError unless all true label indices are below `labels`.
        """
        chunks = records.chunks if isinstance(records, pa.ChunkedArray) else [records]
        zero = cls(np.zeros(labels, np.int64), np.zeros(labels, np.int64))
        return sum((cls._of_chunk(chunk.drop_null(), labels) for chunk in chunks), zero)

    @classmethod
    def _of_chunk(cls, records: pa.StructArray, labels: int) -> "Partial":
        label, predicted = (
            records.field(name).flatten().to_numpy(zero_copy_only=False) for name in ("label", "predicted")
        )
        if label.max(initial=0) >= labels:
            raise OvssError(
                f"the run's records have label indices up to {label.max()}, but the benchmark has {labels} labels, "
                "counted from 0. Perhaps the records are from another version of the benchmark. Choose a new --out"
            )
        return cls(np.bincount(label[label == predicted], minlength=labels), np.bincount(label, minlength=labels))

    def __add__(self, other: "Partial") -> "Partial":
        return Partial(self.hits + other.hits, self.instances + other.instances)

    def result(self) -> dict[str, float]:
        """Return the accuracy over all instances in percent. If there are no instances, the accuracy is NaN."""
        return {"instance_accuracy": self._rate(range(len(self.instances)))}

    def of_group(self, labels: Sequence[int]) -> dict[str, float]:
        """Return the accuracy over the instances of a group of labels, in percent.

        If the group has no instances, the accuracy is NaN.
        """
        return {"instance_accuracy": self._rate(labels)}

    def per_label(self) -> dict[str, np.ndarray]:
        """Return the accuracy of each label, (L,) float64 percent. A label without instances has the accuracy NaN."""
        return {"instance_accuracy": np.array([self._rate([label]) for label in range(len(self.instances))])}

    def _rate(self, labels: Sequence[int]) -> float:
        number = int(self.instances[list(labels)].sum())
        return 100.0 * int(self.hits[list(labels)].sum()) / number if number else float("nan")
