"""Sums over records: the same for any history, order, partition and tree, for every metric, to the last bit."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovss_ray import metrics
from ovss_ray.metrics import confusion, region_sizes, trimap
from ovss_ray.reports import intervals
from ovss_ray.reports.totals import Reading, Total
from ovss_ray.runs import records
from ovss_ray.runs.records import Settled
from ovss_ray.structures import label_counts

LABELS, IMAGES = 3, 12
MANIFEST = pa.table(
    {"image_id": [f"i{k:02}" for k in range(IMAGES)], "image_uri": [f"{k // 2}" for k in range(IMAGES)]}
)
LISTS: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "uint8": lambda generator, n: generator.integers(0, 16, n, np.uint8),
    "uint16": lambda generator, n: generator.integers(0, LABELS, n, np.uint16),
    "int64": lambda generator, n: generator.integers(1, 2**40, n),
    "uint64": lambda generator, n: generator.integers(0, 2**40, n, np.uint64),
    "double": lambda generator, n: generator.choice([0.1, 0.5, 0.7], n),
}


def counted(generator: np.random.Generator) -> dict[str, Any]:
    """Counts of pixels as two of the metrics have them."""
    maps = generator.integers(0, LABELS, (2, 40))
    return label_counts.counted(*maps, maps[0][maps[0] == maps[1]], LABELS)


def cells(generator: np.random.Generator) -> dict[str, Any]:
    return confusion.Counter(LABELS)(*generator.integers(0, LABELS, (2, 9, 8)).astype(np.uint16))


def bands(generator: np.random.Generator) -> dict[str, Any]:
    pixels = np.cumsum(generator.integers(0, 2**40, len(trimap.WIDTHS)))
    return {"pixels": pixels, "hits": pixels // 2}


def regions(generator: np.random.Generator) -> dict[str, Any]:
    pixels = generator.integers(0, 2**40, len(region_sizes.SIZES))
    return {"regions": pixels // 5, "recalled": pixels // 7, "pixels": pixels, "hits": pixels // 2}


def naming(generator: np.random.Generator) -> dict[str, Any]:
    names = generator.permutation(["sky", "grass", "sand", "blue ring"])[: generator.integers(1, 5)].tolist()
    truth, word = np.divmod(np.flatnonzero(generator.integers(0, 2, LABELS * len(names))), len(names))
    counts = {"truth": truth, "word": word, "pixels": generator.integers(1, 2**40, len(truth))}
    return {"classes": [[name] for name in names], "source": "tags", "scores": generator.random(len(names)), **counts}


OWN = {
    "words": naming,
    "confusion": cells,
    "trimap": bands,
    "region_sizes": regions,
    "boundary_iou": counted,
    "boundary_iou_detectron2": counted,
}


def measurement(metric: metrics.Metric, k: int) -> dict[str, Any] | None:
    """A measurement of image k; every fifth image has none."""
    generator = np.random.default_rng([k, metric.order])
    if k % 5 == 4:
        return None
    if metric.name in OWN:
        return OWN[metric.name](generator)
    n = int(generator.integers(0, 5))
    values = {
        of.name: LISTS[str(of.type.value_type)](generator, n) for of in metric.schema if pa.types.is_list(of.type)
    }
    return values | {of.name: k for of in metric.schema if not pa.types.is_list(of.type)}


def rows(good: bool) -> pa.Table:
    """A record of each image: with a measurement by every metric, or of a failure."""
    schema = pa.schema([*records.SCHEMA, *((of.name, of.schema) for of in metrics.built_in() if of.on_request)])
    known: dict[str, Any] = {name: [""] * IMAGES for name in (*records.DIGESTS, *records.STAMPS)}
    known["image_id"], known["error"] = MANIFEST["image_id"], ["" if good else "broken"] * IMAGES
    known["seconds"] = [
        [("san", 0.1 * k), ("decode", 1e-20), ("save", 1e-9 / k)][: k % 4] for k in range(1, IMAGES + 1)
    ]
    for metric in metrics.built_in():
        known[metric.name] = [measurement(metric, k) if good else None for k in range(IMAGES)]
    return pa.table({name: known[name] for name in schema.names}, schema.with_metadata(records.SCHEMA.metadata))


EVERY = pa.concat_tables([rows(True), rows(False)])
"""Row k: the good record of image k; row k + IMAGES: the failed one"""
ROWS = EVERY.take([*range(4), 4 + IMAGES, *range(5, IMAGES)])
"""A record of each image; that of image 4 has failed"""


def facts(total: Total) -> dict[str, Any]:
    """All that a total has to say, as bytes: NaN are equal to NaN, and nothing else is."""
    values: dict[str, Any] = {"scored": total.scored, "errors": total.errors, "measured": dict(total.measured)}
    values["spent"] = {stage: spent for stage, spent in total.spent.items() if spent}
    for name, partial in total.partials.items():
        content = {"result": partial.result()}
        content |= {"per_label": partial.per_label()} if hasattr(partial, "per_label") else {}
        content |= {"group": partial.of_group([2, 0])} if hasattr(partial, "of_group") else {}
        for kind, of_kind in content.items():
            values |= {f"{name} {kind} {key}": np.asarray(value).tobytes() for key, value in of_kind.items()}
    return values


def total_of(part: pa.Table) -> Total:
    return Total.of(part, LABELS, cells=True)


WHOLE = facts(total_of(ROWS))


def test_every_metric_of_the_package_takes_part_and_seconds_are_summed_exactly() -> None:
    total = total_of(ROWS)
    assert set(total.partials) == {metric.name for metric in metrics.built_in()}
    spent: dict[str, int] = {}
    for row in ROWS.to_pylist():
        for stage, seconds in row["seconds"] if not row["error"] else ():
            spent[stage] = spent.get(stage, 0) + int(seconds * 2**64)
    assert total.spent == spent


@settings(max_examples=12)
@given(st.permutations(range(IMAGES)), st.lists(st.integers(0, IMAGES), max_size=4), st.randoms(use_true_random=False))
def test_sums_are_equal_for_any_order_partition_and_tree(order: list[int], cuts: list[int], choices: Any) -> None:
    ends = [0, *sorted(cuts), IMAGES]
    level = [total_of(ROWS.take(np.array(order[a:b], np.int64))) for a, b in pairwise(ends)]
    while len(level) > 1:  # any two neighbours are added, in either order
        i = choices.randrange(len(level) - 1)
        pair = level[i : i + 2]
        level[i : i + 2] = [pair[0] + pair[1] if choices.random() < 0.5 else pair[1] + pair[0]]
    assert facts(level[0]) == WHOLE


def test_intervals_are_equal_for_the_files_of_one_worker_and_of_four() -> None:
    def bounds(*parts: pa.Table) -> Any:
        total = Total.empty(LABELS, ["confusion"])
        for part in parts:
            total = total + total_of(part)
        card = {"labels": list("abc"), "groups": {"first": [0, 1]}, "selection": {"split": "val"}}
        return intervals.of(Reading(card, MANIFEST, Settled([]), total))

    alone = bounds(ROWS)
    assert alone.metrics["miou"][0] < alone.metrics["miou"][1]
    assert bounds(*(ROWS.take(list(range(worker, IMAGES, 4))) for worker in (3, 1, 0, 2))) == alone


files = st.lists(st.lists(st.integers(0, len(EVERY) - 1), min_size=1, max_size=4), min_size=1, max_size=5)


@settings(max_examples=8)
@given(files, st.randoms(use_true_random=False))
def test_the_union_of_record_files_has_no_order_and_no_duplicates(
    tmp_path_factory: pytest.TempPathFactory, history: list[list[int]], choices: Any
) -> None:
    """A file has good and failed records, perhaps of one image. A good record wins, and an image counts once."""
    written = {row for part in history for row in part}
    valid = sorted({row if row % IMAGES not in written else row % IMAGES for row in written})
    expected = facts(total_of(EVERY.take(valid)))
    for _ in range(2):
        folder = str(tmp_path_factory.mktemp("records"))
        for part in choices.sample(history, len(history)):
            records.append(folder, EVERY.take(part))
            records.append(folder, EVERY.take(part[::-1]))
        _, total = records.fold(folder, MANIFEST, total_of)
        assert total is not None
        assert facts(total) == expected
