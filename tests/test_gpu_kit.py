"""The GPU kit runs without a GPU, Ray and a network, and its table has the columns of perf/RESULTS.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from perf.gpu import __main__ as kit
from perf.gpu import pack
from perf.gpu.rows import COLUMNS, Row, Sheet
from tests.paths import ROOT

WITHOUT = ("ray", "fastapi", "prometheus_client", "starlette", "uvicorn")
"""Packages that the machine with the GPU lacks."""


def test_the_columns_of_the_results_are_those_of_the_kit() -> None:
    assert f"| {' | '.join(COLUMNS)} |" in (ROOT / "perf/RESULTS.md").read_text()


def test_a_figure_beside_its_goal_says_whether_it_is_met() -> None:
    assert Row("san", "x", "y", 600, "images/s", ">= 600").met
    assert Row("san", "x", "y", 599.9, "images/s", ">= 600").cells()[6] == "NO"
    assert Row("parity", "x", "y", 2e-4, "", "<= 0.0001").met is False
    assert Row("parity", "x", "y", float("nan"), "", "<= 0.0001").met is False
    assert Row("san", "x", "y", 1, "").met is None


def test_a_killed_call_leaves_its_rows_and_a_late_stage_is_not_begun(tmp_path: Path) -> None:
    sheet = Sheet(tmp_path / "rows.json", {"device": "cpu"}, limit=0)
    sheet.add(Row("san", "x", "y", 1.5, "images/s", ">= 1", share=0.25, peak_bytes=3_000_000))
    assert not sheet.due("the rest")
    stored = json.loads(sheet.path.read_text())
    assert (stored["rows"][0]["figure"], stored["rows"][0]["met"]) == (1.5, True)
    assert stored["not_measured"] == ["the rest: the limit of 0 s is over"]
    sheet.table()
    assert "| san | x | y | 1.5 | images/s | >= 1 | yes | 25.0% | 3 |" in sheet.path.with_suffix(".md").read_text()


def test_stages_are_chosen_by_name() -> None:
    assert kit.checked("san, parity") == ["parity", "san"]
    with pytest.raises(typer.BadParameter, match=r"unknown stage sum; there are peaks, parity, san"):
        kit.checked("san,sum")


def test_the_packed_folder_has_the_project_and_a_golden_of_each_network(tmp_path: Path, shared: Path) -> None:
    out = tmp_path / "kit"
    pack.main(out, project=True, wheels=False, goldens=shared / "parity")
    sizes = {path.relative_to(out): path.stat().st_size for path in out.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < pack.LIMIT - 10 * 2**20  # the wheels need less
    assert {
        Path("perf/gpu/run.sh"),
        Path("parity/san/vit_b_16_seed0_camvid.npz"),
        Path("tests/official_sam.py"),
    } <= set(sizes)
    pack.main(out, project=False, wheels=False, goldens=shared / "parity")
    assert not (out / "ovss_ray").exists()
    (out / pack.MARK).unlink()
    with pytest.raises(typer.BadParameter, match="is no packed folder"):
        pack.main(out, project=False, wheels=False)


@pytest.mark.slow
def test_a_dry_run_on_the_cpu_prints_its_stages(tmp_path: Path) -> None:
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in WITHOUT)
    script = f"import sys; {blocked}; sys.argv[0] = 'perf.gpu'; from perf.gpu.__main__ import app; app()"
    stages = set(kit.STAGES) - {"scan"}  # it takes long, and tests/test_perf.py calls the parts
    sizes = "--device cpu --tiny --rounds 1 --scenes 1 --threads 1"
    chosen = ["--only", ",".join(stages), *sizes.split(), "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, *chosen], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("gpu-*.json")
    stored = json.loads(file.read_text())
    assert stored["not_measured"] == [], done.stderr
    assert {row["stage"] for row in stored["rows"]} == {"machine", *stages} - {"peaks", "profile"}
    assert all(row["figure"] <= 1e-4 for row in stored["rows"] if row["stage"] == "parity")
    assert "matrix product" in file.with_suffix(".md").read_text()
    assert "aten::" in file.with_suffix(".profiles.txt").read_text()
