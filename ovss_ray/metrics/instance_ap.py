"""Mask AP by COCO's rules. The boxes of a detector are the prompts of the evaluated method.

A mask has the method's best class, among the classes of the benchmark's groups, and the score of the detector. The
numbers equal those of pycocotools' COCOeval with iouType "segm", from results that hold masks and no boxes:

    instance_ap        mean over classes and IoU thresholds 0.50, 0.55, … 0.95
    instance_ap_50, _75                   at the threshold 0.50, 0.75
    instance_ap_small, _medium, _large    of instances below 32², from 32² to 96², and above 96² pixels

Every image counts at most 100 masks of a class. Crowds are not counted: masks inside them are ignored. Masks are
matched within an image, so its record has the outcome of each mask. The sum ranks all masks by score, then by the
image's number, so it is exact in any order. AP of the lvis package is another number: it knows which classes an image
was searched for. Values are percent; classes without an instance do not count. Without a mask in any image there is no
number: then the image ids of the detector's file are probably those of another data set.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; https://cocodataset.org/#detection-eval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from ovss_ray.errors import OvssError
from ovss_ray.structures.instances import CROWD
from ovss_ray.structures.masks import regions
from ovss_ray.structures.question import Question

reads = (
    *("image_number", "true_boxes", "true_bits", "true_labels", "true_areas", "true_status"),
    *("boxes", "bits", "scores", "detector_scores"),
)
schema = pa.struct(
    [
        ("image", pa.int64()),
        ("truth", pa.list_(pa.uint16())),
        ("counted", pa.list_(pa.uint8())),
        ("label", pa.list_(pa.uint16())),
        ("score", pa.list_(pa.float64())),
        ("matched", pa.list_(pa.uint64())),
        ("ignored", pa.list_(pa.uint64())),
    ]
)
title = "Mask AP of a detector's boxes, in percent"
order = 8
headings = {
    "instance_ap": "mask AP",
    "instance_ap_50": "AP 50",
    "instance_ap_75": "AP 75",
    "instance_ap_small": "AP small",
    "instance_ap_medium": "AP medium",
    "instance_ap_large": "AP large",
}
group_headings = {"instance_ap": "mask AP"}
class_headings = {"instance_ap": "mask AP"}

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = ((0.0, 1e10), (0.0, 1024.0), (1024.0, 9216.0), (9216.0, 1e10))
"""pixels: smallest and largest area of the instances that count, for all, small, medium and large ones."""
MOST = 100
"""Maximum number of masks of a class in an image."""


def measure(
    question: Question, image_number: np.ndarray, true_boxes: np.ndarray, true_bits: np.ndarray,
    true_labels: np.ndarray, true_areas: np.ndarray, true_status: np.ndarray, boxes: np.ndarray, bits: np.ndarray,
    scores: np.ndarray, detector_scores: np.ndarray,
) -> dict[str, object]:  # fmt: skip
    """Return the outcome of each mask of an image, sorted by label, then by score.

    `truth` has the label of each instance, `counted` a bit for each entry of AREAS in which it counts. `matched` and
    `ignored` have a bit for each area and threshold of a mask: area · 10 + threshold. Raises OvssError unless there
    are a mask and scores for each box.
    """
    if not len(boxes) == len(scores) == len(detector_scores):
        raise OvssError(
            f"{len(boxes)} masks and {len(scores)} rows of scores for {len(detector_scores)} boxes. Use stages that "
            "return one mask per prompt and score each, such as sam_prompt with `per: instance`, then alpha_clip"
        )
    labels, _ = question.named(scores)
    crowd = true_status == CROWD
    counts = np.array([[low <= area <= high for low, high in AREAS] for area in true_areas], bool)
    counts = counts.reshape(-1, len(AREAS))
    counts &= ~crowd[:, None]
    true, predicted = regions.Masks(true_boxes, true_bits), regions.Masks(boxes, bits)
    rows = []
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        mine = mine[np.argsort(-detector_scores[mine], kind="stable")][:MOST]
        of_label = np.flatnonzero(true_labels == label)
        areas = np.array([np.count_nonzero(predicted[i]) for i in mine])
        ious = np.array(
            [[_iou((boxes[i], predicted[i]), (true_boxes[g], true[g]), bool(crowd[g])) for g in of_label] for i in mine]
        ).reshape(len(mine), len(of_label))
        matched, ignored = outcome(ious, areas, counts[of_label], crowd[of_label])
        rows += list(zip([label] * len(mine), detector_scores[mine], matched, ignored, strict=True))
    listed = list(zip(*rows, strict=True)) or [()] * 4
    return {
        "image": int(image_number),
        "truth": true_labels,
        "counted": (counts << np.arange(len(AREAS))).sum(1).astype(np.uint8),
        **{name: np.array(values, kind) for name, values, kind in zip(_OUTCOME, listed, _KINDS, strict=True)},
    }


_OUTCOME = ("label", "score", "matched", "ignored")
_KINDS = (np.uint16, np.float64, np.uint64, np.uint64)


def _iou(mask: tuple[np.ndarray, np.ndarray], truth: tuple[np.ndarray, np.ndarray], crowd: bool) -> float:
    """Return the IoU of two regions. Of a crowd, the union is the mask's area alone. Empty regions have IoU 0."""
    common = regions.shared(mask, truth)
    area = int(np.count_nonzero(mask[1]))
    union = area if crowd else area + int(np.count_nonzero(truth[1])) - common
    return common / union if common else 0.0


