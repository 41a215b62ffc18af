"""The form of report.json: what is written is read again, and so are the reports of earlier versions."""

import json
import math
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from ovss_ray.errors import OvssError
from ovss_ray.reports import report
from ovss_ray.reports.schema import BenchmarkReport, Report
from ovss_ray.runs.folder import RunFolder
from tests.paths import ROOT

OLD = ROOT / "tests/data/old_runs"


@pytest.mark.parametrize("method", ["san_tiny", "sam_alpha_clip_tiny"])
def test_a_report_without_a_version_is_read(method: str) -> None:
    raw = json.loads((OLD / f"{method}-finished/report.json").read_text())
    assert "version" not in raw
    loaded = Report.load(OLD / f"{method}-finished")
    assert loaded.version == 1
    assert loaded.final
    for name, old in raw["benchmarks"].items():
        now = loaded.benchmarks[name].model_dump(mode="json")
        assert {key: now[key] for key in old} == old
        assert loaded.benchmarks[name].files.undigested == loaded.benchmarks[name].images.scored
    assert loaded.run.model_dump(mode="json") == {**raw["run"], "tracking": {}}


def test_what_is_written_is_read_again_and_the_file_has_the_version(tmp_path: Path) -> None:
    run = shutil.copytree(OLD / "san_tiny-finished", tmp_path / "run")
    built = report.build(RunFolder(str(run)))
    assert json.loads((run / "report.json").read_text())["version"] == 1
    assert Report.load(run) == Report.load(str(run)) == built


def test_a_report_is_frozen() -> None:
    loaded = Report.load(OLD / "san_tiny-finished")
    with pytest.raises(ValidationError, match="frozen"):
        loaded.benchmarks["scenes:seen"].final = False


def test_a_value_that_is_not_a_number_is_null_in_json() -> None:
    raw = {"images": {"expected": 1, "scored": 0}, "final": False, "selection": {"split": "val"}}
    benchmark = BenchmarkReport.model_validate({**raw, "metrics": {"miou": math.nan, "pacc": 50}})
    assert dict(benchmark.metrics) == {"miou": None, "pacc": 50.0}
    assert '"miou":null' in benchmark.model_dump_json()


def test_keys_of_a_later_version_are_kept(tmp_path: Path) -> None:
    raw = json.loads((OLD / "san_tiny-finished/report.json").read_text())
    raw["benchmarks"]["scenes:seen"]["intervals"] = {"miou": [50.0, 60.0]}
    run = shutil.copytree(OLD / "san_tiny-finished", tmp_path / "run")
    (run / "report.json").write_text(json.dumps(raw))
    loaded = Report.load(run)
    loaded.save(RunFolder(str(run)))
    again = json.loads((run / "report.json").read_text())
    assert again["benchmarks"]["scenes:seen"]["intervals"] == {"miou": [50.0, 60.0]}


def test_a_report_that_cannot_be_read_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match="not the folder of a run"):
        Report.load(tmp_path)
    with pytest.raises(OvssError, match=r"no report, since the run was interrupted. Run `ovss report"):
        Report.load(OLD / "san_tiny-interrupted")
    run = shutil.copytree(OLD / "san_tiny-finished", tmp_path / "run")
    raw = json.loads((run / "report.json").read_text())
    (run / "report.json").write_text(json.dumps({**raw, "version": 2}))
    with pytest.raises(
        OvssError, match=r"report of version 2, but this ovss_ray reads version 1\. To read it, run `pip install"
    ):
        Report.load(run)
    raw["benchmarks"]["scenes:seen"]["images"]["expected"] = "many"
    (run / "report.json").write_text(json.dumps(raw))
    with pytest.raises(
        OvssError, match=r"damaged: benchmarks\.scenes:seen\.images\.expected: Input should be a valid int"
    ):
        Report.load(run)
