"""Regions, names, map: the two-stage method as a whole, on Ray, in one pool and in several, and its presets."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from ovss_ray.cli import app
from ovss_ray.config import loading as configs
from ovss_ray.engine import evaluate
from ovss_ray.engine.display import Display
from ovss_ray.errors import OvssError
from ovss_ray.pipeline import execution
from ovss_ray.reports import report, terminal
from ovss_ray.reports.totals import Total
from ovss_ray.runs import records
from ovss_ray.runs.folder import RunFolder
from ovss_ray.runs.plan import plan_run
from tests import small_alpha_clip, small_sam

pytestmark = pytest.mark.usefixtures("cluster")

NAMES = ["sky", "road", "tree"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs of three sizes with labels, small checkpoints, and a benchmark; one truth is all ignored."""
    folder, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (folder / "photos").mkdir()
    (folder / "labels").mkdir()
    for k in range(6):
        size = [(24, 32), (40, 20), (21, 33)][k % 3]
        Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"photos/i{k}.png")
        truth = np.kron(generator.integers(0, 3, (6, 6)), np.ones((9, 9), int))[: size[0], : size[1]]
        Image.fromarray((np.full(size, 255) if k == 5 else truth).astype(np.uint8)).save(folder / f"labels/i{k}.png")
    small_alpha_clip.save(small_alpha_clip.small_state(), folder)
    small_sam.save(folder / "sam.pth")
    text = f"images: photos/*.png\nlabels: labels/*.png\nclasses: [{', '.join(NAMES)}]\nignore: 255\n"
    (folder / "b.yaml").write_text(text)
    return folder


def stages(data: Path, proposer: str) -> list[dict[str, Any]]:
    alpha_clip = {"base": f"{data}/base.pt", "weights": f"{data}/visual.pth", "context": "crop"}
    first = {"use": "tests.small_sam", "options": {"weights": f"{data}/sam.pth"}}
    return [
        first if proposer == "sam" else {"use": "truth_regions"},
        {"use": "tests.small_alpha_clip", "options": alpha_clip},
        {"use": "paint"},
    ]


def run(data: Path, out: str, pools: list[list[dict[str, Any]]]) -> dict[str, Any]:
    placed = [{"stages": pool, "cpus": 0.4, "batch": 2, "workers": 1} for pool in pools]
    raw = {"benchmarks": [f"folder:{data}/b.yaml"], "data_root": str(data), "exact": True, "pools": placed}
    made = evaluate.run(
        plan_run(configs.validate(raw, "test"), str(data / out)), Display(Console(quiet=True))
    ).model_dump(mode="json")
    return next(iter(made["benchmarks"].values()))


def measured(data: Path, out: str) -> dict[str, dict[str, Any]]:
    """What the records of a run say of each image, but for the time it took."""
    parts = [pq.read_table(file) for file in (data / out).rglob("records/*.parquet")]
    rows = [row for part in parts for row in part.to_pylist()]
    return {row.pop("image_id"): said(row) for row in rows}


def said(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record.get(key) for key in ("error", *records.METRICS)}


@pytest.fixture(scope="module")
def oracle(data: Path) -> dict[str, Any]:
    """True regions, named by AlphaCLIP, all in one pool."""
    return run(data, "oracle", [stages(data, "truth")])


@pytest.mark.slow
def test_one_pool_and_three_give_the_same_records(data: Path) -> None:
    chain = stages(data, "sam")
    one, three = run(data, "one", [chain]), run(data, "three", [[stage] for stage in chain])
    assert one == three
    assert one["images"] == {"expected": 6, "scored": 6, "failed": 0}
    assert 0 < one["metrics"]["proposal_best_iou"] < 100
    assert measured(data, "one") == measured(data, "three")
    assert len(measured(data, "one")) == 6


def test_records_are_what_the_stages_make_without_ray(data: Path, oracle: dict[str, Any]) -> None:
    request = plan_run(configs.load(data / "oracle/config.yaml"), str(data / "oracle"))
    (manifest,) = request.manifests.values()
    stages = [stage for pool in request.pools for stage in pool.stages if stage.use != "save"]
    built = {stage.use: stage.build(benchmarks=request.benchmarks) for stage in stages}
    assert list(built)[-3:] == ["tests.small_alpha_clip", "paint", "measure"]
    done = records.table(execution.run(built, execution.start(6, **manifest.to_pydict()), request.vocabularies))
    assert {row.pop("image_id"): said(row) for row in done.to_pylist()} == measured(data, "oracle")


def test_proposals_are_measured_and_reported(data: Path, oracle: dict[str, Any]) -> None:
    proposals = {key: value for key, value in oracle["metrics"].items() if key.startswith("proposal")}
    assert proposals == {"proposal_best_iou": 100.0, "proposal_recall_50": 100.0, "proposal_recall_75": 100.0}
    assert 0 < oracle["metrics"]["miou"] < 100
    console = Console(width=300, file=io.StringIO())
    terminal.show(report.build(RunFolder(str(data / "oracle"))), console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Proposed regions against the true ones, in percent" in said
    assert all(words in said for words in ("mean best IoU", "recall at IoU 0.5", "recall at IoU 0.75"))
    assert re.search(r"6/6 │ +100\.00 │ +100\.00 │ +100\.00 │", said)


def test_records_of_runs_without_proposals_say_nothing_of_them(data: Path, oracle: dict[str, Any]) -> None:
    (part, *_) = [pq.read_table(file) for file in (data / "oracle").rglob("records/*.parquet")]
    assert Total.of(part, 3).partials["proposal_recall"].regions > 0
    assert set(Total.of(part.drop_columns("proposal_recall"), 3).partials) == {"confusion"}


def test_every_preset_is_a_config_that_names_real_options() -> None:
    shipped = app.shipped_configs()
    networks = [name for name in shipped if not name.startswith(("train_", "captions_"))]
    presets = [name for name in networks if "alpha_clip" in name or name.startswith("vfss_")]
    presets.remove("sam_alpha_clip_prompt_tiny")  # which is prompted, and makes no label map
    assert len(presets) == 11
    looks = set()
    for name in presets:
        chain = configs.load(shipped[name]).stages()
        assert [stage.use for stage in chain][1:] == ["alpha_clip", "paint"]
        looks.add(json.dumps(chain[1].settings().model_dump(include={"context", "background", "marker", "alpha"})))
        if name.startswith("vfss_"):
            assert chain[0].options["points_per_side"] == 20
            assert chain[1].options["templates"] == ["a photo of a {}"]
    assert len(looks) == 6


def test_a_config_changes_single_entries_of_what_it_extends(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("pools: [{stages: [{use: san, options: {batch: 3}}]}]\nlimit: 4\n")
    (tmp_path / "own.yaml").write_text("extends: base.yaml\nset: {san.precision: bf16, pools.0.workers: 2, limit: 5}\n")
    made = configs.load(tmp_path / "own.yaml", ["san.batch=7"])
    assert made.stages()[0].options == {"batch": 7, "precision": "bf16"}
    assert (made.pools[0].workers, made.limit) == (2, 5)
    for text, message in (
        ("[1]", r"own\.yaml: set: expected a mapping"),
        ("{pools.7.batch: 1}", r"own\.yaml: set: pools\.7\.batch"),
    ):
        (tmp_path / "own.yaml").write_text(f"extends: base.yaml\nset: {text}\n")
        with pytest.raises(OvssError, match=message):
            configs.load(tmp_path / "own.yaml")