def outcome(ious: np.ndarray, areas: np.ndarray, counts: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the bits `matched` and `ignored` of D masks of one class, sorted by score, both (D,) uint64.

    `ious` (D, G), `areas` (D,) in pixels, `counts` (G, areas) bool: instances that count, `crowd` (G,) bool.
    """
    matched, ignored = (np.zeros(len(ious), np.uint64) for _ in range(2))
    for a, (low, high) in enumerate(AREAS):
        order = np.argsort(~counts[:, a], kind="stable")
        outside = (areas < low) | (areas > high)
        for t, threshold in enumerate(THRESHOLDS):
            partners = list(_matches(ious[:, order], counts[order, a], crowd[order], threshold))
            hit = np.array([partner >= 0 for partner in partners], bool)
            loose = np.array([partner >= 0 and not counts[order[partner], a] for partner in partners], bool)
            bit = np.uint64(1 << (a * len(THRESHOLDS) + t))
            matched[hit] |= bit
            ignored[loose | (~hit & outside)] |= bit
    return matched, ignored


def _matches(ious: np.ndarray, counts: np.ndarray, crowd: np.ndarray, threshold: float) -> Iterator[int]:
    """Yield the index of the instance that each mask is matched with, in the order of the masks; -1 for none.

    Instances that count come first, and are preferred. A crowd may be matched several times. Of instances with equal
    IoU the last is matched, as in COCOeval.
    """
    taken = np.zeros(len(counts), bool)
    for row in ious:
        best, partner = min(threshold, 1 - 1e-10), -1
        for g, iou in enumerate(row):
            if taken[g] and not crowd[g]:
                continue
            if partner >= 0 and counts[partner] and not counts[g]:
                break
            if iou >= best:
                best, partner = iou, g
        if partner >= 0:
            taken[partner] = True
        yield partner


@dataclass(frozen=True, eq=False)
class Partial:
    """Outcomes of a set of images. Addition joins them; `result` sorts them, so the order does not matter."""

    labels: int
    parts: tuple[pa.StructArray, ...] = ()

    @classmethod
    def of(cls, records: pa.StructArray | pa.ChunkedArray, labels: int) -> "Partial":
        """Return the outcomes in the column `instance_ap` of records. Nulls are skipped."""
        chunks = records.chunks if isinstance(records, pa.ChunkedArray) else [records]
        return cls(labels, tuple(kept for chunk in chunks if len(kept := chunk.drop_null())))

    def __add__(self, other: "Partial") -> "Partial":
        return Partial(self.labels, (*self.parts, *other.parts))

    @cached_property
    def _precisions(self) -> np.ndarray:
        """(L, areas, thresholds) float64: mean precision over RECALLS; NaN for a label without instances.

        Without any mask, all values are NaN.
        """
        whole = pa.concat_arrays(self.parts) if self.parts else pa.array([], schema)
        whole = whole.take(pa.array(np.argsort(whole.field("image").to_numpy(), kind="stable")))
        columns = {
            name: whole.field(name).flatten().to_numpy(zero_copy_only=False) for name in schema.names if name != "image"
        }
        ranked = np.lexsort((-columns["score"], columns["label"]))
        bounds = np.searchsorted(columns["label"][ranked], np.arange(self.labels + 1))
        means = np.full((self.labels, len(AREAS), len(THRESHOLDS)), np.nan)
        for label in np.unique(columns["truth"]) if len(ranked) else ():
            counted = columns["counted"][columns["truth"] == label]
            mine = ranked[bounds[label] : bounds[label + 1]]
            for a in range(len(AREAS)):
                if number := int(np.count_nonzero(counted & (1 << a))):
                    bits = columns["matched"][mine], columns["ignored"][mine]
                    for t in range(len(THRESHOLDS)):
                        shift = np.uint64(a * len(THRESHOLDS) + t)
                        matched, ignored = ((values >> shift & np.uint64(1)).astype(bool) for values in bits)
                        means[label, a, t] = precision(matched & ~ignored, ~matched & ~ignored, number)
        return means

    def result(self) -> dict[str, float]:
        """Return all values by name, in percent; NaN without instances, and without masks."""
        return self._values(range(self.labels))

    def of_group(self, labels: Sequence[int]) -> dict[str, float]:
        """Return the mask AP of some labels."""
        return {"instance_ap": self._values(labels)["instance_ap"]}

    def per_label(self) -> dict[str, np.ndarray]:
        """Return the mask AP of each label, (L,) float64."""
        return {"instance_ap": 100.0 * self._precisions[:, 0].mean(1)}

    def _values(self, labels: Sequence[int]) -> dict[str, float]:
        means = self._precisions[list(labels)]
        first = (means[:, 0], means[:, 0, :1], means[:, 0, 5:6])
        values = (*first, *(means[:, a] for a in range(1, len(AREAS))))
        return {name: _mean(part) for name, part in zip(headings, values, strict=True)}


def _mean(values: np.ndarray) -> float:
    measured = values[~np.isnan(values)]
    return 100.0 * float(measured.mean()) if len(measured) else float("nan")


def precision(true: np.ndarray, false: np.ndarray, number: int) -> float:
    """Return the mean over RECALLS of the interpolated precision of ranked masks.

    `true` and `false` (D,) bool are right and wrong masks, best score first; `number` is that of the instances.
    """
    hits, misses = true.cumsum().astype(np.float64), false.cumsum().astype(np.float64)
    precisions = hits / (hits + misses + np.spacing(1))
    best_from = np.maximum.accumulate(precisions[::-1])[::-1]
    places = np.searchsorted(hits / number, RECALLS, side="left")
    return float(np.append(best_from, 0.0)[np.minimum(places, len(best_from))].sum() / len(RECALLS))
