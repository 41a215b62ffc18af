"""A metric is one file: one of a user's own is measured, recorded and reported without a line in another file."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.commands import ovss
from tests.metrics.dice import SOURCE


@pytest.mark.slow
def test_a_user_s_metric_goes_from_the_config_to_the_report(
    in_process: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/dice.py").write_text(SOURCE)
    out = str(tmp_path / "run")
    command = ["evaluate", "san_tiny", "--benchmark", "scenes:seen", "--limit", "4", "--out", out]
    done = ovss(*command, "--set", "metrics=[mine.dice]")
    assert done.returncode == 0, done.stderr
    assert "Dice, in percent" in done.stdout

    (part, *_) = (tmp_path / "run").rglob("records/*.parquet")
    assert pq.read_table(part)["mine.dice"].null_count == 0
    report = json.loads((tmp_path / "run/report.json").read_text())
    (found,) = report["benchmarks"].values()
    assert found["measured"] == {"confusion": 4, "mine.dice": 4}
    iou = np.array([row["iou"] for row in found["classes"]], float) / 100
    dice = np.array([row["dice"] for row in found["classes"]], float)
    known = np.isfinite(iou)
    assert 0 < iou[known].mean() < 1
    np.testing.assert_allclose(dice[known], 200 * iou[known] / (1 + iou[known]), rtol=1e-12)
    assert found["metrics"]["dice"] == pytest.approx(np.nanmean(dice))

    again = ovss("report", out, "--classes", "--images", "2")
    assert again.returncode == 0, again.stderr
    assert "mean Dice" in again.stdout
    assert "own_dice" in again.stdout
    assert json.loads((tmp_path / "run/report.json").read_text())["benchmarks"] == report["benchmarks"]
    other = ovss(*command)
    assert other.returncode == 2
    assert "metrics: ['mine.dice'] there, None now" in other.stderr
    elsewhere = [sys.executable, "-m", "ovss_ray", "report", out]  # a process that does not know the metric
    lost = subprocess.run(elsewhere, capture_output=True, text=True, timeout=600)
    assert lost.returncode == 2
    assert "no module named 'mine.dice' on the Python path" in lost.stderr
