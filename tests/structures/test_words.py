"""The column `words`: tidy names without repetition, and their mapping to the classes of a benchmark."""

import numpy as np
import pytest

from ovss_ray.errors import OvssError
from ovss_ray.structures import words
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.vocabulary import Vocabulary


def test_names_are_tidied_and_repeated_ones_dropped_with_their_scores() -> None:
    names = ["  Sky ", ["car", "Auto", "Car"], "sky", ["auto", "sedan"], "cafe\u0301", "caf\u00e9", "traffic   light"]
    value = words.of(names, "test", [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    assert value["classes"] == [["Sky"], ["car", "Auto"], ["sedan"], ["caf\u00e9"], ["traffic light"]]
    assert value["scores"] == [0.9, 0.8, 0.6, 0.5, 0.3]
    assert words.vocabulary(value) == Vocabulary.of(value["classes"])


def test_an_image_without_words_has_no_vocabulary_but_perhaps_a_fallback() -> None:
    assert words.vocabulary(words.of([], "test")) is None
    assert words.of([], "test", [], "object") == {"classes": [["object"]], "source": "test, fallback", "scores": None}


@pytest.mark.parametrize(
    ("names", "scores", "message"),
    [(["sky\n"], None, "invalid character"), (["sky", " "], None, "empty name"), (["sky"], [1, 2], "2 scores")],
)
def test_faulty_words_are_refused(names: list[str], scores: list[float] | None, message: str) -> None:
    with pytest.raises(OvssError, match=message):
        words.of(names, "test", scores)


def test_predictions_of_words_become_those_of_classes() -> None:
    benchmark = Vocabulary.of([["road"], ["car", "auto"], ["sky"]])
    value = words.of(["SKY", "lorry", "auto", ["street", "Road"]], "test")
    prediction = np.array([[0, 1, 2], [3, NONE, 2]], np.uint16)
    mapped = words.as_classes(prediction, value, benchmark)
    assert mapped.dtype == np.uint16
    assert mapped.tolist() == [[2, NONE, 1], [0, NONE, 1]]
    with pytest.raises(OvssError, match="1 pixels of the prediction have values such as 4; the image has 4 words"):
        words.as_classes(np.array([[4, 0]], np.uint16), value, benchmark)
