"""The confusion matrix: exact counting, addition without an order, and the numbers of the reference evaluators."""

import itertools
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovss_ray.errors import OvssError
from ovss_ray.metrics import _image_miou, confusion
from ovss_ray.metrics.confusion import Counter, Partial, image_miou
from ovss_ray.structures.class_sums import UNITS
from ovss_ray.structures.columns import IGNORE, NONE

CASES = [
    "c150",
    "c20_extra",
    "c21",
    "c21_absent",
    "c254",
    "c3_nothing_valid",
    "c5_one_image_ignored",
    "c6_ignore_inside",
    "c847",
]
LABELS = 5
COUNTER = Counter(LABELS)

labelled = st.sampled_from([*range(LABELS), IGNORE])
called = st.sampled_from([*range(LABELS), NONE])
shapes = st.tuples(st.integers(0, 12), st.integers(1, 40))
noise = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def maps(rng: np.random.Generator, shape: tuple[int, int], labels: int = LABELS) -> tuple[np.ndarray, np.ndarray]:
    """Random truth and prediction with runs of equal values, IGNORE and NONE among them."""
    runs = rng.integers(1, 60)
    truth = np.repeat(rng.choice([*range(labels), IGNORE], shape), runs, axis=1).astype(np.uint16)
    prediction = np.repeat(rng.choice([*range(labels), NONE], shape), runs, axis=1).astype(np.uint16)
    return truth, np.roll(prediction, rng.integers(0, runs), axis=1)


def plain(truth: np.ndarray, prediction: np.ndarray, labels: int = LABELS) -> np.ndarray:
    """The same counts, pair by pair."""
    counts = np.zeros((labels, labels + 1), np.int64)
    valid = truth != IGNORE
    np.add.at(counts, (truth[valid], np.where(prediction == NONE, labels, prediction)[valid]), 1)
    return counts


def dense(cells: confusion.Cells, labels: int = LABELS) -> np.ndarray:
    counts = np.zeros((labels, labels + 1), np.int64)
    np.add.at(
        counts, (cells["truth"], np.where(cells["prediction"] == NONE, labels, cells["prediction"])), cells["pixels"]
    )
    return counts


def records(*cells: confusion.Cells | None) -> pa.StructArray:
    return pa.array(cells, confusion.schema)


def golden(shared: Path, case: str) -> tuple[np.lib.npyio.NpzFile, Partial, Partial]:
    """A case of the reference, its maps counted by us, and the same without the pixels that were called nothing."""
    found = np.load(shared / f"parity/metrics/semseg_{case}.npz")
    labels, ignore = int(found["num_classes"]), int(found["ignore_label"])
    count, cells = Counter(labels), []
    for i in range(int(found["images"])):
        truth, prediction = (found[f"{name}_{i}"].astype(np.int64) for name in ("gt", "pred"))
        cells.append(count(np.where(truth == ignore, IGNORE, truth), np.where(prediction >= labels, NONE, prediction)))
    ours = Partial.of(records(*cells), labels)
    return found, ours, ours.without_none()


@pytest.mark.parametrize("case", CASES)
def test_all_numbers_are_those_of_detectron2_s_evaluator(shared: Path, case: str) -> None:
    found, _, ours = golden(shared, case)
    for name, value in {"mIoU": ours.miou, "fwIoU": ours.fwiou, "mACC": ours.macc, "pACC": ours.pacc}.items():
        assert value == pytest.approx(float(found[name]), rel=1e-9, nan_ok=True), name
    np.testing.assert_allclose(ours.iou, found["iou"], rtol=1e-9)
    np.testing.assert_allclose(ours.acc, found["acc"], rtol=1e-9)


@pytest.mark.parametrize("case", [case for case in CASES if case != "c20_extra"])
def test_where_every_pixel_was_named_leaving_none_out_changes_nothing(shared: Path, case: str) -> None:
    _, ours, without = golden(shared, case)
    assert np.array_equal(ours.counts, without.counts)


