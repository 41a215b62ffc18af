"""`ovss evaluate vocabulary_free_tiny`: words are found, then segmented; the same numbers on any number of workers."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ovss_ray.config import loading as configs
from ovss_ray.engine import evaluate
from ovss_ray.engine.display import Display
from ovss_ray.runs import records
from ovss_ray.runs.plan import plan_run
from tests.paths import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SCENES = "scenes:all"


def test_128_scenes_have_their_miou_to_a_tenth_from_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ovss_ray", "evaluate", "vocabulary_free_tiny", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OVSS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run/report.json").read_text())["benchmarks"][SCENES]
    assert report["images"] == {"expected": 128, "scored": 128, "failed": 0}
    assert report["metrics"]["miou"] == pytest.approx(52.3, abs=0.1)
    assert any("mapping of words: exact" in note for note in report["notes"])


def run(out: Path, workers: int) -> Any:
    """Evaluate six scenes in exact mode, tags and segmentation in separate workers: report and images' records."""
    stages = [{"use": "tags"}], [{"use": "san", "options": {"variant": "san_tiny"}}]
    pools = [{"cpus": 0.25, "workers": workers, "batch": 2, "stages": own} for own in stages]
    raw = {"benchmarks": [SCENES], "limit": 6, "exact": True, "pools": pools}
    plan = plan_run(configs.validate(raw, "test"), str(out))
    report = evaluate.run(plan, Display(Console(quiet=True))).benchmarks[SCENES]
    kept = ("confusion", "words", "error")
    rows = [row for part in records.read(plan.folder.records(SCENES)) for row in part.to_pylist()]
    return report, {row["image_id"]: [row.get(name) for name in kept] for row in rows}


@pytest.mark.usefixtures("cluster")
def test_words_travel_between_workers_and_a_killed_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    report, expected = run(tmp_path / "one", 1)
    assert len(expected) == 6
    assert {error for *_, error in expected.values()} == {""}
    assert run(tmp_path / "three", 3) == (report, expected)
    code = "import sys; from pathlib import Path; from tests.test_vocabulary_free import run; run(Path(sys.argv[1]), 1)"
    command = [sys.executable, "-c", code, str(tmp_path / "killed")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until = time.monotonic() + 400
    while not list(tmp_path.glob("killed/*/records/*.parquet")):
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < until, "no record was written"
        time.sleep(0.1)
    driver.kill()
    driver.communicate(timeout=120)
    before = {part.name for part in tmp_path.glob("killed/*/records/*.parquet")}
    assert run(tmp_path / "killed", 3) == (report, expected)
    assert before <= {part.name for part in tmp_path.glob("killed/*/records/*.parquet")}
