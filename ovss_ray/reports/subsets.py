"""Scores from a run's records for merged classes, classes of interest, and classes by frequency or size."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from ovss_ray import metrics
from ovss_ray.errors import OvssError
from ovss_ray.metrics import confusion
from ovss_ray.reports import intervals
from ovss_ray.reports.resampling import Cells
from ovss_ray.reports.totals import COMPACT, Reading
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.relations import index_of, places

INTEREST = "classes of interest"
"""Name of the group with the classes of the option --only."""
FREQUENCIES = {"rare (1–9 photographs)": 1, "common (10–99)": 10, "frequent (100 or more)": 100}
"""Name of a frequency bucket → minimum number of photographs that have the class in their ground truth."""
SHARES = {"below 1 %": 0.0, "1 to 10 %": 1.0, "10 % and more": 10.0}
"""Name of a size bucket → minimum area of a class, in percent of the image. Ignored pixels do not count."""

_TOO_MANY = (
    "the confusion cells of single images are not at hand: there are no records, or more than "
    "100,000 images. Select a part of the run with --ids or --limit"
)


@dataclass(frozen=True)
class SizeScore:
    """Scores of the pairs in one bucket of SHARES. A pair is an image and a class in the ground truth of the image."""

    name: str
    pairs: int
    """number of pairs"""
    iou: float
    """mean IoU of the pairs, in percent; the IoU of a pair is computed within the image; NaN if there are no pairs"""
    acc: float
    """pixel accuracy over the ground-truth pixels of all pairs, in percent; NaN if there are no pairs"""


def merged(reading: Reading, merge: Mapping[str, Sequence[str]]) -> Reading:
    """Return the Reading of a benchmark with merged classes. `merge`: new name → names of the classes to merge.

    The result has confusion matrices, but no other metrics, no groups and no relations. Raises OvssError if `merge` has
    an unknown class, or lists a class under two new names. Raises OvssError if a new name is the name of a class that
    is not merged. Also raises OvssError if `reading` has no confusion cells (see totals.read).
    """
    names, indices = _merged(reading.card["labels"], merge)
    table = np.full(NONE + 1, NONE, np.uint16)
    table[: len(indices)] = indices
    tables = tuple(_relabelled(part, table) for part in _kept(reading))
    columns = [part[metrics.MAIN] for part in tables]
    partial = sum((confusion.Partial.of(column, len(names)) for column in columns), confusion.Partial.zero(len(names)))
    total = replace(reading.total, cells=tables, partials={metrics.MAIN: partial})
    return replace(reading, card={**reading.card, "labels": names, "groups": {}}, total=total, inputs={})


def selected(reading: Reading, merge: Mapping[str, Sequence[str]], only: Sequence[str]) -> Reading:
    """Return the Reading of a benchmark with merged classes, and with one group that has the classes in `only`.

    The name of the group is INTEREST. `only` has names of classes, and new names from `merge`. If a class in `only` is
    merged, the group has the new class instead. If `merge` is empty, no class is merged. If `only` is empty, no group
    is added. Raises OvssError for an unknown class. If `merge` is not empty, also raises OvssError in the same cases as
    `merged`.
    """
    content = merged(reading, merge) if merge else reading
    indices = interesting(reading.card["labels"], merge, only)
    return replace(content, card={**content.card, "groups": {INTEREST: indices}}, inputs={}) if only else content


def interesting(labels: Sequence[str], merge: Mapping[str, Sequence[str]], only: Sequence[str]) -> list[int]:
    """Return the classes in `only`, as indices into the list of classes after merging (see `selected`).

    Raises OvssError if `merge` or `only` has an unknown class, or if `merge` lists a class under two new names. Also
    raises OvssError if a new name is the name of a class that is not merged.
    """
    names, new = _merged(labels, merge)
    named = places(labels)
    return list(
        dict.fromkeys(names.index(word) if word in merge else new[index_of(word, named, len(labels))] for word in only)
    )


def unfit(
    labels: Mapping[str, Sequence[str]], merge: Mapping[str, Sequence[str]], only: Sequence[str]
) -> dict[str, str]:
    """Return benchmark → reason, for benchmarks to which `merge` and `only` cannot be applied (see `selected`).

    `labels`: benchmark → names of labels. Raises OvssError if no benchmark fits.
    """
    reasons = {}
    for name, of_benchmark in labels.items():
        try:
            interesting(of_benchmark, merge, only)
        except OvssError as failure:
            reasons[name] = str(failure)
    if reasons and len(reasons) == len(labels):
        raise OvssError("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
    return reasons


def check_kept(readings: Mapping[str, Reading], names: Collection[str]) -> None:
    """Raise OvssError if the reading of a benchmark in `names` has no confusion cells (see totals.read)."""
    for name in names:
        if not readings[name].total.cells:
            raise OvssError(f"{name}: --merge and --buckets are not possible: {_not_kept(readings[name])}")


def by_frequency(reading: Reading) -> Reading:
    """Return the Reading of a benchmark with one group of classes per bucket of FREQUENCIES.

    Classes without pixels in the ground truth are in no group. Raises OvssError if there are no confusion cells.
    """
    seen = _cells(reading).photographs_with()
    bucket = np.searchsorted(list(FREQUENCIES.values()), seen, "right") - 1
    groups = {name: np.flatnonzero(bucket == place).tolist() for place, name in enumerate(FREQUENCIES)}
    return replace(reading, card={**reading.card, "groups": groups}, inputs={})


def by_size(reading: Reading) -> list[SizeScore]:
    """Return one SizeScore per size bucket, in the order of SHARES. Raises OvssError if there are no confusion cells.

    A class with several regions in an image counts once for this image, with the total area of the regions.
    """
    pixels, correct, iou, share = _pairs(_cells(reading))
    bucket = np.searchsorted(list(SHARES.values()), share, "right") - 1
    return [
        SizeScore(
            name,
            pairs=int(inside.sum()),
            iou=float(iou[inside].mean()) if inside.any() else float("nan"),
            acc=100.0 * int(correct[inside].sum()) / int(pixels[inside].sum()) if inside.any() else float("nan"),
        )
        for name, inside in ((name, bucket == place) for place, name in enumerate(SHARES))
    ]


def parse(merge: Sequence[str]) -> dict[str, list[str]]:
    """Return name → classes from texts such as "vehicle=car,truck,bus". Raises OvssError for an invalid text."""
    parsed: dict[str, list[str]] = {}
    for text in merge:
        name, _, classes = text.partition("=")
        if not name.strip() or not (words := words_of(classes)):
            raise OvssError(f"--merge {text}: expected NAME=CLASS,CLASS, such as vehicle=car,truck,bus")
        if name.strip() in parsed:
            raise OvssError(
                f"--merge {text}: the name {name.strip()!r} is listed twice. Write all of its classes after one "
                f"--merge {name.strip()}="
            )
        parsed[name.strip()] = words
    return parsed


def parse_only(text: str) -> list[str]:
    """Return the classes in a text such as "car,bus"; [] for an empty text. Raises OvssError for a text such as ","."""
    if text and not words_of(text):
        raise OvssError(f"--only {text}: expected CLASS,CLASS, such as car,bus")
    return words_of(text)


def words_of(text: str) -> list[str]:
    """Return the comma-separated words of a text."""
    return [word.strip() for word in text.split(",") if word.strip()]


def _merged(labels: Sequence[str], merge: Mapping[str, Sequence[str]]) -> tuple[list[str], list[int]]:
    """Return the names of the classes after merging, and the new index of each label.

    Raises OvssError (see `merged`).
    """
    target = _targets(labels, merge)
    if clash := [name for name in merge if name in [labels[c] for c, of in enumerate(target) if not of]]:
        raise OvssError(f"--merge {clash[0]}=…: {clash[0]!r} is the name of another class. Choose a new name")
    # a class that is not merged has its index as key, since several classes may have the same name
    keys: list[str | int] = [of or c for c, of in enumerate(target)]
    order = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return [labels[key] if isinstance(key, int) else key for key in order], [order[key] for key in keys]


def _targets(labels: Sequence[str], merge: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the new name of each label; "" for a label that is not merged."""
    named, target = places(labels), [""] * len(labels)
    for name, words in merge.items():
        for index in dict.fromkeys(index_of(word, named, len(labels)) for word in words):
            if target[index]:
                raise OvssError(
                    f"the class {labels[index]!r} is merged into {target[index]!r} and into {name!r}. List it "
                    "in only one --merge"
                )
            target[index] = name
    return target


