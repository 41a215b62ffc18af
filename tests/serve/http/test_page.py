"""The page without a browser: what is sent, with which headers, and that its files fit together."""

import hashlib
import io
import re
from collections.abc import Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ovss_ray.benchmarks import catalog
from ovss_ray.datasets import scenes
from ovss_ray.serve.http.guard import digest
from ovss_ray.serve.http.page import EXAMPLES, STATIC
from tests.serve.bright import service
from tests.serve.http.test_api import client

FILES = sorted(path for path in STATIC.rglob("*") if path.is_file())
OWN = [path for path in FILES if path.parent.name != "vendor"]
SCRIPTS = [path for path in OWN if path.suffix == ".js"]
HTML = (STATIC / "index.html").read_text()
LIT = "22115ca1002e4afc0dd2cb208f28d9c71a577a8989d4185028e26b29676e7842"
"""The SHA-256 of lit-html.js of lit-html 3.3.3 from npm, without its last line, which names a source map."""


@pytest.fixture(scope="module")
def toy() -> Iterator[TestClient]:
    with client(service()) as asking:
        yield asking


def test_the_page_may_load_only_what_comes_with_it_and_nothing_in_its_text(toy: TestClient) -> None:
    page = toy.get("/")
    assert (page.status_code, page.text) == (200, HTML)
    policy = page.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"} <= set(policy)
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "require-trusted-types-for 'script'" in policy
    assert (page.headers["x-frame-options"], page.headers["x-content-type-options"]) == ("DENY", "nosniff")
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", HTML)
    assert toy.get("/v1/models").headers["content-security-policy"].startswith("default-src 'none'; frame-")


def test_every_file_is_sent_as_what_it_is_and_asked_for_again_only_when_it_has_changed(toy: TestClient) -> None:
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
    for path in FILES:
        sent = toy.get(f"/page/static/{path.relative_to(STATIC)}")
        assert sent.content == path.read_bytes()
        assert sent.headers["content-type"].startswith(kinds.get(path.suffix, "")), path
        assert sent.headers["cache-control"] == "no-cache"
        known = toy.get(f"/page/static/{path.relative_to(STATIC)}", headers={"if-none-match": sent.headers["etag"]})
        assert known.status_code == 304
    for outside in ("../page.py", "..%2fpage.py", "vendor", "nothing.js"):
        assert toy.get(f"/page/static/{outside}").status_code == 404


def test_every_file_that_is_named_is_there_and_every_file_is_named() -> None:
    named = {STATIC / "index.html", STATIC / "vendor" / "lit-html.LICENSE"}
    named |= {STATIC / one for one in re.findall(r'(?:src|href)="page/static/([^"]+)"', HTML)}
    for script in SCRIPTS:
        imported = re.findall(r'(?:from|import) "(\./[^"]+)"', script.read_text())
        named |= {(script.parent / one).resolve() for one in imported}
    assert named == set(FILES)


def test_no_file_names_another_address() -> None:
    for path in OWN:
        addresses = set(
            re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", re.sub(r"(?m)^\s*//.*$", "", path.read_text()))
        )
        assert addresses <= {"http://www.w3.org/2000/svg"}, path


def test_every_element_that_scripts_look_for_is_there() -> None:
    text = HTML + "".join(path.read_text() for path in SCRIPTS)
    there = set(re.findall(r'\bid="([\w-]+)"', text))
    wanted = set(re.findall(r'(?:byId|getElementById)\("([\w-]+)"\)', text))
    for some in re.findall(r"\[([^\]]+)\]\.map\(byId\)", text):
        wanted |= set(re.findall(r'"([\w-]+)"', some))
    wanted |= set(re.findall(r'(?:for|aria-labelledby|aria-describedby)="([\w-]+)"', text))
    assert len(wanted) > 20
    assert wanted <= there, wanted - there


def test_scripts_are_short_and_the_library_is_that_of_npm_with_its_licence() -> None:
    for path in OWN:
        assert path.read_text().count("\n") < (150 if path.suffix == ".js" else 300), path
        assert max(map(len, path.read_text().splitlines())) <= 130, path
    library = STATIC / "vendor" / "lit-html.js"
    assert hashlib.sha256(library.read_bytes()).hexdigest() == LIT
    assert "BSD 3-Clause License" in library.with_suffix(".LICENSE").read_text()


def test_examples_are_drawn_and_come_with_the_words_for_what_is_in_them(toy: TestClient) -> None:
    offered = toy.get("/page/offers").json()
    *examples, last = offered["examples"]
    assert len(examples) == len(EXAMPLES)
    for number, ((name, image_id), example) in enumerate(zip(EXAMPLES, examples, strict=True)):
        sent = toy.get(f"/page/example/{number}")
        assert sent.headers["content-type"] == "image/png"
        drawn, _ = scenes.of_address(f"{name.removeprefix('scenes:')}/validation/{image_id}")
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sent.content))), drawn.image)
        assert set(example["words"]) == set(map(scenes.name, drawn.contents))
    photograph = toy.get(f"/page/example/{len(EXAMPLES)}")
    assert photograph.headers["content-type"] == "image/jpeg"
    seen = Image.open(io.BytesIO(photograph.content))
    drawn, _ = scenes.of_address("seen/validation/0046")
    assert set(last["words"]) == set(map(scenes.name, drawn.contents))
    same = np.asarray(seen.resize(drawn.image.shape[1::-1])).astype(int) - drawn.image
    assert 5 < np.abs(same).mean() < 40, "it is the scene, but not pixel by pixel"
    assert toy.get(f"/page/example/{len(EXAMPLES) + 1}").status_code == 404
    assert toy.get("/page/example/..%2f..").status_code in (404, 422)


def test_words_of_a_benchmark_are_told_and_only_of_those_that_are_offered(toy: TestClient) -> None:
    presets = toy.get("/page/offers").json()["presets"]
    assert "folder:mine.yaml" in presets, "the config's own"
    assert not [name for name in presets if name.endswith("PATH.yaml")]
    for name in ("ade20k:150", "scenes:seen"):
        assert name in presets
        told = toy.get(f"/page/words/{name}").json()
        assert told["classes"] == [list(one) for one in catalog.load(name).vocabulary.classes]
    for wrong in ("folder:/etc/passwd", "os.path:join", "ade20k", "..%2f..%2fv1%2fmodels"):
        assert toy.get(f"/page/words/{wrong}").status_code == 404, wrong
    broken = toy.get("/page/words/folder:mine.yaml")
    assert (broken.status_code, "mine.yaml" in broken.json()["detail"]) == (422, True)


def test_with_a_key_the_page_comes_without_it_and_what_a_config_names_does_not() -> None:
    asking = client(service(key=digest("a long random word")), "http://example.org", ("192.0.2.1", 1))
    for path in ("/", "/page/static/page.js", "/page/example/0"):
        assert asking.get(path).status_code == 200
    for path in ("/page/offers", "/page/words/ade20k:150", "/v1/models", "/page"):
        assert asking.get(path).status_code == 401, path
    assert asking.get("/page/static/%2e%2e/offers").status_code == 404
    key = {"authorization": "Bearer a long random word"}
    assert asking.get("/page/words/ade20k:150", headers=key).status_code == 200


def test_without_a_key_the_page_is_for_this_machine_only() -> None:
    assert client(service(), asking=("192.0.2.1", 1)).get("/").status_code == 403
    assert client(service(), "http://rebound.example:8000").get("/").status_code == 403
