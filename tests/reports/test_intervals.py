"""Bootstrap intervals: equal for every cut of the records, and those of plain slow ways of computing them."""

import json
import shutil
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ovss_ray import metrics
from ovss_ray.metrics import confusion, episodes
from ovss_ray.metrics.confusion import Counter, Partial
from ovss_ray.reports import intervals, report, resampling, totals
from ovss_ray.reports.fields import Bootstrap
from ovss_ray.reports.schema import Report
from ovss_ray.reports.totals import Reading, Total
from ovss_ray.runs.folder import RunFolder
from ovss_ray.runs.records import Settled
from ovss_ray.structures.class_sums import fixed_mean
from ovss_ray.structures.columns import IGNORE, NONE
from tests.paths import ROOT
from tests.reports.test_report import make

OLD = ROOT / "tests/data/old_runs"
LABELS = 6


@cache
def maps(seed: int) -> dict[str, np.ndarray]:
    """Return the cells of an image in which some of the labels occur; a class may be rare, and a pixel uncounted."""
    generator = np.random.default_rng(seed)
    frequent = generator.choice(LABELS, 3, replace=False, p=[0.3, 0.3, 0.2, 0.1, 0.06, 0.04])
    truth = generator.choice(np.append(frequent, IGNORE), (8, 9)).astype(np.uint16)
    other = generator.choice(np.append(np.arange(LABELS - 1), NONE), truth.shape)
    hit = (generator.random(truth.shape) < generator.uniform(0.3, 0.9)) & (truth != IGNORE)
    return Counter(LABELS)(truth, np.where(hit, truth, other).astype(np.uint16))


def rows(numbers: list[int], failed: tuple[int, ...] = ()) -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array([f"i{k:03}" for k in numbers], pa.string()),
            "error": pa.array(["broken" if k in failed else "" for k in numbers], pa.string()),
            "seconds": pa.array([[] for _ in numbers], pa.map_(pa.string(), pa.float32())),
            "confusion": pa.array([None if k in failed else maps(k) for k in numbers], confusion.schema),
        }
    )


def reading(*parts: pa.Table, photographs: dict[str, str] | None = None, groups: Any = None) -> Reading:
    """Return the content of records as totals.read does; the parts are added in turn."""
    total = Total.empty(LABELS, ["confusion"])
    for part in parts:
        total = total + Total.of(part, LABELS, cells=True)
    ids = sorted(name for part in parts for name in part["image_id"].to_pylist())
    uris = [(photographs or {}).get(name) for name in ids]
    listed = pa.table({"image_id": ids, "image_uri": pa.array(uris, pa.string())})
    card = {"labels": [f"c{k}" for k in range(LABELS)], "groups": groups or {}, "selection": {"split": "val"}}
    return Reading(card, listed, Settled([]), total)


WHOLE = reading(rows(list(range(40))), groups={"first": [0, 1, 5], "rest": [2, 3, 4]})


def bounds_of(content: Reading) -> Bootstrap:
    bounds = intervals.of(content)
    assert bounds is not None
    return bounds


@settings(max_examples=12, deadline=None)
@given(st.permutations(range(40)), st.lists(st.integers(0, 40), max_size=5))
def test_any_order_and_partition_of_the_records_gives_the_same_intervals(order: list[int], cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), 40]
    parts = [rows(order[start:end]) for start, end in pairwise(ends)]
    other = reading(*parts, groups=WHOLE.card["groups"])
    assert intervals.of(other) == intervals.of(WHOLE)
    assert other.total.partials["confusion"].result() == WHOLE.total.partials["confusion"].result()


def test_the_draws_and_an_interval_are_these_on_every_machine() -> None:
    first = next(resampling.draws(5, 3))
    assert first.tolist() == DRAWS
    assert bounds_of(WHOLE).metrics["miou"] == MIOU


DRAWS = [[2, 0, 2], [1, 0, 0], [0, 1, 0], [1, 2, 1], [1, 2, 2]]
MIOU = (40.4302318810951, 53.45561466924846)


