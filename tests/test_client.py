"""The client: what it sends, what it makes of answers, and that it asks again where that may help."""

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3
import uvicorn
from fastapi import FastAPI
from PIL import Image

from ovss_ray.client import Client, DeadlinePassed, Found, NotThere, Segmentation
from ovss_ray.client.photographs import encode, file_name
from ovss_ray.config.limits import Limits
from ovss_ray.errors import OvssError
from ovss_ray.serve import retries
from ovss_ray.serve.http import api
from ovss_ray.serve.http.admission import Model
from ovss_ray.serve.http.guard import digest
from ovss_ray.serve.intake import jobs
from ovss_ray.serve.row import Kind, Row
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.vocabulary import Vocabulary
from tests.serve.bright import MODEL, OUTLINER, WORDS, Toy, picture, service
from tests.toys import bright
from tests.web import free_port


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """An application over HTTP, at an address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    running = threading.Thread(target=server.run, daemon=True)
    running.start()
    while not server.started:
        assert running.is_alive()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    running.join(10)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A toy service with a key, over HTTP."""
    with listening(service(key=digest("secret"))) as told:
        yield told


@contextmanager
def answering(*answers: tuple[int, dict[str, str], str], port: int = 0) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers, one after the other, the last one for ever, and hangs up at status 0."""
    left, asked = list(answers), list[str]()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, headers, body = left.pop(0) if len(left) > 1 else left[0]
            if status:
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())
            else:
                self.close_connection = True

        def log_message(self, *parts: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def test_pixels_files_and_bytes_are_segmented_alike(address: str, tmp_path: Path) -> None:
    image, file = picture(), tmp_path / "photo.png"
    Image.fromarray(image).save(file)
    asking = Client(address, key="secret")
    for form in (image, file, str(file), file.read_bytes(), bytearray(file.read_bytes())):
        found = asking.segment(form, ["a", ["b", "bee"]])
        np.testing.assert_array_equal(found.labels, bright(image, 2))
        assert [one.name for one in found.answer.classes] == ["a", "b"]
        assert found.answer.png is None
    many = asking.segment(image, benchmark="scenes:847")
    np.testing.assert_array_equal(many.labels, bright(image, 847))
    assert NONE not in many.labels
    assert asking.overlay(image, ["a", "b"]).startswith(b"\x89PNG")
    assert all(one.rle for one in asking.masks(image, ["a", "b"]).classes)
    assert asking.models()["models"][0]["name"] == "bright"
    assert asking.ready()


def test_templates_and_a_map_are_sent_with_the_classes(address: str) -> None:
    image, asking = picture(), Client(address, key="secret")
    found = asking.segment(image, ["a", "b"], templates=["one {}", "two {}"], map={"a": "both", "b": "both"})
    assert [one.name for one in found.answer.classes] == ["both"]
    assert not found.labels.any()
    assert [one.name for one in asking.masks(image, ["a", "b"], map={"a": None}).classes] == ["b"]
    with pytest.raises(OvssError, match=r"answered 422: the template .no gap. must have one"):
        asking.overlay(image, ["a"], templates=["no gap"])
    with pytest.raises(OvssError, match="unknown options: template; allowed: templates, map, add"):
        asking.segment(image, ["a"], template=["one {}"])  # type: ignore[call-arg]
    with pytest.raises(OvssError, match="templates must be a list"):
        asking.segment(image, ["a"], templates="a photo of a {}")
    with pytest.raises(OvssError, match="answered 422"):
        asking.polygons(image, ["a"], add=True)


def test_regions_and_what_somebody_points_at_come_as_masks(address: str) -> None:
    image, asking = picture(), Client(address, key="secret")
    found = asking.regions(image, ["a", ["b", "bee"]], top=1)
    np.testing.assert_array_equal(found.masks, [bright(image, 2) == k for k in range(2)])
    assert [[one.name for one in mask.names] for mask in found.answer.regions] == [["a"], ["b"]]
    clicked = asking.prompt(image, [(3, 4, 1), (30, 4, 0)], classes=["a", "b"], model="outliner")
    np.testing.assert_array_equal(clicked.masks, found.masks[::-1])
    boxed = asking.prompt(image, box=np.array([1, 2, 9, 9]), multimask=True)
    assert (clicked.answer.cached, boxed.answer.cached) == (False, True)
    assert boxed.answer.masks[0].names == []
    (dark, _light) = asking.polygons(image, ["a", "b"]).classes
    assert dark.polygons[0].outline == [(0, 0), (16, 0), (16, 24), (0, 24)]
    with pytest.raises(OvssError, match=r"answered 422: bright cannot answer regions requests, .* Pass model=outliner"):
        asking.regions(image, ["a"], model="bright")
    with pytest.raises(OvssError, match=r"answered 422: .*33, 4 is outside the image"):
        asking.prompt(image, [(33, 4, 1)])


def test_a_coco_document_has_the_regions_or_the_masks_of_a_prompt(address: str, tmp_path: Path) -> None:
    asking, file = Client(address, key="secret"), tmp_path / "photo.png"
    Image.fromarray(picture()).save(file)
    regions = asking.coco(file, ["a", ["b", "bee"]])
    assert regions["images"][0]["file_name"] == "photo.png"
    assert [category["name"] for category in regions["categories"]] == ["a", "b"]
    assert {annotation["category_id"] for annotation in regions["annotations"]} == {1, 2}
    assert regions["info"]["total"] == len(regions["annotations"])
    prompted = asking.coco(picture(), points=[(3, 4, 1)])
    assert len(prompted["images"][0]["file_name"]) == 64
    assert [category["name"] for category in prompted["categories"]] == ["object"]
    ranking = asking.regions(file, ["a", "b"], ranked=1).answer.ranking
    assert ranking
    assert [(one_class.name, len(one_class.regions)) for one_class in ranking] == [("a", 1), ("b", 1)]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://host/a/photo.jpg?X-Amz-Signature=" + 300 * "f", "photo.jpg"),
        ("https://host/" + 300 * "n", 255 * "n"),
        (Path("folder/photo.png"), "photo.png"),
        ("photo.png", "photo.png"),
    ],
)
def test_a_document_names_an_image_by_its_file_without_secrets(address: str | Path, name: str) -> None:
    assert file_name(address) == name


def test_an_image_is_sent_once_and_again_when_the_service_has_forgotten_it(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    request = urllib3.PoolManager.request

    def noted(*given: object, fields: list[tuple[str, object]], **named: object) -> urllib3.BaseHTTPResponse:
        answer = request(*given, fields=fields, **named)
        sent.append((isinstance(dict(fields)["image"], tuple), answer.status))
        return answer

    monkeypatch.setattr(urllib3.PoolManager, "request", noted)
    image, asking = picture(25, 33), Client(address, key="secret")
    for _ in range(2):
        asking.prompt(image, [(3, 4, 1)])
    assert sent == [(True, 200), (False, 200)]
    other = Client(address, key="secret")
    unknown = picture(26, 34)
    other._sent.update(asking._sent | {sha256(encode(unknown)).hexdigest(): None})
    assert not other.prompt(unknown, [(3, 4, 1)]).answer.cached
    assert sent[2:] == [(False, 404), (True, 200)]
    assert other.prompt(unknown, [(3, 4, 1)]).answer.cached


def test_what_is_wrong_is_said_as_the_service_says_it(address: str) -> None:
    with pytest.raises(OvssError, match="answered 401: missing or wrong API key: send the header"):
        Client(address, key="wrong").models()
    asking = Client(address, key="secret")
    with pytest.raises(OvssError, match=r"answered 422: .*empty name"):
        asking.segment(picture(), ["a", ""])
    with pytest.raises(OvssError, match="answered 415"):
        asking.segment(b"no image", ["a"])
    with pytest.raises(OvssError, match=r"Write \['road'\]"):
        asking.segment(picture(), "road")


def test_several_images_are_answered_in_one_request_or_one_by_one_as_a_job(address: str) -> None:
    asking, images = Client(address, key="secret"), [picture(), picture(16, 40)]
    batch = asking.segment_batch([images[0], b"no image", images[1]], ["a", ["b", "bee"]], templates=["the {}"])
    job = asking.segment_job([images[0], b"no image", images[1]], ["a", ["b", "bee"]])
    again = asking.job(job.id)
    for results in (batch, list(job), list(again)):
        first, refused, second = results
        for image, result in zip(images, (first, second), strict=True):
            assert isinstance(result, Segmentation)
            np.testing.assert_array_equal(result.labels, bright(image, 2))
            assert (result.answer.png, [one.name for one in result.answer.classes]) == (None, ["a", "b"])
        assert re.match(r".* answered 415: .*not a JPEG, PNG or WebP", str(refused))
    assert (again.images, again.state().state, again.state().answered) == (3, "done", 3)
    again.cancel()
    with pytest.raises(NotThere, match="no such job"):
        job.state()
    for found in (
        asking.regions_batch(images, ["a", "b"], top=1, ranked=1),
        list(asking.regions_job(images, ["a", "b"], top=1, ranked=1)),
    ):
        for image, result in zip(images, found, strict=True):
            assert isinstance(result, Found)
            np.testing.assert_array_equal(result.masks, asking.regions(image, ["a", "b"]).masks)
            assert len(result.answer.ranking or ()) == 2
    with pytest.raises(OvssError, match="answered 422: expected 1 to 16 images, found 17"):
        asking.segment_batch([images[0]] * 17, ["a"])


@pytest.mark.parametrize("image", ["photo.png", b"bytes", picture()])
def test_a_single_image_where_a_list_is_wanted_is_refused_before_anything_is_sent(image: Any) -> None:
    asking = Client("http://127.0.0.1:9")
    for send in (asking.segment_batch, asking.segment_job, asking.regions_batch, asking.regions_job):
        with pytest.raises(OvssError, match=r"images must be a list; got a single \w+. Write \[image\]"):
            send(image, ["a"])


@pytest.mark.usefixtures("hurried")
def test_images_for_which_a_busy_service_has_no_place_are_sent_again_and_the_others_not() -> None:
    toy = Toy(delay=0.05)
    with listening(api.build([Model(MODEL, toy.send, WORDS)], Limits(waiting=1), None)) as address:
        while not Client(address).ready():
            time.sleep(0.01)
        toy.asked.clear()
        images = [picture(8, width) for width in (8, 9, 10, 11, 12)]
        results = Client(address).segment_batch(images, ["a", "b"])
    assert [result.labels.shape for result in results if isinstance(result, Segmentation)] == [
        i.shape[:2] for i in images
    ]
    assert sorted(row["image"].shape[1] for row, _ in toy.asked) == [8, 9, 10, 11, 12]


@pytest.mark.usefixtures("hurried")
def test_a_job_whose_first_answer_is_lost_starts_once() -> None:
    toy, lost = Toy(), list[str]()
    app: Any = api.build([Model(MODEL, toy.send, WORDS)], Limits(jobs=1), None)

    async def losing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or lost:
            return await app(scope, receive, send)
        lost.append(scope["path"])

        async def drop(message: Any) -> None:
            pass

        await app(scope, receive, drop)
        await send({"type": "http.response.start", "status": 502, "headers": []})
        return await send({"type": "http.response.body", "body": b""})

    with listening(losing) as address:
        job = Client(address, patience=20).segment_job([picture()], ["a", "b"])
        assert len(list(job.results())) == 1
    assert lost == ["/v1/jobs/segment"]


def test_a_result_of_a_job_comes_before_the_next_image_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "WAIT", 0.05)
    toy, gate = Toy(), threading.Event()

    async def send(row: Row, words: Vocabulary, kind: Kind) -> Row:
        while row["image"].shape[0] == 16 and not gate.is_set():
            await asyncio.sleep(0.01)
        return await toy.send(row, words, kind)

    with listening(api.build([Model(OUTLINER, send, WORDS)], Limits(), None)) as address:
        job = Client(address).segment_job([picture(), picture(16, 40)], ["a", "b"])
        results = job.results()
        assert isinstance(next(results), Segmentation)
        assert (job.state().state, job.state().answered) == ("running", 1)
        with pytest.raises(OvssError, match=rf"job {job.id}: 1 of 2 images were answered within 0.1 s. The job"):
            list(job.results(seconds=0.1))
        gate.set()
        assert isinstance(next(results), Segmentation)
        assert list(results) == []


NO_IMAGES = {
    "a list": ([[0, 1]], "got list"),
    "no class": (None, "got NoneType"),
    "floats": (np.zeros((4, 4, 3)), r"got an array \(4, 4, 3\) float64"),
    "channels first": (np.zeros((3, 40, 50), np.uint8), r"an array \(3, 40, 50\) uint8"),
    "nothing": (np.zeros((0, 0, 3), np.uint8), r"an array \(0, 0, 3\) uint8"),
    "many": (np.zeros((2, 4, 4, 3), np.uint8), r"an array \(2, 4, 4, 3\) uint8"),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_said_before_anything_is_sent(name: str) -> None:
    image, message = NO_IMAGES[name]
    with pytest.raises(OvssError, match=message) as failure:
        Client("http://127.0.0.1:9").segment(image, ["a"])
    assert "an image must be the path of a file" in str(failure.value)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_that_cannot_be_read_is_named(kind: type, tmp_path: Path) -> None:
    asking = Client("http://127.0.0.1:9")
    with pytest.raises(OvssError, match=r"nowhere\.jpg: cannot be read: No such file or directory"):
        asking.segment(kind(tmp_path / "nowhere.jpg"), ["a"])
    with pytest.raises(OvssError, match="cannot be read: Is a directory"):
        asking.prompt(kind(tmp_path), [(1, 1, 1)])


def test_names_with_commas_and_brackets_are_names(address: str) -> None:
    asking = Client(address, key="secret")
    for classes in (["door, double door"], ["[wet]", "road [dry]"], ['["a"]', ("b", "c, d")]):
        answer = asking.segment(picture(), classes).answer
        names = [name if isinstance(name, str) else name[0] for name in classes]
        assert [entry.name for entry in answer.classes] == names


NOW = {"retry-after": "0"}
SERVE = "Path '/v1/models' not found. Ping http://.../-/routes for available routes."
"""What Ray Serve says, with 404, while the service is not deployed yet."""


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest delays."""
    monkeypatch.setattr(retries, "FIRST", 0.001)
    monkeypatch.setattr(retries, "LONGEST", 0.01)


