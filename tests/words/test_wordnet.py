"""Nouns of WordNet in the package: what is a noun, lemmas, senses, what is above them, and the file itself."""

import lzma
from fractions import Fraction
from pathlib import Path

import pytest

from ovss_ray.errors import OvssError
from ovss_ray.words import build
from ovss_ray.words.wordnet import ENTITY, FILE, Nouns, nouns


def test_the_file_is_small_and_has_the_notice_of_wordnet() -> None:
    assert FILE.stat().st_size < 1_000_000
    assert len(nouns()) == 117_798
    licence = FILE.with_name("LICENSE.wordnet").read_text()
    assert licence.strip() in nouns().notice
    assert "Permission to use, copy, modify and distribute this software" in licence
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in licence


@pytest.mark.parametrize(
    ("form", "lemmas"),
    [
        ("cities", ["city"]),
        ("buses", ["bus"]),
        ("gas", ["gas"]),
        ("mice", ["mouse"]),
        ("men", ["men", "man"]),
        ("glasses", ["glasses", "glass"]),
        ("leaves", ["leaf", "leave"]),
        ("City", []),
        ("nightstand", []),
        ("traffic_light", ["traffic_light"]),
        ("boxes", ["box"]),
        ("", []),
    ],
)
def test_forms_have_the_lemmas_of_morphy(form: str, lemmas: list[str]) -> None:
    assert nouns().morphy(form) == lemmas


def test_words_of_any_case_are_nouns_and_the_shortest_lemma_is_the_lemma() -> None:
    assert nouns().is_noun("Traffic  Lights")
    assert not nouns().is_noun("naïve")
    assert [nouns().lemma(form) for form in ("glasses", "men", "Pots", "xyzzys")] == ["glass", "men", "Pots", "xyzzys"]
    assert [nouns().parts_of_speech(form)[:1] for form in ("clean", "dog", "walk", "quickly", "xyzzy")] == [
        *("v", "n", "v", "r", "")
    ]


def test_dogs_and_cats_have_the_similarity_of_the_literature() -> None:
    dog, cat = (nouns().synsets(word)[0] for word in ("dog", "cat"))
    assert nouns().wu_palmer(dog, cat) == Fraction(6, 7)  # 0.857 in NLTK
    assert nouns().above(dog)[ENTITY] == nouns().depth(dog) - 1
    assert nouns().synsets("animal")[0] in nouns().above(dog)
    assert nouns().wu_palmer(dog, dog) == 1


def test_a_damaged_file_and_a_folder_without_wordnet_are_named(tmp_path: Path) -> None:
    (tmp_path / "nouns.txt.xz").write_bytes(FILE.read_bytes()[:1000])
    with pytest.raises(OvssError, match=r"nouns\.txt\.xz: cannot be read: .*Install ovss_ray again"):
        Nouns(tmp_path / "nouns.txt.xz")
    with pytest.raises(OvssError, match=r"no data\.noun, noun\.exc, .*Pass the folder of WordNet 3\.0"):
        build.main(tmp_path)


def test_the_extract_is_written_from_the_files_of_wordnet(tmp_path: Path) -> None:
    """A database of five senses in WordNet's format, of which two are above others."""
    lines = {
        "data.noun": "  1 Notice, line one.  \n  2 \n  3 Last line.  \n"
        "00000010 03 n 01 entity 0 002 ~ 00000020 n 0000 ~ 00000030 n 0000 | all  \n"
        "00000020 03 n 01 animal 0 001 @ 00000010 n 0000 | it lives  \n"
        "00000030 03 n 02 dog 0 domestic_dog 0 002 @ 00000020 n 0000 + 00000099 v 0101 | it barks  \n"
        "00000040 03 n 01 Rex 0 001 @i 00000030 n 0000 | a dog  \n",
        "index.noun": "  1 Notice, line one.  \n"
        "animal n 1 2 @ ~ 1 0 00000020  \ndog n 2 2 @ ~ 2 1 00000030 00000020  \nrex n 1 1 @ 1 0 00000040  \n",
        "noun.exc": "doggies doggy dog\n",
        "index.verb": "dog v 1 1 @ 1 1 00000099  \n",
        "index.adj": "red a 1 0 1 0 00000098  \n",
        "index.adv": "",
        "cntlist.rev": "dog%1:05:00:: 1 3\ndog%2:38:00:: 1 5\n",
    }
    for name, text in lines.items():
        (tmp_path / name).write_text(text)
    build.main(tmp_path, tmp_path / "extract")
    small = Nouns(tmp_path / "extract")
    assert small.notice.splitlines()[1:] == ["Notice, line one.", "", "Last line."]
    assert small.synsets("dog") == [2, 1]
    assert small.above(3) == {3: 0, 2: 1, 1: 2, 0: 3}
    assert [small.parts_of_speech(form) for form in ("dog", "red", "animal")] == ["vn", "a", "n"]
    assert small.morphy("doggies") == ["dog"]
    assert lzma.decompress((tmp_path / "extract").read_bytes()).count(b"\f") == 4
