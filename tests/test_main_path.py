"""Read this first: from one command over labelled photographs to a report that can be trusted.

Eight photographs of CamVid go through the command line, Ray Data and SAN (ViT-B/16, with the reference's deterministic
weights); the label maps and numbers have to be those of the official code run through detectron2's evaluator.
"""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.checkpoints import golden_checkpoint

pytestmark = pytest.mark.ray

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
    (folder / "few.txt").write_text("\n".join(one["image"] for one in golden["images"][:4]))
    given = ["san_vit_b_16", "--benchmark", "camvid", "--data-root", str(shared / "data/real")]
    return [*given, "--ids", str(folder / "ids.txt"), "--set", f"san.weights={weights}"]


def ovss(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ovss_ray", *arguments], capture_output=True, text=True, timeout=600)


def evaluate(command: list[str], out: Path) -> dict[str, Any]:
    done = ovss("evaluate", *command, "--out", str(out))
    assert done.returncode == 0, done.stderr
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def run(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "san"
    evaluate(command, out)
    return out


def label_map(run: Path, image_id: str) -> np.ndarray:
    return np.asarray(Image.open(run / "camvid/predictions" / f"{image_id}.png"))


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


@pytest.mark.slow
def test_numbers_are_those_of_the_official_code(run: Path, golden: dict[str, Any]) -> None:
    report = json.loads((run / "report.json").read_text())["benchmarks"]["camvid"]
    assert report["images"] == {"expected": 8, "scored": 8, "failed": 0}
    assert report["final"]
    for theirs, mine in NAMES.items():
        assert report["metrics"][mine] == pytest.approx(golden["metrics"][theirs], abs=0.01)
    for row in report["classes"]:
        assert row["iou"] == pytest.approx(golden["metrics"][f"IoU-{row['name']}"], abs=0.05)


@pytest.mark.slow
def test_a_part_of_a_benchmark_is_stamped_as_such(run: Path) -> None:
    selection = json.loads((run / "report.json").read_text())["benchmarks"]["camvid"]["selection"]
    assert selection["split"] == "val"
    assert selection["ids"]["count"] == 8
    assert "8 ids only" in ovss("report", str(run)).stdout


@pytest.mark.slow
def test_scoring_the_stored_label_maps_gives_the_same_numbers(run: Path, command: list[str], tmp_path: Path) -> None:
    again = ["predictions", *command[1:-2], "--set", f"predictions.path={run / 'camvid/predictions'}"]
    scored = evaluate(again, tmp_path / "scored")["benchmarks"]
    assert scored == json.loads((run / "report.json").read_text())["benchmarks"]


@pytest.mark.slow
def test_the_oracle_scores_a_hundred(command: list[str], tmp_path: Path) -> None:
    metrics = evaluate(["oracle", *command[1:-2]], tmp_path / "oracle")["benchmarks"]["camvid"]["metrics"]
    assert {metrics[name] for name in NAMES.values()} == {100.0}


@pytest.mark.slow
def test_the_same_command_again_does_nothing_anew(run: Path, command: list[str]) -> None:
    before = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in run.rglob("*.parquet")}
    begun = (run / "report.json").read_text()
    again = evaluate(command, run)
    assert {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in run.rglob("*.parquet")} == before
    assert again == json.loads(begun)


@pytest.mark.slow
def test_a_folder_of_another_run_is_refused(run: Path, command: list[str]) -> None:
    done = ovss("evaluate", *command, "--limit", "2", "--out", str(run))
    assert done.returncode == 2
    assert "--out already contains a different run: " in done.stderr
    assert ": benchmarks.camvid.limit: None there, 2 now" in done.stderr


@pytest.mark.slow
def test_a_run_that_was_killed_ends_in_the_same_report(command: list[str], tmp_path: Path) -> None:
    few = [argument.replace("ids.txt", "few.txt") for argument in command] + ["--exact"]
    undisturbed, out = evaluate(few, tmp_path / "undisturbed"), tmp_path / "run"
    whole = [sys.executable, "-m", "ovss_ray", "evaluate", *few, "--out", str(out)]
    driver = subprocess.Popen(whole, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    waited = time.monotonic() + 300
    while not list(out.glob("camvid/records/*.parquet")):
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < waited, "no record was written"
        time.sleep(0.2)
    driver.kill()
    driver.communicate(timeout=120)
    done = {file.name for file in out.glob("camvid/records/*.parquet")}
    assert 1 <= len(done) <= 4
    resumed = evaluate(few, out)
    assert done <= {file.name for file in out.glob("camvid/records/*.parquet")}, "what was done is not done anew"
    assert resumed["benchmarks"] == undisturbed["benchmarks"]


def test_a_wrong_command_costs_no_start_of_ray(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    for change, message in {
        "san.varient=x": "Did you mean 'variant'?",
        "benchmarks=[camvd]": "Did you mean 'camvid'?",
        "san.weights=nowhere.pth": "nowhere.pth",
        "split=vall": "vall",
        "data_root=/nowhere": "/nowhere",
    }.items():
        done = ovss("evaluate", *command, "--set", change, "--out", str(tmp_path / "out"))
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "ray").exists(), "where Ray would keep its session"


def test_help_is_there_at_once_and_names_every_command() -> None:
    done = ovss("--help")
    assert done.returncode == 0
    for name in ("evaluate", "report", "list", "weights", "doctor"):
        assert name in done.stdout
