"""A cluster without worker nodes: its autoscaler starts them for runs and submitted jobs, and one is lost in a run."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from PIL import Image

from tests import in_process
from tests.cluster.meeting import processes
from tests.cluster.test_monitoring import of_ray
from tests.commands import ovss
from tests.paths import ROOT
from tests.test_jobs import ORACLE, RAY, free_port, results, scraped
from tests.test_jobs import _started as started
from tests.toys import bright

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IMAGES = 12
NODES = 2
OF_GPUS = {"ray_node_gpus_utilization", "ray_node_gram_used"}
"""Metrics of nodes with a GPU only"""
EMPTY: dict[str, Any] = {"docker": {}, "auth": {}, "file_mounts": {}, "head_node": {}, "worker_nodes": {}}
NO_COMMANDS = ["initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"]


def autoscaling(port: int) -> dict[str, Any]:
    """Return the config of Ray's provider of faked nodes: processes of this machine, of one CPU each."""
    worker = {"resources": {"CPU": 1, "object_store_memory": 80_000_000}, "min_workers": 0, "max_workers": NODES}
    head = {"resources": {"CPU": 0}, "max_workers": 0}
    provider = {
        "type": "fake_multinode",
        "gcs_address": f"127.0.0.1:{port}",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    }
    return EMPTY | {
        "cluster_name": "faked",
        "max_workers": NODES,
        "idle_timeout_minutes": 10,
        "upscaling_speed": 10,
        "provider": provider,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {**head, "node_config": {}},
            "worker": {**worker, "node_config": {}},
        },
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{name}_commands": [] for name in NO_COMMANDS},
    }


class Head(NamedTuple):
    """A running head node."""

    gcs: str
    """the address for drivers"""
    jobs: str
    """the address for jobs"""
    metrics: str
    """the address for Prometheus"""
    process: psutil.Process

    def ready(self) -> bool:
        """Whether jobs may be submitted, and the autoscaler has looked at its cluster."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", int(self.jobs.rpartition(":")[2])), 5):
            command = [RAY, "status", "--address", self.gcs]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            return "ray.head.default" in done.stdout
        return False


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head node without CPUs and GPUs, whose autoscaler may start nodes."""
    folder = tmp_path_factory.mktemp("head")
    port, dashboard, metrics = free_port(), free_port(), free_port()
    (folder / "token").write_text(secrets.token_hex(32))
    (folder / "autoscaling.json").write_text(json.dumps(autoscaling(port)))
    local = ["--node-ip-address=127.0.0.1", f"--port={port}", "--disable-usage-stats", "--dashboard-host=127.0.0.1"]
    local += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"]
    local += [f"--metrics-export-port={metrics}"]
    sizes = ["--num-cpus=0", "--num-gpus=0", "--object-store-memory=80000000"]
    options = ["--head", *local, *sizes, f"--autoscaling-config={folder / 'autoscaling.json'}"]
    temporary = TemporaryDirectory(prefix="ovss", ignore_cleanup_errors=True)
    with temporary as session, pytest.MonkeyPatch.context() as patch:
        options.append(f"--temp-dir={session}")  # jobs read the cluster's address here
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))
        patch.delenv("RAY_ADDRESS")
        environment = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "PYTHONPATH": str(ROOT)}
        process = started(options, {**os.environ, **environment}, folder / "head.log")
        addresses = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", f"http://127.0.0.1:{metrics}/metrics"
        made = Head(*addresses, psutil.Process(process.pid))
        try:
            until = time.monotonic() + 120
            while not made.ready():
                assert process.poll() is None, (folder / "head.log").read_text()
                assert time.monotonic() < until, (folder / "head.log").read_text()
                time.sleep(1)
            yield made
        finally:
            nodes = made.process.children(recursive=True)
            process.terminate()
            process.wait(60)
            for node in nodes:  # the provider leaves its nodes behind
                with suppress(psutil.NoSuchProcess):
                    node.kill()


