"""Several images in one request, jobs, pages of regions, keys with quotas, and pages of other origins."""

import asyncio
import base64
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient

from ovss_ray.config.limits import Limits
from ovss_ray.errors import OvssError
from ovss_ray.serve.http import api, guard
from ovss_ray.serve.http.admission import Model
from ovss_ray.serve.http.guard import digest
from ovss_ray.serve.intake import keys
from ovss_ray.serve.intake.jobs import Jobs
from ovss_ray.serve.intake.keys import Key, Quota
from tests.serve.bright import MODEL, OUTLINER, WORDS, Toy, picture, service
from tests.serve.http.test_api import client, encoded, form

GOOD, OTHER, BAD = encoded(picture()), encoded(picture(16, 40)), b"no image"
FIELDS = {"classes": '["a", "b"]', "output": "rle"}


@pytest.fixture(scope="module")
def asking() -> TestClient:
    return client(service())


def several(*images: bytes, **fields: Any) -> dict[str, Any]:
    """Return the keyword arguments of a form with several images."""
    return {"files": [("image", ("image", image)) for image in images], "data": {**FIELDS, **fields}}


def alone(asking: TestClient, image: bytes) -> Any:
    """Return the answer to an image alone, without times."""
    answer = asking.post("/v1/segment", files={"image": image}, data=FIELDS).json()
    return {name: value for name, value in answer.items() if name not in ("seconds", "request_id")}


def without_times(entries: list[dict[str, Any]]) -> list[Any]:
    answers = [entry["answer"] for entry in entries]
    return [{name: answer[name] for name in answer if name not in ("seconds", "request_id")} for answer in answers]


@pytest.mark.parametrize("as_json", [False, True])
def test_several_images_are_answered_as_each_of_them_would_be_alone(as_json: bool, asking: TestClient) -> None:
    images = (GOOD, BAD, OTHER)
    if as_json:
        document = {"images": [base64.b64encode(image).decode() for image in images], **FIELDS, "classes": ["a", "b"]}
        done = asking.post("/v1/batch/segment", json=document)
    else:
        done = asking.post("/v1/batch/segment", **several(*images))
    entries = done.json()["answers"]
    assert [entry["status"] for entry in entries] == [200, 415, 200]
    assert without_times(entries) == [alone(asking, image) for image in images]


