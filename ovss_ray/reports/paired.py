"""Paired differences of two runs on the same images: interval, p-value, and the smallest detectable difference.

Both runs are resampled with the same draws. The test is a t-test. The standard error is the standard deviation of the
difference over the resamples. The p-values of classes are corrected by Holm's method ("A simple sequentially rejective
multiple test procedure", 1979).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ovss_ray import metrics
from ovss_ray.reports import intervals
from ovss_ray.reports.fields import Ends
from ovss_ray.reports.resampling import Cells
from ovss_ray.reports.totals import COMPACT, TRUTH_DIGEST, Reading

POWER = 80
"""Power in percent: probability of detecting a true difference of `Difference.smallest` at the 5 % level."""
CLASS_VALUE = "iou"
"""Key of the value that is compared for each class."""


@dataclass(frozen=True)
class Difference:
    """Difference of a value, second run minus first run, in percentage points."""

    value: float
    interval: Ends
    """95 % interval (see `intervals.shifted`)"""
    p: float
    """two-sided p-value; for a class, with Holm's correction"""
    smallest: float
    """smallest true difference that the test detects at the 5 % level with a probability of POWER percent"""
    photographs: int
    """number of photographs; for a class, only photographs with the class in the ground truth"""


@dataclass(frozen=True)
class Paired:
    """Paired differences of two runs on one benchmark."""

    refused: str = ""
    """reason why the runs cannot be compared image by image, with advice; empty if the runs can be compared"""
    values: Mapping[str, Difference] | None = None
    """key of a metric, such as "miou" → difference of this metric; None if the runs cannot be compared"""
    classes: Mapping[int, Difference] | None = None
    """label → difference of IoU, for labels in at least five photographs; None if the runs cannot be compared"""
    labels: tuple[str, ...] = ()
    """names of all labels"""
    words: str = ""
    """sentence that names the vocabularies of both runs; empty if both runs have the same vocabulary"""


def compare(first: Reading, second: Reading) -> Paired:
    """Return the paired differences of two runs, second minus first.

    If the runs cannot be paired, for example since their images or label files differ, `refused` has the reason.
    """
    before_cells, after_cells = intervals.cells_of(first), intervals.cells_of(second)
    if first.total.compact or second.total.compact:
        return Paired(f"{COMPACT} in at least one of the runs: evaluate again in a new --out")
    if before_cells is None or after_cells is None:
        return Paired("no confusion cells of single images: there are no records, or too many of them for resampling")
    # runs with words of the user may differ in vocabularies, since their words are mapped to the same labels
    if reason := (
        _unlike(first, second)
        or _other_images(before_cells, after_cells)
        or ("" if _own_words(first, second) else _other_names(first, second, before_cells.ids))
        or _other_truth(before_cells, after_cells)
        or _other_files(first, second)
    ):
        return Paired(reason)
    photographs = before_cells.photographs
    if photographs < intervals.FEWEST:
        return Paired(
            f"{photographs} scored images with a label map (images of one photograph count once), and a test needs "
            f"{intervals.FEWEST}: see the errors of the report, or repeat both runs with more images"
        )
    both = intervals.resampled(first, before_cells), intervals.resampled(second, after_cells)
    values: dict[str, Difference] = {}
    for name in (metric for metric in both[0] if metric in both[1]):
        pairs = [part.result() for run in both for part in run[name]]
        for key in pairs[0]:
            difference = tested(pairs[2][key] - pairs[0][key], float(pairs[3][key][0] - pairs[1][key][0]), photographs)
            values |= {key: difference} if difference else {}
    labels = tuple(first.card["labels"])
    classes = by_class(both[0][metrics.MAIN], both[1][metrics.MAIN], before_cells.photographs_with())
    other_words = _other_names(first, second, before_cells.ids) or _mapping(first) != _mapping(second)
    words = _words_of(first, second) if other_words else ""
    return Paired("", values, classes, labels, words)


def tested(resampled: np.ndarray, value: float, photographs: int) -> Difference | None:
    """Return the test of a difference between two runs.

    `value` is the difference over all images, and `resampled` (R,) the difference in each resample. Both are in
    percentage points. NaN in `resampled` are left out. Returns None if `value` or all of `resampled` is NaN, or if
    `photographs` is below two.
    """
    from scipy.special import stdtr, stdtrit  # takes 0.1 s

    ends = intervals.shifted(resampled, value)
    if ends is None or photographs < intervals.FEWEST:
        return None
    known = resampled[~np.isnan(resampled)]
    error = float(np.std(known))
    freedom = photographs - 1
    p = 2 * float(stdtr(freedom, -abs(value) / error)) if error else float(value == 0)
    smallest = error * float(stdtrit(freedom, 0.975) + stdtrit(freedom, POWER / 100))
    return Difference(value, ends, round(p, 9), round(smallest, 9), photographs)


def holm(p: Sequence[float]) -> list[float]:
    """Return the p-values after Holm's correction, in the order of `p`."""
    corrected, largest = [0.0] * len(p), 0.0
    for i, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        largest = max(largest, min(1.0, (len(p) - i) * p[place]))
        corrected[place] = largest
    return corrected


