"""A method that draws random numbers gives the same label maps whatever the workers, and after an interrupt."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ovss_ray.config import loading as configs
from ovss_ray.engine import evaluate
from ovss_ray.engine.display import Display
from ovss_ray.engine.progress import Counts
from ovss_ray.models.fake import clouds
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.reports.schema import BenchmarkReport
from ovss_ray.runs import records
from ovss_ray.runs.plan import plan_run
from ovss_ray.structures.vocabulary import Vocabulary
from tests import in_process
from tests.small_scan import small_checkpoint

pytestmark = pytest.mark.slow

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
    """Workers on Ray (0: none, in this process), batch and the run's folder → its report and its images' results."""

    @cache
    def done(workers: int, batch: int, out: str) -> tuple[BenchmarkReport, dict[str, Any]]:
        plan = plan_run(configs.validate(config(data, max(1, workers), batch), "test"), str(data / out))
        with nullcontext() if workers else in_process.pools():
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
    report, _ = run(0, 1, "one")
    assert any("random" in note and "seed 0" in note for note in report.notes)
    assert any("no preset of this benchmark" in note for note in report.notes)


def test_the_stage_alone_gives_the_label_maps_of_the_run_and_another_seed_gives_others(data: Path, run: Any) -> None:
    _, maps = run(0, 1, "one")
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


class Interrupted(Counts):
    """Interrupts the run after the second image."""

    def update(self, receipt: Mapping[str, Any]) -> None:
        super().update(receipt)
        if self.done >= 2:
            raise KeyboardInterrupt


def test_an_interrupted_run_that_two_workers_resume_has_the_same_label_maps(
    cluster: None, data: Path, run: Any
) -> None:
    plan = plan_run(configs.validate(config(data, 1, 1), "test"), str(data / "resumed"))
    with pytest.raises(KeyboardInterrupt), in_process.pools():
        evaluate.run(plan, Interrupted())
    before = {file.name for file in data.glob("resumed/folder-mine/records/*.parquet")}
    assert len(before) == 2
    assert run(2, 5, "resumed") == run(0, 1, "one")
    assert before < {file.name for file in data.glob("resumed/folder-mine/records/*.parquet")}