def test_blocks_do_not_change_the_draws() -> None:
    blocks = np.concatenate(list(resampling.draws(7, 300)), axis=1)
    assert np.array_equal(blocks[:, :200], np.concatenate(list(resampling.draws(7, 200)), axis=1))
    assert (blocks.sum(axis=0) == 7).all()
    assert abs(blocks.mean(axis=1) - 1).max() < 0.25
    assert not np.array_equal(blocks, np.concatenate(list(resampling.draws(7, 300, seed=1)), axis=1))


def drawn(units: int, resamples: int) -> np.ndarray:
    """Return the numbers of the units of each resample, (R, n), by plain Python integers."""
    stream = np.random.PCG64(resampling.SEED)
    return np.array([[(int(stream.random_raw()) >> 32) * units >> 32 for _ in range(units)] for _ in range(resamples)])


def dense(numbers: np.ndarray) -> Partial:
    """Return the sum over images that may be repeated, by adding dense matrices."""
    return sum((Partial.of(pa.array([maps(k)], confusion.schema), LABELS) for k in numbers), Partial.zero(LABELS))


def wide(value: Any, of_all: Any, m: Any) -> Any:
    """Return a value of a resample, further away from that of all images."""
    return of_all + (value - of_all) * (m / (m - 1)) ** 0.5


def effective(images: int) -> np.ndarray:
    """Return the effective number of images with each label, (L,), by adding dense matrices."""
    pixels = np.array([dense(np.array([k])).truth_pixels for k in range(images)], float)
    return pixels.sum(0) ** 2 / (pixels**2).sum(0)


def test_every_value_is_that_of_a_plain_bootstrap_with_dense_matrices() -> None:
    resamples = 25
    cells = intervals.cells_of(WHOLE)
    assert cells is not None
    whole = confusion.Resampled(cells.whole(), cells.whole())
    exact = WHOLE.total.partials["confusion"]
    assert {key: float(values[0]) for key, values in whole.result().items()} == pytest.approx(exact.result(), abs=1e-8)
    values = confusion.Resampled(cells.resampled(resamples), cells.whole())
    means, labels, group = values.result(), values.per_label(), values.of_group([0, 1, 5])
    m, of_all, rare = np.maximum(effective(40), 2), exact.result(), 0
    assert (m < cells.photographs_with()).all(), "areas differ"
    for r, numbers in enumerate(drawn(40, resamples)):
        partial = dense(numbers)
        missing = np.isnan(partial.iou)
        rare += int(missing[~np.isnan(exact.iou)].any())
        wide_iou, wide_acc = wide(partial.iou, exact.iou, m), wide(partial.acc, exact.acc, m)
        iou = np.where(missing, exact.iou, wide_iou)  # the averaged classes are fixed
        expected = {key: wide(value, of_all[key], 40) for key, value in partial.result().items()}
        expected["miou"], expected["macc"] = np.nanmean(iou), np.nanmean(np.where(missing, exact.acc, wide_acc))
        named = (exact.truth_pixels + exact.prediction_pixels > 0).sum()
        expected["miou_classic"] = np.nansum(iou) / named
        assert {key: float(of[r]) for key, of in means.items()} == pytest.approx(expected, abs=1e-8)
        np.testing.assert_allclose(labels["iou"][r], wide_iou)
        np.testing.assert_allclose(labels["acc"][r], wide_acc)
        assert group["miou"][r] == pytest.approx(np.nanmean(iou[[0, 1, 5]]), abs=1e-8)
        assert group["pooled_iou"][r] == pytest.approx(
            wide(partial.pooled_iou([0, 1, 5]), exact.pooled_iou([0, 1, 5]), 40), abs=1e-8
        )
    assert rare < resamples


