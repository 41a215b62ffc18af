"""IoU and accuracy of prompted instances: the recorded metric of the released code, and exact sums in any order."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovss_ray.benchmarks import catalog
from ovss_ray.errors import OvssError
from ovss_ray.metrics import instance_accuracy, instance_iou
from ovss_ray.structures.masks import regions
from ovss_ray.structures.question import Question
from ovss_ray.structures.vocabulary import Vocabulary

NAMES = ("a", "b", "c")
QUESTION = Question(NAMES, Vocabulary.of(NAMES), (0, 1, 2))


def coco() -> Question:
    benchmark = catalog.load("coco:instances_48_17")
    return Question(benchmark.labels, *benchmark.question(""), benchmark.groups)


def iou(question: Question, true: np.ndarray, labels: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    prompted = np.arange(len(true))
    return instance_iou.measure(question, *regions.pack(true), labels.astype(np.uint16), prompted, *regions.pack(masks))


def test_the_numbers_of_made_up_predictions_are_those_of_the_released_metric(shared: Path) -> None:
    golden = np.load(shared / "parity/ovsam/golden_eval.npz")
    expected = json.loads((shared / "parity/ovsam/golden_eval.json").read_text())["result_metric_unit"]
    question, ious, classes = coco(), [], []
    for i in range(4):
        true, masks, labels, predicted = (
            golden[f"unit{i}/{name}"] for name in ("gt_masks", "pred_masks", "gt_labels", "pred_labels")
        )
        ious.append(iou(question, true, labels, masks))
        scores = np.zeros((len(labels), 80), np.float32)
        scores[np.arange(len(labels)), predicted] = 5
        prompted = np.arange(len(labels))
        classes.append(instance_accuracy.measure(question, labels.astype(np.uint16), prompted, scores))
    mean = instance_iou.Partial.of(pa.array(ious, instance_iou.schema), 80)
    rate = instance_accuracy.Partial.of(pa.array(classes, instance_accuracy.schema), 80)
    groups = question.groups
    assert mean.result()["instance_iou"] == pytest.approx(100 * expected["miou"], abs=1e-4)
    assert rate.result()["instance_accuracy"] == pytest.approx(expected["score"], abs=1e-4)
    for group in ("base", "novel"):
        found = {**mean.of_group(groups[group]), **rate.of_group(groups[group])}
        assert found["instance_iou"] == pytest.approx(100 * expected[f"{group}_iou"], abs=1e-4)
        assert found["instance_accuracy"] == pytest.approx(expected[f"{group}_score"], abs=1e-4)
    assert mean.of_group(groups["base"])["instances"] + mean.of_group(groups["novel"])["instances"] == 15


def drawn(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    n = generator.integers(0, 4)
    true, masks = generator.random((2, n, 5, 7)) < 0.5
    return iou(QUESTION, true, generator.integers(0, 3, n), masks)


@given(st.permutations(range(6)), st.integers(1, 5))
def test_the_sum_of_ious_is_exact_in_any_order(order: list[int], cut: int) -> None:
    def total(seeds: list[int]) -> instance_iou.Partial:
        return instance_iou.Partial.of(pa.array([*map(drawn, seeds), None], instance_iou.schema), 3)

    parts = total(order[:cut]) + total(order[cut:])
    whole = total(list(range(6)))
    assert parts.result() == whole.result()
    assert parts.iou_sum.tolist() == whole.iou_sum.tolist()
    images = [image for seed in range(6) if len((image := drawn(seed))["union"])]
    ious = np.concatenate([image["intersection"] / np.maximum(image["union"], 1) for image in images])
    assert whole.result()["instance_iou"] == pytest.approx(100 * ious.mean(), abs=1e-6)
    assert whole.per_label()["instances"].sum() == len(ious)


def test_only_classes_of_a_group_are_candidates() -> None:
    question = Question(NAMES, Vocabulary.of(NAMES), (0, 1, 2), {"base": (0,), "novel": (2,)})
    scores = np.array([[1.0, 9.0, 3.0], [2.0, 9.0, 0.0]], np.float32)
    found = instance_accuracy.measure(question, np.array([2, 1], np.uint16), np.array([0, 1]), scores)
    assert found["predicted"].tolist() == [2, 0]
    assert found["score"] == pytest.approx(1 / (1 + np.exp([-2.0, -2.0])))
    total = instance_accuracy.Partial.of(pa.array([found], instance_accuracy.schema), 3)
    assert total.result() == {"instance_accuracy": 50.0}
    assert total.of_group((0,))["instance_accuracy"] is not None
    assert np.isnan(total.of_group((0,))["instance_accuracy"])


def test_prompts_may_be_for_some_of_the_instances() -> None:
    true = np.zeros((3, 4, 4), bool)
    true[0, :2], true[1, 2:], true[2, :, :1] = True, True, True
    found = instance_iou.measure(
        QUESTION, *regions.pack(true), np.array([0, 1, 2], np.uint16), np.array([2]), *regions.pack(true[:1])
    )
    assert {name: values.tolist() for name, values in found.items()} == {
        "label": [2],
        "intersection": [2],
        "union": [10],
    }


def test_masks_or_scores_of_another_number_than_the_prompts_are_refused() -> None:
    true = np.ones((2, 3, 3), bool)
    with pytest.raises(OvssError, match="1 masks for 2 prompts"):
        iou(QUESTION, true, np.zeros(2), true[:1])
    with pytest.raises(OvssError, match="3 rows of scores for 2 prompts"):
        instance_accuracy.measure(QUESTION, np.zeros(2, np.uint16), np.arange(2), np.zeros((3, 3)))


def test_without_instances_there_is_no_number() -> None:
    nothing = iou(QUESTION, np.zeros((0, 3, 3), bool), np.zeros(0), np.zeros((0, 3, 3), bool))
    assert np.isnan(instance_iou.Partial.of(pa.array([nothing, None], instance_iou.schema), 3).result()["instance_iou"])
    assert np.isnan(instance_iou.per_image(pa.array([nothing], instance_iou.schema))["instance_iou"]).all()
