"""A job as users submit it: to a cluster that asks for a token, over ADE20K's photographs as its authors send them."""

import json
import os
import runpy
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from ray._private.runtime_env.packaging import create_package

from ovss_ray.engine.pools.gauges import RUN
from tests.cluster.test_monitoring import of_runs
from tests.paths import ROOT

pytestmark = pytest.mark.ray

RAY = Path(sys.executable).parent / "ray"
LACKING = {
    "eval_ade847": "ADE20K_2021_17_01",
    "eval_ade150": "ADEChallengeData2016",
    "eval_pc459": "VOCdevkit/VOC2010",
    "eval_pc59": "VOCdevkit/VOC2010",
    "eval_voc": "VOCdevkit/VOC2012",
    "eval_coco_stuff": "coco",
    "eval_all": "ADEChallengeData2016",
}
"""Job → the folder of its first benchmark."""
SUBMITTED = 30_000_000
"""Bytes that a submitted job may have. Most of them are the weights of the small networks."""
ORACLE = ["--set", "pools=[{stages: [{use: oracle}]}]", "--set", "keep_predictions=none"]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """A head node of our own that asks for a token; its addresses for jobs, for drivers, and for Prometheus."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "token").write_text(secrets.token_hex(32))
    given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    given |= {"RAY_metrics_report_interval_ms": "500"}
    before = {name: os.environ.get(name) for name in (*given, "RAY_ADDRESS")}
    os.environ.update(given)
    del os.environ["RAY_ADDRESS"]
    gcs, dashboard, metrics = free_port(), free_port(), free_port()
    local = [
        "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1",
        f"--port={gcs}",
        f"--dashboard-port={dashboard}",
        f"--metrics-export-port={metrics}",
    ]
    sizes = ["--num-cpus=4", "--object-store-memory=200000000", "--disable-usage-stats"]
    with (folder / "log").open("w") as log:
        head = subprocess.Popen([RAY, "start", "--head", "--block", *local, *sizes], stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{dashboard}", head, folder / "log")
        yield f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", f"http://127.0.0.1:{metrics}/metrics"
    finally:
        head.terminate()
        head.wait(60)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _wait(address: str, head: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + 120
    while subprocess.run([RAY, "job", "list", "--address", address], capture_output=True, check=False).returncode:
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(1)


def submit(address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # The interpreter of the tests; on a cluster `python` is the one of its nodes.
    job = [sys.executable, "jobs/eval_ade847.py", *arguments, *ORACLE]
    command = [RAY, "job", "submit", "--address", address, "--working-dir", str(ROOT), "--", *job]
    until = time.monotonic() + 120
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if "No available agent to submit job" not in done.stderr or time.monotonic() > until:
            return done
        time.sleep(1)  # a node's agent for jobs starts later than the node does


@pytest.fixture(scope="module")
def prepared(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the prepared form of the archive's sample."""
    out = tmp_path_factory.mktemp("prepared")
    asked = ["ade20k:847", "--split", "training", "--data-root", str(shared / "data/real"), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "ovss_ray", "prepare", *asked], check=True, timeout=300, capture_output=True)
    return out


