"""Interrupts that wait, and a command that is interrupted."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from ovss_ray.cli.exit_status import resumable
from ovss_ray.engine import interrupts
from ovss_ray.engine.interrupts import held
from tests.commands import ovss
from tests.in_process import pools
from tests.paths import ROOT


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Have interrupts heeded, which a shell's background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def in_block(times: int, done: list[str]) -> None:
    with held():
        for _ in range(times):
            interrupt()
        done.append("the rest")


@pytest.mark.parametrize(("times", "left"), [(1, ["the rest"]), (2, [])])
def test_one_waits_for_the_end_of_the_block_and_a_second_is_heeded_at_once(times: int, left: list[str]) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        in_block(times, done)
    assert done == left
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def fails() -> None:
    with held():
        interrupt()
        raise ValueError("of the block")


def test_an_error_of_the_block_comes_first() -> None:
    with pytest.raises(ValueError, match="of the block"):
        fails()


def test_what_a_program_has_decided_about_interrupts_stays() -> None:
    heard = []
    signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    with held():
        interrupt()
        assert heard == [signal.SIGINT]


def test_other_threads_have_nothing_to_hold() -> None:
    done = []

    def work() -> None:
        with held():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.getsignal(signal.SIGINT)]


def stop_as_ray_does(number: int, frame: object) -> None:
    sys.exit(number)


def start_of_ray() -> None:
    """Replace the handler of SIGTERM, as ray.init does, and receive the signal."""
    with held():
        signal.signal(signal.SIGTERM, stop_as_ray_does)
        signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def untouched() -> Iterator[None]:
    """The handler of SIGTERM that a new process has, whatever a Ray of this process has set."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("untouched")
def test_sigterm_interrupts_a_command_also_while_ray_starts() -> None:
    with pytest.raises(interrupts.Terminated), interrupts.ends_process():
        signal.raise_signal(signal.SIGTERM)
    with interrupts.ends_process():
        with pytest.raises(interrupts.Terminated):
            start_of_ray()
        with pytest.raises(interrupts.Terminated):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def inside_ray() -> None:
    """What SIGTERM becomes inside ray.get."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None


@pytest.mark.usefixtures("untouched")
def test_sigterm_is_named_also_if_it_comes_inside_a_call_of_ray(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt) as came, interrupts.ends_process():
        inside_ray()
    assert interrupts.leave(came.value, "Go on") == 143
    assert "ovss: terminated by SIGTERM. Go on" in capsys.readouterr().err


def test_ctrl_c_keeps_its_status_if_it_has_also_ended_tee(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    output = os.fdopen(write, "w")
    monkeypatch.setattr(sys, "stderr", output)
    with pytest.raises(typer.Exit) as end, resumable("Run it again"):
        raise KeyboardInterrupt
    assert end.value.exit_code == 130
    with suppress(BrokenPipeError):
        output.close()


@pytest.mark.usefixtures("untouched")
def test_ctrl_c_keeps_its_status_after_an_earlier_sigterm_of_this_process() -> None:
    with pytest.raises(interrupts.Terminated), interrupts.ends_process():
        signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, stop_as_ray_does)
    with pytest.raises(typer.Exit) as end, resumable("Run it again"):
        raise KeyboardInterrupt
    assert end.value.exit_code == 130


@pytest.mark.usefixtures("untouched")
def test_what_a_program_has_decided_about_sigterm_stays() -> None:
    signal.signal(signal.SIGTERM, stop_as_ray_does)
    with interrupts.ends_process(), pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)


IMAGES = 20


def command(folder: Path, witness: str, seconds: float = 0.0) -> list[str]:
    """The command of a run of toys that takes so long for each image; time and witness are no part of its identity."""
    for kind in ("photos", "labels"):
        (folder / kind).mkdir(exist_ok=True)
        for number in range(IMAGES):
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / kind / f"{number:02}.png")
    (folder / "mine.yaml").write_text("images: photos/*.png\nlabels: labels/*.png\nclasses: [dark, bright]\n")
    pool = {"cpus": 0.5, "workers": 1, "batch": 1, "stages": [{"use": "tests.toys"}]}
    (folder / "config.yaml").write_text(json.dumps({"pools": [pool]}))
    data = ["--benchmark", f"folder:{folder}/mine.yaml", "--data-root", str(folder), "--out", str(folder / "run")]
    options = ["--set", f"tests.toys.seconds={seconds}", "--set", f"tests.toys.witness={folder / witness}"]
    return [sys.executable, "-m", "ovss_ray", "evaluate", str(folder / "config.yaml"), *data, *options]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_a_signal_has_stopped_goes_on_with_the_same_command(
    sent: signal.Signals, status: int, tmp_path: Path
) -> None:
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell's background jobs ignore
    text = {"text": True, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "cwd": ROOT}
    run = subprocess.Popen(command(tmp_path, "first", 1.0), stderr=subprocess.PIPE, preexec_fn=heed, **text)  # type: ignore[call-overload]
    until = time.monotonic() + 300
    while not list(tmp_path.glob("run/*/records/*.parquet")):
        assert run.poll() is None
        assert time.monotonic() < until, "no record was written"
        time.sleep(0.1)
    run.send_signal(sent)
    _, said = run.communicate(timeout=300)
    assert (run.returncode, "run the same command again to resume" in said) == (status, True), said
    assert "***" not in said, "no trace of Ray's C++ code"
    done = {file.name for file in tmp_path.glob("run/*/records/*.parquet")}
    with pools():
        again = ovss(*command(tmp_path, "again")[3:])
    assert again.returncode == 0, again.stderr
    (report,) = json.loads((tmp_path / "run/report.json").read_text())["benchmarks"].values()
    assert report["images"] == {"expected": IMAGES, "scored": IMAGES, "failed": 0}
    assert done <= {file.name for file in tmp_path.glob("run/*/records/*.parquet")}, "what was done is kept"
    assert len((tmp_path / "again").read_text().split()) < IMAGES, "and is not done a second time"
