"""Average precision (AP) of masks, which are ranked by score over all images.

The record of an image stores the outcome of each mask: matched with an instance, unmatched or ignored. Masks with equal
scores are ranked by image number, so the order of the records does not matter. The metrics `instance_ap` and
`instance_ap_lvis` define which masks and instances are evaluated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple, Self

import numpy as np
import pyarrow as pa

from ovss_ray.errors import OvssError
from ovss_ray.structures.masks import regions

FIELDS = [
    ("image", pa.int64()),
    ("truth", pa.list_(pa.uint16())),
    ("counted", pa.list_(pa.uint8())),
    ("label", pa.list_(pa.uint16())),
    ("score", pa.list_(pa.float64())),
    ("matched", pa.list_(pa.uint64())),
    ("ignored", pa.list_(pa.uint64())),
]
"""Fields of one image's record. The masks are sorted by label, then from high to low score.

`image`: number of the image.
`truth`: label index of each instance.
`counted`: for each instance, bit i is 1 if the instance is evaluated in the range AREAS[i].
`label` and `score`: label index and score of each mask.
`matched`: for each mask, bit 10 · i + k is 1 if the mask is matched with an instance.
`ignored`: for each mask, bit 10 · i + k is 1 if the mask is ignored.

In `matched` and `ignored`, bit 10 · i + k is for the range AREAS[i] and the IoU threshold THRESHOLDS[k]."""
LISTS = tuple(name for name, _ in FIELDS[1:])
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = ((0.0, 1e10), (0.0, 1024.0), (1024.0, 9216.0), (9216.0, 1e10))
"""Four ranges of areas in pixels, (smallest, largest): all, small, medium and large instances."""
EVERY = np.uint64((1 << len(AREAS) * len(THRESHOLDS)) - 1)
"""Value of `matched` or `ignored` with all bits set."""
_SUFFIXES = ("", "_50", "_75", "_small", "_medium", "_large")
_OUTCOME = ("label", "score", "matched", "ignored")
_KINDS = (np.uint16, np.float64, np.uint64, np.uint64)


class Labelled(NamedTuple):
    """R masks of an image, each with a label."""

    labels: np.ndarray
    """(R,) uint16: label index of each mask"""
    boxes: np.ndarray
    """(R, 4) int32: x0 y0 x1 y1 of each mask, half open"""
    bits: np.ndarray
    """(n,) uint8: all masks in n bytes. A mask has one bit per pixel of the mask's box (see regions.py)"""


def headings(metric: str, of: str) -> dict[str, str]:
    """Return the headings of the six values of an AP metric, as a dict: key of a value → heading.

    `metric` is the metric's name, which is the key of the main value. `of` is the heading of the main value, which is
    the AP of instances of any area, averaged over THRESHOLDS. The keys of the five further values are `metric` with a
    suffix. For example, the key "instance_ap_50" has the heading "AP 50".
    """
    words = (of, "AP 50", "AP 75", "AP small", "AP medium", "AP large")
    return {f"{metric}{suffix}": heading for suffix, heading in zip(_SUFFIXES, words, strict=True)}


def paired(boxes: np.ndarray, scores: np.ndarray, detector_scores: np.ndarray) -> None:
    """Raise OvssError unless `boxes`, `scores` and `detector_scores` of an image have the same length.

    The prompts of the evaluated method are boxes of a detector. `detector_scores` (N,) has one score per prompt. The
    method must predict one mask and one row of class scores for each prompt. `boxes` (N, 4) has the bounding box of
    each predicted mask. `scores` (N, K) has the class scores of each predicted mask.
    """
    if not len(boxes) == len(scores) == len(detector_scores):
        raise OvssError(
            f"expected one mask and one row of scores for each of {len(detector_scores)} boxes, found {len(boxes)} "
            f"masks and {len(scores)} rows of scores. Use stages that return one mask per prompt, such as sam_prompt "
            "with `per: instance`. Then use a stage that returns one row of scores per mask, such as alpha_clip"
        )


