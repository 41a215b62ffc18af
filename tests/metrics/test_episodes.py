"""Numbers of a fold: exactly Fusioner's, with HSNet's next to them, from records of `confusion`."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ovss_ray import metrics
from ovss_ray.benchmarks.catalog import load
from ovss_ray.errors import OvssError
from ovss_ray.metrics import confusion, episodes
from ovss_ray.metrics.confusion import Counter, Partial
from ovss_ray.metrics.episodes import Result
from ovss_ray.reports import totals
from ovss_ray.structures.columns import IGNORE, NONE

FOLD = 3
"""Classes of the made-up fold; label 3 is background"""


def record(truth: list[int], prediction: list[int], labels: int = FOLD + 1) -> dict[str, np.ndarray]:
    return Counter(labels)(np.array([truth], np.uint16), np.array([prediction], np.uint16))


def summed(*records: dict[str, np.ndarray] | None, labels: int = FOLD + 1) -> Result:
    return Result(
        Partial.of(pa.array(list(records), confusion.schema), labels), sum(row is not None for row in records)
    )


def pixels(result: Result) -> list[list[int]]:
    """I₁ and U₁ of each class, and the sums I₀ and U₀."""
    return [result.hits.tolist(), result.union.tolist(), list(result.background)]


@pytest.mark.parametrize("golden", ["metric_pascal_fold1", "metric_coco_fold2"])
def test_the_official_buffers_and_results_come_out_exactly(shared: Path, golden: str) -> None:
    with np.load(shared / f"parity/fusioner/{golden}.npz") as stored:
        expected = dict(stored)
    fold = int(expected["fold"])
    name = f"pascal5i:{fold}" if "pascal" in golden else f"coco20i:{fold}"
    numbers = list(load(name).truth.args[0].values())  # type: ignore[attr-defined]
    records = []
    for i, (number, *_) in enumerate(expected["episodes"].tolist()):
        label, background = numbers.index(number), len(numbers)
        truth, found = expected[f"label_{i:02}"], expected[f"pred_{i:02}"]
        binary = np.where(truth == 255, IGNORE, np.where(truth == number, label, background)).astype(np.uint16)
        if not (binary == label).any():
            binary.fill(IGNORE)  # as benchmarks.episodes.truth does
        records.append(Counter(background + 1)(binary, np.where(found == 1, label, background).astype(np.uint16)))
    total = summed(*records, labels=len(numbers) + 1)
    assert np.array_equal(total.hits, expected["intersection"][1, numbers])
    assert np.array_equal(total.union, expected["union"][1, numbers])
    assert total.background == (expected["intersection"][0].sum(), expected["union"][0].sum())
    result = total.result()
    assert result["fold_miou"] == pytest.approx(100 * float(expected["miou"]), abs=1e-5)
    assert result["fb_iou"] == pytest.approx(100 * float(expected["fb_iou"]), abs=1e-5)
    counted = total.counted()
    assert counted["classes_seen"] == len(expected["evaluated_classes"])
    assert counted["episodes"] + counted["without_foreground"] == 40
    assert counted["without_foreground"] > 0
    share = counted["classes_seen"] / counted["classes_of_fold"]
    assert result["fold_miou_hsnet"] == pytest.approx(result["fold_miou"] * share)


def test_a_class_that_never_occurs_counts_0_in_hsnet_s_mean_alone() -> None:
    result = summed(record([0, 0, 3, 3], [0, 3, 0, 3])).result()
    assert result == pytest.approx({"fold_miou": 100 / 3, "fold_miou_hsnet": 100 / 9, "fb_iou": 100 / 3})


def test_an_episode_without_its_class_is_dropped_whole_and_counted() -> None:
    good = record([0, 0, 3, 3], [0, 3, 0, 3])
    with_dropped = summed(good, record([IGNORE, IGNORE], [1, 1]), None)
    assert with_dropped.result() == summed(good).result()
    assert with_dropped.counted() == {
        "episodes": 1,
        "without_foreground": 1,
        "classes_seen": 1,
        "classes_of_fold": FOLD,
    }


def test_pixels_without_a_class_are_background() -> None:
    first, second = summed(record([1, 3, 3], [1, NONE, 3])), summed(record([1, 3, 3], [1, 3, 3]))
    assert pixels(first) == pixels(second)


def test_pixels_are_counted_beyond_what_float32_can_hold() -> None:
    large = {"truth": np.array([0, 3]), "prediction": np.array([0, 3]), "pixels": np.array([2**24 + 1, 2**40 + 1])}
    assert pixels(summed(large)) == [[2**24 + 1, 0, 0], [2**24 + 1, 0, 0], [2**40 + 1, 2**40 + 1]]


def test_without_any_episode_nothing_is_measured() -> None:
    result = summed().result()
    assert result.keys() == episodes.headings.keys()
    assert all(np.isnan(value) for value in result.values())


def test_the_metric_is_for_folds_alone_and_computed_from_the_records_of_the_main_metric() -> None:
    (metric,) = (metric for metric in metrics.derived() if metric.name == "episodes")
    assert (metric.measured_as, metric.option) == ("confusion", "")
    folds = {"pascal5i:0", "coco20i:3", "scenes:episodes"}
    for name in (*folds, "scenes:seen", "voc:21"):
        benchmark = load(name)
        assert totals._of_a_fold(benchmark.groups, len(benchmark.labels)) == (name in folds)
    with pytest.raises(OvssError, match=r"not measured: .* records of confusion\. .*type: ovss report RUN$"):
        metrics.load("episodes")
