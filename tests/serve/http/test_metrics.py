"""What Prometheus is told: in its own format, behind the same guard, and with numbers that are right."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from ovss_ray.models import text
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.serve.deployments import batch
from ovss_ray.serve.deployments.replica import Figures
from ovss_ray.serve.http import metrics
from ovss_ray.serve.http.guard import digest
from ovss_ray.serve.row import row
from ovss_ray.structures.recent import Recent
from ovss_ray.structures.vocabulary import Vocabulary
from tests.serve.bright import picture, service
from tests.serve.http.test_api import client, encoded, form

TOLD = {
    "san_tiny-0": [Figures("one", {1: 2, 3: 4, 64: 1, 100: 1}, 5, {"text": 6}), Figures("two", {}, 0, {})],
    "hung-0": [],
}
Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


def watched(told: Mapping[str, Sequence[Figures]] = TOLD, **options: Any) -> FastAPI:
    """A toy service that tells figures."""

    async def ask() -> Mapping[str, Sequence[Figures]]:
        return told

    app = service(**options)
    metrics.add(app, app.state.desk, ask)
    return app


def samples(asking: TestClient) -> Samples:
    """Name and labels → value."""
    families = text_string_to_metric_families(asking.get("/metrics").text)
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def test_requests_are_counted_by_route_and_status_and_timed() -> None:
    with client(watched(body=100_000)) as asking:
        for _ in range(3):
            assert asking.post("/v1/segment", **form(encoded(picture()), classes=["a"])).status_code == 200
        asking.post("/v1/segment", content=b"no image", params={"classes": "a"})
        asking.post("/v1/segment", content=bytes(100_001))
        for number in range(5):
            asking.get(f"/nowhere/{number}")
        found = samples(asking)

    def requests(path: str, status: int) -> float:
        return found["ovss_requests_total", (("path", path), ("status", str(status)))]

    assert [requests("/v1/segment", status) for status in (200, 415, 413)] == [3, 1, 1]
    assert requests("other", 404) == 5
    assert not any("nowhere" in str(labels) for _, labels in found)
    of_segment = (("path", "/v1/segment"),)
    assert found["ovss_request_seconds_count", of_segment] == 5
    assert found["ovss_request_seconds_bucket", (("le", "+Inf"), *of_segment)] == 5
    assert 0 < found["ovss_request_seconds_sum", of_segment] < 60
    assert found["ovss_pixels_total", ()] == 3 * 24 * 32
    assert (found["ovss_requests_in_hand", ()], found["ovss_pixels_held", ()]) == (0, 0)


def test_batches_queues_and_caches_are_those_of_the_replicas_that_answer() -> None:
    app = watched()
    app.state.desk.watch.restarts["san_tiny-0"] = 3
    with client(app) as asking:
        found = samples(asking)
    one = (("pool", "san_tiny-0"), ("replica", "one"))
    buckets = [
        found["ovss_batch_size_bucket", (("le", bound), *one)] for bound in ("1.0", "2.0", "4.0", "64.0", "+Inf")
    ]
    assert buckets == [2, 2, 6, 7, 8]
    assert found["ovss_batch_size_sum", one] == 2 + 12 + 64 + 100
    assert found["ovss_requests_waiting", one] == 5
    assert found["ovss_replica_restarts_total", (("pool", "san_tiny-0"),)] == 3
    assert found["ovss_cache_bytes", (("cache", "text"), *one)] == 6
    assert found["ovss_batch_size_count", (("pool", "san_tiny-0"), ("replica", "two"))] == 0


def test_figures_are_told_to_whom_the_rest_is_told() -> None:
    with client(watched(key=digest("secret")), "http://example.org", ("192.0.2.1", 1)) as asking:
        assert asking.get("/metrics").status_code == 401
        assert asking.get("/metrics", headers={"authorization": "Bearer secret"}).status_code == 200
    with client(watched(), asking=("192.0.2.1", 1)) as asking:
        assert asking.get("/metrics").status_code == 403


def test_a_request_that_is_being_answered_is_in_hand_and_one_that_fails_is_a_500() -> None:
    app = watched()

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    with client(app) as asking:
        app.state.desk.waiting = 2
        asking.get("/broken")
        found = samples(asking)
    assert found["ovss_requests_in_hand", ()] == 2
    assert found["ovss_requests_total", (("path", "other"), ("status", "500"))] == 1


def test_prometheus_may_ask_for_its_newer_format() -> None:
    with client(watched()) as asking:
        done = asking.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert done.headers["content-type"].startswith("application/openmetrics-text")
    assert done.text.endswith("# EOF\n")


def test_a_stage_with_a_text_cache_tells_how_large_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "WORDS", Recent(1 << 20, lambda row: row.nbytes))  # all models of a process share it
    stage = StageConfig(use="san", options={"variant": "san_tiny"}).build()
    assert stage.kept() == {"text": 0}
    words = Vocabulary.of(["sky", "grass"])
    batch.run({"san": stage}, [(row(picture(), words), words)], {"prediction", "error"})
    assert stage.kept()["text"] > 0
