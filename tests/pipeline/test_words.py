"""Rows with words of their own: later stages get the row's vocabulary, here and in another worker."""

from typing import ClassVar

import numpy as np
import pytest

from ovss_ray.errors import OvssError
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import Stage, StageConfig
from ovss_ray.structures import words
from ovss_ray.structures.columns import NONE, Batch, column
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary

TOWN = Vocabulary.of(["road", "car", "sky"])
WORDS = {"a": [["sky"], ["cow", "cattle"]], "b": [], "c": [["sky"]], "d": [["bad\tname"]], "e": [["road"]]}


class Tagger(Stage):
    """Writes the words of WORDS; fails on the image e."""

    reads = ()
    writes = ("words",)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        if "e" in batch["image_id"]:
            raise ValueError("no idea")
        values = ({"classes": WORDS[image], "source": "test", "scores": None} for image in batch["image_id"])
        return {"words": column(values)}


class Segmenter(Stage):
    """Predicts the last class everywhere, and notes which images came with which names."""

    reads = ("vocabulary", "size")
    writes = ("prediction",)
    seen: ClassVar[dict[str, tuple[str, ...]]] = {}

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        of_rows = [vocabularies[digest] for digest in batch["vocabulary"]]
        self.seen |= dict(zip(batch["image_id"], (names.names for names in of_rows), strict=True))
        last = zip(batch["size"], of_rows, strict=True)
        return {"prediction": column(np.full(size, len(names) - 1, np.uint16) for size, names in last)}


class Templates(Stage):
    """Writes down the templates of each row's vocabulary."""

    reads = ("vocabulary", "size")
    writes = ("prompts",)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        return {"prompts": column({"templates": vocabularies[digest].templates} for digest in batch["vocabulary"])}


def rows() -> Batch:
    n, size = len(WORDS), np.array([2, 3], np.int32)
    return execution.start(n, image_id=list(WORDS), vocabulary=[TOWN.digest] * n, size=[size] * n)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stage_gets_the_words_of_each_row_here_and_in_another_worker(workers: int) -> None:
    tagger, segmenter = Tagger(Tagger.Config()), Segmenter(Segmenter.Config())
    segmenter.seen.clear()
    known = {TOWN.digest: TOWN}
    if workers == 1:
        done = execution.run({"tagger": tagger, "segmenter": segmenter}, rows(), known)
    else:
        sent = execution.run({"tagger": tagger}, rows(), known)
        sent = words.packed(sent)
        assert all(isinstance(text, str) for text in sent["words"])
        done = execution.run({"segmenter": segmenter}, sent, known)
    assert segmenter.seen == {"a": ("sky", "cow"), "c": ("sky",)}
    predicted = [np.unique(prediction).tolist() for prediction in done["prediction"]]
    assert predicted == [[1], [NONE], [0], [], []]
    assert done["prediction"][1].shape == (2, 3)
    assert list(map(bool, done["error"])) == [False, False, False, True, True]
    assert "invalid character" in done["error"][3]
    assert "no idea" in done["error"][4]


@pytest.mark.parametrize("workers", [1, 2])
def test_words_keep_the_templates_that_the_user_has_set_for_the_row(workers: int) -> None:
    prompted, n = Vocabulary(TOWN.classes, ("a drawing of a {}.",)), len(WORDS)
    batch = {**rows(), "vocabulary": column([prompted.digest] * n)}
    stages: list[Stage] = [Tagger(Tagger.Config()), Templates(Templates.Config())]
    known = {prompted.digest: prompted}
    if workers == 1:
        done = execution.run({"tagger": stages[0], "templates": stages[1]}, batch, known)
    else:
        sent = words.packed(execution.run({"tagger": stages[0]}, batch, known))
        done = execution.run({"templates": stages[1]}, sent, known)
    assert [value["templates"] for value in done["prompts"][[0, 2]]] == [prompted.templates] * 2


def test_captions_travel_as_texts_whatever_the_images_of_a_batch_have() -> None:
    values = [{"texts": ["a dog"], "scores": [np.float32(0.5)]}, {"texts": [], "scores": np.array([])}, {}]
    sent = words.packed(execution.start(3, image_id=list("abc"), captions=values))
    assert all(isinstance(text, str) for text in sent["captions"])
    assert words.unpacked(sent)["captions"].tolist() == [
        {"texts": ["a dog"], "scores": [0.5]},
        {"texts": [], "scores": []},
        {},
    ]
    assert execution.run({}, sent, {})["captions"][0] == {"texts": ["a dog"], "scores": [0.5]}


def test_the_plan_keeps_words_for_later_readers_of_the_vocabulary_only() -> None:
    stages = [StageConfig(use=name) for name in ("decode", "tags", "san", "truth")]
    stages.append(StageConfig(use="measure", options={"metrics": ["confusion"]}))
    manifest = {"image_id", "image_uri", "truth_uri", "benchmark", "vocabulary", "part"}
    keeps = execution.plan(stages, manifest, {"confusion"})
    assert ["words" in columns for columns in keeps] == [False, True, False, False, False]
    mapped = StageConfig(use="measure", options={"metrics": ["confusion"], "words": True})
    keeps = execution.plan([*stages[:-1], mapped], manifest, {"confusion"})
    assert ["words" in columns for columns in keeps] == [False, True, True, True, False]


def test_the_plan_asks_for_the_size_that_an_image_without_words_needs() -> None:
    given = StageConfig(use="given_words", options={"path": "words.json"})
    stages = [given, StageConfig(use="predictions", options={"path": "maps"})]
    with pytest.raises(OvssError, match=r"stage 1 .'predictions'. needs column 'size'"):
        execution.plan(stages, {"image_id", "vocabulary"}, {"prediction"})
