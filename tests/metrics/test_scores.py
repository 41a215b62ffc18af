"""Dice, F-scores and mmsegmentation's values: plain loops over classes, and the numbers of mmsegmentation itself."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovss_ray import metrics
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.metrics.confusion import Partial
from tests.metrics.test_confusion import CASES, golden

matrices = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(st.sampled_from([0, 0, 1, 7]), min_size=n + 1, max_size=n + 1), min_size=n, max_size=n)
)


def values(name: str, total: Partial) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The values of a derived metric: means, and those of each class."""
    (metric,) = (metric for metric in metrics.derived() if metric.name == name)
    result = metric.Result(total)
    assert list(result.result()) == list(metric.headings)
    assert list(result.per_label()) == list(metric.class_headings)
    return result.result(), result.per_label()


@pytest.mark.parametrize("case", CASES)
def test_mmsegmentation_s_numbers_are_its_own(shared: Path, case: str) -> None:
    reference, ours, _ = golden(shared, case)
    means, _ = values("mmseg", ours)
    names = {key.removeprefix("mmseg_").lower(): key for key in reference.files if key.startswith("mmseg_")}
    for key, value in means.items():
        expected = float(reference[names[key.removeprefix("mmseg_")]])
        assert value == pytest.approx(expected, rel=1e-4, nan_ok=True), key  # theirs are float32


@settings(max_examples=40)
@given(matrices)
def test_dice_and_f_scores_are_those_of_a_loop_over_the_classes(rows: list[list[int]]) -> None:
    matrix = np.array(rows, np.int64)
    dice_means, dice = values("dice", Partial(matrix))
    means, scores = values("f_score", Partial(matrix))
    per_class: dict[str, list[float]] = {key: [] for key in scores}
    named = 0
    for label in range(len(rows)):
        hits, truth, called = matrix[label, label], matrix[label].sum(), matrix[:, label].sum()
        named += bool(truth or called)
        if not truth:
            assert np.isnan([of[label] for of in (*scores.values(), dice["class_dice"])]).all()
            continue
        precision, recall = hits / called if called else 0.0, hits / truth
        expected = {"precision": precision, "recall": recall}
        for key, beta in (("f_half", 0.5), ("f_1", 1), ("f_2", 2)):
            weighted = beta**2 * precision + recall
            expected[key] = (1 + beta**2) * precision * recall / weighted if weighted else 0.0
        for key, value in expected.items():
            assert scores[key][label] == pytest.approx(100 * value)
            per_class[key].append(100 * value)
        assert dice["class_dice"][label] == scores["f_1"][label]
    for key, of_classes in per_class.items():
        expected_mean = sum(of_classes) / len(of_classes) if of_classes else math.nan
        assert means[f"mean_{key}"] == pytest.approx(expected_mean, nan_ok=True)
    assert dice_means["mdice"] == pytest.approx(means["mean_f_1"], nan_ok=True)
    if per_class["f_1"]:
        assert dice_means["mdice_classic"] == pytest.approx(sum(per_class["f_1"]) / named)


def test_the_policies_for_empty_classes_differ_as_documented() -> None:
    """Class 0 is right, class 1 is never predicted, class 2 never hit; class 3 is predicted but absent."""
    total = Partial(np.array([[8, 0, 0, 0, 0], [0, 0, 2, 0, 0], [0, 0, 0, 4, 0], [0, 0, 0, 0, 0]], np.int64))
    means, _ = values("dice", total)
    assert means == {"mdice": pytest.approx(100 / 3), "mdice_classic": pytest.approx(100 / 4)}
    scores, _ = values("f_score", total)
    assert (scores["mean_f_1"], scores["mean_precision"]) == (pytest.approx(100 / 3), pytest.approx(100 / 3))
    mmseg, classes = values("mmseg", total)
    assert (mmseg["mmseg_mfscore"], mmseg["mmseg_mdice"]) == (100, 25)
    assert np.isnan(classes["mmseg_fscore"]).tolist() == [False, True, True, True]


def test_only_metrics_from_the_matrix_can_be_requested_for_finished_runs() -> None:
    assert metrics.requested(["mmseg", "dice", "mmseg"]) == ("mmseg", "dice")
    with pytest.raises(UnknownName, match=r"unknown metric 'mmsegg'\. Did you mean 'mmseg'"):
        metrics.requested(["mmsegg"])
    with pytest.raises(OvssError, match=r"boundary_iou is not computed from finished records\. Choose from dice"):
        metrics.requested(["boundary_iou"])
    with pytest.raises(OvssError, match=r"--metrics takes only dice, .*\. For sg_iou, use --relations FILE instead"):
        metrics.requested(["sg_iou"])
    with pytest.raises(OvssError, match="type: ovss report RUN --metrics dice"):
        metrics.load("dice")
