"""A cluster without worker nodes: its autoscaler starts them for jobs, and one is lost in a run."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.cluster.meeting import processes
from tests.paths import ROOT
from tests.test_jobs import ORACLE, RAY, free_port, plain, results
from tests.toys import bright

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IMAGES = 12
NODES = 2
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


def status(address: str) -> str:
    """Return what the autoscaler last said of its cluster; empty until it has started."""
    done = subprocess.run([RAY, "status", "--address", address], capture_output=True, text=True, check=False)
    return done.stdout


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a head node without CPUs and GPUs, whose autoscaler may start nodes."""
    folder, port = tmp_path_factory.mktemp("head"), free_port()
    (folder / "token").write_text(secrets.token_hex(32))
    (folder / "autoscaling.json").write_text(json.dumps(autoscaling(port)))
    local = ["--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"]
    sizes = ["--num-cpus=0", "--num-gpus=0", "--object-store-memory=80000000"]
    command = [RAY, "start", "--head", "--block", *local, *sizes, f"--autoscaling-config={folder / 'autoscaling.json'}"]
    with pytest.MonkeyPatch.context() as patch, (folder / "head.log").open("w") as log:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))
        environment = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "PYTHONPATH": str(ROOT)}
        environment = {**os.environ, **environment}
        del environment["RAY_ADDRESS"]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            until = time.monotonic() + 120
            while "ray.head.default" not in status(f"127.0.0.1:{port}"):
                assert process.poll() is None, (folder / "head.log").read_text()
                assert time.monotonic() < until, (folder / "head.log").read_text()
                time.sleep(1)
            yield f"127.0.0.1:{port}"
        finally:
            nodes = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(60)
            for node in nodes:  # the provider leaves its nodes behind
                with suppress(psutil.NoSuchProcess):
                    node.kill()


def begun(folder: Path, address: str, workers: int) -> tuple[subprocess.Popen[str], Path, Path]:
    """Start a run with so many workers: the command, the run's folder, and the file of begun images."""
    out, witness = folder / f"run{workers}", folder / f"witness{workers}"
    stage = {"use": "tests.cluster.meeting", "options": {"workers": workers, "seconds": 1.0, "witness": str(witness)}}
    pool = {"cpus": 0.8, "workers": [1, workers], "batch": 1, "stages": [stage]}
    config = {"exact": True, "deadline": 300, "patience": 300, "pools": [pool]}
    (folder / f"config{workers}.yaml").write_text(json.dumps(config))
    data = [
        "--benchmark",
        f"folder:{folder}/mine.yaml",
        "--data-root",
        str(folder),
        "--out",
        str(out),
        "--wait-for",
        f"nodes={workers}",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "ovss_ray", "evaluate", str(folder / f"config{workers}.yaml"), *data],
        env={**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process, out, witness


def finished(process: subprocess.Popen[str]) -> str:
    """Wait for a command, and return what it has printed."""
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed
    return printed


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


def test_a_run_that_waits_for_nodes_gets_them_and_survives_the_loss_of_one(head: str, tmp_path: Path) -> None:
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
    process, out, witness = begun(tmp_path, head, NODES)
    lose(witness, NODES, process)
    printed = finished(process)
    assert f"waiting for the cluster: 0 of {NODES} nodes" in printed
    alone, expected, _ = begun(tmp_path, "local", 1)
    finished(alone)
    found = results(out)
    assert found == results(expected)
    (report,) = found["report"].values()
    assert report["images"] == {"expected": IMAGES, "scored": IMAGES, "failed": 0}
    assert len(found["maps"]) == IMAGES


def test_jobs_on_nodes_of_an_autoscaler_have_the_results_of_one_node(head: str, shared: Path, tmp_path: Path) -> None:
    photographs = ["--data-root", str(shared / "data/real"), "--split", "training", "--limit", "3", *ORACLE]
    methods = ["--benchmark", "scenes:seen", "--limit", "6", "--set", "compare=[oracle,san_tiny]"]
    for name, data in {"eval_ade847": photographs, "eval_all": methods}.items():
        for address in (head, "local"):
            out = tmp_path / address.partition(":")[0] / name
            done = plain(f"jobs/{name}.py", *data, "--exact", "--out", str(out), address=address)
            assert done.returncode == 0, done.stderr
    for run in ("eval_ade847", "eval_all/oracle", "eval_all/san_tiny"):
        found = results(tmp_path / "127.0.0.1" / run)
        assert found == results(tmp_path / "local" / run)
        (report,) = found["report"].values()
        assert report["images"]["scored"] == report["images"]["expected"] > 0
