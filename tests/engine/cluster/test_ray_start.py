"""What happens when Ray does not start: one more try where that can help, one line, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from ray._private import node, services
from ray.exceptions import AuthenticationError

from ovss_ray.engine.cluster import connection, ray_internals, ray_start
from ovss_ray.errors import OvssError
from tests.paths import ROOT

pytestmark = pytest.mark.ray

INFO = "[2026-11-26 03:47:48,278 I 8056 8056] logging.cc:303: Set ray log level from environment variable\n"
WARNING = "[2026-11-26 03:49:31,705 W 8776 8776] gcs_client.cc:210: Failed to get cluster ID from GCS server\n"
GRPC = "E1126 03:53:46.393064295   12904 chttp2_server.cc:1059]                UNKNOWN:No address added\n"
TOO_MANY_FILES = """#!/bin/sh
for option in "$@"; do
  case $option in --stderr_filepath=*) echo 'open: Too many open files' > "${option#*=}";; esac
done
exit 3
"""
"""A raylet that ends at once, and says why in the log that it is given."""
LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup"
LASTING = {
    "path": (OSError("AF_UNIX path length cannot exceed 107 bytes: /a/b"), "export RAY_TMPDIR=/tmp"),
    "full": (OSError(28, "No space left on device"), "Make room there"),
    "files": (OSError(24, "Too many open files"), "ulimit -n 8192"),
    "permission": (PermissionError(13, "Permission denied", "/a"), "a folder that you may write to"),
    "token": (AuthenticationError("no authentication token was found"), "export RAY_AUTH_MODE=token"),
    "dashboard": (ValueError("Invalid Ray address: 'http://10.0.0.1:8265'"), "HOST:PORT of the cluster's head"),
    "version": (RuntimeError("Version mismatch: the cluster was started with Ray 2.1"), "Install the cluster's"),
    "memory": (ValueError("Attempting to cap object store memory usage, but the minimum is"), "Too little memory"),
}
PASSING = {
    "late": (Exception(LATE), "less busy"),
    "port": (RuntimeError("Failed to start GCS. Check failed: Address already in use"), "ss -ltnp"),
    "threads": (RuntimeError("can't start new thread"), "ulimit -u"),
    "unknown": (RuntimeError("something else"), "Run the same command again"),
}


def raising(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> list[int]:
    """Have ray.init fail; the list gets an entry at each try."""
    tries: list[int] = []

    def init(*given: Any, **named: Any) -> None:
        tries.append(len(tries))
        raise failure

    monkeypatch.setattr(connection.ray, "init", init)
    return tries


def message() -> str:
    """The error of a connection that does not come about."""
    with pytest.raises(OvssError) as failure, connection.connect():
        pass
    return str(failure.value)


@pytest.mark.parametrize("name", LASTING)
def test_what_would_fail_again_is_tried_once_and_said_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failure, advice = LASTING[name]
    tries = raising(monkeypatch, failure)
    said = message()
    assert len(tries) == 1
    assert advice in said
    assert "\n" not in said


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_tried_twice_and_said_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failure, advice = PASSING[name]
    tries = raising(monkeypatch, failure)
    said = message()
    assert len(tries) == 2
    assert "nor at a second try" in said
    assert advice in said
    assert "\n" not in said


def test_a_cluster_of_somebody_else_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_address", lambda: "127.0.0.1:1")
    tries = raising(monkeypatch, ConnectionError("Failed to connect to Ray cluster at 127.0.0.1:1"))
    assert "it may have ended" in message()
    assert len(tries) == 1


def test_an_interrupt_during_a_start_that_fails_is_heeded_before_the_second_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    tries: list[str] = []

    def init(*given: Any, **named: Any) -> None:
        tries.append("try")
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("late")

    monkeypatch.setattr(connection.ray, "init", init)
    try:
        with pytest.raises(KeyboardInterrupt), connection.connect():
            pass
    finally:
        signal.signal(signal.SIGINT, before)
    assert tries == ["try"]


def writing(*lines: str) -> Callable[..., None]:
    """A ray.init that writes to file descriptor 2, as Ray's C++ part does."""
    return lambda *given, **named: os.write(2, "".join(lines).encode()) and None


def test_rays_own_lines_are_dropped_and_all_others_passed_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fatal = "[2026-11-26 03:53:46,605 C 12904 12904] grpc_server.cc:134:  An unexpected system state\n"
    monkeypatch.setattr(connection.ray, "init", writing(INFO, "mine\n", WARNING, GRPC, fatal, "no end of line"))
    monkeypatch.setattr(connection.ray._private.worker, "_global_node", None)
    monkeypatch.delenv("RAY_BACKEND_LOG_LEVEL", raising=False)
    before = dict(os.environ)
    with connection.connect():
        os.write(2, b", but the rest\n")
    assert dict(os.environ) == before, "a later ray.init of the user would have our settings"
    assert capfd.readouterr().err == f"mine\n{fatal}no end of line, but the rest\n"


def test_a_log_level_that_was_set_by_hand_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_BACKEND_LOG_LEVEL", "info")
    monkeypatch.setattr(connection.ray, "init", writing(INFO, WARNING))
    with connection.connect():
        pass
    assert capfd.readouterr().err == INFO + WARNING


def begun() -> list[psutil.Process]:
    """The processes of this one and theirs."""
    return psutil.Process().children(recursive=True)


