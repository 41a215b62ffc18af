"""Jobs as users submit them, to three nodes that ask for a token: ADE20K's photographs as its authors send them."""

import json
import os
import runpy
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from ray._private.runtime_env.packaging import create_package

from ovss_ray.engine.pools.gauges import RUN
from ovss_ray.errors import OvssError
from ovss_ray.runs import records
from ovss_ray.runs.plan import JOB
from ovss_ray.runs.sources import plan_runs
from tests.cluster.test_monitoring import of_runs
from tests.paths import ROOT
from tests.web import free_port

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
WORDS = ["wall", "sky", "tree", "mountain", "car", "door"]
ORACLE = ["--set", "pools=[{stages: [{use: oracle}]}]", "--set", "keep_predictions=none"]


class Cluster(NamedTuple):
    """A running cluster."""

    jobs: str
    """the address for jobs"""
    gcs: str
    """the address for drivers"""
    metrics: list[str]
    """of each node, the address for Prometheus"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of our own that asks for a token: a head, and two nodes with a faked GPU each."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "token").write_text(secrets.token_hex(32))
    given = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    given |= {"RAY_metrics_report_interval_ms": "500", "OVSS_CACHE": str(folder / "cache")}
    given |= {"RAY_idle_worker_killing_time_threshold_ms": "600000"}
    before = {name: os.environ.get(name) for name in (*given, "RAY_ADDRESS")}
    os.environ.update(given)
    del os.environ["RAY_ADDRESS"]
    gcs, dashboard, *metrics = (free_port() for _ in range(5))
    made = Cluster(
        f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", [f"http://127.0.0.1:{port}/metrics" for port in metrics]
    )
    first = ["--head", "--dashboard-host=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    later = [f"--address={made.gcs}", "--num-cpus=1", "--num-gpus=1"]
    environment = {name: value for name, value in os.environ.items() if name != "OVSS_CACHE"}  # jobs have to bring it
    nodes: list[subprocess.Popen] = []
    session = tempfile.mkdtemp(prefix="ovss")  # a short path: names of sockets have at most 107 characters
    try:
        for number, (options, port) in enumerate(zip((first, later, later), metrics, strict=True)):
            local = ["--node-ip-address=127.0.0.1", f"--metrics-export-port={port}"]
            local.append(f"--dashboard-agent-listen-port={free_port()}")  # for jobs; Ray's default may be taken
            local.append(f"--temp-dir={session}/{number}")  # as on other machines; jobs read the cluster's address here
            sizes = ["--object-store-memory=100000000", "--disable-usage-stats"]
            nodes.append(_started([*options, *local, *sizes], environment, folder / f"log{number}"))
        _wait(made.jobs)
        yield made
    finally:
        for node in reversed(nodes):
            node.terminate()
            node.wait(60)
        shutil.rmtree(session, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _started(options: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen:
    """A node that has started. Ray gives a node up after half a minute, which is too short on a busy machine."""
    for _ in range(3):
        with log.open("w") as file:
            node = subprocess.Popen([RAY, "start", "--block", *options], stdout=file, stderr=file, env=environment)
        while node.poll() is None:
            if "Ray runtime started" in log.read_text():
                return node
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def _wait(address: str) -> None:
    until = time.monotonic() + 120
    while subprocess.run([RAY, "job", "list", "--address", address], capture_output=True, check=False).returncode:
        assert time.monotonic() < until, "the dashboard does not answer"
        time.sleep(1)


def submit(address: str, folder: Path, *job: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Submit a job, with the variables of this shell, and wait for it."""
    printed = subprocess.run([sys.executable, ROOT / "jobs/environment.py"], capture_output=True, check=True).stdout
    (folder / "variables.yaml").write_bytes(printed)
    shipped = ["--working-dir", str(ROOT), "--runtime-env", str(folder / "variables.yaml")]
    # The interpreter of the tests; on a cluster `python` is the one of its nodes.
    command = [RAY, "job", "submit", "--address", address, *shipped, *options, "--", sys.executable, *job]
    until = time.monotonic() + 120
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
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


def of_job(head: Cluster, what: str) -> str:
    """What `ray job stop`, `logs` or `status` prints of the job `first`."""
    command = [RAY, "job", what, "--address", head.jobs, "first"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.stdout + done.stderr


def plain(*job: str, address: str = "local") -> subprocess.CompletedProcess[str]:
    """A job as a plain command. By default, it starts a cluster of one node on this machine."""
    environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / job[0]), *job[1:]]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)


def results(folder: Path) -> dict[str, Any]:
    """What a run has computed: numbers of its report, cells of its records, and digests of its label maps."""
    report = json.loads((folder / "report.json").read_text())["benchmarks"]
    cells = {
        (of.parent.name, row["image_id"]): (row["error"], row["confusion"])
        for of in folder.glob("*/records")
        for part in records.read(str(of))
        for row in part.to_pylist()
    }
    maps = {file.relative_to(folder): sha256(file.read_bytes()).digest() for file in folder.glob("*/predictions/*.png")}
    return {"report": report, "cells": cells, "maps": maps}


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


