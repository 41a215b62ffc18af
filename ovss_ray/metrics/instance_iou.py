"""Mean IoU of the masks that a method returns for prompted instances.

    instance_iou = mean of |mask ∧ truth| / |mask ∨ truth|, at the photograph's size

The metric evaluates only instances that have a prompt. Crowds and invalid annotations have no prompt (see
actors/truth_prompts.py). The mean is computed over the instances of all images; it is not a mean over classes. OVSAM's
`miou` adds 1e-8 pixels to the union; this metric adds nothing. Values are percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ovss_ray.errors import OvssError
from ovss_ray.structures.class_sums import UNITS
from ovss_ray.structures.masks import regions
from ovss_ray.structures.question import Question

reads = ("true_boxes", "true_bits", "true_labels", "prompt_instances", "boxes", "bits")
schema = pa.struct(
    [("label", pa.list_(pa.uint16())), ("intersection", pa.list_(pa.int64())), ("union", pa.list_(pa.int64()))]
)
sums = pa.struct([("iou_sum", pa.list_(pa.decimal128(38, 0))), ("instances", pa.list_(pa.int64()))])
title = "Masks of prompted instances, in percent"
order = 6
headings = {"instance_iou": "mean IoU of instances"}
live = {"instance_iou": "mean IoU of instances"}
group_headings = {"instance_iou": "mean IoU"}
group_counts = {"instances": "instances"}
class_headings = {"instance_iou": "IoU of instances", "instances": "instances"}


def measure(
    question: Question, true_boxes: np.ndarray, true_bits: np.ndarray, true_labels: np.ndarray,
    prompt_instances: np.ndarray, boxes: np.ndarray, bits: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return `label`, `intersection` and `union` of each of N prompted instances.

    `label` (N,) uint16 is the true label. `intersection` and `union` (N,) int64 are numbers of pixels. Both
    numbers compare the predicted mask with the instance's true mask.

    `boxes` and `bits` are the N predicted masks. `true_boxes`, `true_bits` and `true_labels` are all instances of the
    image. `prompt_instances` (N,) has, for each prompt, the index of its instance in `true_labels`. Raises OvssError
    unless each prompt has one mask.
    """
    if len(boxes) != len(prompt_instances):
        raise OvssError(
            f"{len(boxes)} masks for {len(prompt_instances)} prompts. Use a stage that returns one mask per prompt, "
            "such as sam_prompt with `per: instance`"
        )
    true, predicted = regions.Masks(true_boxes, true_bits), regions.Masks(boxes, bits)
    intersection, union = (np.zeros(len(boxes), np.int64) for _ in range(2))
    for i, instance in enumerate(prompt_instances.tolist()):
        mask, truth = predicted[i], true[instance]
        intersection[i] = regions.shared((boxes[i], mask), (true_boxes[instance], truth))
        union[i] = np.count_nonzero(mask) + np.count_nonzero(truth) - intersection[i]
    return {"label": true_labels[prompt_instances], "intersection": intersection, "union": union}


@dataclass(frozen=True, eq=False)
class Partial:
    """Sum of the instances' IoUs and number of instances, per label, over a set of images.

    Addition is exact, associative and commutative.
    """

    iou_sum: np.ndarray
    """(L,) object: sum of the IoUs of each label's instances, as Python integers in units of 1 / 2³² percent"""
    instances: np.ndarray
    """(L,) int64: number of instances of each label"""

    @classmethod
    def of(cls, records: pa.StructArray | pa.ChunkedArray, labels: int) -> "Partial":
        """Return the sum over `records`, the values of the column `instance_iou`. Nulls are skipped.

        `labels` is the number of labels. Raises OvssError unless all true label indices are below `labels`.
        """
        chunks = records.chunks if isinstance(records, pa.ChunkedArray) else [records]
        zero = cls(np.zeros(labels, np.int64).astype(object), np.zeros(labels, np.int64))
        return sum((cls._of_chunk(chunk.drop_null(), labels) for chunk in chunks), zero)

    @classmethod
    def _of_chunk(cls, records: pa.StructArray, labels: int) -> "Partial":
        label, intersection, union = (
            records.field(name).flatten().to_numpy(zero_copy_only=False) for name in schema.names
        )
        if label.max(initial=0) >= labels:
            raise OvssError(
                f"the run's records have label indices up to {label.max()}, but the benchmark has {labels} labels, "
                "counted from 0. Perhaps the records are from another version of the benchmark. Choose a new --out"
            )
        # summed as integers, so that the mean does not depend on the order of images
        ious = np.rint(100.0 * intersection / np.maximum(union, 1) * UNITS).astype(np.int64)
        sums = np.zeros(labels, object)
        np.add.at(sums, label, ious.astype(object))
        return cls(sums, np.bincount(label, minlength=labels))

    def __add__(self, other: "Partial") -> "Partial":
        return Partial(self.iou_sum + other.iou_sum, self.instances + other.instances)

    def result(self) -> dict[str, float]:
        """Return the mean IoU over all instances in percent. If there are no instances, the mean IoU is NaN."""
        return {"instance_iou": self._mean(range(len(self.instances)))}

    def of_group(self, labels: Sequence[int]) -> dict[str, float | int]:
        """Return the mean IoU, in percent, and the number of instances of a group of labels.

        If the group has no instances, the mean IoU is NaN.
        """
        return {"instance_iou": self._mean(labels), "instances": int(self.instances[list(labels)].sum())}

    def per_label(self) -> dict[str, np.ndarray]:
        """Return two arrays by name, with one value per label.

        `instance_iou` (L,) float64 is the mean IoU in percent. `instances` (L,) int64 is the number of instances. For a
        label without instances, the mean IoU is NaN.
        """
        means = np.array([self._mean([label]) for label in range(len(self.instances))])
        return {"instance_iou": means, "instances": self.instances}

    def _mean(self, labels: Sequence[int]) -> float:
        number = int(self.instances[list(labels)].sum())
        return int(self.iou_sum[list(labels)].sum()) / UNITS / number if number else float("nan")


def per_image(records: pa.StructArray) -> dict[str, np.ndarray]:
    """Return the mean IoU over the instances of each of n records, (n,) float64 percent.

    If a record is null or has no instances, the mean IoU is NaN.
    """
    means = np.full(len(records), np.nan)
    for i, record in enumerate(records.to_pylist()):
        if record and record["union"]:
            ious = np.array(record["intersection"]) / np.maximum(record["union"], 1)
            means[i] = 100.0 * ious.mean()
    return {"instance_iou": means}