def by_class(first: tuple[Any, Any], second: tuple[Any, Any], seen: np.ndarray) -> dict[int, Difference]:
    """Return label → difference of IoU, second minus first, for labels in at least five photographs.

    `first` and `second` are the values that `intervals.resampled` returns for the metric metrics.MAIN of the two runs.
    `seen` (L,) is the number of photographs with each label. The p-values have Holm's correction over the returned
    labels.
    """
    (before, whole_before), (after, whole_after) = (
        tuple(part.per_label()[CLASS_VALUE] for part in run) for run in (first, second)
    )
    differences = {}
    for label in np.flatnonzero(seen >= intervals.FEWEST_OF_CLASS).tolist():
        value = float(whole_after[0, label] - whole_before[0, label])
        if difference := tested(after[:, label] - before[:, label], value, int(seen[label])):
            differences[label] = difference
    corrected = holm([difference.p for difference in differences.values()])
    return {k: replace(of, p=p) for (k, of), p in zip(differences.items(), corrected, strict=True)}


def _unlike(first: Reading, second: Reading) -> str:
    """Return a text for `Paired.refused` if two runs differ in labels or in BenchmarkReport.asks.

    BenchmarkReport.asks is a text about the classes of few-shot episodes. Returns an empty text if the two runs do not
    differ.
    """
    if first.card["labels"] != second.card["labels"]:
        return "the runs have different classes: evaluate the same version of the benchmark twice"
    questions = [reading.card.get("asks", "") for reading in (first, second)]
    if questions[0] != questions[1]:
        return f"the runs have different questions: {questions[0]!r} and {questions[1]!r}"
    return ""


def _other_images(first: Cells, second: Cells) -> str:
    """Return a text for `Paired.refused` if two runs differ in scored images or in groups of images.

    Images that share a photograph form a group. Returns an empty text if the images and the groups are equal.
    """
    if first.ids != second.ids:
        alone = sorted(set(first.ids) ^ set(second.ids))
        return (
            f"{len(alone)} of the scored images, such as {alone[0]}, are in one run only: repeat both runs with the "
            "same --split, --ids and --limit"
        )
    if not np.array_equal(first.clusters, second.clusters):
        return "the runs disagree about the images that share a photograph: evaluate the same version of the data twice"
    return ""


def _other_names(first: Reading, second: Reading, ids: Sequence[str]) -> str:
    """Return a text for `Paired.refused` if the vocabulary of an image in `ids` differs between two runs.

    Returns an empty text if each image in `ids` has the same vocabulary in both runs.
    """
    before, after = _vocabularies(first), _vocabularies(second)
    if other := [name for name in ids if before.get(name) != after.get(name)]:
        return (
            f"the runs have different class names as vocabularies of {len(other)} images, such as {other[0]}: evaluate "
            "the same version of the benchmark twice"
        )
    return ""


def _own_words(first: Reading, second: Reading) -> bool:
    """Return whether the user set words or templates for at least one of two runs."""
    return any(reading.card.get("words") for reading in (first, second))


def _mapping(reading: Reading) -> list[Any]:
    """Return the pairs (word, label) in WordsOf.mapping; an empty list if the user set no words."""
    return (reading.card.get("words") or {}).get("mapping", [])


def _words_of(first: Reading, second: Reading) -> str:
    """Return a sentence that describes the vocabularies of two runs."""
    named = []
    for reading in (first, second):
        words = reading.card.get("words")
        source = words and f"{words['file'] or 'the config'}, sha256 {words['sha256'][:12]}"
        named.append(f"{words['words']} words of {source}" if words else "the classes of the benchmark")
    return f"different vocabularies: the first run has {named[0]}, the second {named[1]}"


def _vocabularies(reading: Reading) -> dict[str, str | None]:
    """Return image id → digest of its vocabulary; {} for a manifest without vocabularies."""
    if "vocabulary" not in reading.listed.column_names:
        return {}
    return dict(zip(reading.listed["image_id"].to_pylist(), reading.listed["vocabulary"].to_pylist(), strict=True))


def _other_truth(first: Cells, second: Cells) -> str:
    """Return a text for `Paired.refused` if the ground truth of two runs differs; an empty text if it is equal."""
    unequal = np.flatnonzero(np.any(_truth(first) != _truth(second), axis=1))
    if len(unequal):
        return (
            f"the ground truth of {len(unequal)} images differs, such as that of {first.ids[unequal[0]]}: evaluate the "
            "same label files at the same size"
        )
    return ""


def _other_files(first: Reading, second: Reading) -> str:
    """Return a text for `Paired.refused` if a label file has different digests in two runs; else an empty text."""
    before, after = _digests(first), _digests(second)
    if other := [name for name, digest in before.items() if after.get(name, digest) != digest]:
        return (
            f"the label files of {len(other)} images, such as {min(other)}, have different contents (SHA-256): "
            "evaluate the same label files in both runs"
        )
    return ""


def _digests(reading: Reading) -> dict[str, str]:
    """Return image id → digest of its label file, for images with a known digest."""
    tables = [table for table in reading.total.cells if TRUTH_DIGEST in table.column_names]
    columns = ((table["image_id"].to_pylist(), table[TRUTH_DIGEST].to_pylist()) for table in tables)
    return {name: digest for ids, digests in columns for name, digest in zip(ids, digests, strict=True) if digest}


def _truth(cells: Cells) -> np.ndarray:
    """Return two checksums of the areas of each image's true labels, (n, 2) int64.

    The first checksum is the sum of the areas. The second checksum is the sum of area × (label + 1)².
    """
    # If pixels have moved, but all areas are equal, only `_other_files` detects the change.
    n = len(cells.ids)
    sums = np.zeros((n, 2), np.int64)
    np.add.at(sums, cells.image, np.stack([cells.pixels, cells.pixels * (cells.truth + 1) ** 2], axis=1))
    return sums
