"""Templates and many-to-one mappings of requests."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from ovss_ray.benchmarks import catalog
from ovss_ray.config.limits import Limits
from ovss_ray.config.word_list import WordList
from ovss_ray.runs import own_words
from ovss_ray.serve.http import answers, merging, requests
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.masks import regions
from ovss_ray.structures.vocabulary import Vocabulary
from tests.serve.bright import picture, service
from tests.serve.http.test_api import client, encoded, form
from tests.toys import bright


@pytest.fixture(scope="module")
def toy() -> Iterator[TestClient]:
    app: FastAPI = service()
    with client(app) as asking:
        yield asking


def post(toy: TestClient, **fields: Any) -> Any:
    return toy.post("/v1/segment", **form(encoded(picture()), **fields))


def test_several_classes_become_one_and_a_class_may_become_none(toy: TestClient) -> None:
    table = {"sedan": "car", "suv": "car", "unicorn": None}
    done = post(toy, classes=["sky", "sedan", "unicorn", "suv"], map=json.dumps(table))
    assert done.status_code == 200
    answer, words = done.json(), bright(picture(), 4)
    expected = np.select([words == 0, (words == 1) | (words == 3)], [0, 1], answer["none"])
    labels = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["png"]))))
    np.testing.assert_array_equal(labels, expected)
    counts = [(found["index"], found["name"], found["pixels"]) for found in answer["classes"]]
    assert counts == [(0, "sky", (words == 0).sum()), (1, "car", ((words == 1) | (words == 3)).sum())]
    assert answer["unnamed"] == (words == 2).sum() > 0


def test_a_file_of_own_words_gives_the_labels_of_the_offline_run(toy: TestClient) -> None:
    names = ["Water", ["snow", "white snow"], "SUNSET", "plain red cross", ["tree, fir"], "unicorn", "sky"]
    table = {"sunset": "sky", "White  Snow": "water", "fir": "forest", "unicorn": None}
    own = WordList(names=names, map=table, templates=["a {}."])
    benchmark = catalog.load("scenes:seen")
    offline = own_words.of(own, benchmark)
    assert offline.vocabulary is not None
    fields = {"classes": json.dumps(names), "map": json.dumps(table), "templates": ["a {}."]}
    assert requests.vocabulary(requests.Segment(**{**fields, "classes": [fields["classes"]]}), (), Limits()) == (
        offline.vocabulary
    )
    answer = post(toy, **fields).json()
    labels = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["png"]))))
    online = {found["index"]: found["name"].lower() for found in answer["classes"]} | {answer["none"]: None}
    expected = [offline.index[word] for word in bright(picture(), len(names)).ravel()]
    assert [online[label] for label in labels.ravel()] == [
        None if label == NONE else benchmark.labels[label] for label in expected
    ]
    assert [found["name"] for found in answer["classes"]] == ["Water", "sky", "plain red cross", "forest"]


def test_scores_are_those_of_the_regions_of_all_merged_classes() -> None:
    words = Vocabulary.of(["sedan", "suv", "sky"])
    merged = merging.read('{"sedan": "car", "suv": "car"}', words, Limits())
    assert merged is not None
    assert merged.words.names == ("car", "sky")
    masks = np.zeros((2, 2, 4), bool)
    masks[0, :, :2], masks[1, :, 2:] = True, True
    boxes, bits = regions.pack(masks)
    scores = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], np.float32)
    prediction = np.array([[0, 0, 1, 1]] * 2, np.uint16)
    row = {"prediction": prediction, "boxes": boxes, "bits": bits, "scores": scores, "seconds": {}}
    (car,) = answers.build(merged.applied(row), merged.words, "png").classes
    first, second = (np.exp(best) / (np.exp(best) + 2) for best in (2, 1))
    assert car.score == pytest.approx((first + second) / 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"map": "car"}, 'map: invalid value; pass JSON such as {"sedan": "car"'),
        ({"map": '{"a": 1}'}, "map: invalid value"),
        ({"map": '{"aa": "b"}'}, "map: 'aa' is none of the 2 requested classes. Did you mean 'a'?"),
        ({"map": '{"a": ""}'}, "has an empty name"),
        ({"map": '{"a": null, "b": null}'}, "map: empty vocabulary"),
        ({"map": '{"a": "\\u0007"}'}, "invalid character"),
        ({"map": json.dumps({"a": "x" * 301})}, "map: a class of the answer has a name with 301 characters; the limit"),
        ({"map": " " * 600_001}, "map is too long: 600,001 characters"),
        ({"templates": ["a photo"]}, "the template 'a photo' must have one {}"),
        ({"templates": ["{}" + "x" * 300]}, "a template has 302 characters; the limit is 300"),
        ({"templates": ["a {}"] * 33}, "at most 32 items"),
    ],
)
def test_what_is_wrong_with_a_mapping_or_a_template_is_said(
    fields: dict[str, Any], message: str, toy: TestClient
) -> None:
    done = post(toy, classes=["a", "b"], **fields)
    assert done.status_code == 422
    assert message in done.json()["detail"]


def test_templates_are_those_of_the_vocabulary_also_of_a_benchmark() -> None:
    sentences = ["a {}.", "one {} here"]
    for fields in (requests.Segment(classes=["a"], templates=sentences), requests.Segment(benchmark="scenes:seen")):
        words = requests.vocabulary(fields, (), Limits())
        assert words.templates == tuple(fields.templates)
    assert merging.read(None, words, Limits()) is None
