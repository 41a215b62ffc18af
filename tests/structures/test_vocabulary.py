"""Vocabularies: what names are refused, and what is said of those that stand twice."""

import logging

import pytest

from ovss_ray.errors import OvssError
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.vocabulary import Vocabulary, exact_mapping


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "needs at least one class"),
        (["cat", ""], r"class 1 of the vocabulary has an empty name: \[''\]"),
        (["cat", "  "], "class 1 .* empty name"),
        ([["cat", ""]], r"class 0 .* empty name: \['cat', ''\]"),
        ([[]], "class 0 .* empty name"),
        (["cat\tdog"], r"class 0 .* invalid character: 'cat\\tdog'"),
        (["cat", "\ud800"], "class 1 .* invalid character"),
        (["cat", "\ufeffdog"], "class 1 .* invalid character"),
        ("cat", "found a string"),
        (None, r"a list of names such as \['road', 'sky'\], found None"),
        ([1, 2], "must be names, found 1. Write the name in quotes"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(classes: list[str], message: str) -> None:
    with pytest.raises(OvssError, match=message):
        Vocabulary.of(classes)


def test_words_of_every_script_are_names() -> None:
    names = ("Straße", "高速道路", "سیب‌زمینی", "नहर", "window ")
    assert Vocabulary.of(names).names == names


def test_a_repeated_name_is_warned_of_with_the_class_that_wins(caplog: pytest.LogCaptureFixture) -> None:
    vocabulary = Vocabulary.of(["road", ["cat", "kitten"], "Cat", "sky", " cat "])
    assert vocabulary.repeated() == {"cat": [1, 2, 4]}
    with caplog.at_level(logging.WARNING):
        vocabulary.warn_of_repeated("garden.yaml")
    (said,) = caplog.messages
    assert "garden.yaml: the name 'cat' stands for the classes 1 and 2, 4" in said
    assert "class 1 wins" in said


def test_words_equal_to_a_name_of_a_class_count_as_this_class() -> None:
    vocabulary = Vocabulary.of(["road", ["Café", "bar"], ["car", "road"], "straße"])
    words = [("sedan", " CAR "), ("cafe\u0301",), ("Road",), ("cars",), ("STRASSE",), ("lane", "nothing")]
    assert exact_mapping(words, vocabulary).tolist() == [2, 1, 0, NONE, 3, NONE]
    assert exact_mapping([], vocabulary).dtype == "uint16"


def test_the_displayed_name_of_a_class_goes_before_other_names_of_earlier_classes() -> None:
    vocabulary = Vocabulary.of([["background", "wall", "bed"], "table", "bed"])
    assert exact_mapping(vocabulary.classes, vocabulary).tolist() == [0, 1, 2]
    assert exact_mapping([("Bed",), ("wall",)], vocabulary).tolist() == [2, 0]


def test_names_with_commas_are_several_names_and_whole_names_go_first() -> None:
    vocabulary = Vocabulary.of(
        ["screen door, screen", "buffet, counter", "counter, desk", "screen", ["sea", "ocean, bay"]]
    )
    words = [("screen",), ("screen door, screen",), ("counter",), ("desk",), ("buffet",), ("bay",), ("route",)]
    assert exact_mapping(words, vocabulary).tolist() == [3, 0, 2, 2, 1, 4, NONE]
