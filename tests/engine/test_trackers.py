"""Experiment trackers: what they get, and that none of them ends or delays a run."""

import importlib.util
import io
import json
import os
import queue
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from ovss_ray.cli.app import app
from ovss_ray.engine import trackers
from ovss_ray.engine.progress import Counts
from ovss_ray.engine.trackers import __main__ as child
from ovss_ray.engine.trackers import mlflow, wandb
from ovss_ray.engine.trackers._process import Process
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.reports.schema import Report
from ovss_ray.runs.folder import RunFolder
from tests.paths import ROOT, absent

OLD = ROOT / "tests/data/old_runs/san_tiny-finished"
OWN = """
import json, time
from pathlib import Path

PACKAGE, INSTALL = "json", "nothing"

class Tracker:
    def __init__(self, target, run):
        self.mode, _, self.where = target.partition(",")
        if self.mode == "away":
            raise ConnectionError(f"no answer of http://name:p@secret@host/{run.name} {'.' * 236} http://name:p@secret@host")
        self.write("run", [run.identity, run.settings["config.exact"]])

    def write(self, kind, value):
        with Path(self.where).open("a") as file:
            file.write(json.dumps([kind, value]) + "\\n")

    def log(self, values, images):
        if self.mode == "hangs":
            time.sleep(1000)
        self.write("log", [values, images])

    def finish(self, report, values, attachments):
        self.write("finish", [values, [path.name for path in attachments if path.read_bytes()]])

    def close(self, finished):
        self.write("close", finished)
"""


class Heard(Counts):
    """Listener that keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A finished run of an earlier version, next to a tracker of the user's own."""
    (tmp_path / "tracking_of_mine").mkdir()
    (tmp_path / "tracking_of_mine/kept.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return RunFolder(str(shutil.copytree(OLD, tmp_path / "run")))


def kept(file: Path) -> list[list[Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_unknown_trackers_missing_packages_and_bad_targets_are_refused_before_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UnknownName, match=r"unknown tracker 'tensorbord'\. Did you mean 'tensorboard'"):
        trackers.parse("tensorbord")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else find(name))
    expected = r"package mlflow is not installed. To install it, run `pip install 'ovss_ray\[mlflow\]'`"
    with pytest.raises(OvssError, match=expected):
        trackers.parse(["mlflow:http://name:secret@host"])
    with pytest.raises(OvssError, match="no server and no folder"):
        mlflow.check("")
    with pytest.raises(OvssError, match=r"must begin with http://.* Type --track mlflow:http://localhost:5000"):
        mlflow.check("localhost:5000")
    assert [mlflow._address(of) for of in ("databricks", "/a:b")] == ["databricks", "/a:b"]
    with pytest.raises(OvssError, match="not a project"):
        wandb.check("http://host/project")
    assert mlflow.FOREIGN.sub("_", "config.vocabulary.*/camvid:a b") == "config.vocabulary._/camvid:a b"


def test_the_process_of_a_tracker_that_hangs_ends_some_time_after_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(child, "LINGER", 0.0)
    monkeypatch.setattr(os, "_exit", statuses.append)
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"log": {}}\n'))
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    child._read(messages)
    assert child._waiting(messages) == [{"log": {}}, {"closed": True}]
    assert statuses == [1]


@pytest.mark.slow
def test_a_run_is_followed_and_trackers_that_fail_or_hang_cost_a_warning(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "EVERY", 0.0)
    monkeypatch.setattr(trackers, "WAIT", 40.0)
    names = [f"tracking_of_mine.kept:{mode},{tmp_path / mode}" for mode in ("good", "away", "hangs")]
    heard = Heard()
    before = Report.load(folder.uri)
    plan = type("Plan", (), {"folder": folder, "benchmarks": {}, "manifests": {}})

    def work(progress: Any, conclude: Any) -> Report:
        with progress.watch(plan, pa.table({})):
            progress.total = 3
            for _ in range(300):
                progress.changed()
            good, away, hangs = (progress.processes[name] for name in names)
            monkeypatch.setattr(hangs, "wait", lambda seconds: Process.wait(hangs, 1.0))  # of the time of the others
            while not (good.where and away.fault):
                time.sleep(0.1)  # on a busy machine, their processes start slowly
        return conclude(before)

    report = trackers.tracked(folder, heard, trackers.parse(names), work)
    (kind, (identity, exact)), *logs, (last, (values, files)), end = kept(tmp_path / "good")
    assert (kind, identity, exact) == ("run", before.run.digest, False)
    assert {kind for kind, _ in logs} == {"log"}
    assert logs[0][1][0]["images/done"] == 0.0
    assert last == "finish"
    assert values == trackers.final(before)
    assert values["final/scenes-seen/miou"] == before.benchmarks["scenes:seen"].metrics["miou"]
    assert files == ["report.json"]
    assert end == ["close", True]
    good, away, hangs = (report.run.tracking[name] for name in names)
    assert good == ""
    assert "ConnectionError: no answer of http://host/run" in away
    assert "did not answer in time" in hangs
    assert sum("ConnectionError" in said for said in heard.said) == 1
    assert Report.load(folder.uri).run.tracking == report.run.tracking
    assert "secret" not in (tmp_path / "run/report.json").read_text() + "".join(heard.said)

    def interrupted(progress: Any, conclude: Any) -> Report:
        with progress.watch(plan, pa.table({})):
            while [kind for kind, _ in kept(tmp_path / "good")].count("run") < 2:
                time.sleep(0.1)  # the tracker's process starts
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trackers.tracked(folder, heard, trackers.parse(names[:1]), interrupted)
    assert kept(tmp_path / "good")[-1] == ["close", False]


@pytest.mark.slow
def test_the_trackers_themselves_keep_a_run_without_a_server(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("mlflow", "tensorboard", "wandb"):
        if importlib.util.find_spec(package) is None:
            absent(f"{package} is not installed: uv run --group trackers pytest -m slow")
    monkeypatch.setattr(trackers, "WAIT", 240.0)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    options = ["--track", "tensorboard", "--track", f"mlflow:{tmp_path / 'store'}", "--track", "wandb"]
    done = CliRunner().invoke(app, ["report", folder.uri, "--html", *options])
    assert done.exit_code == 0, done.output
    report = Report.load(folder.uri)
    assert report.run.tracking == {"tensorboard": "", f"mlflow:{tmp_path / 'store'}": "", "wandb": ""}
    miou = report.benchmarks["scenes:seen"].metrics["miou"]
    assert miou is not None

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder.file("tensorboard"))
    events.Reload()
    (scalar,) = events.Tensors("final/scenes-seen/miou")
    assert scalar.tensor_proto.float_val[0] == pytest.approx(miou, abs=1e-4)
    (table,) = events.Tensors("classes/scenes-seen")
    assert report.benchmarks["scenes:seen"].classes[0].name in table.tensor_proto.string_val[0].decode()

    from mlflow import MlflowClient

    client = MlflowClient(str(tmp_path / "store"))
    (run,) = client.search_runs([client.get_experiment_by_name("ovss_ray").experiment_id])
    assert run.data.metrics["final/scenes-seen/miou"] == miou
    assert run.data.params["packages.ray"] == report.run.environment["packages"]["ray"]
    assert run.info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        *("report.csv", "report.html", "report.json")
    }
    (offline,) = (tmp_path / "run/wandb").glob("offline-run-*/run-*.wandb")
    assert b"final/scenes-seen/miou" in offline.read_bytes()
