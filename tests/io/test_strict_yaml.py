"""YAML that cannot be read as something else than its author meant."""

import pytest

from ovss_ray.errors import OvssError
from ovss_ray.io import strict_yaml

WORDS = ["on", "off", "no", "yes", "y", "null", "~", "1", "1.0", "2024-01-01", "12:30", "0x10", "true", "010", "1e3"]


@pytest.mark.parametrize("word", WORDS)
def test_a_key_is_text(word: str) -> None:
    assert strict_yaml.load(f"{word}: 1\nb: {{{word}: 2}}", "x") == {word: 1, "b": {word: 2}}


@pytest.mark.parametrize("word", WORDS)
def test_a_value_is_text_below_the_keys_that_are_text(word: str) -> None:
    data = f"a: {word}\nb: [{word}, [{word}]]\nc:\n- {word}\n- {{d: {word}}}"
    assert strict_yaml.load(data, "x", ("a", "b", "c")) == {"a": word, "b": [word, [word]], "c": [word, {"d": word}]}


def test_other_values_are_what_yaml_makes_of_them() -> None:
    data = "a: on\nb: [1, 0x10, 1.5, null, -1, 0, 00, 007, +5]\nc: 1"
    assert strict_yaml.load(data, "x", ("c",)) == {"a": True, "b": [1, 16, 1.5, None, -1, 0, 0, 7, 5], "c": "1"}


def test_an_empty_value_of_text_is_empty() -> None:
    assert strict_yaml.load("a:\nb: ''", "x", ("a", "b")) == {"a": "", "b": ""}


@pytest.mark.parametrize(("number", "value"), [("010", 8), ("064", 52), ("12:30", 750), ("-017", -15)])
def test_numbers_that_yaml_reads_to_another_base_are_refused(number: str, value: int) -> None:
    with pytest.raises(OvssError, match=f"x: .*line 2: {number} means the number {value} in YAML"):
        strict_yaml.load(f"a: 1\nb: [{number}]", "x")
    assert strict_yaml.load(f"a: '{number}'", "x") == {"a": number}


def test_keys_that_are_one_text_are_refused() -> None:
    assert strict_yaml.load("{1: a, '01': b, on: c, true: d}", "x") == {"1": "a", "01": "b", "on": "c", "true": "d"}
    with pytest.raises(OvssError, match="duplicate key 'on'"):
        strict_yaml.load("on: 1\n'on': 2", "x")


def test_a_pattern_without_quotes_is_explained() -> None:
    with pytest.raises(OvssError, match=r"(?s)x: invalid YAML.*begins with \* needs quotes: '\*\.png'"):
        strict_yaml.load("images: */Images/*.png", "x")


def test_nothing_is_none() -> None:
    assert strict_yaml.load("", "x") is None
