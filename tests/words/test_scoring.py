"""Scores of records of words: the metrics of vicss as in the official code, upper bounds, and recall."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovss_ray.metrics import words as metric
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.question import Question
from ovss_ray.structures.vocabulary import Vocabulary
from ovss_ray.words import maskblip, scoring, similarity, vicss


class Golden:
    """Eight images that vicss has scored, as records of this project."""

    def __init__(self, folder: Path) -> None:
        self.stored = json.loads((folder / "metrics.json").read_text())
        arrays = np.load(folder / "metrics.npz")
        self.labels = tuple(self.stored["classes"])
        question = Question(self.labels, Vocabulary.of(self.labels), tuple(range(len(self.labels))))
        self.records: list[dict[str, Any]] = []
        for i, names in enumerate(self.stored["words"]):
            truth, scores = arrays[f"target{i}"], torch.tensor(arrays[f"scores{i}"])[None]
            resized = torch.nn.functional.interpolate(scores, truth.shape, mode="bilinear", align_corners=False)[0]
            prediction = resized.argmax(0).numpy().astype(np.uint16)
            self.records.append(
                metric.measure(question, truth.astype(np.uint16), prediction, {"classes": [[name] for name in names]})
            )
        embeddings = dict(zip(self.stored["embedded"], arrays["sentence_embeddings"], strict=True))
        names = sorted({name for image in self.stored["words"] for name in image})
        rows = similarity.of_embeddings(embeddings)(names, vicss.Judge(self.labels).classes)
        self.judge = vicss.Judge(self.labels, {(name,): row for name, row in zip(names, rows, strict=True)})


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    return Golden(shared / "parity" / "vocabulary_free")


def test_all_twelve_values_are_those_of_vicss(golden: Golden) -> None:
    values = golden.judge.sum(golden.records).result()
    assert values == pytest.approx(golden.stored["all"], abs=1e-5)


def test_the_values_of_each_image_are_those_of_vicss(golden: Golden) -> None:
    for record, official in zip(golden.records, golden.stored["per_image"], strict=True):
        values = golden.judge.sum([record]).result()
        for name, value in official.items():
            expected = float("nan") if isinstance(value, str) else value  # vicss raises an error for background alone
            assert values[name] == pytest.approx(expected, abs=1e-5, nan_ok=True), name


def test_sums_of_any_cut_are_the_same_integers(golden: Golden) -> None:
    whole = golden.judge.sum(golden.records)
    parts = golden.judge.sum(golden.records[5:]) + golden.judge.sum(golden.records[3:5][::-1])
    parts += golden.judge.sum(golden.records[:3])
    for name in ("counts", "ratios", "pairs"):
        assert (getattr(parts, name) == getattr(whole, name)).all()
    bounds = scoring.UpperBounds.of(golden.records, 7)
    halves = scoring.UpperBounds.of(golden.records[4:], 7) + scoring.UpperBounds.of(golden.records[:4], 7)
    assert halves.result() == bounds.result()


def test_without_similarities_only_names_and_pixels_are_compared(golden: Golden) -> None:
    values = vicss.Judge(golden.labels).sum(golden.records).result(similar=False)
    assert set(values) == {name for name in golden.stored["all"] if "soft" not in name and "nearest" not in name}
    assert values == pytest.approx({name: golden.stored["all"][name] for name in values}, abs=1e-5)


def test_a_benchmark_without_background_gets_it_for_unmapped_words() -> None:
    record = {"classes": [["car"], ["lorry"]], "truth": [0, 1, 1], "word": [0, 1, 0], "pixels": [6, 3, 1]}
    values = vicss.Judge(("car", "truck")).sum([record]).result(similar=False)
    assert values["jaccard_hard_macro"] == pytest.approx((6 / 7 + 0 + 0) / 3)
    assert values["jaccard_overlap_macro"] == pytest.approx((6 / 7 + 3 / 4) / 2)


def test_upper_bounds_are_those_computed_by_hand() -> None:
    first = {"classes": [["a"], ["b"]], "truth": [0, 0, 1], "word": [0, NONE, 1], "pixels": [5, 1, 4]}
    second = {"classes": [["b"], ["c"]], "truth": [0, 1, 1], "word": [0, 0, 1], "pixels": [6, 2, 3]}
    values = scoring.UpperBounds.of([first, second], 2).result()
    # overlap: a → 0, b → 1 in the first image, b → 0, c → 1 in the second
    assert values["overlap"] == pytest.approx(100 * (11 / 14 + 7 / 9) / 2)
    # one to one in both images: b → 0 (6 right) and c → 1 (3) are worse than a → 0 (5) and b → 1 (4 + 2)
    assert values["hungarian"] == pytest.approx(100 * (5 / 12 + 6 / 15) / 2)
    assert values["best_iou"] == pytest.approx(100 * ((5 / 6 + 4 / 4) / 2 + (6 / 8 + 3 / 5) / 2) / 2)


def test_recall_counts_classes_in_the_truth_that_a_word_maps_to() -> None:
    first = {"classes": [["a"], ["b"]], "truth": [0, 0, 1], "word": [0, NONE, 1], "pixels": [5, 1, 4]}
    second = {"classes": [], "truth": [1], "word": [NONE], "pixels": [9]}
    recall = scoring.Recall.of([first], {("a",): 0, ("b",): NONE}) + scoring.Recall.of([second], {})
    assert (recall.recalled, recall.present) == (1, 3)
    assert recall.percent == pytest.approx(100 / 3)
    assert np.isnan(scoring.Recall().percent)


def test_the_best_iou_is_that_of_maskblip(shared: Path) -> None:
    golden = json.loads((shared / "parity/vocabulary_free/maskblip.json").read_text())["best_iou"]
    question = Question(tuple("0123"), Vocabulary.of(["0", "1", "2", "3"]), (0, 1, 2, 3))
    for truth, prediction, value in zip(golden["truth"], golden["prediction"], golden["value"], strict=True):
        truth, prediction = np.array(truth, np.uint16), np.array(prediction, np.uint16)
        official = float("nan") if value is None else value
        assert maskblip.best_iou(truth, prediction) == pytest.approx(official, abs=1e-6, nan_ok=True)
        record = metric.measure(question, truth, prediction, {"classes": [[name] for name in "0123"]})
        bounds = scoring.UpperBounds.of([record], 4, background=0)
        assert bounds.result()["best_iou"] == pytest.approx(100 * official, abs=1e-4, nan_ok=True)


def test_words_with_too_many_or_too_few_pixels_are_dropped_as_by_maskblip(shared: Path) -> None:
    golden = json.loads((shared / "parity/vocabulary_free/maskblip.json").read_text())["sanity_loop"]
    for case in golden:
        fields = {word: np.array(values) for word, values in case["fields"].items()}
        kept, labels = maskblip.settle(
            case["words"], lambda words, fields=fields: np.stack([fields[w] for w in words]).argmax(0)
        )
        assert labels.tolist() == case["output"]
        assert kept == [word for word in case["words"] if word in kept]