@pytest.mark.parametrize("case", CASES)
def test_the_classic_mean_and_pixels_without_a_name_are_as_in_mmsegmentation(shared: Path, case: str) -> None:
    found, ours, _ = golden(shared, case)
    for name, value in {"mIoU": ours.miou_classic, "aAcc": ours.pacc, "mAcc": ours.macc}.items():
        reference = float(found[f"mmseg_{name}"])
        assert value == pytest.approx(reference, rel=1e-6, nan_ok=True), name  # it counts in float32


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("c20_extra", "c6_ignore_inside")])
def test_the_classic_and_the_weighted_mean_are_those_of_torchmetrics(shared: Path, case: str) -> None:
    # Left out: a case it cannot count, and one whose ignored class it drops from the mean even where it is predicted.
    found, ours, _ = golden(shared, case)
    assert ours.miou_classic == pytest.approx(float(found["torchmetrics_macro"]), rel=1e-6, nan_ok=True)
    if ours.truth_pixels.any():
        assert ours.fwiou == pytest.approx(float(found["torchmetrics_weighted"]), rel=1e-6)


@pytest.mark.parametrize("case", [case for case in CASES if case != "c847"])
def test_the_counts_are_those_of_detectron2_s_matrix(shared: Path, case: str) -> None:
    found, ours, _ = golden(shared, case)
    assert np.array_equal(ours.counts, found["confusion"].T[:-1])


def test_the_847_counts_are_those_of_detectron2_s_matrix(shared: Path) -> None:
    found, ours, _ = golden(shared, "c847")
    predicted, true, pixels = found["confusion_nonzero"].T
    counted = true < 847
    assert np.array_equal(ours.counts[true[counted], predicted[counted]], pixels[counted])
    assert ours.counts.sum() == pixels[counted].sum()


