"""Runs of an earlier version, see tests/data/old_runs/README.md: they still report, and go on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.commands import ovss
from tests.paths import ROOT

OLD = ROOT / "tests/data/old_runs"
METHODS = ("san_tiny", "sam_alpha_clip_tiny")


def benchmarks(run: Path) -> dict[str, Any]:
    return json.loads((run / "report.json").read_text())["benchmarks"]


def holds(now: Any, old: Any) -> bool:
    """Whether a report has all keys and values of an older one; later versions add metrics."""
    if isinstance(old, dict):
        return all(key in now and holds(now[key], value) for key, value in old.items())
    return now == old


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_run_reports_the_same_numbers_and_says_that_it_has_no_digests(method: str, tmp_path: Path) -> None:
    run = shutil.copytree(OLD / f"{method}-finished", tmp_path / "run")
    before = benchmarks(run)
    done = ovss("report", str(run))
    assert done.returncode == 0, done.stderr
    now = benchmarks(run)
    for name, old in before.items():
        assert holds(now[name], old)
        assert now[name]["files"]["undigested"] == old["images"]["scored"]
        assert f"{name}: {old['images']['scored']} records are of an earlier version and hold no digests" in done.stdout


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_reports_what_it_has(method: str, tmp_path: Path) -> None:
    run = shutil.copytree(OLD / f"{method}-interrupted", tmp_path / "run")
    done = ovss("report", str(run))
    assert done.returncode == 0, done.stderr
    assert benchmarks(run)["scenes:seen"]["images"] == {"expected": 20, "scored": 3, "failed": 0}
    assert benchmarks(run)["pascal5i:1"]["images"] == {"expected": 2, "scored": 0, "failed": 0}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "state"), [("sam_alpha_clip_tiny", "finished"), ("san_tiny", "interrupted")])
def test_an_old_run_goes_on_with_the_same_command(
    method: str, state: str, in_process: None, folds: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(OLD / f"{method}-{state}", tmp_path / "run")
    kept = {file.name for file in run.rglob("records/*.parquet")}
    limit = "4" if state == "finished" else "20"
    asked = ["--benchmark", "scenes:seen", "--benchmark", "pascal5i:1", "--data-root", str(folds), "--limit", limit]
    done = ovss("evaluate", method, *asked, "--out", str(run))
    assert done.returncode == 0, done.stderr
    after = benchmarks(run)
    assert all(benchmark["final"] for benchmark in after.values())
    assert after["scenes:seen"]["files"]["undigested"] == (4 if state == "finished" else 3)
    assert after["pascal5i:1"]["files"]["undigested"] == (2 if state == "finished" else 0)
    assert kept <= {file.name for file in run.rglob("records/*.parquet")}
    assert (state == "finished") == (kept == {file.name for file in run.rglob("records/*.parquet")})