def record(
    true: Labelled, true_areas: np.ndarray, crowd: np.ndarray, detected: Labelled, ranks: np.ndarray,
    listed: np.ndarray, most: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the record of an image. The record has all FIELDS except `image`.

    `true` has the T instances. `true_areas` (T,) has the area of each instance in pixels. `crowd` (T,) bool is True
    for crowds. `detected` has the R predicted masks. `ranks` (R,) has their scores, by which they are ranked. `listed`
    has the indices of the masks to evaluate. For each label, only the `most` masks with the highest scores are
    evaluated.
    """
    counts = np.array([[low <= area <= high for low, high in AREAS] for area in true_areas], bool)
    counts = counts.reshape(-1, len(AREAS))
    counts &= ~crowd[:, None]
    shapes, others = (regions.Masks(of.boxes, of.bits) for of in (true, detected))
    rows = []
    for label in np.unique(detected.labels[listed]):
        mine = listed[detected.labels[listed] == label]
        mine = mine[np.argsort(-ranks[mine], kind="stable")][:most]
        partners = np.flatnonzero(true.labels == label)
        areas = np.array([np.count_nonzero(others[i]) for i in mine])
        ious = np.array(
            [
                [_iou((detected.boxes[i], others[i]), (true.boxes[g], shapes[g]), bool(crowd[g])) for g in partners]
                for i in mine
            ]
        ).reshape(len(mine), len(partners))
        matched, ignored = outcome(ious, areas, counts[partners], crowd[partners])
        rows += list(zip([label] * len(mine), ranks[mine], matched, ignored, strict=True))
    columns = list(zip(*rows, strict=True)) or [()] * 4
    return {
        "truth": true.labels,
        "counted": (counts << np.arange(len(AREAS))).sum(1).astype(np.uint8),
        **{name: np.array(values, kind) for name, values, kind in zip(_OUTCOME, columns, _KINDS, strict=True)},
    }


def _iou(mask: tuple[np.ndarray, np.ndarray], truth: tuple[np.ndarray, np.ndarray], crowd: bool) -> float:
    """Return the IoU, 0 to 1, of a predicted mask and an instance. Each is a pair (box, mask inside the box).

    If `crowd` is True, the instance is a crowd. The area of the predicted mask then replaces the union.
    """
    common = regions.shared(mask, truth)
    area = int(np.count_nonzero(mask[1]))
    union = area if crowd else area + int(np.count_nonzero(truth[1])) - common
    return common / union if common else 0.0


def outcome(ious: np.ndarray, areas: np.ndarray, counts: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the fields `matched` and `ignored` for D masks and G instances of one class, (D,) uint64 each.

    The bits are explained in FIELDS. The masks are sorted from high to low score. `ious` (D, G) are the IoUs of masks
    and instances. `areas` (D,) are the areas of the masks in pixels. `counts` (G, len(AREAS)) bool: `counts[g, i]` is
    True if instance g is evaluated in the range AREAS[i]. `crowd` (G,) bool is True for crowds.

    In the range AREAS[i], a matched mask is ignored if its instance is not evaluated. An unmatched mask is ignored if
    the area of the mask is outside AREAS[i].
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
    """Yield for each mask the index of the matched instance, or -1 if no instance matches.

    `ious` (D, G) are the IoUs of masks and instances. `crowd` (G,) bool is True for crowds. `counts` (G,) bool is True
    for instances that are evaluated. The evaluated instances must precede the instances that are not evaluated.

    A mask matches an instance with an IoU of at least `threshold`. Only a crowd can be matched with several masks.
    Evaluated instances have precedence over the other instances. A mask is matched with one of the other instances only
    if no evaluated instance can be matched.
    """
    # as in COCOeval: of several instances with the largest IoU, the last is matched; a crowd is matched several times
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
class Outcomes:
    """Outcomes of all masks in a set of images. The outcome of a mask is matched, unmatched or ignored.

    A + B are the outcomes of the images of A and of the images of B.
    """

    metric: ClassVar[str]
    """name of the metric; the keys of its values begin with it"""
    labels: int
    parts: tuple[pa.StructArray, ...] = ()

    @classmethod
    def of(cls, records: pa.StructArray | pa.ChunkedArray, labels: int) -> Self:
        """Return the outcomes in `records`, which has one struct per image (see FIELDS). Nulls are skipped."""
        chunks = records.chunks if isinstance(records, pa.ChunkedArray) else [records]
        return cls(labels, tuple(kept for chunk in chunks if len(kept := chunk.drop_null())))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.labels, (*self.parts, *other.parts))

    def any_mask(self, records: pa.StructArray) -> bool:
        """Return whether any image of `records` has a predicted mask. If not, all values of `result` are NaN."""
        return len(records.field("label").flatten()) > 0

    @cached_property
    def _precisions(self) -> np.ndarray:
        """Precisions, 0 to 1, averaged over the recalls in RECALLS, (labels, len(AREAS), len(THRESHOLDS)) float64.

        Entry [l, a, t] is NaN if label l has no evaluated instances in the range AREAS[a]. If no image has a predicted
        mask, all entries are NaN.
        """
        means = np.full((self.labels, len(AREAS), len(THRESHOLDS)), np.nan)
        if not self.parts:
            return means
        whole = pa.concat_arrays(self.parts)
        whole = whole.take(pa.array(np.argsort(whole.field("image").to_numpy(), kind="stable")))
        columns = {name: whole.field(name).flatten().to_numpy(zero_copy_only=False) for name in LISTS}
        ranked = np.lexsort((-columns["score"], columns["label"]))
        bounds = np.searchsorted(columns["label"][ranked], np.arange(self.labels + 1))
        for label in np.unique(columns["truth"]) if self.any_mask(whole) else ():
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
        """Return a dict from key to value, in percent, for all six values of the metric (see `headings`).

        Each value is for one range in AREAS. If the range has no evaluated instances, the value is NaN. If no image has
        a predicted mask, all six values are NaN.
        """
        return self._values(range(self.labels))

    def of_group(self, labels: Sequence[int]) -> dict[str, float]:
        """Return the mask AP of a group of labels, in percent, as a dict with the single key `metric`.

        `labels` are the label indices of the group. The key is the name in the attribute `metric`. The mask AP is the
        mean over the labels with evaluated instances. If no label of the group has evaluated instances, the mask AP is
        NaN.
        """
        return {self.metric: self._values(labels)[self.metric]}

    def per_label(self) -> dict[str, np.ndarray]:
        """Return metric name → mask AP of each label, (L,) float64 percent."""
        return {self.metric: 100.0 * self._precisions[:, 0].mean(1)}

    def _values(self, labels: Sequence[int]) -> dict[str, float]:
        means = self._precisions[list(labels)]
        first = (means[:, 0], means[:, 0, :1], means[:, 0, 5:6])
        values = (*first, *(means[:, a] for a in range(1, len(AREAS))))
        return {f"{self.metric}{suffix}": _mean(part) for suffix, part in zip(_SUFFIXES, values, strict=True)}


def _mean(values: np.ndarray) -> float:
    measured = values[~np.isnan(values)]
    return 100.0 * float(measured.mean()) if len(measured) else float("nan")


def precision(true: np.ndarray, false: np.ndarray, number: int) -> float:
    """Return the interpolated precision of D masks, averaged over the recalls in RECALLS. The mean is 0 to 1.

    The masks are sorted from high to low score. `true` (D,) bool is True for correct masks. `false` (D,) bool is True
    for wrong masks. An ignored mask is False in both. `number` is the number of evaluated instances.
    """
    hits, misses = true.cumsum().astype(np.float64), false.cumsum().astype(np.float64)
    precisions = hits / (hits + misses + np.spacing(1))
    best_from = np.maximum.accumulate(precisions[::-1])[::-1]
    places = np.searchsorted(hits / number, RECALLS, side="left")
    return float(np.append(best_from, 0.0)[np.minimum(places, len(best_from))].sum() / len(RECALLS))