def test_a_submitted_job_refuses_a_folder_that_would_be_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB, "{}")
    with pytest.raises(OvssError, match="relative path in a submitted job"):
        plan_runs("oracle", "runs/mine", (), {"benchmarks": "scenes:seen"})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for SAN's ViT-B with made-up weights, and few names, whose text takes seconds instead of minutes."""
    folder = tmp_path_factory.mktemp("large")
    command = [sys.executable, "-m", "ovss_ray", "weights", "fake", "san_vit_b_16"]
    subprocess.run(command, check=True, timeout=300, capture_output=True, cwd=folder)
    (folder / "words.json").write_text(json.dumps({"names": WORDS, "templates": ["a photo of a {}."]}))
    return ["--vocabulary", str(folder / "words.json"), "--set", f"san.weights={folder}/san_vit_b_16_fake.pth"]


@pytest.mark.slow
def test_a_submitted_job_on_three_nodes_has_the_results_of_the_same_file_with_nothing_started(
    head: Cluster, prepared: Path, large: list[str], tmp_path: Path
) -> None:
    data = ["--data-root", str(prepared), "--split", "training", "--limit", "3"]
    job = ["jobs/eval_ade847.py", *data, "--exact", *large, "--out"]
    done = submit(head.jobs, tmp_path, *job, str(tmp_path / "three"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(Path(os.environ["OVSS_CACHE"]).rglob("*.npy")), "the job has the variables of the shell"
    done = plain(*job, str(tmp_path / "alone"))
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "three")
    assert found == results(tmp_path / "alone")
    assert found["report"]["ade20k:847"]["images"] == {"expected": 3, "scored": 3, "failed": 0}
    assert len(set(found["maps"].values())) == 3
    command = [sys.executable, "-m", "ovss_ray", "plan", "san_tiny", "--benchmark", "scenes:seen", "--cluster"]
    environment = {**os.environ, "RAY_ADDRESS": head.gcs, "PYTHONPATH": str(ROOT)}
    planned = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert "cluster: nodes: 3, CPUs: 4, GPUs: 2" in planned.stdout, planned.stderr


@pytest.mark.slow
def test_a_job_of_two_methods_that_was_stopped_goes_on_with_the_same_command(head: Cluster, tmp_path: Path) -> None:
    methods = ["--benchmark", "scenes:seen", "--limit", "24", "--exact", "--set", "compare=[oracle,san_tiny]"]
    job = ["jobs/eval_all.py", *methods, "--out"]
    out = tmp_path / "three"
    begun = submit(head.jobs, tmp_path, *job, str(out), options=("--no-wait", "--submission-id", "first"))
    assert begun.returncode == 0, begun.stdout + begun.stderr
    until = time.monotonic() + 300
    while not list(out.glob("*/*/records/*.parquet")):
        assert time.monotonic() < until, of_job(head, "logs")
        time.sleep(0.2)
    of_job(head, "stop")
    logs = of_job(head, "logs")
    assert "ovss: terminated by SIGTERM. Finished images are kept" in logs
    assert "was stopped" in of_job(head, "status")
    assert not (out / "san_tiny/report.json").exists()
    kept = {file.name for file in out.glob("*/*/records/*.parquet")}
    done = submit(head.jobs, tmp_path, *job, str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert kept <= {file.name for file in out.glob("*/*/records/*.parquet")}
    done = plain(*job, str(tmp_path / "alone"))
    assert done.returncode == 0, done.stderr
    for method in ("oracle", "san_tiny"):
        found = results(out / method)
        assert found == results(tmp_path / "alone" / method)
        assert found["report"]["scenes:seen"]["images"] == {"expected": 24, "scored": 24, "failed": 0}


@pytest.mark.slow
def test_a_cluster_does_not_answer_without_its_token(head: Cluster, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(secrets.token_hex(32))
    stranger = {**os.environ, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    command = [RAY, "job", "list", "--address", head.jobs]
    done = subprocess.run(command, capture_output=True, text=True, env=stranger, check=False)
    assert done.returncode != 0


def scraped(address: str) -> list[Metric]:
    """Return the metrics of a node, or none while its agent starts: a later scrape sees them."""
    with suppress(OSError, HTTPException), urllib.request.urlopen(address, timeout=30) as answer:
        return [*text_string_to_metric_families(answer.read().decode())]
    return []


@pytest.mark.slow
def test_prometheus_sees_every_value_of_a_run_that_the_dashboard_shows(head: Cluster, tmp_path: Path) -> None:
    stage = "{use: tests.toys, options: {seconds: 1.0}}"
    (tmp_path / "slow.yaml").write_text(f"pools: [{{cpus: 1, workers: 1, batch: 1, stages: [{stage}]}}]\n")
    asked = ["slow.yaml", "--benchmark", "scenes:seen", "--out", "mine"]
    command = [sys.executable, "-m", "ovss_ray", "evaluate", *asked]
    environment = {**os.environ, "RAY_ADDRESS": head.gcs, "PYTHONPATH": str(ROOT)}
    missing, seen = of_runs(), dict[str, set[str]]()
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        while missing and run.poll() is None:
            for family in (family for address in head.metrics for family in scraped(address)):
                for sample in family.samples:
                    if sample.labels.get(RUN) == "mine":
                        seen.setdefault(sample.name, set()).update(sample.labels)
            missing = {name: labels for name, labels in missing.items() if not labels <= seen.get(name, set())}
            time.sleep(0.5)
        run.terminate()
        run.wait()
    assert not missing, [sorted(seen), (tmp_path / "log").read_text()]
