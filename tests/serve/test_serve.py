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
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from ovss_ray.benchmarks import catalog
from ovss_ray.cli.app import main
from ovss_ray.client import Client
from ovss_ray.config import loading as configs
from ovss_ray.config.shipped import shipped_configs
from ovss_ray.engine.cluster import connection
from ovss_ray.errors import OvssError
from ovss_ray.io import files, images
from ovss_ray.models.sam.config import SamConfig
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import Stage, StageConfig
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.masks import regions
from ovss_ray.structures.vocabulary import Vocabulary
from tests.paths import ROOT
from tests.web import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PATIENCE = 400.0
"""Seconds for a start, or an end, on a busy machine."""
SAN = """
exact: true
pools:
  - workers: 1
    stages: [{use: tests.serve.again, options: {witness: %s}}, {use: san, options: {variant: san_tiny}}]
  - {workers: 1, stages: [{use: tests.serve.again, options: {witness: /dev/null}}]}
"""
"""A model in two pools, whose batches can be seen."""
SAM = """
extends: %s
exact: true
set: {pools.0.workers: 2, pools.0.cpus: 0.5, sam.points_per_side: 4}
"""
"""One with two replicas, both of which remember images."""
SCENES = [f"scenes://seen/validation/{number:04d}.png" for number in range(16)]
MODELS = ("two_pools", "two_workers")
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
    (folder / "two_pools.yaml").write_text(SAN % (folder / "batches"))
    (folder / "two_workers.yaml").write_text(SAM % shipped_configs()["sam_alpha_clip_tiny"])
    port = free_port()
    models = [str(folder / f"{name}.yaml") for name in MODELS]
    command = [sys.executable, "-m", "ovss_ray", "serve", *models, "--port", str(port)]
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


def stages(model: str) -> dict[str, Stage]:
    """The stages of a run of a model, in this process."""
    exact = StageConfig(use="san", options={"variant": "san_tiny", "exact": True})
    decode = StageConfig(use="decode").build(benchmarks=catalog.Benchmarks())
    if model == "two_workers":
        config = configs.load(shipped_configs()["sam_alpha_clip_tiny"], ["exact=true", "sam.points_per_side=4"])
        return {"decode": decode, **{one.use: one.build() for one in config.stages()}}
    return {"decode": decode, "san": exact.build()}


def run(stages: dict[str, Stage], asked: list[tuple[str, Vocabulary]]) -> Batch:
    """What the stages of a run make of images, asked for vocabularies."""
    batch = execution.start(
        len(asked),
        image_id=[str(number) for number in range(len(asked))],
        benchmark=["scenes:seen"] * len(asked),
        image_uri=[uri for uri, _ in asked],
        vocabulary=[words.digest for _, words in asked],
    )
    done = execution.run(stages, batch, {words.digest: words for _, words in asked})
    assert list(done["error"]) == [""] * len(asked)
    return done


def named(words: Vocabulary) -> dict[str, Any]:
    return {"classes": OWN.classes} if words is OWN else {"benchmark": "scenes:seen"}


def test_label_maps_are_those_of_the_batch_path_of_two_models_with_two_vocabularies_in_one_stream(
    served: Service,
) -> None:
    asking, seen = Client(served.address), catalog.load("scenes:seen").vocabulary
    asked = [(uri, words) for uri in SCENES for words in (seen, OWN)]
    stream = [(model, uri, words) for uri, words in asked for model in MODELS]

    def ask(one: tuple[str, str, Vocabulary]) -> np.ndarray:
        model, uri, words = one
        return asking.segment(files.read(uri), **named(words), model=model).labels

    with ThreadPoolExecutor(16) as crowd:
        answers = list(crowd.map(ask, stream))
    for model in MODELS:
        made = [labels for (other, *_), labels in zip(stream, answers, strict=True) if other == model]
        for labels, expected in zip(made, run(stages(model), asked)["prediction"], strict=True):
            np.testing.assert_array_equal(labels, expected)
            assert len(np.unique(labels)) > 1
    assert all(model["exact"] for model in asking.models()["models"])
    batches = [line.split() for line in served.batches.read_text().splitlines()]
    assert max(len(set(batch)) for batch in batches) == 2, "requests with unlike vocabularies share a batch"


def test_regions_are_those_of_the_stages_run_by_hand_with_their_names(served: Service) -> None:
    asking, seen = Client(served.address), catalog.load("scenes:seen").vocabulary
    asked = [(SCENES[0], seen), (SCENES[1], OWN)]
    done = run(stages("two_workers"), asked)
    for number, (uri, words) in enumerate(asked):
        found = asking.regions(files.read(uri), **named(words), top=2)
        masks = regions.masks(done["boxes"][number], done["bits"][number], tuple(done["size"][number]))
        order = [i for i in np.argsort(-masks.sum((1, 2)), kind="stable") if masks[i].any()]
        np.testing.assert_array_equal(found.masks, masks[order])
        assert len(order) == found.answer.found > 1
        assert found.answer.model == "two_workers", "the first that can"
        for region, i in zip(found.answer.regions, order, strict=True):
            scores = done["scores"][number][i]
            sure = np.exp((scores - scores.max()).astype(np.float64))
            assert [one.name for one in region.names] == [words.names[k] for k in np.argsort(-scores)[:2]]
            assert region.names[0].score == pytest.approx(sure.max() / sure.sum(), rel=1e-12)  # summed in blocks
            assert region.predicted_iou == float(done["predicted_iou"][number][i])
            assert region.area == masks[i].sum()


