"""The HTTP API in front of a toy: what it answers, what it refuses, and how it stands a crowd."""

import asyncio
import base64
import io
import json
import logging
import math
import re
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import httpx2
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from ovss_ray.config.limits import Limits
from ovss_ray.io import images
from ovss_ray.serve.deployments.replica import Figures
from ovss_ray.serve.http import admission, api, guard
from ovss_ray.serve.http.admission import Model, remaining
from ovss_ray.serve.http.guard import digest
from ovss_ray.serve.intake import headers
from ovss_ray.serve.pace import Pace
from ovss_ray.serve.row import Kind, Row
from ovss_ray.structures.vocabulary import Vocabulary
from tests.serve.bright import MODEL, OUTLINER, WORDS, Toy, picture, service
from tests.toys import bright

HERE = ("127.0.0.1", 50000)


def client(app: FastAPI, address: str = "http://127.0.0.1:8000", asking: tuple[str, int] = HERE) -> TestClient:
    return TestClient(app, base_url=address, client=asking, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def toy() -> Iterator[TestClient]:
    with client(service()) as asking:
        yield asking


def encoded(image: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    Image.fromarray(image).save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def form(image: bytes, **fields: Any) -> dict[str, Any]:
    return {"files": {"image": ("photo", image)}, "data": fields}


def header_only(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(b""), b"IEND")
    made = [struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def test_every_pixel_gets_a_class_and_the_classes_come_with_their_areas(toy: TestClient) -> None:
    image = picture()
    done = toy.post("/v1/segment", **form(encoded(image), classes=["a", "b", "c"]))
    assert done.status_code == 200
    answer, expected = done.json(), bright(image, 3)
    labels = Image.open(io.BytesIO(base64.b64decode(answer["png"])))
    assert labels.mode == "P"
    np.testing.assert_array_equal(np.asarray(labels), expected)
    assert [(one["name"], one["pixels"]) for one in answer["classes"]] == [
        (name, (expected == k).sum()) for k, name in enumerate("abc")
    ]
    assert sum(one["area"] for one in answer["classes"]) == pytest.approx(1)
    assert (answer["height"], answer["width"], answer["unnamed"]) == (24, 32, 0)
    assert answer["seconds"].keys() == {"toys"}


def test_bytes_with_the_rest_in_the_address_are_the_same_as_a_form(toy: TestClient) -> None:
    image = encoded(picture(), "WEBP", lossless=True)
    sent = toy.post("/v1/segment", content=image, params={"classes": ["a", "b\tbee"], "output": "rle"})
    assert sent.status_code == 200
    filled = toy.post("/v1/segment", **form(image, classes=["a", "b\tbee"], output="rle"))
    assert {**sent.json(), "seconds": 0} == {**filled.json(), "seconds": 0}


def test_many_classes_come_as_sixteen_bits_and_a_benchmark_is_a_vocabulary(toy: TestClient) -> None:
    done = toy.post("/v1/segment", **form(encoded(picture()), benchmark="scenes:all")).json()
    labels = images.decode_labels(base64.b64decode(done["png"]), "labels")
    np.testing.assert_array_equal(labels, bright(picture(), 330))
    assert done["none"] == 65534
    renamed = toy.post("/v1/segment", **form(encoded(picture()), benchmark="ade20k:150@catseg"))
    assert renamed.status_code == 200


def test_a_picture_may_be_asked_for_alone_and_has_the_rest_in_its_text(toy: TestClient) -> None:
    fields = form(encoded(picture()), classes=["ä", "b"])
    whole = toy.post("/v1/segment", **fields).json()
    alone = toy.post("/v1/segment", headers={"accept": "image/png"}, **fields)
    assert alone.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(alone.content)) as labels:
        rest = json.loads(labels.text["ovss_ray"])
        np.testing.assert_array_equal(np.asarray(labels), bright(picture(), 2))
    assert [one["pixels"] for one in rest["classes"]] == [one["pixels"] for one in whole["classes"]]
    assert rest["classes"][0]["name"] == "ä"


def test_an_image_is_turned_upright_as_in_the_batch_path(toy: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = encoded(picture(24, 32), "JPEG", exif=exif, quality=95)
    done = toy.post("/v1/segment", **form(image, classes=["a", "b"])).json()
    labels = np.asarray(Image.open(io.BytesIO(base64.b64decode(done["png"]))))
    np.testing.assert_array_equal(labels, bright(images.decode(image, "image"), 2))
    assert (done["height"], done["width"]) == (32, 24)


NOT_READ = {
    "text": (b"hello, this is no image", 415),
    "nothing": (b"", 415),
    "gif": (encoded(picture(), "GIF"), 415),
    "tiff": (encoded(picture(), "TIFF"), 415),
    "too wide": (header_only(9000, 10), 413),
    "bomb": (header_only(30_000, 30_000), 413),
    "bomb past pillow's own cap": (header_only(2_000_000_000, 2_000_000_000), 413),
    "many scans": (encoded(picture(), "JPEG") + b"\xff\xda" * 101, 413),
    "cut short": (encoded(picture())[:-40], 422),
    "damaged": (encoded(picture()).replace(b"IDAT", b"IDAX"), 422),
    "header alone": (header_only(32, 24), 422),
    "riff": (b"RIFF\x00\x00\x00\x00WEBPVP8 ", 422),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_is_no_good_image_is_refused(name: str, toy: TestClient) -> None:
    data, status = NOT_READ[name]
    done = toy.post("/v1/segment", **form(data, classes=["a"]))
    assert (done.status_code, type(done.json()["detail"])) == (status, str), done.text


def test_a_bomb_is_refused_before_anything_is_decoded(toy: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(images, "decode", lambda *given, **named: decoded.append("decoded"))
    for name in ("too wide", "bomb", "bomb past pillow's own cap", "many scans", "gif"):
        toy.post("/v1/segment", **form(NOT_READ[name][0], classes=["a"]))
    assert not decoded


NOT_ASKED: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "one of the two"),
    "both": ({"classes": ["a"], "benchmark": "camvid"}, "one of the two"),
    "empty name": ({"classes": ["a", " "]}, "class 1 of the vocabulary has an empty name"),
    "control character": ({"classes": ["a\x00b"]}, "invalid character"),
    "too many": ({"classes": ["a"] * 1001}, "too many classes: 1,001; the limit is 1,000"),
    "too long": ({"classes": ["a" * 301]}, "a class name has 301 characters"),
    "unknown benchmark": ({"benchmark": "camvd"}, "unknown benchmark 'camvd'"),
    "unknown words": ({"benchmark": "ade20k:150@nobody"}, "nobody"),
    "a file": ({"benchmark": "folder:/etc/passwd"}, "unknown benchmark"),
    "a module": ({"benchmark": "os.path:join"}, "unknown benchmark"),
    "output": ({"classes": ["a"], "output": "svg"}, "output: Input should be 'png', 'rle', 'polygons' or 'overlay'"),
    "model": ({"classes": ["a"], "model": "brigt"}, "unknown model 'brigt'; available: bright"),
    "field": ({"classes": ["a"], "clases": ["b"]}, "'clases'"),
    "no JSON": (
        {"classes": "['sky', 'road']"},
        'pass one field per class (classes=sky&classes=road), or JSON: classes=["',
    ),
    "an object": ({"classes": '{"sky": 1}'}, "is in brackets, but is not a JSON list of names"),
    "numbers": ({"classes": "[1, 2]"}, "is in brackets, but is not a JSON list of names"),
    "a class without names": ({"classes": '["sky", []]'}, "is in brackets, but is not a JSON list of names"),
    "an empty list": ({"classes": "[]"}, "empty vocabulary: it needs at least one class"),
    "an empty name in a list": ({"classes": '["sky", ""]'}, "class 1 of the vocabulary has an empty name"),
    "too many in a list": ({"classes": json.dumps(["a"] * 1001)}, "too many classes: 1,001; the limit is 1,000"),
    "commas": ({"classes": "sky,road"}, "pass one field per class (classes=sky&classes=road), or JSON"),
    "semicolons": ({"classes": "sky; road"}, 'or JSON: classes=["sky", "road"]'),
    "a name with a comma": ({"classes": "door, double door"}, 'pass JSON: classes=["door, double door"]'),
    "a name in brackets": ({"classes": "[wet]"}, 'part of a class name, pass JSON: classes=["[wet]"]'),
}


@pytest.mark.parametrize("name", NOT_ASKED)
def test_classes_that_cannot_be_asked_for_are_refused_with_what_is_wrong(name: str, toy: TestClient) -> None:
    fields, message = NOT_ASKED[name]
    done = toy.post("/v1/segment", **form(encoded(picture()), **fields))
    assert done.status_code == 422
    assert message in done.json()["detail"]


LISTED: dict[str, tuple[Any, list[str]]] = {
    "JSON": ('["a", "b"]', ["a", "b"]),
    "JSON with blanks around it": (' ["a","b"]\n', ["a", "b"]),
    "several names of a class": ('["a", ["b", "bee"]]', ["a", "b"]),
    "two fields": (['["a"]', "b"], ["a", "b"]),
    "names with commas in two fields": (["door, double door", "b"], ["door, double door", "b"]),
    "a name with a comma alone": ('["door, double door"]', ["door, double door"]),
    "names with brackets": ('["[wet]", "road [dry]"]', ["[wet]", "road [dry]"]),
    "brackets at the end alone": (["road [wet]", "b"], ["road [wet]", "b"]),
}


@pytest.mark.parametrize("name", LISTED)
def test_a_json_list_is_read_as_its_names_and_a_name_as_it_is(name: str, toy: TestClient) -> None:
    classes, names = LISTED[name]
    image = encoded(picture())
    filled = toy.post("/v1/segment", **form(image, classes=classes))
    in_address = toy.post("/v1/segment", content=image, params={"classes": classes})
    for done in (filled, in_address):
        assert done.status_code == 200, done.text
        assert [entry["name"] for entry in done.json()["classes"]] == names


BODIES: dict[str, dict[str, Any]] = {
    "fields without a file": {"data": {"image": "iVBORw0KGgo=", "classes": ["sky", "road"]}},
    "base64": {"content": base64.b64encode(encoded(picture()))},
    "the address of a picture": {"content": b"data:image/png;base64,iVBORw0KGgo="},
}


@pytest.mark.parametrize("path", ["segment", "regions", "prompt"])
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_neither_image_nor_form_is_told_what_to_send(name: str, path: str, toy: TestClient) -> None:
    done = toy.post(f"/v1/{path}", **BODIES[name])
    assert done.status_code == 415
    for hint in ("it begins with b'", "multipart/form-data", "-F image=@photo.jpg", "application/json"):
        assert hint in done.json()["detail"]


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_a_json_document_is_the_same_as_a_form(prefix: str, toy: TestClient) -> None:
    data = encoded(picture())
    image, classes = prefix + base64.b64encode(data).decode(), ["door, double door", ["b", "bee"]]
    whole = {"image": image, "classes": classes, "output": "rle", "templates": ["a {}", "the {}"], "map": {"b": None}}
    sent = toy.post("/v1/segment", json=whole)
    assert sent.status_code == 200, sent.text
    fields = {**whole, "classes": json.dumps(classes), "map": json.dumps(whole["map"])}
    filled = toy.post("/v1/segment", **form(data, **{name: fields[name] for name in fields if name != "image"}))
    assert {**sent.json(), "seconds": 0} == {**filled.json(), "seconds": 0}
    question = {"points": [[3, 4, 1]], "box": [1, 2, 9, 9], "model": "outliner"}
    first = toy.post("/v1/prompt", json={"image": image, **question}).json()
    again = toy.post("/v1/prompt", json={"image": first["image"], **question}).json()
    assert (first["masks"], True) == (again["masks"], again["cached"])


NOT_UNDERSTOOD: dict[str, tuple[bytes, int, str]] = {
    "no JSON": (b"{'image': 1}", 415, "not valid JSON. Send {"),
    "half of it": (b'{"image": "iVBOR', 415, "not valid JSON"),
    "a list": (b'["iVBORw0KGgo="]', 415, "JSON list. Send an object"),
    "deeply nested": (b"[" * 100_000, 415, "not valid JSON"),
    "nothing": (b"", 415, "not valid JSON"),
    "no image": (b'{"classes": ["a"]}', 422, "no image in base64"),
    "an image that is a number": (b'{"image": 3, "classes": ["a"]}', 422, "no image in base64"),
    "no base64": (b'{"image": "photo.jpg", "classes": ["a"]}', 422, "not base64"),
    "an unknown field": (
        b'{"image": "iVBORw0KGgo=", "clases": ["a"]}',
        422,
        "unknown field 'clases'; allowed: image, classes",
    ),
    "a wrong value": (b'{"image": "iVBORw0KGgo=", "classes": ["a"], "output": 7}', 422, "output: Input should be"),
    "classes that are numbers": (b'{"image": "iVBORw0KGgo=", "classes": [1]}', 422, "not a JSON list of names"),
    "no picture": (b'{"image": "aGVsbG8=", "classes": ["a"]}', 415, "not a JPEG, PNG or WebP"),
}


@pytest.mark.parametrize("name", NOT_UNDERSTOOD)
def test_json_that_is_not_understood_is_refused_with_what_is_wrong(name: str, toy: TestClient) -> None:
    body, status, message = NOT_UNDERSTOOD[name]
    done = toy.post("/v1/segment", content=body, headers={"content-type": "application/json"})
    assert (done.status_code, message in done.json()["detail"]) == (status, True), done.text


def test_an_image_is_read_whatever_its_type_is_called(toy: TestClient) -> None:
    for kind in ("application/json", "application/x-www-form-urlencoded", "text/plain"):
        sent = {"content": encoded(picture()), "params": {"classes": ["a", "b"]}, "headers": {"content-type": kind}}
        assert toy.post("/v1/segment", **sent).status_code == 200


def test_an_image_that_is_text_in_a_form_is_told_to_be_sent_as_a_file(toy: TestClient) -> None:
    done = toy.post("/v1/segment", files={"image": (None, "iVBORw0KGgo="), "classes": (None, "a")})
    assert done.status_code == 422
    assert "its field `image` is text. Send the file itself" in done.json()["detail"]


def test_a_wrong_word_in_the_address_is_refused_in_the_same_form(toy: TestClient) -> None:
    done = toy.post("/v1/segment", content=encoded(picture()), params={"classes": "a", "output": "secret"})
    assert done.status_code == 422
    assert done.json()["detail"].startswith("output: ")
    assert "secret" not in done.text
    done = toy.post("/v1/segment", content=encoded(picture()), params={"clases": "a"})
    assert (done.status_code, done.json()["detail"]) == (422, "clases: Extra inputs are not permitted")


def test_outlines_are_told_up_to_so_many_corners(toy: TestClient) -> None:
    fields = form(encoded(picture()), classes=["a", "b"], output="polygons")
    dark, light = toy.post("/v1/segment", **fields).json()["classes"]
    assert dark["polygons"] == [{"outline": [[0, 0], [16, 0], [16, 24], [0, 24]], "holes": []}]
    assert light["polygons"] == [{"outline": [[16, 0], [32, 0], [32, 24], [16, 24]], "holes": []}]
    done = client(service(corners=5)).post("/v1/segment", **fields)
    assert (done.status_code, done.json()["detail"].partition(";")[0]) == (422, "polygons have 6 corners")


def test_a_form_without_an_image_or_that_is_none_is_refused(toy: TestClient) -> None:
    assert "send a file named image" in toy.post("/v1/segment", files={"classes": (None, "a")}).json()["detail"]
    assert "'photo'" in toy.post("/v1/segment", files={"photo": b"x"}).json()["detail"]
    assert toy.post("/v1/segment", files={"image": b"x", "classes": b"a"}).status_code == 400
    assert toy.post("/v1/segment", data={"image": "x"}, params={"classes": "a"}).status_code == 415
    two = toy.post("/v1/segment", files=[("image", ("a", b"x")), ("image", ("b", b"y"))])
    assert two.status_code == 400
    broken = {"content-type": "multipart/form-data; boundary=x"}
    assert toy.post("/v1/segment", content=b"--y\r\n", headers=broken).status_code in (400, 422)
    assert toy.post("/v1/segment", content=b"", headers={"content-type": "multipart/form-data"}).status_code == 400


def test_a_body_is_cut_off_whether_its_length_is_stated_or_not() -> None:
    asking = client(service(body=1000))
    assert asking.post("/v1/segment", content=b"x" * 1001).status_code == 413
    assert asking.post("/v1/segment", content=iter([b"x" * 100] * 11), params={"classes": "a"}).status_code == 413
    assert asking.post("/v1/segment", content=iter([b"x" * 100] * 10), params={"classes": "a"}).status_code == 415


def test_an_image_that_a_stage_fails_on_is_an_answer_with_the_reason() -> None:
    done = client(service(error="san: no luck")).post("/v1/segment", **form(encoded(picture()), classes=["a"]))
    assert (done.status_code, done.json()["detail"]) == (422, "the image could not be segmented: san: no luck")


def test_with_a_key_only_who_sends_it_is_let_in() -> None:
    asking = client(service(key=digest("a long random word")), "http://example.org", ("192.0.2.1", 1))
    for wrong in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic a long random word"}):
        done = asking.get("/v1/models", headers=wrong)
        assert (done.status_code, done.headers["www-authenticate"]) == (401, "Bearer")
        assert asking.post("/v1/segment", headers=wrong, content=b"x").status_code == 401
        assert asking.get("/v1/openapi.json", headers=wrong).status_code == 401
    assert asking.get("/v1/models", headers={"authorization": "Bearer a long random word"}).status_code == 200
    assert asking.get("/v1/health").status_code == 200


def test_without_a_key_other_machines_and_other_names_are_refused() -> None:
    app = service()
    assert client(app, asking=("192.0.2.1", 1)).get("/v1/models").status_code == 403
    assert client(app, "http://rebound.example:8000").get("/v1/models").status_code == 403
    for name in ("127.0.0.1:8000", "localhost", "[::1]:8000"):
        assert client(app, asking=("::1", 1)).get("/v1/models", headers={"host": name}).status_code == 200


HOSTS: dict[str, tuple[list[tuple[str, str]], int]] = {
    "a user name": ([("host", "localhost@127.0.0.1:8000")], 400),
    "a user name where a port is read": ([("host", "localhost:8000@rebound.example")], 400),
    "two": ([("host", "localhost"), ("host", "localhost")], 400),
    "two unlike ones": ([("host", "localhost"), ("host", "rebound.example")], 400),
    "none": ([], 400),
    "a page of another site": ([("host", "localhost:8000"), ("origin", "http://rebound.example")], 403),
    "a page of another port": ([("host", "localhost:8000"), ("origin", "http://localhost:3000")], 403),
    "a page without an address": ([("host", "localhost:8000"), ("origin", "null")], 403),
    "an image in a page": ([("host", "localhost:8000"), ("sec-fetch-site", "cross-site")], 403),
    "its own page": ([("host", "LOCALHOST:8000"), ("origin", "http://localhost:8000")], 200),
    "a request of its own page": ([("host", "localhost:8000"), ("sec-fetch-site", "same-origin")], 200),
}


@pytest.mark.parametrize("name", HOSTS)
def test_who_asks_in_the_name_of_another_page_is_refused(name: str) -> None:
    headers, status = HOSTS[name]
    app = service()
    for path, method in (("/v1/models", "GET"), ("/v1/segment", "POST")):
        done = asyncio.run(raw(app, path, headers, method))
        assert done.status == (415 if (status, method) == (200, "POST") else status), done.body


def test_a_link_on_another_page_leads_to_the_page_and_to_nothing_else() -> None:
    link = [("host", "localhost:8000"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]
    for path, status in (("/", 200), ("/v1/models", 403)):
        assert asyncio.run(raw(service(), path, link, "GET")).status == status


def test_every_answer_keeps_browsers_careful(toy: TestClient) -> None:
    for done in (toy.get("/v1/models"), toy.get("/nowhere"), client(service(b"")).get("/v1/models")):
        assert done.headers["x-content-type-options"] == "nosniff"
        assert done.headers["x-frame-options"] == "DENY"
        assert done.headers["content-security-policy"].startswith("default-src 'none'")
        assert done.headers["cache-control"] == "no-store"


def test_it_is_ready_when_a_first_image_has_come_out_and_not_before() -> None:
    with client(service(delay=0.3)) as asking:
        assert asking.get("/v1/health").status_code == 200
        early = asking.get("/v1/ready")
        assert (early.status_code, early.headers["retry-after"]) == (503, "1")
        assert early.json()["detail"] == "the models are being loaded. Try again later"
        until = time.monotonic() + 20
        while asking.get("/v1/ready").status_code != 200:
            assert time.monotonic() < until
    with client(service(error="no luck")) as asking:
        until = time.monotonic() + 20
        while "being loaded" in (answer := asking.get("/v1/ready")).json()["detail"]:
            assert time.monotonic() < until
        assert "the test image failed with bright, outliner. See the log" in answer.json()["detail"]
        assert {asking.get("/v1/ready").status_code for _ in range(50)} == {503}


def test_a_model_without_a_worker_is_not_ready_and_the_others_are() -> None:
    toy = Toy()
    app = api.build([Model(MODEL, toy.send, WORDS, ["a-0"]), Model(OUTLINER, toy.send, WORDS, ["b-0"])], Limits(), None)
    asking, desk = client(app), app.state.desk
    desk.ready = True
    assert asking.get("/v1/ready").status_code == 200
    desk.watch.note({"a-0": [Figures("one", {}, 0, {})], "b-0": []})
    assert asking.get("/v1/ready?model=bright").status_code == 200
    for query in ("", "?model=outliner"):
        done = asking.get(f"/v1/ready{query}")
        assert (done.status_code, done.json()["code"], done.headers["retry-after"]) == (503, "not_ready", "1")
        assert "no worker of b-0 runs" in done.json()["detail"]
    assert asking.get("/v1/ready?model=nobody").status_code == 422


def test_every_refusal_has_a_code_and_the_id_of_its_request(toy: TestClient) -> None:
    app = service(body=1000)

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    asking = client(app)
    refused = {
        "not_found": asking.get("/nowhere"),
        "method_not_allowed": asking.delete("/v1/models"),
        "invalid": toy.post("/v1/segment", **form(encoded(picture()), classes=["a"], output="svg")),
        "unsupported": toy.post("/v1/segment", content=b"text"),
        "too_large": asking.post("/v1/segment", content=bytes(1001)),
        "forbidden": client(app, asking=("192.0.2.1", 1)).get("/v1/models"),
        "unauthorized": client(service(key=b"")).get("/v1/models"),
        "internal": asking.get("/broken"),
    }
    for code, done in refused.items():
        assert done.json().keys() == {"detail", "code", "request_id"}
        assert done.json()["code"] == code
    assert len({done.json()["request_id"] for done in refused.values()}) == len(refused)
    for stated, repeated in (("my-own.1", True), ("<script>", False), ("x" * 65, False)):
        done = toy.get("/nowhere", headers={"x-request-id": stated})
        assert (done.json()["request_id"] == stated) == repeated


def test_the_head_of_the_page_and_of_the_state_can_be_asked_for(toy: TestClient) -> None:
    for path in ("/", "/docs", "/v1/health"):
        head = toy.head(path)
        assert (head.status_code, head.content) == (200, b"")
    assert toy.head("/v1/ready").status_code == toy.get("/v1/ready").status_code


def test_a_point_outside_of_the_image_is_refused_before_a_worker_sees_it() -> None:
    toy = Toy()
    asking = client(api.build([Model(OUTLINER, toy.send, WORDS)], Limits(), None))
    done = asking.post("/v1/prompt", **form(encoded(picture()), points="[[33, 4, 1]]"))
    assert (done.status_code, done.json()["detail"]) == (
        422,
        "point 33, 4 is outside the image: 32 × 24 pixels (upright)",
    )
    assert not toy.asked


def test_the_limits_and_the_document_can_be_read(toy: TestClient) -> None:
    told = toy.get("/v1/models").json()
    assert told["models"][0]["name"] == "bright"
    assert told["limits"]["classes"] == 1000
    few = client(service(classes=2))
    assert few.get("/v1/models").json()["limits"]["classes"] == 2
    refused = few.post("/v1/segment", **form(encoded(picture()), classes=["a", "b", "c"]))
    assert refused.json()["detail"] == "too many classes: 3; the limit is 2"
    document = toy.get("/v1/openapi.json").json()
    asked = {"/v1/segment", "/v1/regions", "/v1/prompt"}
    states = {
        "/v1/models",
        "/v1/health",
        "/v1/ready",
        "/v1/queue",
        "/v1/jobs/{identifier}",
        "/v1/jobs/{identifier}/result",
    }
    several = {"/v1/batch/{kind}", "/v1/jobs/{kind}", "/v1/jobs/{identifier}", "/v1/jobs/{identifier}/result"}
    assert set(document["paths"]) == asked | states | several
    body = document["paths"]["/v1/segment"]["post"]["requestBody"]["content"]
    assert {"image/jpeg", "multipart/form-data"} <= set(body)
    answers = document["paths"]["/v1/segment"]["post"]["responses"]
    assert set(answers["200"]["content"]) == {"application/json", "image/png"}
    page = toy.get("/docs")
    assert all(f"{path}</code>" in page.text for path in document["paths"])
    assert page.headers["content-security-policy"] == toy.get("/").headers["content-security-policy"]
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=", page.text)


def test_only_sizes_and_times_are_logged(toy: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "ovss_ray.serve"):
        toy.post("/v1/segment", **form(encoded(picture()), classes=["my secret"]))
    (line,) = [one.getMessage() for one in caplog.records if one.name == "ovss_ray.serve"]
    assert line.startswith("segment: ")
    assert "768 pixels, 1 classes" in line
    assert "secret" not in line


def crowd(app: FastAPI, requests: int, image: np.ndarray) -> list[httpx2.Response]:
    """The answers to so many requests at once."""

    async def ask() -> list[httpx2.Response]:
        transport = httpx2.ASGITransport(app=app, client=HERE)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as asking:
            data = form(encoded(image), classes=["a", "b"])
            return await asyncio.gather(*[asking.post("/v1/segment", **data) for _ in range(requests)])

    return asyncio.run(ask())


@dataclass
class Raw:
    """An answer to a request that no client would send."""

    status: int
    headers: dict[str, str]
    body: bytes


async def raw(
    app: FastAPI, path: str, headers: Sequence[tuple[str, str]] = (("host", "localhost"),), method: str = "POST",
    parts: Sequence[bytes] = (), ended: bool = True,
) -> Raw:  # fmt: skip
    """Send headers and parts of a body, which never ends unless `ended`."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"classes=a&classes=b", "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "client": HERE, "server": ("127.0.0.1", 80),
    }  # fmt: skip
    left = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    left += [{"type": "http.request", "body": b"", "more_body": False}] if ended else []
    told: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return left.pop(0) if left else await asyncio.Event().wait() or {}

    async def send(message: dict[str, Any]) -> None:
        told.append(message)

    await app(scope, receive, send)
    names = {name.decode(): value.decode() for name, value in told[0]["headers"]}
    return Raw(told[0]["status"], names, b"".join(one.get("body", b"") for one in told[1:]))


def test_bodies_that_are_half_sent_take_no_place_from_others_and_their_connections_are_closed() -> None:
    app, image = service(waiting=1, upload=0.5), encoded(picture())

    async def ask() -> tuple[list[Raw], list[Raw]]:
        half = [asyncio.create_task(raw(app, "/v1/segment", parts=[image[:99]], ended=False)) for _ in range(200)]
        await asyncio.sleep(0)
        honest = [await raw(app, "/v1/segment", parts=[image]) for _ in range(3)]
        return honest, await asyncio.gather(*half)

    honest, half = asyncio.run(ask())
    assert [one.status for one in honest] == [200] * 3
    assert {(one.status, one.headers["connection"]) for one in half} == {(408, "close")}
    assert json.loads(half[0].body)["code"] == "slow_body"


def test_two_hundred_half_bodies_and_half_headers_at_a_server_do_not_delay_others() -> None:
    """Of uvicorn, as in Ray Serve's proxy. Half-sent headers do not reach the application at all."""
    app, image, rounds = service(waiting=8, upload=0.5), encoded(picture()), 5
    begin = b"POST /v1/segment?classes=a&classes=b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    whole = begin + b"Content-Length: %d\r\n\r\n" % len(image)

    async def exchange() -> None:
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]

        async def opened(content: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(content)
            await writer.drain()
            return reader, writer

        async def honest() -> list[float]:
            seconds = []
            for _ in range(rounds):
                begun = time.monotonic()
                reader, writer = await opened(whole + image)
                assert (await reader.read()).startswith(b"HTTP/1.1 200")
                seconds.append(time.monotonic() - begun)
                writer.close()
            return seconds

        async def median() -> float:
            return float(np.median(await asyncio.gather(*(honest() for _ in range(8)))))

        usual = await median()
        headers = [await opened(begin) for _ in range(200)]
        bodies = [await opened(whole + image[:99]) for _ in range(200)]
        beside = await median()
        answers = [await reader.read() for reader, _ in bodies]
        assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers)
        assert not any(reader.at_eof() for reader, _ in headers), "each of them holds a connection"
        assert beside < 5 * usual + 1, "twice, on a machine without other work"
        for _, writer in (*headers, *bodies):
            writer.close()
        server.should_exit = True
        await running

    asyncio.run(exchange())


@pytest.mark.parametrize("path", headers.PROTOCOLS)
def test_half_headers_and_resting_connections_are_closed_and_requests_in_progress_are_not(path: str) -> None:
    module, _, name = path.partition(".")
    limited: Any = type(name, (getattr(import_module(f"uvicorn.protocols.http.{module}"), name),), {})
    headers.limit(limited, 0.7)
    lines = [b"POST /v1/segment?classes=a&classes=b HTTP/1.1\r\n", b"Host: localhost\r\n"]
    image = encoded(picture())

    async def exchange() -> None:
        app, rest = service(delay=2.0), 60  # seconds after which uvicorn itself closes a resting connection
        config = uvicorn.Config(app, port=0, log_level="critical", http=limited, timeout_keep_alive=rest)
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        whole = b"".join(lines) + b"Content-Length: %d\r\n\r\n" % len(image) + image
        contents = [b"", lines[0], b"".join(lines), whole]
        for (_, writer), content in zip(connections, contents, strict=True):
            writer.write(content)
        *nothing, answer = await asyncio.gather(*(reader.read() for reader, _ in connections))
        assert nothing == [b""] * 3
        assert answer.startswith(b"HTTP/1.1 200"), "and closed after its answer, as it has rested"
        for _, writer in connections:
            writer.close()
        server.should_exit = True
        await running

    asyncio.run(exchange())


def test_bodies_that_are_half_sent_do_not_fill_the_memory() -> None:
    app = service(waiting=2, body=1000, upload=0.5)

    async def ask() -> list[Raw]:
        half = [raw(app, "/v1/segment", parts=[bytes(400)] * 2, ended=False) for _ in range(4)]
        return await asyncio.gather(*half)

    statuses = [one.status for one in asyncio.run(ask())]
    assert sorted(statuses) == [408, 408, 429, 429]
    assert asyncio.run(raw(app, "/v1/segment", parts=[bytes(400)])).status == 415, "all of it is free again"


def test_a_refused_request_whose_body_never_ends_is_answered_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "DRAIN", 0.1)
    done = asyncio.run(raw(service(key=digest("secret")), "/v1/segment", parts=[b"x"], ended=False))
    assert (done.status, done.headers["connection"]) == (401, "close")


def test_an_image_that_would_take_too_long_is_refused_at_once_with_the_number_that_would_not() -> None:
    app = api.build([Model(MODEL, Toy().send, WORDS, ["bright-0"])], Limits(seconds=10), None)
    app.state.desk.watch.note({"bright-0": [Figures("one", {}, 0, {}, {"segment": Pace(1.0, 2.0)})]})
    asking = client(app)
    assert asking.get("/v1/models").json()["models"][0]["pixels_now"] == {"segment": 3_000_000}
    refused = asking.post("/v1/segment", **form(header_only(2000, 1501), classes=["a"]))
    assert (refused.status_code, refused.json()["code"]) == (413, "too_slow")
    assert (
        "2000 × 1501 = 3,002,000 pixels; at present, bright can process at most 3,000,000" in refused.json()["detail"]
    )
    assert asking.post("/v1/segment", **form(header_only(2000, 1500), classes=["a"])).status_code == 422, "no pixels"


def test_the_place_of_a_request_in_the_queue_can_be_asked_for() -> None:
    async def ask() -> list[dict[str, Any]]:
        go = asyncio.Event()

        async def segment(row: Row, words: Vocabulary, kind: Kind) -> Row:
            await go.wait()
            return {"prediction": bright(row["image"], 2), "error": "", "seconds": {}}

        app = api.build([Model(MODEL, segment, WORDS, ["bright-0"])], Limits(waiting=9), None)
        app.state.desk.watch.note({"bright-0": [Figures("one", {}, 0, {}, {"segment": Pace(1.0, 0.0)})]})
        transport, content = httpx2.ASGITransport(app=app, client=HERE), form(encoded(picture()), classes=["a"])
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as asking:

            async def place(name: str) -> dict[str, Any]:
                told: dict[str, Any] = (await asking.get(f"/v1/queue?request={name}")).json()
                return told

            sent = []
            for name in ("first", "second"):
                headers = {"X-Request-ID": name}
                sent.append(asyncio.create_task(asking.post("/v1/segment", **content, headers=headers)))
                while not (await place(name))["seconds"]:
                    await asyncio.sleep(0.01)
            places = [await place(name) for name in ("first", "second", "third")]
            go.set()
            await asyncio.gather(*sent)
            return [*places, await place("first")]

    many = {"in_progress": 2, "limit": 9}
    assert asyncio.run(ask()) == [
        {"ahead": 0, "seconds": 1.0, **many},
        {"ahead": 1, "seconds": 2.0, **many},
        {"ahead": None, "seconds": None, **many},
        {"ahead": None, "seconds": None, "in_progress": 0, "limit": 9},
    ]


def test_memory_is_given_back_after_the_last_image(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[float]()
    monkeypatch.setattr(admission, "REST", 0.3)
    monkeypatch.setattr(admission, "give_back", lambda: calls.append(time.monotonic()))
    with client(service()) as asking:
        for _ in range(2):
            answered = asking.post("/v1/segment", **form(encoded(picture()), classes=["a"]))
            assert answered.status_code == 200
        until = time.monotonic() + 20
        while not calls:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_more_requests_than_places_are_told_to_come_again() -> None:
    answers = crowd(service(delay=0.2, waiting=3, retry=2), 5, picture())
    assert sorted(one.status_code for one in answers) == [200, 200, 200, 429, 429]
    assert {one.headers["retry-after"] for one in answers if one.status_code == 429} == {"2"}


def test_a_request_that_takes_too_long_is_told_to_come_again_and_leaves_its_place() -> None:
    app = service(delay=0.3, seconds=0.1, waiting=1)
    for _ in range(2):
        (slow,) = crowd(app, 1, picture())
        assert (slow.status_code, slow.json()["code"], slow.headers["retry-after"]) == (503, "timeout", "1")


def test_a_worker_is_told_how_much_time_a_request_has_left() -> None:
    left = list[float]()

    async def segment(row: Row, words: Vocabulary, kind: Kind) -> Row:
        left.append(remaining())
        return {"prediction": bright(row["image"], 2), "error": "", "seconds": {}}

    app = api.build([Model(MODEL, segment, WORDS)], Limits(seconds=1000), None)
    assert [one.status_code for one in crowd(app, 2, picture())] == [200] * 2
    assert all(0 < seconds <= 1000 for seconds in left)
    assert remaining() == math.inf


def test_images_are_decoded_only_while_there_is_room_for_them_and_one_always_is() -> None:
    image, here, most = picture(), 0, [0]

    async def segment(row: Row, words: Vocabulary, kind: Kind) -> Row:
        nonlocal here
        here += 1
        most[0] = max(most[0], here)
        await asyncio.sleep(0.05)
        here -= 1
        return {"prediction": bright(row["image"], 2), "error": "", "seconds": {}}

    pixels = image.shape[0] * image.shape[1]
    for held, expected in ((2 * pixels, 2), (pixels - 1, 1), (100 * pixels, 6)):
        most[0] = 0
        app = api.build([Model(MODEL, segment, WORDS)], Limits(held=held), None)
        assert [one.status_code for one in crowd(app, 6, image)] == [200] * 6
        assert most[0] == expected
