"""Read this first: from one command over labelled photographs to a report that can be trusted.

Eight photographs of CamVid go through the command line, Ray Data and SAN (ViT-B/16, with the reference's deterministic
weights); the label maps and numbers have to be those of the official code run through detectron2's evaluator.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovss_ray.engine.cluster import connection
from tests import commands
from tests.checkpoints import golden_checkpoint

NAMES = {"mIoU": "miou", "fwIoU": "fwiou", "mACC": "macc", "pACC": "pacc"}


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "parity/san/camvid_e2e.json").read_text())


@pytest.fixture(scope="module")
def command(shared: Path, golden: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command without its --out."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "ids.txt").write_text("\n".join(one["image"] for one in golden["images"]))
    weights = golden_checkpoint(shared, "san_vit_b_16", "camvid_e2e_overrides.npz", folder / "san_vit_b_16.pth")
    given = ["san_vit_b_16", "--benchmark", "camvid", "--data-root", str(shared / "data/real")]
    return [*given, "--ids", str(folder / "ids.txt"), "--set", f"san.weights={weights}"]


def ovss(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ovss_ray", *arguments], capture_output=True, text=True, timeout=600)


def evaluate(command: list[str], out: Path) -> dict[str, Any]:
    """The report of a command in this process."""
    done = commands.ovss("evaluate", *command, "--out", str(out))
    assert done.returncode == 0, done.stderr
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def run(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "san"
    done = ovss("evaluate", *command, "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out


def label_map(run: Path, image_id: str) -> np.ndarray:
    return np.asarray(Image.open(run / "camvid/predictions" / f"{image_id}.png"))


@pytest.mark.ray
@pytest.mark.slow
def test_label_maps_are_those_of_the_official_code(run: Path, shared: Path, golden: dict[str, Any]) -> None:
    stored = np.load(shared / "parity/san/camvid_e2e.npz")
    differing = 0
    for one in golden["images"]:
        mine, theirs = label_map(run, one["image"]), stored[f"{one['image']}/label_map"]
        wrong = mine != theirs
        assert wrong.sum() <= 20
        assert (stored[f"{one['image']}/margin"][wrong] < 3e-4).all()
        differing += int(wrong.sum())
    print(f"{differing} pixels differ from the official label maps")


@pytest.mark.ray
@pytest.mark.slow
def test_numbers_are_those_of_the_official_code(run: Path, golden: dict[str, Any]) -> None:
    report = json.loads((run / "report.json").read_text())["benchmarks"]["camvid"]
    assert report["images"] == {"expected": 8, "scored": 8, "failed": 0}
    assert report["final"]
    for theirs, mine in NAMES.items():
        assert report["metrics"][mine] == pytest.approx(golden["metrics"][theirs], abs=0.01)
    for row in report["classes"]:
        assert row["iou"] == pytest.approx(golden["metrics"][f"IoU-{row['name']}"], abs=0.05)


@pytest.mark.ray
@pytest.mark.slow
def test_a_part_of_a_benchmark_is_stamped_as_such(run: Path) -> None:
    selection = json.loads((run / "report.json").read_text())["benchmarks"]["camvid"]["selection"]
    assert selection["split"] == "val"
    assert selection["ids"]["count"] == 8
    assert "8 ids only" in commands.ovss("report", str(run)).stdout


@pytest.mark.ray
@pytest.mark.slow
def test_scoring_the_stored_label_maps_gives_the_same_numbers(
    run: Path, command: list[str], in_process: None, tmp_path: Path
) -> None:
    again = ["predictions", *command[1:-2], "--set", f"predictions.path={run / 'camvid/predictions'}"]
    scored = evaluate(again, tmp_path / "scored")["benchmarks"]
    assert scored == json.loads((run / "report.json").read_text())["benchmarks"]


@pytest.mark.slow
def test_the_oracle_scores_a_hundred(command: list[str], in_process: None, tmp_path: Path) -> None:
    metrics = evaluate(["oracle", *command[1:-2]], tmp_path / "oracle")["benchmarks"]["camvid"]["metrics"]
    assert {metrics[name] for name in NAMES.values()} == {100.0}


@pytest.mark.ray
@pytest.mark.slow
def test_the_same_command_again_does_nothing_anew(run: Path, command: list[str], in_process: None) -> None:
    before = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in run.rglob("*.parquet")}
    begun = (run / "report.json").read_text()
    again = evaluate(command, run)
    assert {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in run.rglob("*.parquet")} == before
    assert again == json.loads(begun)


@pytest.mark.ray
@pytest.mark.slow
def test_a_folder_of_another_run_is_refused(run: Path, command: list[str]) -> None:
    done = commands.ovss("evaluate", *command, "--limit", "2", "--out", str(run))
    assert done.returncode == 2
    assert "--out already contains a different run: " in done.stderr
    assert ": benchmarks.camvid.limit: None there, 2 now" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("san.varient=x", "Did you mean 'variant'?"),
        ("benchmarks=[camvd]", "Did you mean 'camvid'?"),
        ("san.weights=nowhere.pth", "nowhere.pth"),
        ("split=vall", "vall"),
        ("data_root=/nowhere", "/nowhere"),
    ],
)
def test_a_wrong_command_costs_no_start_of_ray(
    change: str, message: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "connect", lambda: pytest.fail("Ray is started"))
    given = ["san_tiny", "--benchmark", "camvid", "--data-root", str(shared / "data/real"), "--limit", "2"]
    done = commands.ovss("evaluate", *given, "--set", change, "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_help_is_there_at_once_and_names_every_command() -> None:
    done = ovss("--help")
    assert done.returncode == 0
    for name in ("evaluate", "report", "list", "weights", "doctor"):
        assert name in done.stdout