def _relabelled(part: pa.Table, table: np.ndarray) -> pa.Table:
    """Return the image ids and confusion cells of the records in `part`, with label `table[i]` instead of label i.

    `table` is an array uint16. Images without confusion cells are left out.
    """
    column = part[metrics.MAIN].combine_chunks()
    records = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    valid = records.filter(records.is_valid())
    lists = []
    for name in confusion.schema.names:
        values = valid.field(name)
        flat = values.flatten().to_numpy(zero_copy_only=False)
        lengths = values.value_lengths().to_numpy(zero_copy_only=False)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        lists.append(pa.ListArray.from_arrays(offsets, pa.array(flat if name == "pixels" else table[flat])))
    ids = part["image_id"].filter(part[metrics.MAIN].is_valid())
    return pa.table({"image_id": ids, metrics.MAIN: pa.StructArray.from_arrays(lists, fields=list(confusion.schema))})


def _kept(reading: Reading) -> tuple[pa.Table, ...]:
    if not reading.total.cells:
        raise OvssError(_not_kept(reading))
    return reading.total.cells


def _not_kept(reading: Reading) -> str:
    return f"{COMPACT}. Evaluate again in a new --out" if reading.total.compact else _TOO_MANY


def _cells(reading: Reading) -> Cells:
    _kept(reading)
    cells = intervals.cells_of(reading)
    assert cells is not None
    return cells


def _pairs(cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return four arrays (m,) with one value per pair of an image and a class in the image's truth.

    The arrays have the following values, in this order. Ignored pixels are not counted.

    - int64: number of true pixels of the class
    - int64: number of correctly predicted pixels of the class
    - float64, percent: IoU of the class within the image
    - float64, percent: area of the class, as a share of the image
    """
    width = cells.labels + 1
    truth, prediction = cells.image * width + cells.truth, cells.image * width + cells.prediction
    keys, place = np.unique(truth, return_inverse=True)
    pixels, correct, called = (np.zeros(len(keys), np.int64) for _ in range(3))
    np.add.at(pixels, place, cells.pixels)
    np.add.at(correct, place, cells.pixels * (truth == prediction))
    where = np.searchsorted(keys, prediction)
    known = np.isin(prediction, keys)
    np.add.at(called, where[known], cells.pixels[known])
    areas = np.zeros(len(cells.ids), np.int64)
    np.add.at(areas, cells.image, cells.pixels)
    iou = 100.0 * correct / (pixels + called - correct)
    share = 100.0 * pixels / areas[keys // width]
    return pixels, correct, iou, share
