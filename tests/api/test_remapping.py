"""A finished run under other mappings of its words: from records alone, equal for any cut of them, nothing changed."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ovss_ray.api.remapping import remap
from ovss_ray.cli.app import app
from ovss_ray.errors import OvssError
from ovss_ray.metrics import confusion, words
from ovss_ray.runs import records
from ovss_ray.runs.folder import RunFolder
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.question import Question
from ovss_ray.structures.vocabulary import Vocabulary
from tests.reports.test_report import make

LABELS = ("sky", "street, road", "car")
QUESTION = Question(LABELS, Vocabulary.of(["sky", "street, road", "car"]), (0, 1, 2))
NAMES = [["Sky"], ["roads"], ["taxi"], ["idea"], ["automobile", "car"]]


def batch(numbers: list[int]) -> dict[str, np.ndarray]:
    """Images of 20 × 30 pixels, each with some of the words; number 3 has none, number 4 has failed."""
    measured: list[dict[str, Any]] = []
    for number in numbers:
        generator = np.random.default_rng(number)
        names = [] if number == 3 else NAMES[number % 3 :]
        truth = generator.integers(0, 3, (20, 30)).astype(np.uint16)
        guess = generator.integers(0, len(names) + 1, (20, 30)).astype(np.uint16)
        guess[guess == len(names)] = NONE
        measured.append(words.measure(QUESTION, truth, guess, {"classes": names, "source": "test"}))
    cells = [confusion.Counter(3)(np.zeros((1, 1), int), np.zeros((1, 1), int)) for _ in numbers]
    errors = ["san: too dark" if number == 4 else "" for number in numbers]
    seconds: list[dict[str, float]] = [{} for _ in numbers]
    columns = {"image_id": [f"i{k:02}" for k in numbers], "benchmark": ["camvid"] * len(numbers)}
    rows = {**columns, "error": errors, "seconds": seconds, "confusion": cells, "words": measured}
    return {name: np.array([*values, None], object)[:-1] for name, values in rows.items()}


def run(folder: Path, *parts: list[int]) -> RunFolder:
    made = make(folder, [], expected=9)
    card = made.json(made.card("camvid"))
    classes = [list(names) for names in QUESTION.vocabulary.classes]
    made.save_json(made.card("camvid"), {**card, "labels": list(LABELS), "classes": classes, "index": [0, 1, 2]})
    for part in parts:
        records.append(made.records("camvid"), records.table(batch(part)))
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(tmp_path_factory.mktemp("run") / "run", list(range(9)))


def test_a_mapping_counts_as_if_the_classes_had_been_predicted(whole: RunFolder) -> None:
    remapped = remap(whole.uri, "exact", "lemma", "wordnet")["camvid"]
    label_of = {"Sky": 0, "roads": 1, "taxi": 2, "automobile": 2, "idea": NONE}
    expected = confusion.Partial.zero(3)
    for record in (
        record
        for record, error in zip(*(batch(list(range(9)))[n] for n in ("words", "error")), strict=True)
        if not error
    ):
        named = [label_of[names[0]] for names in record["classes"]]
        counts = np.zeros((3, 4), np.int64)
        for truth, word, pixels in zip(record["truth"], record["word"], record["pixels"], strict=True):
            label = NONE if word == NONE else named[word]
            counts[truth, 3 if label == NONE else label] += pixels
        expected = confusion.Partial(expected.counts + counts)
    exact, lemma, wordnet = remapped.mapped
    assert (wordnet.confusion.counts == expected.counts).all()
    assert wordnet.values["miou"] == expected.miou
    assert wordnet.values["unmapped_pixels"] == 100 * expected.counts[:, 3].sum() / expected.counts.sum()
    ideas = next(word for word in wordnet.words if word.word == "idea")
    assert wordnet.values["unmapped_words"] == ideas.pixels < wordnet.values["unmapped_pixels"]
    assert exact.values["miou"] < lemma.values["miou"] < wordnet.values["miou"]
    assert exact.confusion.images == 8
    rules = {word.word: (word.label, word.rule) for word in wordnet.words}
    assert rules["taxi"] == ("car", "hypernym")
    assert rules["idea"] == ("", "")
    assert [word.images for word in wordnet.words] == sorted((word.images for word in wordnet.words), reverse=True)
    assert remapped.words["distinct_words"] == 5


def test_every_cut_of_the_records_gives_the_same_numbers_and_no_file_changes(whole: RunFolder, tmp_path: Path) -> None:
    options = ("wordnet:wup", "overlap", "hungarian", "best_iou", "vicss")
    cut = run(tmp_path / "cut", [8, 7], [4, 0], [5, 6, 1, 2], [3], [7, 8])
    before = digests(tmp_path)
    first, second = (remap(folder.uri, *options)["camvid"] for folder in (whole, cut))
    assert digests(tmp_path) == before
    assert (first.mapped[0].values, first.words) == (second.mapped[0].values, second.words)
    assert first.mapped[0].words == second.mapped[0].words
    assert first.upper_bounds == second.upper_bounds
    assert first.vicss == second.vicss
    assert first.mapped[0].values["miou"] < first.upper_bounds["overlap"]


def digests(folder: Path) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_the_command_prints_each_mapping_with_its_file(whole: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text("word,class\ntaxi,car\nroads,road\n")
    table = f"table:{tmp_path}/words.csv"
    options = [option for name in (table, "overlap", "vicss") for option in ("--mapping", name)]
    result = CliRunner().invoke(
        app, ["report", whole.uri, "--frequent", "2", "--no-intervals", *options], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    assert f"words.csv (sha256 {hashlib.sha256((tmp_path / 'words.csv').read_bytes()).hexdigest()})" in result.output
    assert "the 2 most frequent of 5 words" in result.output
    assert "they are not comparable with mIoU" in result.output
    assert "Hungarian" not in result.output
    assert "jaccard_hard_macro" in result.output
    assert "5 distinct words" in result.output


def test_a_run_without_words_and_an_unknown_mapping_are_named(whole: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(OvssError, match="the images have no words of their own, so there is nothing to map"):
        remap(make(tmp_path / "run", [[0, 1]]).uri, "exact")
    with pytest.raises(OvssError, match="unknown mapping or option magic"):
        remap(whole.uri, "magic")


def test_words_of_few_shot_episodes_are_not_mapped_to_classes_that_were_not_theirs(tmp_path: Path) -> None:
    made = run(tmp_path / "run", [0, 1])
    made.save_json(made.card("camvid"), {**made.json(made.card("camvid")), "asks": "each episode asks for its class"})
    with pytest.raises(OvssError, match="its own classes, which the records do not contain"):
        remap(made.uri, "exact")
    assert remap(made.uri, "overlap")["camvid"].upper_bounds["overlap"] > 0