def test_prompts_are_answered_as_the_stages_do_and_by_the_worker_that_remembers_the_image(served: Service) -> None:
    asking = Client(served.address)
    sam, alpha_clip = (stages("two_workers")[name] for name in ("sam", "alpha_clip"))
    options = sam.config.model_dump(include=set(SamConfig.model_fields))
    prompter = StageConfig(use="sam_prompt", options=options).build(network=sam.network)
    pictures = [files.read(uri) for uri in SCENES[:6]]
    click, box = (
        {"points": [[90.0, 70.5]], "labels": [1], "multimask": True},
        {"box": [40, 30, 120, 110], "multimask": False},
    )
    for again in (False, True):
        for picture in pictures:
            found = asking.prompt(picture, [(90, 70.5, 1)], classes=OWN.classes)
            assert found.answer.cached == again, "two workers, and every second click meets the first one's"
            done = pointed({"sam_prompt": prompter, "alpha_clip": alpha_clip}, picture, click)
            order = np.argsort(-done["predicted_iou"][0], kind="stable")
            assert len(order) == 3
            np.testing.assert_array_equal(found.masks, shape(done)[order])
            told = [(mask.predicted_iou, mask.names[0].name) for mask in found.answer.masks]
            best = done["scores"][0].argmax(1)
            assert told == [(float(done["predicted_iou"][0][i]), OWN.names[best[i]]) for i in order]
    unknown = files.read(SCENES[6])
    asking._sent[sha256(unknown).hexdigest()] = None
    assert not asking.prompt(unknown, [(90, 70, 1)]).answer.cached, "not held, and so sent again"
    assert asking.prompt(unknown, [(90, 70, 1)]).answer.cached
    boxed = asking.prompt(pictures[0], box=(40, 30, 120, 110))
    np.testing.assert_array_equal(boxed.masks, shape(pointed({"sam_prompt": prompter}, pictures[0], box)))
    assert boxed.answer.masks[0].names == []
    spent = boxed.answer.seconds["sam_prompt"]
    print(f"a click on an image that is remembered took {1000 * spent:.0f} ms of sam_prompt")


def test_images_are_shared_out_among_the_workers_and_each_remembers_its_own(served: Service) -> None:
    asking, pictures = Client(served.address), [files.read(uri) for uri in SCENES]
    for picture in pictures:
        asking.prompt(picture, [(90, 70, 1)])
    assert all(asking.prompt(picture, [(90, 70, 1)]).answer.cached for picture in pictures)
    until, held = time.monotonic() + 60, []
    while len(held) < 2:  # a busy worker may not say in time what it holds
        assert time.monotonic() < until, held
        told = asking._connection.send("GET", "/metrics").decode().splitlines()
        held = [float(line.split()[-1]) for line in told if line.startswith('ovss_cache_bytes{cache="images"')]
    first = 2 * 96 * 128 * 3 + 768 * 1024 * 3 + 3 * 64 * 32 * 32 * 4
    assert all(some > first + 300_000 for some in held), "more than the three test images that every worker is given"


def pointed(stages: dict[str, Stage], picture: bytes, question: dict[str, Any]) -> Batch:
    """What stages make of one question about an image."""
    image = images.decode(picture, "image")
    batch = execution.start(1, image=[image], prompts=[question], vocabulary=[OWN.digest])
    done = execution.run(stages, batch, {OWN.digest: OWN})
    assert done["error"][0] == ""
    return {**done, "size": column([np.array(image.shape[:2])])}


def shape(done: Batch) -> np.ndarray:
    """The masks of the only image of a batch, (R, H, W) bool."""
    return regions.masks(done["boxes"][0], done["bits"][0], tuple(done["size"][0]))


def test_what_is_wrong_comes_back_through_serve_as_it_was_said(served: Service) -> None:
    asking = Client(served.address)
    with pytest.raises(OvssError, match="answered 415: the image is not a JPEG"):
        asking.segment(b"GIF89a", ["sky"])
    with pytest.raises(OvssError, match=r"answered 422: .*empty name"):
        asking.segment(files.read(SCENES[0]), ["sky", ""])
    with pytest.raises(OvssError, match="answered 413: the request body"):
        asking.segment(bytes(20_000_001), ["sky"])


def test_a_service_for_others_needs_a_key_and_a_taken_port_is_told_before_ray_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    monkeypatch.delenv("OVSS_API_KEY", raising=False)
    monkeypatch.setattr(connection, "connect", lambda *_: pytest.fail("Ray was to be started"))
    for arguments, message in {
        ("san_tiny", "--host", "0.0.0.0"): "Set OVSS_API_KEY",
        ("oracle",): "no stage reads column 'image'",
        ("san_tiny", "--port", f"{taken.getsockname()[1]}"): "Choose another --port",
        ("san_tiny", "--set", "san.weights=nowhere.pth", "--port", "1025"): "nowhere.pth",
        ("san_tiny", "--set", "limits.secnds=1"): "Did you mean 'seconds'?",
        ("san_tiny", "san_tiny"): "two configs have the name 'san_tiny'",
        ("san_tiny", "san_tyny"): "Did you mean 'san_tiny'?",
    }.items():
        with pytest.raises(SystemExit) as ended:
            main(["serve", *arguments])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    taken.close()
