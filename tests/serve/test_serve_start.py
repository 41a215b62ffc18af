"""How `ovss serve` starts on a cluster that somebody else began, and what it leaves there if it cannot."""

import logging
import re
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve
from ray.serve._private import api

from ovss_ray.config import loading as configs
from ovss_ray.config.run import RunConfig
from ovss_ray.errors import OvssError
from ovss_ray.serve import command
from tests.serve.test_command import SLOW
from tests.web import free_port

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def theirs() -> Iterator[None]:
    """A cluster that is not the command's own."""
    before = signal.getsignal(signal.SIGTERM)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def slow(tmp_path: Path) -> Mapping[str, RunConfig]:
    (tmp_path / "slow.yaml").write_text(SLOW % (tmp_path / "gate"))
    return configs.load_several([tmp_path / "slow.yaml"], ())


@pytest.fixture
def port() -> int:
    return free_port()


def late(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have Serve wait no time at all for its proxy at the first try; the list gets an entry at each."""
    start, patience, tries = serve.start, api.HTTP_PROXY_TIMEOUT, list[int]()

    def counted(**named: Any) -> None:
        tries.append(len(tries))
        monkeypatch.setattr(api, "HTTP_PROXY_TIMEOUT", 0 if len(tries) == 1 else patience)
        start(**named)

    monkeypatch.setattr(command.serve, "start", counted)
    return tries


def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a signal arrive when the service answers already, and Serve has not said so yet."""
    run = serve.run

    def answered(*given: Any, **named: Any) -> None:
        run(*given, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(command.serve, "run", answered)


def free(port: int) -> bool:
    """Whether the port can be listened at within a minute: a killed proxy leaves Ray's list before its process ends."""
    for _ in range(600):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return True
        time.sleep(0.1)
    return False


def test_a_single_line_says_that_serve_does_not_start(
    slow: Mapping[str, RunConfig], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def failing(**named: Any) -> None:
        tries.append(named)
        raise TimeoutError(f"HTTP proxies not available after {len(tries)} s")

    monkeypatch.setattr(command.serve, "start", failing)
    with pytest.raises(OvssError) as failure:
        command.run(slow, "127.0.0.1", port)
    assert len(tries) == 2
    assert str(failure.value).startswith("Ray Serve failed to start in two attempts: HTTP proxies not available")
    assert "\n" not in str(failure.value)
    assert command._actors() == []
    assert free(port)


@pytest.mark.slow
def test_what_a_failed_try_has_begun_is_gone_and_a_second_one_serves_until_a_signal_and_leaves_nothing(
    slow: Mapping[str, RunConfig], port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tries = late(monkeypatch)
    interrupted(monkeypatch)
    monkeypatch.setattr(command, "PROGRESS", 0.5)
    command.run(slow, "127.0.0.1", port)
    assert len(tries) == 2
    said = capsys.readouterr().out
    assert "finishing requests in progress" in said
    assert "served at" not in said
    assert re.search(r"^ovss: \d s: waiting for (slow-0|http)", said, re.MULTILINE)
    assert command._actors() == []
    assert free(port)


def test_serve_that_runs_already_is_left_alone(slow: Mapping[str, RunConfig], port: int) -> None:
    serve.start(proxy_location="Disabled")
    there = command._actors()
    try:
        with pytest.raises(OvssError, match=r"Ray Serve is already running on this cluster .*serve shutdown -y"):
            command.run(slow, "127.0.0.1", port)
        assert command._actors() == there != []
    finally:
        serve.shutdown()


def test_a_service_that_cannot_be_deployed_is_gone_and_a_single_line_says_why(
    slow: Mapping[str, RunConfig], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*given: Any, **named: Any) -> None:
        raise ray.exceptions.ActorDiedError

    monkeypatch.setattr(command.serve, "run", failing)
    with pytest.raises(OvssError, match=r"^the service could not start: [^\n]+$"):
        command.run(slow, "127.0.0.1", port)
    assert command._actors() == []
    assert free(port)
