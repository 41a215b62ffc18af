"""Requests without classes: the model finds words, and segments the image with them and with those of the request."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ovss_ray.config import loading as configs
from ovss_ray.config.limits import Limits
from ovss_ray.errors import OvssError
from ovss_ray.pipeline.stage import Stage
from ovss_ray.serve.deployments import batch
from ovss_ray.serve.http import api
from ovss_ray.serve.http.admission import Model
from ovss_ray.serve.row import Kind, Row
from ovss_ray.structures import words
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary
from tests import toys
from tests.paths import ROOT
from tests.serve.bright import MODEL, WORDS, picture
from tests.serve.http.test_api import client

FINDER = {**MODEL, "name": "finder", "answers": ["segment", "words"]}


class Tagger(Stage):
    """Two words for an image; none for a black one."""

    reads = ("image",)
    writes = ("words",)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        listed = (["shade", ["light", "glow"]] if image.any() else [] for image in batch["image"])
        return {"words": column(words.of(names, "toy", [0.75, 0.5][: len(names)]) for names in listed)}


async def send(row: Row, vocabulary: Vocabulary, kind: Kind) -> Row:
    tagger, segmenter = Tagger(Tagger.Config()), toys.Stage(toys.Stage.Config())
    stages: dict[str, Stage] = {"tagger": tagger} if kind == "words" else {"toys": segmenter}
    (done,) = batch.run(stages, [(row, vocabulary)], {"prediction", "words", "error", "seconds"})
    return done


@pytest.fixture(scope="module")
def service() -> Iterator[TestClient]:
    models = [Model(told, send, WORDS) for told in (MODEL, FINDER)]
    with client(api.build(models, Limits(classes=3), None)) as asking:
        yield asking


def ask(service: TestClient, image: np.ndarray, **fields: Any) -> Any:
    Image.fromarray(image).save(file := io.BytesIO(), "PNG")
    return service.post("/v1/segment", files={"image": ("photo", file.getvalue())}, data=fields)


def named(answer: dict[str, Any]) -> list[tuple[str, int]]:
    return [(found["name"], found["pixels"]) for found in answer["classes"]]


def test_an_image_without_classes_gets_the_words_that_the_model_finds(service: TestClient) -> None:
    image = picture()
    answer = ask(service, image).json()
    assert answer["words"] == [
        {"name": "shade", "synonyms": [], "source": "toy", "score": 0.75},
        {"name": "light", "synonyms": ["glow"], "source": "toy", "score": 0.5},
    ]
    expected = toys.bright(image, 2)
    assert named(answer) == [("shade", int((expected == 0).sum())), ("light", int((expected == 1).sum()))]
    again = ask(service, image, classes=["shade", "light\tglow"], model="finder").json()
    assert again["words"] is None
    assert {**again, "words": 0, "seconds": 0} == {**answer, "words": 0, "seconds": 0}


def test_classes_of_the_request_are_added_if_it_says_so(service: TestClient) -> None:
    answer = ask(service, picture(), classes=["Glow", "middle"], add="1").json()
    assert [(word["name"], word["source"]) for word in answer["words"]] == [
        ("shade", "toy"),
        ("light", "toy"),
        ("middle", "request"),
    ]
    assert [name for name, _ in named(answer)] == ["shade", "light", "middle"]
    refused = ask(service, picture(), classes=["a", "b"], add="1")
    assert (refused.status_code, refused.json()["detail"]) == (
        422,
        "too many words: 4 found in the image or added by the request; the limit is 3. Pass classes without the field "
        "`add`",
    )


def test_an_image_in_which_nothing_is_found_has_no_class_anywhere(service: TestClient) -> None:
    for fields in ({}, {"output": "rle"}, {"output": "overlay"}):
        answer = ask(service, 0 * picture(), **fields).json()
        assert answer["words"] == answer["classes"] == []
        assert answer["unnamed"] == 24 * 32


def test_a_model_that_finds_no_words_needs_classes(service: TestClient) -> None:
    assert "pass either classes or a benchmark" in ask(service, picture(), model="bright").json()["detail"]
    said = ask(service, picture(), model="bright", classes="sky", add="1").json()["detail"]
    assert said == "bright cannot propose class names. Pass classes or a benchmark, and omit the field `add`"


def test_the_shipped_config_finds_words_without_segmenting_and_segments_without_finding(tmp_path: Path) -> None:
    ((parts),) = batch.plan(configs.load(ROOT / "configs/vocabulary_free_tiny.yaml"))
    assert {kind: part.stages for kind, part in parts.items()} == {"segment": ("san",), "words": ("tags",)}
    assert "words" in parts["words"].keep


def test_a_request_with_classes_runs_neither_captioner_nor_retrieval() -> None:
    for config, finders in {"captions_san": ("captions", "words"), "cased": ("retrieve", "words", "cased")}.items():
        pools = batch.plan(configs.load(ROOT / f"configs/{config}.yaml"))
        stages = {kind: tuple(use for parts in pools for use in parts[kind].stages) for kind in pools[0]}
        assert stages == {"segment": ("san",), "words": finders}


def test_a_stage_that_finds_words_and_segments_at_once_cannot_be_served() -> None:
    with pytest.raises(OvssError, match="the stage 'dense_cased' segments an image into words that the stage itself"):
        batch.plan(configs.load(ROOT / "configs/dense_cased.yaml"))