@pytest.mark.usefixtures("hurried")
def test_it_asks_again_while_the_service_is_busy_hangs_up_or_is_not_deployed_yet() -> None:
    busy = (429, NOW, "{}"), (503, {}, '{"code": "not_ready"}'), (0, {}, ""), (404, {}, SERVE), (500, {}, "no")
    more = [(429, NOW, "{}")] * 12
    with answering(*busy, *more, (200, {}, "{}")) as (address, asked):
        assert Client(address).models() == {}
        assert len(asked) == 18, "it is patience that ends, and no number of tries"


FINAL = {
    "wrong": ((422, {}, '{"detail": "no"}'), OvssError, "answered 422: no", 1),
    "forgotten": ((404, {}, '{"detail": "send the image again"}'), NotThere, "send the image again", 1),
    "too slow": ((504, {}, '{"detail": "too slow", "code": "deadline"}'), DeadlinePassed, "answered 504: too slow", 1),
    "a fault of the service": (
        (500, {}, '{"detail": "a bug", "code": "internal"}'),
        OvssError,
        "answered 500: a bug",
        3,
    ),
}


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("name", FINAL)
def test_it_does_not_ask_again_when_that_cannot_help(name: str) -> None:
    answer, kind, message, times = FINAL[name]
    with answering(answer) as (address, asked):
        with pytest.raises(kind, match=message):
            Client(address).models()
        assert len(asked) == times


