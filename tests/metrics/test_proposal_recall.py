"""How well proposals cover the truth: against a slow reference, and as an exact sum."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovss_ray.actors import truth_regions
from ovss_ray.benchmarks import catalog
from ovss_ray.metrics import proposal_recall
from ovss_ray.metrics.proposal_recall import schema
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.structures.columns import IGNORE
from ovss_ray.structures.masks import regions
from ovss_ray.structures.question import Question
from ovss_ray.structures.vocabulary import Vocabulary

QUESTION = Question(("a", "b", "c"), Vocabulary.of(["a", "b", "c"]), (0, 1, 2))


def slow(truth: np.ndarray, masks: np.ndarray) -> list[float]:
    """The best IoU of each true region, one by one."""
    numbers, boxes = regions.components(truth)
    counted = truth != IGNORE
    return [
        max([(mask & (numbers == n)).sum() / ((mask & counted) | (numbers == n)).sum() for mask in masks], default=0.0)
        for n in range(1, len(boxes) + 1)
    ]


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = np.kron(generator.choice([0, 1, 2, IGNORE], (3, 4)), np.ones((2, 3), int)).astype(np.uint16)
    return truth, generator.random((generator.integers(0, 5), *truth.shape)) < generator.random()


def measure(truth: np.ndarray, boxes: np.ndarray, bits: np.ndarray) -> dict[str, np.ndarray]:
    return proposal_recall.measure(QUESTION, truth, boxes, bits)


def total(records: pa.Array) -> proposal_recall.Partial:
    return proposal_recall.Partial.of(records, len(QUESTION.labels))


def records(*seeds: int) -> pa.Array:
    found = [measure(truth, *regions.pack(masks)) for truth, masks in map(drawn, seeds)]
    return pa.array([*found, None], schema)


@given(st.integers(0, 2**32 - 1))
def test_best_ious_are_those_of_a_slow_reference(seed: int) -> None:
    truth, masks = drawn(seed)
    found = measure(truth, *regions.pack(masks))
    assert np.allclose(found["intersection"] / found["union"], slow(truth, masks))
    assert found["pixels"].sum() == (truth != IGNORE).sum()


def test_means_and_recalls_are_over_all_true_regions_of_all_images() -> None:
    ious = np.array([iou for seed in range(20) for iou in slow(*drawn(seed))])
    result = total(records(*range(20))).result()
    assert result["proposal_best_iou"] == pytest.approx(100 * ious.mean())
    assert result["proposal_recall_50"] == pytest.approx(100 * (ious >= 0.5).mean())
    assert result["proposal_recall_75"] == pytest.approx(100 * (ious >= 0.75).mean())
    assert 0 < (ious >= 0.5).mean() < 1


@given(st.permutations(range(6)), st.integers(1, 5))
def test_the_sum_has_no_order(order: list[int], cut: int) -> None:
    assert total(records(*order[:cut])) + total(records(*order[cut:])) == total(records(*range(6)))


def test_an_iou_of_exactly_a_half_counts() -> None:
    truth = np.zeros((1, 4), np.uint16)
    half = measure(truth, *regions.pack(np.array([[[True, True, False, False]]])))
    assert total(pa.array([half], schema)).result() == {
        "proposal_best_iou": 50.0,
        "proposal_recall_50": 100.0,
        "proposal_recall_75": 0.0,
    }


def test_without_true_regions_there_is_nothing_to_report() -> None:
    nothing = measure(np.full((2, 2), IGNORE, np.uint16), *regions.pack(np.ones((1, 2, 2), bool)))
    assert total(pa.array([nothing, None], schema)).result() == {}


@pytest.mark.parametrize(("split", "recall"), [("components", 100.0), ("labels", None)])
def test_regions_cut_out_of_the_truth_cover_it_all(split: str, recall: float | None) -> None:
    truths = [drawn(seed)[0] for seed in range(9)]
    proposer = truth_regions.Stage(truth_regions.Stage.Config(split=split))  # type: ignore[arg-type]
    rows = execution.start(9, truth=truths, benchmark=["camvid"] * 9)
    rows |= proposer(rows, {})
    for truth, boxes, bits, fit in zip(truths, rows["boxes"], rows["bits"], rows["predicted_iou"], strict=True):
        masks = regions.masks(boxes, bits, truth.shape)
        assert np.array_equal(masks.sum(0), truth != IGNORE)
        assert all(len(np.unique(truth[mask])) == 1 for mask in masks)
        assert np.array_equal(fit, np.ones(len(masks)))
    camvid = {"camvid": catalog.load("camvid")}
    measuring = StageConfig(use="measure", options={"metrics": ["proposal_recall"]}).build(benchmarks=camvid)
    values = measuring(rows, {})["proposal_recall"]
    result = total(pa.array(list(values), schema)).result()
    assert result["proposal_recall_75"] == recall or recall is None
    assert recall is not None or sum(len(boxes) for boxes in rows["boxes"]) < sum(len(one["pixels"]) for one in values)