REFUSED: dict[str, tuple[dict[str, Any], int]] = {
    "no images": ({"json": {"images": []}}, 422),
    "text for images": ({"json": {"images": "BASE64"}}, 422),
    "a list": ({"json": [1]}, 422),
    "no JSON": ({"content": b"{", "headers": {"content-type": "application/json"}}, 415),
    "no base64": ({"json": {"images": ["?"]}}, 422),
    "an image alone": ({"content": GOOD}, 415),
    "too many": (several(*[GOOD] * 17), 422),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_without_several_images_is_refused(name: str, asking: TestClient) -> None:
    sent, status = REFUSED[name]
    for path in ("/v1/batch/segment", "/v1/jobs/segment"):
        done = asking.post(path, **sent)
        assert (done.status_code, done.json().keys()) == (status, {"detail", "code", "request_id"}), done.text


def ended(asking: TestClient, place: str) -> dict[str, Any]:
    """Wait for the end of a job, and return its state."""
    until = time.monotonic() + 60
    while (state := asking.get(place).json())["state"] == "running":
        assert time.monotonic() < until
    return state


def test_a_job_is_answered_later_and_its_answers_can_be_deleted() -> None:
    with client(service(delay=0.05, jobs=1)) as asking:
        once = {"Idempotency-Key": "0123"}
        begun = asking.post("/v1/jobs/segment", headers=once, **several(GOOD, BAD))
        assert begun.status_code == 202
        place = begun.headers["location"]
        assert (begun.json()["state"], begun.json()["images"]) == ("running", 2)
        again = asking.post("/v1/jobs/segment", headers=once, **several(GOOD, BAD))
        assert (again.status_code, again.headers["location"]) == (202, begun.headers["location"]), "no second job"
        full = asking.post("/v1/jobs/segment", headers=once, **several(GOOD))
        assert (full.status_code, full.headers["retry-after"]) == (429, "10")
        state = ended(asking, place)
        assert (state["answered"], 0 < state["expires"] <= Limits().kept) == (2, True)
        result = asking.get(f"{place}/result")
        assert without_times(result.json()["answers"]) == [alone(asking, image) for image in (GOOD, BAD)]
        assert asking.delete(place).status_code == 204
        assert asking.get(place).status_code == 404


def test_the_answers_of_a_job_expire_and_a_running_job_has_none() -> None:
    seconds, first = [0.0], asyncio.Event()

    async def run(number: int) -> dict[str, Any]:
        await first.wait()
        return {"status": 200, "body": b"1"}

    async def use() -> None:
        jobs = Jobs(Limits(kept=5), lambda: seconds[0])
        name = jobs.start(run, 1, 1).id
        seconds[0] = 100.0
        assert (jobs.state(name).state, jobs.answers(name)) == ("running", None)
        first.set()
        assert await jobs.further(name, 0) == [{"status": 200, "body": b"1"}]
        assert await jobs.further(name, 1) == [], "there is no further one"
        assert (jobs.state(name).expires, jobs.answers(name)) == (5.0, [{"status": 200, "body": b"1"}])
        seconds[0] = 105.0
        with pytest.raises(HTTPException, match="expired"):
            jobs.state(name)

    asyncio.run(use())


def test_an_error_of_the_service_costs_one_image_of_a_job_or_batch() -> None:
    toy = Toy()

    async def send(row: Any, *arguments: Any) -> Any:
        if row["image"].shape[:2] == picture(16, 40).shape[:2]:
            raise RuntimeError("a fault of the service")
        return await toy.send(row, *arguments)

    with client(api.build([Model(MODEL, send, WORDS)], Limits(), None)) as asking:
        batch = asking.post("/v1/batch/segment", **several(OTHER, GOOD)).json()["answers"]
        place = asking.post("/v1/jobs/segment", **several(OTHER, GOOD)).headers["location"]
        assert ended(asking, place)["answered"] == 2
        job = asking.get(f"{place}/result").json()["answers"]
    for entries in (batch, job):
        assert [entry["status"] for entry in entries] == [500, 200]
        assert entries[0]["answer"]["detail"] == "error in the service. Its log has the cause"


def test_regions_come_in_pages_and_only_the_first_one_needs_the_model() -> None:
    toy = Toy()
    asking = client(api.build([Model(OUTLINER, toy.send, WORDS)], Limits(), None))
    classes = [f"class {number}" for number in range(5)]
    whole = asking.post("/v1/regions", **form(GOOD, classes=classes, ranked=2)).json()
    toy.asked.clear()
    pages = [
        asking.post("/v1/regions", **form(GOOD, classes=classes, ranked=2, first=first, count=2)).json()
        for first in (0, 2, 4, 6)
    ]
    assert [len(page["regions"]) for page in pages] == [2, 2, 1, 0]
    assert [region for page in pages for region in page["regions"]] == whole["regions"]
    assert {page["found"] for page in pages} == {5}
    assert all(page["ranking"] == whole["ranking"] for page in pages)
    assert len(toy.asked) == 1


def key(name: str, per_minute: int | None) -> Key:
    return Key(sha256=hashlib.sha256(name.encode()).hexdigest(), per_minute=per_minute)


def test_a_key_with_a_quota_is_told_how_much_is_left() -> None:
    toy = Toy()
    app = api.build([Model(MODEL, toy.send, WORDS)], Limits(), digest("root"), keys=[key("few", 3), key("any", None)])

    def post(name: str, path: str = "/v1/segment", **sent: Any) -> Any:
        return client(app).post(
            path, headers={"Authorization": f"Bearer {name}"}, **(sent or form(GOOD, classes=["a"]))
        )

    assert post("wrong").status_code == 401
    first = post("few")
    assert (first.status_code, first.headers["ratelimit-limit"], first.headers["ratelimit-remaining"]) == (
        200,
        "3",
        "2",
    )
    both = post("few", "/v1/batch/segment", **several(GOOD, OTHER))
    assert [entry["status"] for entry in both.json()["answers"]] == [200, 200], "each image counts"
    spent = post("few")
    assert (spent.status_code, spent.json()["code"], spent.headers["ratelimit-remaining"]) == (429, "quota", "0")
    assert 1 <= int(spent.headers["retry-after"]) <= 61
    for name in ("any", "root"):
        assert post(name).status_code == 200
        assert "ratelimit-limit" not in post(name).headers


def test_a_quota_begins_again_after_a_minute() -> None:
    now = [0.0]
    quota = Quota(1, lambda: now[0])
    assert [quota.take(), quota.take()] == [True, False]
    now[0] = 59.0
    assert (quota.take(), quota.headers()["RateLimit-Reset"]) == (False, "2")
    now[0] = 60.0
    assert quota.take()


def test_a_file_of_keys_is_read_or_refused_with_an_example(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(f"alice: {{sha256: {'a' * 64}, per_minute: 60}}\nbob: {{sha256: {'b' * 64}}}\n")
    assert [one.per_minute for one in keys.read(str(file))] == [60, None]
    assert keys.read(None) == ()
    for text in ("alice: secret", "[1]", "", "alice: {sha256: abc}", "a: ["):
        file.write_text(text)
        with pytest.raises(OvssError, match=r"alice: \{sha256: 9f86"):
            keys.read(str(file))
    with pytest.raises(OvssError, match="No such file"):
        keys.read(str(tmp_path / "none.yaml"))


PAGE = "https://example.org"


@pytest.mark.parametrize("with_key", [False, True])
def test_a_page_of_another_origin_is_let_in_only_if_it_is_named(with_key: bool) -> None:
    toy = Toy()
    app = api.build([Model(MODEL, toy.send, WORDS)], Limits(), digest("key") if with_key else None, origins=[PAGE])
    asking = client(app)
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = asking.options("/v1/segment", headers={"Origin": PAGE, **ask})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
    headers = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site", "Authorization": "Bearer key"}
    done = asking.post("/v1/segment", headers=headers, **form(GOOD, classes=["a"]))
    assert (done.status_code, done.headers["access-control-allow-origin"]) == (200, PAGE)
    foreign = {**headers, "Origin": "https://example.net"}
    assert "access-control-allow-origin" not in asking.get("/v1/models", headers=foreign).headers
    if not with_key:
        assert asking.get("/v1/models", headers=foreign).status_code == 403


def test_origins_are_read_or_refused() -> None:
    assert guard.origins(f"{PAGE}, http://[::1]:3000,") == (PAGE, "http://[::1]:3000")
    assert guard.origins(None) == ()
    for text in ("*", "example.org", f"{PAGE}/path", "null"):
        with pytest.raises(OvssError, match="is no origin"):
            guard.origins(text)