@pytest.mark.usefixtures("hurried")
def test_it_gives_up_when_its_patience_is_over_and_not_before() -> None:
    with answering((429, NOW, '{"detail": "busy"}')) as (address, asked):
        with pytest.raises(OvssError, match="answered 429: busy"):
            Client(address, patience=0.3).models()
        assert len(asked) > 3
    with answering((503, {"retry-after": "20"}, "{}")) as (address, asked):
        with pytest.raises(OvssError, match="answered 503"):
            Client(address, patience=10).models()
        assert len(asked) == 1, "it would come back too late, so it does not wait at all"
    with pytest.raises(OvssError, match="Is `ovss serve` running there"):
        Client("http://127.0.0.1:9", patience=0).models()
    assert not Client("http://127.0.0.1:9").ready()


@pytest.mark.usefixtures("hurried")
def test_a_service_that_is_not_there_yet_is_waited_for_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    monkeypatch.setattr(retries, "NOTICE", 0.0)
    with ThreadPoolExecutor(1) as asking:
        waiting = asking.submit(Client(f"http://127.0.0.1:{port}").models)
        while not caplog.records:
            assert not waiting.done()
        with answering((200, {}, "{}"), port=port):
            assert waiting.result(60) == {}
    (line,) = [record.getMessage() for record in caplog.records if record.name == "ovss_ray.client"]
    assert line.startswith(f"no service at http://127.0.0.1:{port} yet (")
    assert "Connection refused" in line


def test_clients_that_are_told_to_come_again_do_not_come_all_at_once_and_none_too_early() -> None:
    told = urllib3.HTTPResponse(status=429, headers={"retry-after": "5"})
    for number, longest in ((0, 0.2), (3, 1.6), (20, 10.0)):
        delays = [retries.delay(told, number) for _ in range(200)]
        assert 5 <= min(delays) < max(delays) <= 5 + longest
        assert np.std(delays) > longest / 5
        assert max(retries.delay(None, number) for _ in range(50)) <= longest
    for late, most in ({"retry-after": "soon"}, 0.2), ({"retry-after": "100000"}, 30.2):
        assert retries.delay(urllib3.HTTPResponse(status=429, headers=late), 0) <= most