@settings(max_examples=200, deadline=None)
@given(noise, shapes)
def test_counting_equals_the_plain_way(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    truth, prediction = maps(rng, shape)
    cells = COUNTER(truth, prediction)
    assert np.array_equal(dense(cells), plain(truth, prediction))
    assert (cells["pixels"] > 0).all()
    assert [cells[name].dtype for name in ("truth", "prediction", "pixels")] == [np.uint16, np.uint16, np.int64]


@pytest.mark.parametrize("labels", [1, 2, 63, 150, 255, 847])
def test_any_number_of_labels_is_counted_exactly(labels: int) -> None:
    count = Counter(labels)
    for seed in range(3):  # the table has to be empty again each time
        truth, prediction = maps(np.random.default_rng(seed), (40, 30), labels)
        assert np.array_equal(dense(count(truth, prediction), labels), plain(truth, prediction, labels))


@pytest.mark.parametrize("labels", [5, 180, 191, 847])
def test_noise_is_counted_exactly_and_nothing_is_left_of_it_for_the_next_image(labels: int) -> None:
    count = Counter(labels)
    truth, prediction = np.random.default_rng(labels).integers(0, labels, (2, 200, 301)).astype(np.uint16)
    assert np.array_equal(dense(count(truth, prediction), labels), plain(truth, prediction, labels))
    assert not count._table.any()
    assert not count._touched.any()


@pytest.mark.parametrize("kinds", list(itertools.product([np.uint8, np.uint16, np.int32, np.int64], repeat=2)))
def test_any_integers_may_be_counted(kinds: tuple[type, type]) -> None:
    rng = np.random.default_rng(0)
    truth, prediction = (rng.integers(0, LABELS, (30, 70)) for _ in range(2))
    cells = COUNTER(truth.astype(kinds[0]), prediction.astype(kinds[1]))
    assert np.array_equal(dense(cells), plain(truth, prediction))


def test_arrays_that_may_not_be_written_or_are_not_contiguous_are_counted() -> None:
    truth, prediction = maps(np.random.default_rng(0), (40, 30))
    truth.flags.writeable = False
    expected = plain(truth, prediction)
    assert np.array_equal(dense(COUNTER(truth, prediction)), expected)
    assert np.array_equal(dense(COUNTER(truth.T, prediction.T)), expected)


def test_cells_are_in_the_order_of_truth_and_prediction_with_none_last() -> None:
    truth = np.array([[1, 1, 0, 0, 1, IGNORE]], np.uint16)
    prediction = np.array([[NONE, 4, 3, 0, 0, 2]], np.uint16)
    cells = COUNTER(truth, prediction)
    assert cells["truth"].tolist() == [0, 0, 1, 1, 1]
    assert cells["prediction"].tolist() == [0, 3, 0, 4, NONE]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((np.uint16, value) for value in (LABELS, 65533, 65534, 65535)),
        *((np.int32, value) for value in (LABELS, 65533, 65534, 65535, 70000, -1)),
        *((np.int64, value) for value in (LABELS, 65533, 65534, 65535, 70000, 2**32 + 1, -1)),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_it_and_is_never_counted(kind: type, value: int) -> None:
    good, bad = np.zeros((3, 4), kind), np.array([[0, 0, 0, 0], [0, value, 0, 0], [0, 0, 0, 0]], kind)
    if value != IGNORE:
        with pytest.raises(OvssError, match=f"1 pixels of the truth have values such as {value}; allowed are 0 to 4"):
            COUNTER(bad, good)
    if value != NONE:
        with pytest.raises(OvssError, match=f"1 pixels of the prediction have values such as {value}; allowed"):
            COUNTER(good, bad)
    assert dense(COUNTER(good, good)).sum() == good.size


def test_255_in_8_bit_maps_is_a_value_like_any_other() -> None:
    with pytest.raises(OvssError, match="such as 255"):
        COUNTER(np.full((1, 1), 255, np.uint8), np.zeros((1, 1), np.uint8))


def test_unlike_sizes_are_an_error_that_gives_both() -> None:
    with pytest.raises(OvssError, match="prediction has 3 × 2 pixels and the truth 2 × 3"):
        COUNTER(np.zeros((2, 3), np.uint16), np.zeros((3, 2), np.uint16))


images = st.lists(noise.map(lambda rng: COUNTER(*maps(rng, (3, 4)))), min_size=1, max_size=6)


def same(one: Partial, other: Partial) -> bool:
    return np.array_equal(one.counts, other.counts) and one.result() == pytest.approx(
        other.result(), abs=0, nan_ok=True
    )


@settings(max_examples=100, deadline=None)
@given(images, st.randoms(use_true_random=False))
def test_any_order_and_grouping_of_images_gives_the_same_bits(cells: list[confusion.Cells], random: object) -> None:
    whole = Partial.of(records(*cells), LABELS)
    singles = [Partial.of(records(one), LABELS) for one in cells]
    random.shuffle(singles)  # type: ignore[attr-defined]
    while len(singles) > 1:
        i = random.randrange(len(singles) - 1)  # type: ignore[attr-defined]
        singles[i : i + 2] = [singles[i] + singles[i + 1]]
    assert same(whole, singles[0])


@settings(max_examples=50, deadline=None)
@given(images, images, images)
def test_addition_is_associative_and_commutative_and_has_a_zero(
    a: list[confusion.Cells], b: list[confusion.Cells], c: list[confusion.Cells]
) -> None:
    x, y, z = (Partial.of(records(*cells), LABELS) for cells in (a, b, c))
    assert same((x + y) + z, x + (y + z))
    assert same(x + y, y + x)
    assert same(x + Partial.zero(LABELS), x)


@settings(max_examples=100, deadline=None)
@given(noise)
def test_the_mean_over_images_is_that_of_each_image_s_own_miou(rng: np.random.Generator) -> None:
    pairs = [maps(rng, (3, 4)) for _ in range(4)]
    cells = [COUNTER(*pair) for pair in pairs]
    alone = [Partial.of(records(one), LABELS).miou for one in cells]
    assert [image_miou(one) for one in cells] == pytest.approx(alone, rel=1e-12, nan_ok=True)
    expected = np.nanmean(alone) if np.isfinite(alone).any() else np.nan
    assert Partial.of(records(*cells), LABELS).image_miou == pytest.approx(expected, rel=1e-9, nan_ok=True)
    orders = [rng.permutation(len(one["pixels"])) for one in cells]
    shuffled = [{name: of[order] for name, of in one.items()} for one, order in zip(cells, orders, strict=True)]
    with mock.patch.object(_image_miou, "BLOCK", 3):  # a block of three images, and one of the last
        together = confusion.per_image(records(*shuffled))["miou"]
    exact = np.rint([image_miou(one) * UNITS for one in cells]) / UNITS
    assert np.array_equal(together, exact, equal_nan=True)


def test_failed_images_have_no_cells_and_do_not_count() -> None:
    cells = COUNTER(np.zeros((2, 2), np.uint16), np.zeros((2, 2), np.uint16))
    both = pa.chunked_array([records(None, cells), records(None)])
    assert Partial.of(both, LABELS).result() == Partial.of(records(cells), LABELS).result()


def test_a_slice_of_records_is_counted_without_its_neighbours() -> None:
    one, other = (COUNTER(np.full((2, 2), label, np.uint16), np.full((2, 2), 0, np.uint16)) for label in (0, 1))
    assert same(Partial.of(records(one, other).slice(1, 1), LABELS), Partial.of(records(other), LABELS))


def test_nothing_counted_is_nan_and_never_zero_but_for_fwiou_as_detectron2_has_it() -> None:
    ignored = COUNTER(np.full((2, 2), IGNORE, np.uint16), np.zeros((2, 2), np.uint16))
    assert np.isnan(image_miou(ignored))
    for partial in (Partial.of(records(ignored), LABELS), Partial.zero(LABELS), Partial.of(records(), LABELS)):
        assert partial.fwiou == 0.0
        assert all(np.isnan(value) for value in partial.result().values())
        assert np.isnan(partial.iou).all()


def test_none_is_a_miss_for_its_label_and_nobody_s_false_alarm() -> None:
    truth = np.array([[0, 0, 1, 1]], np.uint16)
    partial = Partial.of(records(COUNTER(truth, np.array([[0, NONE, 1, 1]], np.uint16))), LABELS)
    assert partial.iou[:2].tolist() == [50.0, 100.0]
    assert partial.truth_pixels[:2].tolist() == [2, 2]
    assert partial.prediction_pixels[:2].tolist() == [1, 2]
    assert partial.without_none().iou[:2].tolist() == [100.0, 100.0]


def test_a_label_that_is_only_predicted_counts_as_zero_in_the_classic_mean_only() -> None:
    partial = Partial.of(records(COUNTER(np.array([[0, 0]], np.uint16), np.array([[0, 3]], np.uint16))), LABELS)
    assert (partial.miou, partial.miou_classic) == (50.0, 25.0)


def test_labels_are_pooled_by_summing_their_pixels() -> None:
    counts = np.array([[6, 0, 2, 0], [0, 1, 4, 1], [3, 1, 90, 0], [0, 0, 0, 0]])
    total = Partial(np.insert(counts, 4, 0, axis=1))
    assert total.pooled_iou([0, 1]) == pytest.approx(100 * 7 / (8 + 6 + 9 + 2 - 7))
    assert total.pooled_iou((2,)) == total.iou[2]
    assert np.isnan(total.pooled_iou([3]))


def test_records_of_more_labels_than_the_benchmark_has_are_refused() -> None:
    cells = COUNTER(np.full((2, 2), 4, np.uint16), np.zeros((2, 2), np.uint16))
    with pytest.raises(OvssError, match="label indices up to 4, but the benchmark has 3 labels"):
        Partial.of(records(cells), 3)
    predicted = COUNTER(np.zeros((2, 2), np.uint16), np.full((2, 2), 3, np.uint16))
    with pytest.raises(OvssError, match="label indices up to 3, but the benchmark has 3 labels"):
        Partial.of(records(predicted), 3)


def test_partials_of_different_benchmarks_cannot_be_added() -> None:
    with pytest.raises(OvssError, match="5 labels cannot be added to counts of 6"):
        Partial.zero(5) + Partial.zero(6)


def test_sums_of_many_large_images_are_exact() -> None:
    one = {"truth": [0, 0], "prediction": [0, NONE], "pixels": [2**60, 1]}
    partial = Partial.of(records(*[one] * 3), 2)
    assert partial.counts.tolist() == [[3 * 2**60, 0, 3], [0, 0, 0]]