def test_intervals_are_as_wide_as_those_of_scipy() -> None:
    matrices = [dense(np.array([k])) for k in range(40)]

    def pacc(numbers: np.ndarray) -> float:
        return (
            sum(of.hits.sum() for of in (matrices[int(k)] for k in numbers))
            * 100
            / sum(of.truth_pixels.sum() for of in (matrices[int(k)] for k in numbers))
        )

    ours = bounds_of(WHOLE).metrics["pacc"]
    theirs = stats.bootstrap(
        (np.arange(40),), pacc, n_resamples=1000, vectorized=False, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert ours == pytest.approx(tuple(theirs), abs=0.15 * (theirs.high - theirs.low))


def test_a_class_that_a_resample_lacks_counts_with_its_value_of_all_images() -> None:
    values = np.array([[10.0, np.nan, 50.0], [20.0, 30.0, np.nan]])
    assert fixed_mean(values, np.array([12.0, 60.0, np.nan])).tolist() == [35.0, 25.0]
    assert np.isnan(fixed_mean(values, np.full(3, np.nan))).all()


def test_an_interval_is_centred_at_the_reported_value_and_within_0_and_100() -> None:
    values = np.arange(1000.0) / 100
    low, high = intervals.centred(values, 50.0) or (0, 0)
    assert (low + high) / 2 == pytest.approx(50.0)
    assert high - low == pytest.approx(9.99 - 2 * 0.24)
    assert intervals.centred(values, 1.0) == pytest.approx((0.0, 1 + 4.995 - 0.24))
    assert intervals.centred(np.append(values, np.nan), 50.0) == pytest.approx((low, high))
    assert intervals.centred(np.full(3, np.nan), 50.0) is None


def test_images_of_one_photograph_are_drawn_together() -> None:
    plain = bounds_of(reading(rows(list(range(20)))))
    twice = pa.concat_tables(
        [
            rows(list(range(20))),
            rows(list(range(20))).set_column(0, "image_id", [pa.array([f"i{k:03}_again" for k in range(20)])]),
        ]
    )
    names = twice["image_id"].to_pylist()
    shared = bounds_of(reading(twice, photographs={name: name[:4] for name in names}))
    assert shared.metrics == plain.metrics, "a second copy of each image adds nothing"
    assert (shared.unit, shared.units) == ("photograph", 20)
    alone = bounds_of(reading(twice))
    assert (alone.unit, alone.units) == ("image", 40)
    low, high = plain.metrics["pacc"]
    assert alone.metrics["pacc"][1] - alone.metrics["pacc"][0] < 0.85 * (high - low)


def test_addresses_of_another_machine_change_nothing() -> None:
    uris = {f"i{k:03}": f"{9 - k // 4}.jpg" for k in range(40)}
    here = reading(rows(list(range(40))), photographs={name: f"/data/{uri}" for name, uri in uris.items()})
    there = reading(rows(list(range(40))), photographs={name: f"s3://z/{uri}" for name, uri in uris.items()})
    assert intervals.of(here) == intervals.of(there)
    assert intervals.of(here) != intervals.of(WHOLE)


def test_failed_images_are_not_drawn_and_a_single_image_has_no_interval() -> None:
    without = reading(rows(list(range(20))))
    failed = reading(rows(list(range(25)), failed=tuple(range(20, 25))))
    assert intervals.of(failed) == intervals.of(without)
    assert intervals.of(reading(rows([3]))) is None
    assert intervals.of(reading()) is None


def test_classes_in_few_photographs_have_no_interval_and_are_counted() -> None:
    bounds = bounds_of(WHOLE)
    rare = [0 < n < intervals.RARE for n in bounds.photographs]
    assert bounds.rare_classes == sum(rare)
    assert [ends is None for ends in bounds.classes["iou"]] == [n < 5 for n in bounds.photographs]
    few = bounds_of(reading(rows([0, 1, 2, 3])))
    assert few.classes["iou"] == (None,) * LABELS


def test_the_numbers_of_a_fold_have_intervals() -> None:
    cells = intervals.cells_of(WHOLE)
    assert cells is not None
    whole = episodes.Resampled(cells.whole(), cells.whole()).result()
    whole_fold = episodes.Result(WHOLE.total.partials["confusion"], 40)
    exact, of_classes = whole_fold.result(), 100 * whole_fold.hits / whole_fold.union
    assert {key: float(of[0]) for key, of in whole.items()} == pytest.approx(exact, abs=1e-8)
    values = episodes.Resampled(cells.resampled(10), cells.whole()).result()
    for r, numbers in enumerate(drawn(40, 10)):
        resampled = episodes.Result(dense(numbers), 40)
        assert float(values["fb_iou"][r]) == pytest.approx(
            wide(resampled.result()["fb_iou"], exact["fb_iou"], 40), abs=1e-8
        )
        iou = wide(100 * resampled.hits / resampled.union, of_classes, np.maximum(effective(40)[:-1], 2))
        assert float(values["fold_miou_hsnet"][r]) == pytest.approx(iou.mean(), abs=1e-8)


def episode(number: int) -> dict[str, np.ndarray]:
    """Return the cells of an episode: its class is number modulo 5, and label 5 is background."""
    generator = np.random.default_rng(number)
    pair = np.array([number % (LABELS - 1), LABELS - 1], np.uint16)
    truth = generator.integers(0, 2, (8, 9))
    prediction = np.where(generator.random(truth.shape) < generator.uniform(0.5, 0.9), truth, 1 - truth)
    return Counter(LABELS)(pair[truth], pair[prediction])


def test_a_run_of_a_fold_has_intervals_in_its_report() -> None:
    cells = pa.chunked_array([pa.array([episode(k) for k in range(40)], confusion.schema)])
    groups = {"foreground": list(range(LABELS - 1)), "background": [LABELS - 1]}
    plain = reading(rows(list(range(40))).set_column(3, "confusion", cells), groups=groups)
    built = report.numbers(replace(plain, inputs={metrics.FOLD: 40}))
    assert built.bootstrap is not None
    assert set(built.bootstrap.metrics) == {*confusion.headings, *episodes.headings}
    for key in episodes.headings:
        low, high = built.bootstrap.metrics[key]
        assert low < (built.metrics[key] or 0) < high


def test_values_that_could_not_be_measured_have_no_interval() -> None:
    void = {"truth": [], "prediction": [], "pixels": []}
    cells = pa.chunked_array([pa.array([void, void], confusion.schema)])
    groups = {"foreground": list(range(LABELS - 1)), "background": [LABELS - 1]}
    plain = reading(rows([0, 1]).set_column(3, "confusion", cells), groups=groups)
    built = report.numbers(replace(plain, inputs={metrics.FOLD: 2}))
    assert built.metrics == dict.fromkeys((*confusion.headings, *episodes.headings))
    assert built.bootstrap is not None
    assert built.bootstrap.units == 2
    assert built.bootstrap.metrics == {}


def test_a_report_has_intervals_unless_the_cells_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "run", [list(range(12))])
    (built,) = report.build(run).benchmarks.values()
    assert built.bootstrap is not None
    assert built.bootstrap.method == intervals.METHOD
    assert Bootstrap.model_validate(built.bootstrap.model_dump(exclude={"method"})).method == "centred percentiles"
    assert set(built.bootstrap.metrics) == set(confusion.headings)
    assert built.bootstrap.units == 12
    for key, (low, high) in built.bootstrap.metrics.items():
        value = built.metrics[key]
        assert value is not None
        assert low < value < high, key
    for label, score in enumerate(built.classes):
        low, high = built.bootstrap.of_class(label) or (0, 0)
        assert low < (score.iou or 0) < high
    (plain,) = report.assemble(run, totals.read(run)).benchmarks.values()
    assert plain.bootstrap is None
    assert plain.metrics == built.metrics
    monkeypatch.setattr(totals, "CELLS_UP_TO", 11)
    (large,) = report.build(run).benchmarks.values()
    assert large == plain


@pytest.mark.parametrize("method", ["san_tiny", "sam_alpha_clip_tiny"])
def test_old_reports_are_read_without_intervals_and_old_runs_get_them(method: str, tmp_path: Path) -> None:
    run = shutil.copytree(OLD / f"{method}-finished", tmp_path / "run")
    assert all(of.bootstrap is None for of in Report.load(run).benchmarks.values())
    before = json.loads((run / "report.json").read_text())["benchmarks"]
    built = report.build(RunFolder(str(run)))
    for name, benchmark in built.benchmarks.items():
        now = benchmark.model_dump(mode="json")
        assert {key: now["metrics"][key] for key in before[name]["metrics"]} == before[name]["metrics"]
        assert benchmark.bootstrap is not None
        assert set(benchmark.bootstrap.metrics) >= set(confusion.headings)
    assert Report.load(run) == built


def test_photographs_with_a_class_are_counted_once() -> None:
    twins = reading(rows([0, 1]), photographs={"i000": "same", "i001": "same"})
    cells = intervals.cells_of(twins)
    assert cells is not None
    present = np.union1d(maps(0)["truth"], maps(1)["truth"])
    assert cells.photographs_with().tolist() == [int(k in present) for k in range(LABELS)]
    assert cells.photographs == 1
