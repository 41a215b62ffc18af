"""The Slurm script under a stub of Slurm: its cluster, its token, time limits, and what it leaves behind."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.cluster import slurm_stub
from tests.paths import ROOT

NO_CLUSTER = """#!/usr/bin/env bash
case "$1" in start) exec sleep 1000 ;; esac
"""
"""A program `ray` that starts nothing"""


@dataclass
class Slurm:
    """A Slurm job of the script on this machine."""

    folder: Path
    calls: Path
    job: int

    def start(self, command: Sequence[str], nodes: int = 1, restarts: int = 0) -> "subprocess.Popen[str]":
        """Start the script as Slurm would."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
        variables = {
            "PATH": f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "OVSS_INTERFACE": "lo",
            "STUB_CALLS": str(self.calls),
            "SLURM_JOB_ID": str(self.job),
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_CPUS_ON_NODE": "1",
            "SLURM_RESTART_COUNT": str(restarts),
            "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "200000000",
        }
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell has background jobs ignore
        return subprocess.Popen(
            [str(ROOT / "cluster/slurm.sh"), *command],
            preexec_fn=heed,
            cwd=ROOT,
            env={**inherited, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def requests(self) -> list[str]:
        """The calls of scontrol."""
        return self.calls.read_text().splitlines() if self.calls.is_file() else []

    def left(self) -> list[Path]:
        """What the script has left in its folder of tokens."""
        return list((self.folder / ".ovss_slurm").iterdir())


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path, slurm_stub.install(tmp_path / "bin"), os.getpid())


@pytest.fixture
def quick(slurm: Slurm) -> Slurm:
    """Slurm without Ray: nodes that only wait, and a cluster that is always complete."""
    (slurm.folder / "bin/ray").write_text(NO_CLUSTER)
    (slurm.folder / "bin/ray").chmod(0o755)
    return slurm


def wait_for_file(path: Path, running: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 60
    while not path.is_file():
        assert running.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)


PATIENT = """
import os, pathlib, sys, time
out = pathlib.Path(sys.argv[1])
token = pathlib.Path(os.environ["RAY_AUTH_TOKEN_PATH"])
try:
    mode, letters = f"{token.stat().st_mode & 0o777:o}", len(token.read_text())
    (out / "seen").write_text(f"{mode} {letters} {os.environ['RAY_AUTH_MODE']}")
    time.sleep(float(sys.argv[2]))
except KeyboardInterrupt:
    (out / "interrupted").touch()
    sys.exit(130)
sys.exit(int(sys.argv[3]))
"""
"""A command that notes its token and an interrupt: folder, seconds, exit status"""


def patient(quick: Slurm, seconds: float, status: int = 0) -> list[str]:
    return ["python", "-c", PATIENT, str(quick.folder), str(seconds), str(status)]


@pytest.mark.parametrize("status", [0, 1])
def test_the_job_ends_with_the_status_of_its_command_and_leaves_no_token(quick: Slurm, status: int) -> None:
    running = quick.start(patient(quick, 0, status))
    output, _ = running.communicate(timeout=60)
    assert running.returncode == status, output
    assert (quick.folder / "seen").read_text() == "600 65 token"
    assert stat.S_IMODE((quick.folder / ".ovss_slurm").stat().st_mode) == 0o700
    assert not quick.left()
    assert not quick.requests(), "an end of its own is final"


@pytest.mark.parametrize(("restarts", "requests"), [(0, 1), (50, 0)])
def test_before_the_time_limit_the_command_is_interrupted_and_requeued(
    quick: Slurm, restarts: int, requests: int
) -> None:
    running = quick.start(patient(quick, 1000), restarts=restarts)
    wait_for_file(quick.folder / "seen", running)
    running.send_signal(signal.SIGUSR1)
    output, _ = running.communicate(timeout=60)
    assert (running.returncode, (quick.folder / "interrupted").exists()) == (130, True), output
    assert quick.requests() == [f"requeue {quick.job}"] * requests
    assert not quick.left()


def test_a_cancelled_job_is_interrupted_but_not_requeued(quick: Slurm) -> None:
    running = quick.start(patient(quick, 1000))
    wait_for_file(quick.folder / "seen", running)
    running.send_signal(signal.SIGTERM)
    output, _ = running.communicate(timeout=60)
    assert (running.returncode, (quick.folder / "interrupted").exists()) == (130, True), output
    assert not quick.requests()
    assert not quick.left()


def test_a_command_that_is_done_when_the_signal_comes_is_not_run_again(quick: Slurm) -> None:
    ignoring = "import pathlib, signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    ignoring += "pathlib.Path(sys.argv[1]).touch(); time.sleep(0.5)"
    running = quick.start(["python", "-c", ignoring, str(quick.folder / "seen")])
    wait_for_file(quick.folder / "seen", running)
    running.send_signal(signal.SIGUSR1)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0, output
    assert not quick.requests()


def test_without_a_command_the_usage_is_printed(slurm: Slurm) -> None:
    running = slurm.start([])
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 2
    assert "Usage: sbatch cluster/slurm.sh" in output


@pytest.mark.slow
@pytest.mark.ray
def test_an_evaluation_on_two_nodes_of_a_job(slurm: Slurm) -> None:
    out = slurm.folder / "run"
    options = ["--benchmark", "scenes:seen", "--limit", "8", "--out", str(out)]
    command = ["python", "-m", "ovss_ray", "evaluate", "oracle", "--wait-for", "nodes=2", *options]
    running = slurm.start(command, 2)
    output, _ = running.communicate(timeout=400)
    assert running.returncode == 0, output
    report = json.loads((out / "report.json").read_text())["benchmarks"]["scenes:seen"]
    assert report["images"] == {"expected": 8, "scored": 8, "failed": 0}
    assert report["metrics"]["miou"] == 100
    assert not slurm.left()
