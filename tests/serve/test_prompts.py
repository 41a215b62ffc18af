"""Regions and prompts in front of a toy: what is answered, what is refused, and who remembers images."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from ovss_ray.config.limits import Limits
from ovss_ray.io import images
from ovss_ray.serve.http import api
from ovss_ray.serve.http.admission import Model
from ovss_ray.structures.masks import rle
from tests.serve.bright import MODEL, OUTLINER, WORDS, Toy, picture, service
from tests.serve.http.test_api import client, encoded
from tests.toys import bright


@pytest.fixture
def toy() -> Iterator[TestClient]:
    with client(service()) as asking:
        yield asking


IMAGE = encoded(picture())
NAME = sha256(IMAGE).hexdigest()


def decoded(mask: dict[str, Any]) -> np.ndarray:
    return rle.decode(mask["rle"]["counts"], tuple(mask["rle"]["size"]))


def test_regions_come_largest_first_with_their_best_names_and_the_name_of_the_image(toy: TestClient) -> None:
    done = toy.post("/v1/regions", content=IMAGE, params={"classes": ["a", "b", "c"], "top": 2})
    assert done.status_code == 200
    answer, expected = done.json(), bright(picture(), 3)
    assert (answer["image"], answer["width"], answer["height"], answer["model"]) == (NAME, 32, 24, "outliner")
    assert answer["seconds"].keys() == {"toys"}
    areas = [(expected == k).sum() for k in range(3)]
    order = np.argsort([-area for area in areas], kind="stable")
    assert answer["found"] == 3
    for region, k in zip(answer["regions"], order, strict=True):
        np.testing.assert_array_equal(decoded(region), expected == k)
        y, x = np.nonzero(expected == k)
        assert region["box"] == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert region["area"] == areas[k]
        assert region["predicted_iou"] == pytest.approx([0.5, 0.7, 0.9][k])
        best, other = region["names"]
        assert best["name"] == "abc"[k]
        assert best["score"] == pytest.approx(np.exp(5) / (np.exp(5) + 2))
        assert other["score"] == pytest.approx(1 / (np.exp(5) + 2))


def test_only_so_many_regions_are_told_and_how_many_there_are() -> None:
    answer = client(service(regions=2)).post("/v1/regions", content=IMAGE, params={"classes": list("abcd")}).json()
    assert (len(answer["regions"]), answer["found"]) == (2, 4)


def test_a_second_click_needs_the_name_of_the_image_alone(toy: TestClient) -> None:
    first = toy.post("/v1/prompt", content=IMAGE, params={"points": "[[3, 4, 1]]", "classes": ["a", "b"]}).json()
    assert (first["image"], first["cached"]) == (NAME, False)
    assert [mask["names"][0]["name"] for mask in first["masks"]] == ["b", "a"]  # the one that fits best first
    again = toy.post("/v1/prompt", params={"image": NAME, "points": "[[3, 4, 1]]", "classes": ["a", "b"]}).json()
    assert again["cached"]
    assert again["masks"] == first["masks"]
    form = {"image": (None, NAME), "box": (None, "[1, 2, 9, 9]"), "top": (None, "1")}
    boxed = toy.post("/v1/prompt", files=form)
    assert boxed.status_code == 200
    assert all(mask["names"] == [] for mask in boxed.json()["masks"]), "no classes, no names"


def test_an_image_that_is_not_held_is_to_be_sent_again(toy: TestClient) -> None:
    gone = toy.post("/v1/prompt", params={"image": "0" * 64, "points": "[[3, 4, 1]]"})
    assert (gone.status_code, gone.json()["detail"]) == (404, "send the image again")


@pytest.mark.parametrize(
    ("fields", "question"),
    [
        ({"points": "[[3, 4, 1]]"}, {"points": [[3, 4]], "labels": [1], "multimask": True}),
        ({"points": "[[3,4,1],[5,6,0]]"}, {"points": [[3, 4], [5, 6]], "labels": [1, 0], "multimask": False}),
        ({"points": "[[3,4,1]]", "multimask": "false"}, {"points": [[3, 4]], "labels": [1], "multimask": False}),
        ({"box": "[1, 2, 8.5, 9]"}, {"box": [1, 2, 8.5, 9], "multimask": False}),
        (
            {"box": "[1, 2, 8, 9]", "points": "[[3, 4, 1]]", "multimask": "true"},
            {"box": [1, 2, 8, 9], "points": [[3, 4]], "labels": [1], "multimask": True},
        ),
    ],
)
def test_points_and_boxes_become_the_question_of_the_stage(fields: dict[str, str], question: dict[str, Any]) -> None:
    toy = Toy()
    asking = client(api.build([Model(OUTLINER, toy.send, WORDS)], Limits(), None))
    assert asking.post("/v1/prompt", content=IMAGE, params=fields).status_code == 200
    ((row, kind),) = toy.asked
    assert row["prompts"] == {**question, "image": NAME}
    assert kind == "masks"
    np.testing.assert_array_equal(row["image"], picture())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "pass points, a box, or both"),
    "no points": ({"points": "[]"}, "pass points, a box, or both"),
    "no json": ({"points": "3,4"}, "points: invalid value; pass JSON such as [[120, 80, 1]"),
    "no label": ({"points": "[[3, 4]]"}, "points: invalid value"),
    "odd label": ({"points": "[[3, 4, 2]]"}, "points: invalid value"),
    "no number": ({"points": "[[NaN, 4, 1]]"}, "points: invalid value"),
    "infinite": ({"box": "[0, 0, Infinity, 4]"}, "box: invalid value"),
    "too many points": ({"points": str([[1, 1, 1]] * 65)}, "too many points: 65; the limit is 64"),
    "too much to read": ({"points": "[" + " " * 20_000 + "]"}, "points is too long: 20,002 characters"),
    "empty box": ({"box": "[5, 5, 5, 9]"}, "is empty"),
    "box the other way": ({"box": "[5, 5, 1, 1]"}, "is empty"),
    "point outside the image": ({"points": "[[33, 4, 1]]"}, "point 33, 4 is outside the image: 32 × 24 pixels"),
    "box outside the image": ({"box": "[0, 0, 5, 25]"}, "5, 25 is outside the image"),
    "top": ({"points": "[[3, 4, 1]]", "top": "11"}, "top: "),
    "both words": ({"points": "[[3, 4, 1]]", "classes": ["a"], "benchmark": "camvid"}, "one of the two"),
    "model": ({"points": "[[3, 4, 1]]", "model": "brigt"}, "unknown model 'brigt'; available: bright, outliner"),
    "field": ({"points": "[[3, 4, 1]]", "labels": "1"}, "labels: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_pointed_at_is_refused_with_what_is_wrong(name: str, toy: TestClient) -> None:
    fields, message = REFUSED[name]
    done = toy.post("/v1/prompt", content=IMAGE, params=fields)
    assert done.status_code == 422, done.text
    assert message in done.json()["detail"]


def test_an_image_is_sent_or_named_and_not_both_or_neither(toy: TestClient) -> None:
    for content, more in ((b"", {}), (IMAGE, {"image": NAME})):
        done = toy.post("/v1/prompt", content=content, params={"points": "[[3, 4, 1]]", **more})
        assert (done.status_code, done.json()["detail"][:37]) == (422, "send exactly one of the two: an image")
    assert toy.post("/v1/prompt", params={"image": "a photo", "points": "[[3, 4, 1]]"}).status_code == 422


def test_points_are_in_the_image_as_it_is_shown(toy: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = encoded(picture(24, 32), "JPEG", exif=exif, quality=95)
    done = toy.post("/v1/prompt", content=image, params={"points": "[[20, 30, 1]]"})
    assert (done.json()["width"], done.json()["height"]) == (24, 32)
    np.testing.assert_array_equal(decoded(done.json()["masks"][1]), bright(images.decode(image, "image"), 2) == 0)
    assert toy.post("/v1/prompt", content=image, params={"points": "[[30, 20, 1]]"}).status_code == 422


def test_a_model_without_sam_says_what_to_ask_or_to_serve_instead(toy: TestClient) -> None:
    for path, fields in (("regions", {"classes": "a"}), ("prompt", {"points": "[[3, 4, 1]]"})):
        done = toy.post(f"/v1/{path}", content=IMAGE, params={**fields, "model": "bright"})
        assert done.status_code == 422
        assert f"bright cannot answer {path} requests, which need a model with SAM" in done.json()["detail"]
        assert done.json()["detail"].endswith("Pass model=outliner")
        alone = client(api.build([Model(MODEL, Toy().send, WORDS)], Limits(), None))
        done = alone.post(f"/v1/{path}", content=IMAGE, params=fields)
        assert done.json()["detail"].endswith("Serve one too: ovss serve bright sam_alpha_clip_tiny")


def test_a_model_may_be_named_and_the_first_is_meant_where_none_is(toy: TestClient) -> None:
    assert [model["name"] for model in toy.get("/v1/models").json()["models"]] == ["bright", "outliner"]
    sent = Toy(), Toy()
    app = api.build(
        [Model(told, one.send, WORDS) for told, one in zip((MODEL, OUTLINER), sent, strict=True)], Limits(), None
    )
    for fields in ({}, {"model": "outliner"}, {"model": "bright"}):
        assert client(app).post("/v1/segment", content=IMAGE, params={"classes": "a", **fields}).status_code == 200
    assert [len(one.asked) for one in sent] == [2, 1]


def test_the_document_tells_of_all_that_may_be_sent_and_answered(toy: TestClient) -> None:
    paths = toy.get("/v1/openapi.json").json()["paths"]
    prompt = paths["/v1/prompt"]["post"]
    fields = {
        "classes",
        "benchmark",
        "model",
        "image",
        "points",
        "box",
        "multimask",
        "base",
        "templates",
        "top",
        "output",
        "file_name",
    }
    assert {one["name"] for one in prompt["parameters"]} == fields
    assert set(prompt["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]) == fields
    assert set(prompt["responses"]) == {"200", *map(str, (400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504))}
    assert {one["name"] for one in paths["/v1/regions"]["post"]["parameters"]} == {
        "classes",
        "benchmark",
        "model",
        "templates",
        "top",
        "output",
        "file_name",
        "ranked",
        "first",
        "count",
    }


def test_each_class_ranks_the_regions_by_its_probability(toy: TestClient) -> None:
    fields = {"classes": ["a", "b", "c"], "ranked": 2}
    answer = toy.post("/v1/regions", content=IMAGE, params=fields).json()
    assert [(ranking["index"], ranking["name"]) for ranking in answer["ranking"]] == [(0, "a"), (1, "b"), (2, "c")]
    for ranking in answer["ranking"]:
        best, second = ranking["regions"]
        assert answer["regions"][best["region"]]["names"][0] == {
            "index": ranking["index"],
            "name": ranking["name"],
            "score": pytest.approx(best["score"]),
            "head": None,
            "clip": None,
        }
        assert best["score"] == pytest.approx(np.exp(5) / (np.exp(5) + 2))
        assert second["score"] == pytest.approx(1 / (np.exp(5) + 2))
    assert toy.post("/v1/regions", content=IMAGE, params={**fields, "ranked": 0}).json()["ranking"] is None
    assert toy.post("/v1/regions", content=IMAGE, params={**fields, "ranked": 101}).status_code == 422


def test_a_coco_document_of_regions_is_read_by_pycocotools(toy: TestClient, tmp_path: Path) -> None:
    fields = {"classes": ["a", "b", "c"], "output": "coco", "file_name": "photo.png"}
    document = toy.post("/v1/regions", content=IMAGE, params=fields).json()
    assert document["images"] == [{"id": 1, "file_name": "photo.png", "width": 32, "height": 24}]
    assert document["info"]["model"] == "outliner"
    (tmp_path / "coco.json").write_text(json.dumps(document))
    truth = COCO(tmp_path / "coco.json")
    assert [category["name"] for category in truth.loadCats(truth.getCatIds())] == ["a", "b", "c"]
    expected = bright(picture(), 3)
    assert len(truth.anns) == 3
    for annotation in truth.anns.values():
        mask = expected == annotation["category_id"] - 1
        np.testing.assert_array_equal(truth.annToMask(annotation), mask)
        encoded_mask = coco.encode(np.asfortranarray(mask, np.uint8))
        assert annotation["bbox"] == coco.toBbox(encoded_mask).tolist()
        assert annotation["area"] == coco.area(encoded_mask)
        assert annotation["score"] == pytest.approx(np.exp(5) / (np.exp(5) + 2))
    assert len(truth.loadRes(document["annotations"]).anns) == 3


def test_a_coco_document_of_a_prompt_has_one_category_if_there_are_no_classes(toy: TestClient) -> None:
    fields = {"points": "[[3, 4, 1]]", "output": "coco"}
    document = toy.post("/v1/prompt", content=IMAGE, params=fields).json()
    assert document["images"][0]["file_name"] == NAME
    assert document["categories"] == [{"id": 1, "name": "object"}]
    scores = [annotation["score"] for annotation in document["annotations"]]
    assert scores == [annotation["predicted_iou"] for annotation in document["annotations"]] == sorted(scores)[::-1]
    named = toy.post("/v1/prompt", content=IMAGE, params={**fields, "classes": ["a", "b"]}).json()
    assert [annotation["category_id"] for annotation in named["annotations"]] == [2, 1]
