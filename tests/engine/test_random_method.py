"""A method that draws random numbers gives the same label maps whatever the workers, and after a kill."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from ovss_ray.config import loading as configs
from ovss_ray.engine import evaluate
from ovss_ray.engine.display import Display
from ovss_ray.models.fake import clouds
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.reports.schema import BenchmarkReport
from ovss_ray.runs import records
from ovss_ray.runs.plan import plan_run
from ovss_ray.structures.vocabulary import Vocabulary
from tests.paths import ROOT
from tests.small_scan import small_checkpoint

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.slow]

IMAGES = 12
SIZES = [(60, 80), (80, 60), (62, 80)]
CLASSES = ["red circle", "blue square", "grass", "water", "brick", "sand", "sky", "wood", "stone", "purple star"]
OPTIONS = {"ensemble_weight": 0.0, "replace_ratio": 0.5, "mask_threshold": 0.3, "exact": True, "crops": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    for kind in ("photos", "labels"):
        (folder / kind).mkdir()
    drawn = np.random.default_rng(0)
    for k, image in enumerate(clouds(3, IMAGES)):
        height, width = SIZES[k % 3]
        Image.fromarray(image[:height, :width]).save(folder / f"photos/i{k:02}.png")
        labels = drawn.integers(0, len(CLASSES), (height, width), np.uint8)
        Image.fromarray(labels).save(folder / f"labels/i{k:02}.png")
    text = f"images: photos/*.png\nlabels: labels/*.png\nclasses: [{', '.join(CLASSES)}]\n"
    (folder / "mine.yaml").write_text(text)
    small_checkpoint(folder / "small.pth")
    return folder


def config(data: Path, workers: int, batch: int, **options: Any) -> dict[str, Any]:
    scan = {"use": "tests.small_scan_stage", "options": {**OPTIONS, "weights": f"{data}/small.pth", **options}}
    return {
        "benchmarks": [f"folder:{data}/mine.yaml"],
        "data_root": str(data),
        "exact": True,
        "pools": [{"cpus": 0.5, "workers": workers, "batch": batch, "stages": [scan]}],
    }


@pytest.fixture(scope="module")
def run(data: Path) -> Callable[..., tuple[BenchmarkReport, dict[str, Any]]]:
    """Workers, images per batch and the run's folder → its report, and the results of its images."""

    @cache
    def done(workers: int, batch: int, out: str) -> tuple[BenchmarkReport, dict[str, Any]]:
        plan = plan_run(configs.validate(config(data, workers, batch), "test"), str(data / out))
        (report,) = evaluate.run(plan, Display(Console(quiet=True))).benchmarks.values()
        return report, results(data / out)

    return done


def results(out: Path) -> dict[str, Any]:
    """Image → the record's counts, and the bytes of its label map."""
    counts = {
        row["image_id"]: row["confusion"]
        for part in records.read(str(out / "folder-mine/records"))
        for row in part.to_pylist()
        if not row["error"]
    }
    maps = {file.stem: file.read_bytes() for file in (out / "folder-mine/predictions").glob("*.png")}
    assert counts.keys() == maps.keys()
    return {image: (counts[image], maps[image]) for image in counts}


def test_the_report_says_that_the_method_is_random(run: Any) -> None:
    report, _ = run(1, 1, "one")
    assert any("random" in note and "seed 0" in note for note in report.notes)
    assert any("no preset of this benchmark" in note for note in report.notes)


def test_the_stage_alone_gives_the_label_maps_of_the_run_and_another_seed_gives_others(data: Path, run: Any) -> None:
    _, maps = run(1, 1, "one")
    assert len({label_map for _, label_map in maps.values()}) > IMAGES // 2
    words = Vocabulary.of(CLASSES)
    images = [np.asarray(Image.open(data / f"photos/i{k:02}.png")) for k in range(IMAGES)]
    rows = execution.start(IMAGES, image=images, vocabulary=[words.digest] * IMAGES, benchmark=["any"] * IMAGES)
    equal = []
    for seed in (0, 1):
        (stage,) = config(data, 1, 1, seed=seed)["pools"][0]["stages"]
        labels = StageConfig(**stage).build()(rows, {words.digest: words})["prediction"]
        files = [data / f"one/folder-mine/predictions/i{k:02}.png" for k in range(IMAGES)]
        equal.append([np.array_equal(np.asarray(Image.open(files[k])), labels[k]) for k in range(IMAGES)])
    assert all(equal[0])
    assert not all(equal[1])


def test_a_killed_run_that_resumes_gives_the_same_label_maps(data: Path, run: Any) -> None:
    slow = config(data, 1, 1, seconds=1.0)
    (data / "slow.yaml").write_text(yaml.safe_dump(slow))
    command = [sys.executable, "-m", "ovss_ray", "evaluate", f"{data}/slow.yaml", "--out", f"{data}/killed"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until = time.monotonic() + 400
    while len(list(data.glob("killed/folder-mine/records/*.parquet"))) < 2:
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < until, "no record was written"
        time.sleep(0.2)
    driver.kill()
    driver.communicate(timeout=120)
    before = {file.name for file in data.glob("killed/folder-mine/records/*.parquet")}
    assert 2 <= len(before) < IMAGES
    report, expected = run(1, 1, "one")
    assert run(2, 5, "killed") == (report, expected)
    assert before < {file.name for file in data.glob("killed/folder-mine/records/*.parquet")}