def job(data: Path, out: Path, address: str) -> subprocess.CompletedProcess[str]:
    """The job as a plain command, of two photographs."""
    asked = ["--data-root", str(data), "--split", "training", "--limit", "2", "--out", str(out)]
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs/eval_ade847.py"), *asked, *ORACLE],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=out.parent,
        env={**os.environ, "RAY_ADDRESS": address},
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "jobs").glob("eval_*.py")))
def test_every_job_names_the_data_that_it_lacks(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / f"jobs/{name}.py"), "--data-root", str(tmp_path), *ORACLE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"{tmp_path}/{LACKING[name]}/" in done.stderr
    assert "Get it: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_submitted_job_gets_folders_and_the_keys_that_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = runpy.run_path(str(ROOT / "jobs/environment.py"))["main"]
    for name in ("OVSS_WEIGHTS", "MISSING_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"OVSS_CACHE": "/shared/cache", "HF_TOKEN": 'a"b', "AWS_SECRET_ACCESS_KEY": "c"}.items():
        monkeypatch.setenv(name, value)
    environment(["HF_TOKEN"])
    assert yaml.safe_load(capsys.readouterr().out) == {"env_vars": {"OVSS_CACHE": "/shared/cache", "HF_TOKEN": 'a"b'}}
    with pytest.raises(SystemExit, match="2"):
        environment(["HF_TOKEN", "MISSING_KEY"])
    assert "export MISSING_KEY=" in capsys.readouterr().err


def test_what_is_submitted_is_small_also_in_a_folder_with_runs_data_and_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    for name in ("cluster", "configs", "examples", "jobs", "ovss_ray", "perf"):
        shutil.copytree(ROOT / name, folder / name)
    for name in (".gitignore", ".rayignore", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    left_out = ("runs/a/records.parquet", "data/b.jpg", "weights/c.bin", "d.pth", "e/f.pt", "g.safetensors", "h.zip")
    for name in (*left_out, "tests/i.py", "docs/j.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    create_package(str(folder), tmp_path / "package.zip", include_gitignore=True)
    with ZipFile(tmp_path / "package.zip") as package:
        names = set(package.namelist())
        assert sum(file.file_size for file in package.infolist()) < SUBMITTED
    assert {"jobs/eval_ade847.py", "ovss_ray/engine/evaluate.py", "configs/default.yaml"} <= names
    assert not {name for name in names if name in left_out or name.startswith(("tests/", "docs/"))}


def test_the_service_is_a_job_with_the_options_of_the_command() -> None:
    command = [sys.executable, str(ROOT / "jobs/serve.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "--port" in done.stdout


@pytest.mark.slow
def test_the_same_file_runs_with_nothing_started(prepared: Path, tmp_path: Path) -> None:
    done = job(prepared, tmp_path / "run", "local")
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stdout


@pytest.mark.slow
def test_it_runs_on_the_cluster_that_was_started_on_this_machine(
    head: tuple[str, str, str], prepared: Path, tmp_path: Path
) -> None:
    done = job(prepared, tmp_path / "run", head[1])
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stdout


@pytest.mark.slow
def test_a_submitted_job_leaves_its_report_where_it_was_told(
    head: tuple[str, str, str], prepared: Path, tmp_path: Path
) -> None:
    asked = ["--data-root", str(prepared), "--split", "training", "--limit", "3"]
    done = submit(head[0], *asked, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    one = json.loads((tmp_path / "run/report.json").read_text())["benchmarks"]["ade20k:847"]
    assert one["images"] == {"expected": 3, "scored": 3, "failed": 0}
    assert one["metrics"]["miou"] == 100.0
    relative = submit(head[0], *asked, "--out", "runs/mine")
    assert relative.returncode != 0
    assert "relative path in a submitted job" in relative.stdout + relative.stderr


@pytest.mark.slow
def test_a_cluster_does_not_answer_without_its_token(head: tuple[str, str, str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text(secrets.token_hex(32))
    stranger = {**os.environ, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    command = [RAY, "job", "list", "--address", head[0]]
    done = subprocess.run(command, capture_output=True, text=True, env=stranger, check=False)
    assert done.returncode != 0


def scraped(address: str) -> list[Metric]:
    """Return the metrics of a node, or none while its agent starts: a later scrape sees them."""
    with suppress(OSError, HTTPException), urllib.request.urlopen(address, timeout=30) as answer:
        return [*text_string_to_metric_families(answer.read().decode())]
    return []


@pytest.mark.slow
def test_prometheus_sees_every_value_of_a_run_that_the_dashboard_shows(
    head: tuple[str, str, str], tmp_path: Path
) -> None:
    stage = "{use: tests.toys, options: {seconds: 1.0}}"
    (tmp_path / "slow.yaml").write_text(f"pools: [{{cpus: 1, workers: 1, batch: 1, stages: [{stage}]}}]\n")
    asked = ["slow.yaml", "--benchmark", "scenes:seen", "--limit", "24", "--out", "mine"]
    command = [sys.executable, "-m", "ovss_ray", "evaluate", *asked]
    environment = {**os.environ, "RAY_ADDRESS": head[1], "PYTHONPATH": str(ROOT)}
    seen: dict[str, set[str]] = {}
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        while run.poll() is None:
            for family in scraped(head[2]):
                for sample in family.samples:
                    if sample.labels.get(RUN) == "mine":
                        seen.setdefault(sample.name, set()).update(sample.labels)
            time.sleep(0.5)
    assert run.returncode == 0, (tmp_path / "log").read_text()
    missing = {name: labels for name, labels in of_runs().items() if not labels <= seen.get(name, set())}
    assert not missing, sorted(seen)