def config(folder: Path, workers: int, seconds: float) -> tuple[list[str], Path, Path]:
    """The arguments of a run with so many workers, the run's folder, and the file of begun images."""
    out, witness = folder / f"run{workers}", folder / f"witness{workers}"
    options = {"workers": workers, "seconds": seconds, "witness": str(witness)}
    pool = {"cpus": 0.8, "workers": [1, workers], "batch": 1}
    stages = [{"use": "tests.cluster.meeting", "options": options}]
    run = {"exact": True, "deadline": 300, "patience": 300, "pools": [pool | {"stages": stages}]}
    (folder / f"config{workers}.yaml").write_text(json.dumps(run))
    data = ["--benchmark", f"folder:{folder}/mine.yaml", "--data-root", str(folder), "--out", str(out)]
    return ["evaluate", str(folder / f"config{workers}.yaml"), *data, "--wait-for", f"nodes={workers}"], out, witness


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for the end of a command that succeeds."""
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed


def lose(witness: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Kill the node of a worker, once so many have begun images."""
    until = time.monotonic() + 400
    while not witness.exists() or len(workers := processes(str(witness))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    node = psutil.Process(int(min(workers))).parent()
    assert node, "the parent of a worker is the process of its node"
    assert node.name() == "raylet"
    node.kill()


def submitted(head: Head, *job: str) -> str:
    """Submit a job of the package that all nodes have, as those of an image do. Return what is printed of it.

    Nodes of the provider share a folder for submitted packages, in which each of them would replace the others' files.
    """
    command = [RAY, "job", "submit", "--address", head.jobs, "--", sys.executable, str(ROOT / job[0]), *job[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_jobs_on_a_cluster_without_nodes_get_some_and_have_the_results_of_one_node(
    head: Head, shared: Path, tmp_path: Path
) -> None:
    photographs = ["--data-root", str(shared / "data/real"), "--split", "training", "--limit", "3", *ORACLE, "--exact"]
    methods = ["--benchmark", "scenes:seen", "--limit", "6", "--exact", "--set", "compare=[san_tiny,oracle]"]
    there, here = tmp_path / "there", tmp_path / "here"
    printed = submitted(head, "jobs/eval_all.py", *methods, "--out", str(there / "all"))
    assert "waiting for nodes that an autoscaler should start. The cluster has 1 nodes, 0 CPUs" in printed
    submitted(head, "jobs/eval_ade847.py", *photographs, "--out", str(there / "oracle"))
    with in_process.pools():
        for method, job in {"all": methods, "oracle": ["--benchmark", "ade20k:847", *photographs]}.items():
            done = ovss("evaluate", method, *job, "--out", str(here / method))
            assert done.returncode == 0, done.stderr
    for run in ("oracle", "all/oracle", "all/san_tiny"):
        found = results(there / run)
        assert found == results(here / run)
        (report,) = found["report"].values()
        assert report["images"]["scored"] == report["images"]["expected"] > 0


def test_a_run_that_waits_for_nodes_gets_them_and_survives_the_loss_of_one(head: Head, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for kind in ("photos", "labels"):
        (tmp_path / kind).mkdir()
    for number in range(IMAGES):
        photograph = generator.integers(0, 256, (24, 32, 3), np.uint8)
        truth = bright(photograph, 3).astype(np.uint8)
        truth[: number + 1] = 0
        Image.fromarray(photograph).save(tmp_path / f"photos/{number:02}.png")
        Image.fromarray(truth).save(tmp_path / f"labels/{number:02}.png")
    (tmp_path / "mine.yaml").write_text("images: photos/*.png\nlabels: labels/*.png\nclasses: [dark, grey, bright]\n")
    arguments, out, witness = config(tmp_path, NODES, seconds=1.0)
    process = subprocess.Popen(
        [sys.executable, "-m", "ovss_ray", *arguments],
        env={**os.environ, "RAY_ADDRESS": head.gcs, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lose(witness, NODES, process)
    finish(process)
    arguments, expected, _ = config(tmp_path, 1, seconds=0.0)
    with in_process.pools():
        alone = ovss(*arguments)
    assert alone.returncode == 0, alone.stderr
    found = results(out)
    assert found == results(expected)
    (report,) = found["report"].values()
    assert report["images"] == {"expected": IMAGES, "scored": IMAGES, "failed": 0}
    assert len(found["maps"]) == IMAGES


def test_prometheus_sees_every_value_of_ray_that_the_dashboard_shows(head: Head) -> None:
    until, names = time.monotonic() + 120, set[str]()
    while not of_ray() - OF_GPUS <= names:
        assert time.monotonic() < until, sorted(names)
        time.sleep(1)
        names |= {sample.name for family in scraped(head.metrics) for sample in family.samples}
