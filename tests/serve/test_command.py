"""How `ovss serve` ends: what is in hand is answered, unless it is told twice."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from perf.serve import Service, serving
from tests.serve.bright import picture
from tests.serve.http.test_api import encoded

pytestmark = [pytest.mark.ray, pytest.mark.slow]

REQUESTS = 8
SLOW = "pools: [{workers: 1, cpus: 0.5, batch: 4, stages: [{use: tests.serve.slow, options: {gate: '%s'}}]}]"


def ask(service: Service, method: str, path: str) -> urllib3.BaseHTTPResponse:
    return urllib3.request(method, service.address + path, body=encoded(picture()), retries=False, timeout=60)


@contextmanager
def in_hand(service: Service, gate: Path) -> Iterator[list[Future[urllib3.BaseHTTPResponse]]]:
    """Eight requests, all of which the service has taken, and answers once the gate is away."""
    gate.touch()
    with ThreadPoolExecutor(REQUESTS) as clients:
        asked = [clients.submit(ask, service, "POST", "/v1/segment?classes=a&classes=b") for _ in range(REQUESTS)]
        until = time.monotonic() + 30
        while f"ovss_requests_in_hand {REQUESTS}.0" not in ask(service, "GET", "/metrics").data.decode():
            assert time.monotonic() < until
        yield asked


def lost(request: Future[urllib3.BaseHTTPResponse]) -> bool:
    """Whether the connection ended without an answer, or Serve answered for a replica that it had deleted."""
    try:
        return request.result().status >= 500
    except urllib3.exceptions.HTTPError:
        return True


@contextmanager
def slow(folder: Path) -> Iterator[tuple[Service, Path]]:
    """A service whose batches of four wait while there is a gate, a file."""
    config, gate = folder / "slow.yaml", folder / "gate"
    config.write_text(SLOW % gate)
    with serving(folder, str(config)) as service:
        yield service, gate


def test_what_is_in_hand_is_answered_and_nothing_new_is_taken(tmp_path: Path) -> None:
    with slow(tmp_path) as (service, gate), in_hand(service, gate) as asked:
        service.process.send_signal(signal.SIGTERM)
        while (ready := ask(service, "GET", "/v1/ready")).status == 200:
            pass
        new = ask(service, "POST", "/v1/segment?classes=a")
        for refused in (ready, new):
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["detail"] == "the service is being stopped"
        assert ask(service, "GET", "/v1/health").status == 200
        assert not any(one.done() for one in asked)
        gate.unlink()
        assert [one.result().status for one in asked] == [200] * REQUESTS
        assert service.process.wait(60) == 0
    assert "ovss: stopped" in service.said()
    assert [line for line in service.said().splitlines() if not line.startswith("ovss: ")] == []


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with slow(tmp_path) as (service, gate), in_hand(service, gate) as asked:
        service.process.send_signal(signal.SIGTERM)
        while ask(service, "GET", "/v1/ready").status == 200:
            pass
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 130
        assert all(map(lost, asked)), "the gate is still there"
    assert "ovss: stopped at once" in service.said()
    assert "Traceback" not in service.said()