def left(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that still run after a few seconds. A zombie has ended."""
    psutil.wait_procs(list(processes), 3)
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def impatient(raylet: str) -> Iterator[None]:
    """Ray with another raylet, for which it waits a second and not thirty."""

    def unseen(*given: Any) -> None:
        time.sleep(0.05)
        raise RuntimeError("no node")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "RAYLET_EXECUTABLE", raylet)
        clock = SimpleNamespace(time=time.time, sleep=time.sleep, monotonic=lambda: 30 * time.monotonic())
        patch.setattr(node, "time", clock)
        patch.setattr(services, "get_node", unseen)
        yield


def test_a_node_that_does_not_start_is_gone_after_two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    before, init, seen = begun(), connection.ray.init, list[set[str]]()

    def watched(*given: Any, **named: Any) -> None:
        try:
            init(*given, **named)
        finally:
            seen.append({process.name() for process in begun() if process not in before})

    monkeypatch.setattr(connection.ray, "init", watched)
    with impatient("false"):
        said = message()
    assert [names >= {"gcs_server"} for names in seen] == [True, True]
    assert "raylet ended with status 1" in said
    assert "\n" not in said
    assert [process for process in begun() if process not in before] == []


@pytest.mark.slow
def test_a_node_that_is_too_late_is_gone_with_all_that_it_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    before, end, seen = begun(), ray_internals.end_node, dict[psutil.Process, str]()

    def stubborn(node: Any) -> None:
        """Have the agents outlive their raylet, as they may on a busy machine."""
        for process in (process for process in begun() if process not in before):
            seen[process] = process.name()
            if "Agent" in process.name():
                process.suspend()
        end(node)

    monkeypatch.setattr(ray_internals, "end_node", stubborn)
    with impatient(services.RAYLET_EXECUTABLE):
        said = message()
    assert "less busy" in said
    assert {"gcs_server", "raylet"} < set(seen.values())
    assert left(seen) == []


def test_the_log_of_a_daemon_that_has_ended_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (raylet := tmp_path / "raylet").write_text(TOO_MANY_FILES)
    raylet.chmod(0o755)
    with impatient(str(raylet)):
        said = message()
    assert said.startswith("Ray did not start: The current node timed out during startup; raylet ended with status 3.")
    assert "ulimit -n 8192" in said


def test_a_full_disk_is_named_though_no_log_can_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start.shutil, "disk_usage", lambda folder: SimpleNamespace(free=4096))
    with impatient("false"):
        said = message()
    assert said.startswith("Ray did not start: ")
    assert "A disk is full" in said


@pytest.mark.slow
def test_a_node_that_starts_at_the_second_try_is_used_and_the_first_one_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, init, tries = begun(), connection.ray.init, list[int]()

    def late(*given: Any, **named: Any) -> None:
        tries.append(len(tries))
        if len(tries) > 1:
            init(*given, **named)
            return
        with impatient("false"):
            init(*given, **named)

    monkeypatch.setattr(connection.ray, "init", late)
    with connection.connect():
        assert connection.size().cpus >= 1
        servers = [process for process in begun() if process not in before and process.name() == "gcs_server"]
        assert (len(tries), len(servers)) == (2, 1)
    psutil.wait_procs([process for process in begun() if process not in before], 20)
    assert [process for process in begun() if process not in before] == []


def test_a_folder_for_temporary_files_with_too_long_a_path_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (folder := tmp_path / ("long" * 25)).mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    said = message()
    assert "path length cannot exceed" in said
    assert "export RAY_TMPDIR=/tmp" in said


HEAD = """
import sys, ray
begun = ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
print(begun.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster that asks for a token."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a long and secret token of a cluster"}
    command = [sys.executable, "-c", HEAD]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=os.environ | token, text=True, **pipes) as head:
        assert head.stdout
        yield head.stdout.readline().strip()
        head.communicate()


@pytest.mark.parametrize(
    "token", [None, pytest.param("another token than that of the cluster", marks=pytest.mark.slow)]
)
def test_a_cluster_that_asks_for_a_token_is_named_as_such_in_a_single_line(
    guarded: str, token: str | None, tmp_path: Path
) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    sent = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {}
    done = evaluate(tmp_path, clean | sent | {"RAY_ADDRESS": guarded, "HOME": str(tmp_path)})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"ovss: no connection to the Ray cluster {guarded}")
    assert "export RAY_AUTH_MODE=token" in line


def evaluate(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `ovss evaluate` on a single small image."""
    stripes = np.arange(64, dtype=np.uint8).reshape(8, 8) % 2
    for name, pixels in {"photos": 255 * stripes, "labels": stripes}.items():
        (folder / name).mkdir()
        Image.fromarray(pixels).save(folder / name / "a.png")
    (folder / "mine.yaml").write_text("images: photos/*.png\nlabels: labels/*.png\nclasses: [a, b]\n")
    named = ["--benchmark", f"folder:{folder}/mine.yaml", "--data-root", str(folder), "--out", str(folder / "run")]
    command = [sys.executable, "-m", "ovss_ray", "evaluate", "oracle", *named]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600)


@pytest.mark.slow
def test_a_run_prints_nothing_of_rays_own(tmp_path: Path) -> None:
    done = evaluate(tmp_path, dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "report: " in done.stdout
    assert [line for line in done.stderr.splitlines() if not line.startswith("1/1 images")] == []
