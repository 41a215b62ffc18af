"""From captions to words: CaSED's thirteen steps and AutoSeg's filter as in the official code, and nouns by WordNet."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ovss_ray.words import cased, filters, tagging


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "parity/vocabulary_free/words.json").read_text())


def test_the_text_after_each_of_the_thirteen_steps_is_that_of_cased(golden: dict[str, Any]) -> None:
    tagger = table(golden)
    for image in golden["images"].values():
        text = " ".join(image["captions"])
        steps = cased.steps(tagger)
        assert [*steps, "RemoveDuplicates"] == [name for name, _ in image["steps"]]
        for (name, step), (_, official) in zip(steps.items(), image["steps"], strict=False):
            text = step(text)
            assert text == official, name
        listed = cased.words(image["captions"], tagger)
        assert sorted(listed) == image["words"]
        assert list(listed.values()) == sorted(listed.values(), reverse=True)


def table(golden: dict[str, Any]) -> tagging.Tagger:
    """The stand-in of flair's tagger, with which the official code was run."""
    tags: dict[str, str] = golden["tags"]
    return lambda words: [tags[word] for word in words]


def test_words_are_in_the_order_of_their_number_then_of_first_occurrence(golden: dict[str, Any]) -> None:
    listed = cased.words(golden["images"]["street"]["captions"], table(golden))
    assert list(listed) == ["bicycle", "street", "cyclist", "car", "traffic", "light", "city", "bus"]
    assert cased.words([]) == {}


def test_the_options_of_frequency_are_those_of_vicss(golden: dict[str, Any]) -> None:
    functions = {"FrequencyTopK": cased.top_k, "FrequencyMinWordCount": cased.frequent}
    for name, official in golden["options"].items():
        function, _, number = name.rstrip(")").partition("(")
        assert functions[function](golden["input_for_options"], int(number)) == official, name


def test_compounds_are_those_of_vicss(golden: dict[str, Any]) -> None:
    for name, official in golden["filter_pos_NN_NNS_with_compounds"].items():
        text = " ".join(golden["images"][name]["captions"]).lower()
        assert cased.tagged(text, table(golden), ("NN", "NNS"), compounds=True) == official, name


def test_the_filter_of_autoseg_keeps_what_the_official_code_keeps(shared: Path) -> None:
    stored = json.loads((shared / "parity/vocabulary_free/autoseg_words.json").read_text())
    for image in stored["images"].values():
        tags: list[Sequence[tuple[str, str]]] = [[(word, tag) for word, tag in caption] for caption in image["tags"]]
        assert sorted(filters.autoseg_nouns(tags)) == image["nouns_raw"]
        assert sorted(filters.by_autoseg(tags)) == image["filtered"]
    for caption, official in stored["remove_repeated_words"].items():
        assert filters.without_repetitions(caption) == official


def test_nouns_of_captions_are_found_by_wordnet_alone() -> None:
    captions = ["Two cyclists wait at the traffic lights.", "A photo of a Cyclist, and leaves on the wet street!"]
    assert filters.by_nouns(captions) == {"cyclist": 2, "wait": 1, "traffic light": 1, "leaf": 1, "street": 1}
    assert filters.by_nouns(["in the of and", "", "123 ?!", "naïve déjà vu"]) == {}


def test_the_tiny_worlds_captions_give_their_words_back() -> None:
    names = filters.by_nouns(["a scene with sand, a striped red star and a blue ring", "a ring on sand"])
    assert list(names)[:2] == ["sand", "ring"]
    assert "star" in names


def test_lists_are_split_at_commas_and_single_names_are_kept_whole() -> None:
    answers = ["Dog, red ball,, grass.", " traffic light", "dog , "]
    assert list(filters.by_commas(answers).items()) == [("dog", 2), ("red ball", 1), ("grass", 1), ("traffic light", 1)]


def test_tags_by_wordnet_prefer_nouns_to_verbs() -> None:
    words = ["the", "sink", "red", "quickly", "destroy", "dogs", "nightstand", "photographing", "overcrowded"]
    assert tagging.by_wordnet(words) == ["IN", "NN", "JJ", "RB", "VB", "NNS", "NN", "VBG", "VBN"]
