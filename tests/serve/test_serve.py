"""The whole service: `ovss serve`, Ray Serve, HTTP, and the same label maps as the batch path, to the last bit."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from ovss_ray import files, pipeline
from ovss_ray.client import Client
from ovss_ray.datasets import benchmark as benchmarks
from ovss_ray.errors import OvssError
from ovss_ray.stage import StageConfig
from ovss_ray.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0
"""Seconds for a start, or an end, on a busy machine."""
CONFIG = """
exact: true
pools:
  - workers: 1
    stages: [{use: tests.serve.again, options: {witness: %s}}, {use: san, options: {variant: san_tiny}}]
  - {workers: 1, stages: [{use: tests.serve.again, options: {witness: /dev/null}}]}
"""
SCENES = [f"scenes://seen/validation/{number:04d}.png" for number in range(4)]
OWN = Vocabulary.of(["sky", ["lawn", "grass"], "striped red star", "sand", "blue disc"])


@dataclass
class Service:
    """A service that runs in processes of its own."""

    address: str
    process: subprocess.Popen[bytes]
    output: Path
    batches: Path
    """a line for each batch: the vocabularies of its rows"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "two_pools.yaml").write_text(CONFIG % (folder / "batches"))
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "ovss_ray", "serve", str(folder / "two_pools.yaml"), "--port", str(port)]
    with (folder / "output").open("wb") as output:
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell has background jobs ignore
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, env=environment, preexec_fn=heed)
    service = Service(f"http://127.0.0.1:{port}", process, folder / "output", folder / "batches")
    asking, until = Client(service.address), time.monotonic() + PATIENCE
    try:
        while not asking.ready():
            assert process.poll() is None, service.output.read_text()
            assert time.monotonic() < until, service.output.read_text()
            time.sleep(0.5)
        yield service
    finally:
        begun = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
        finally:
            _, left = psutil.wait_procs(begun, 20)
            for one in [*left, process]:
                one.kill()
    assert process.returncode == 0, service.output.read_text()
    assert not left, left


def of_the_batch_path(asked: list[tuple[str, Vocabulary]]) -> list[np.ndarray]:
    """The label maps that the stages of a run make of images, asked for vocabularies."""
    san = StageConfig(use="san", options={"variant": "san_tiny", "exact": True})
    stages = {"decode": StageConfig(use="decode").build(), "san": san.build()}
    batch = pipeline.start(
        len(asked),
        image_id=[str(number) for number in range(len(asked))],
        benchmark=["scenes:seen"] * len(asked),
        image_uri=[uri for uri, _ in asked],
        vocabulary=[words.digest for _, words in asked],
    )
    done = pipeline.run(stages, batch, {words.digest: words for _, words in asked})
    assert list(done["error"]) == [""] * len(asked)
    return list(done["prediction"])


def test_label_maps_are_those_of_the_batch_path_with_two_vocabularies_in_one_stream(served: Service) -> None:
    asking, seen = Client(served.address), benchmarks.load("scenes:seen").vocabulary
    asked = [(uri, words) for uri in SCENES for words in (seen, OWN)]

    def ask(uri: str, words: Vocabulary) -> np.ndarray:
        named = {"benchmark": "scenes:seen"} if words is seen else {"classes": OWN.classes}
        return asking.segment(files.read(uri), **named).labels

    with ThreadPoolExecutor(len(asked)) as crowd:
        answers = list(crowd.map(lambda one: ask(*one), asked))
    for answer, expected in zip(answers, of_the_batch_path(asked), strict=True):
        np.testing.assert_array_equal(answer, expected)
        assert len(np.unique(answer)) > 1
    assert asking.models()["models"][0]["exact"]
    batches = [line.split() for line in served.batches.read_text().splitlines()]
    assert max(len(set(batch)) for batch in batches) == 2, "requests with unlike vocabularies share a batch"


def test_what_is_wrong_comes_back_through_serve_as_it_was_said(served: Service) -> None:
    asking = Client(served.address)
    with pytest.raises(OvssError, match="answered 415: the image is no JPEG"):
        asking.segment(b"GIF89a", ["sky"])
    with pytest.raises(OvssError, match=r"answered 422: .*empty name"):
        asking.segment(files.read(SCENES[0]), ["sky", ""])
    with pytest.raises(OvssError, match="answered 413: the body"):
        asking.segment(bytes(20_000_001), ["sky"])


def test_a_service_for_others_needs_a_key_and_a_taken_port_is_told_before_ray_is_started(served: Service) -> None:
    port = served.address.rpartition(":")[2]
    for arguments, message in {
        ("san_tiny", "--host", "0.0.0.0"): "Set OVSS_API_KEY",
        ("oracle",): "no stage looks at an image",
        ("san_tiny", "--port", port): "Choose another --port",
        ("san_tiny", "--set", "san.weights=nowhere.pth", "--port", "1025"): "nowhere.pth",
        ("san_tiny", "--set", "limits.secnds=1"): "Did you mean 'seconds'?",
    }.items():
        command = [sys.executable, "-m", "ovss_ray", "serve", *arguments]
        without = {name: value for name, value in os.environ.items() if name != "OVSS_API_KEY"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=without)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
