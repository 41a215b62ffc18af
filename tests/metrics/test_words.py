"""The metric `words`: what an image's record keeps, and that sums of records do not depend on their order or cut."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovss_ray import metrics
from ovss_ray.errors import OvssError
from ovss_ray.metrics import words
from ovss_ray.structures.columns import IGNORE, NONE
from ovss_ray.structures.question import Question
from ovss_ray.structures.vocabulary import Vocabulary

LABELS = ("sky", "road", "car")
QUESTION = Question(LABELS, Vocabulary.of(LABELS), (0, 1, 2))
WORDS = {"classes": [["cloud"], ["lorry", "truck"]], "source": "tags", "scores": [0.9, 0.4]}


def test_a_record_has_the_words_and_the_pixels_of_each_pair() -> None:
    truth = np.array([[0, 0, 0, 2], [2, 2, IGNORE, 1]], np.uint16)
    prediction = np.array([[0, 0, NONE, 1], [1, 0, 1, NONE]], np.uint16)
    record = words.measure(QUESTION, truth, prediction, WORDS)
    cells = [record[name].tolist() for name in ("truth", "word", "pixels")]
    assert list(zip(*cells, strict=True)) == [(0, 0, 2), (0, NONE, 1), (1, NONE, 1), (2, 0, 1), (2, 1, 2)]
    assert {name: record[name] for name in WORDS} == WORDS
    total = words.Partial.of(pa.array([record, None, record], words.schema), 3)
    assert total.words == {("cloud",): 2, ("lorry", "truck"): 2}
    assert total.cells[2, ("lorry", "truck")] == 4
    assert total.result() == {"words_per_image": 2.0, "pixels_with_word": 100 * 5 / 7}
    assert total.counted() == {"distinct_words": 2}


def test_an_image_without_words_has_pixels_without_a_word() -> None:
    blank = np.full((2, 2), NONE, np.uint16)
    record = words.measure(QUESTION, np.zeros((2, 2), np.uint16), blank, {})
    assert (record["classes"], record["word"].tolist(), record["pixels"].tolist()) == ([], [NONE], [4])
    assert np.isnan(list(words.Partial().result().values())).all()


def test_wrong_indices_and_sizes_are_named() -> None:
    square = np.zeros((2, 2), np.uint16)
    with pytest.raises(OvssError, match="out of range: index 2 in the prediction, but the image has 2 words"):
        words.measure(QUESTION, square, square + np.uint16(2), WORDS)
    with pytest.raises(OvssError, match="out of range: label 3 in the truth"):
        words.measure(QUESTION, square + np.uint16(3), square, WORDS)
    with pytest.raises(OvssError, match="the prediction has 2 × 1 pixels and the truth 2 × 2"):
        words.measure(QUESTION, square, square[:, :1], WORDS)
    record = words.measure(QUESTION, square + np.uint16(2), square, WORDS)
    with pytest.raises(OvssError, match="label indices up to 2, but the benchmark has 2 labels"):
        words.Partial.of(pa.array([record], words.schema), 2)


def test_the_metric_runs_where_images_have_words() -> None:
    metric = metrics.load("words")
    assert metric in metrics.built_in()
    assert metric.reads == ("truth", "prediction", "words")


@settings(max_examples=25)
@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.permutations(range(6)))
def test_any_cut_and_order_of_records_gives_the_same_total(part_of: list[int], order: list[int]) -> None:
    generator = np.random.default_rng(5)
    records = []
    for _ in range(6):
        names = [["cloud"], ["lorry", "truck"], ["lorry"], ["sky"]][: generator.integers(0, 5)]
        truth, prediction = generator.integers(0, 3, (4, 5)), generator.integers(0, len(names) + 1, (4, 5))
        prediction[prediction == len(names)] = NONE
        records.append(
            words.measure(QUESTION, truth.astype(np.uint16), prediction.astype(np.uint16), {"classes": names})
        )
    whole = words.Partial.of(pa.array(records, words.schema), 3)
    parts = [[records[i] for i in order if part_of[i] == part] for part in range(4)]
    total = sum((words.Partial.of(pa.array(part, words.schema), 3) for part in parts), words.Partial())
    assert total == whole
