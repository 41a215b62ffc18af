"""A cluster without worker nodes: its autoscaler starts them for a run, and the run uses them as they come."""

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
from tests.test_jobs import RAY, free_port
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


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a head node without CPUs and GPUs, whose autoscaler may start nodes."""
    port = free_port()
    (tmp_path / "token").write_text(secrets.token_hex(32))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "autoscaling.json").write_text(json.dumps(autoscaling(port)))
    local = ["--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"]
    sizes = ["--num-cpus=0", "--num-gpus=0", "--object-store-memory=80000000"]
    config = f"--autoscaling-config={tmp_path / 'autoscaling.json'}"
    environment = {**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "PYTHONPATH": str(ROOT)}
    del environment["RAY_ADDRESS"]
    command = [RAY, "start", "--head", "--block", *local, *sizes, config]
    with (tmp_path / "head.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        until = time.monotonic() + 120
        while "ray.head.default" not in status(f"127.0.0.1:{port}"):
            assert process.poll() is None, (tmp_path / "head.log").read_text()
            assert time.monotonic() < until, (tmp_path / "head.log").read_text()
            time.sleep(1)
        yield f"127.0.0.1:{port}"
    finally:
        nodes = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(60)
        for node in nodes:  # the provider leaves its nodes behind
            with suppress(psutil.NoSuchProcess):
                node.kill()


def evaluated(folder: Path, address: str, workers: int) -> tuple[dict[str, Any], set[str], str]:
    """Evaluate with so many workers: the benchmark's report, the workers' processes, and what was printed."""
    out, witness = folder / f"run{workers}", folder / f"witness{workers}"
    stage = {"use": "tests.cluster.meeting", "options": {"workers": workers, "witness": str(witness)}}
    pool = {"cpus": 1, "workers": [1, workers], "batch": 1, "stages": [stage]}
    config = {"exact": True, "deadline": 300, "patience": 300, "pools": [pool]}
    (folder / f"config{workers}.yaml").write_text(json.dumps(config))
    data = ["--benchmark", f"folder:{folder}/mine.yaml", "--data-root", str(folder), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "ovss_ray", "evaluate", str(folder / f"config{workers}.yaml"), *data],
        env={**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    (report,) = json.loads((out / "report.json").read_text())["benchmarks"].values()
    return report, processes(str(witness)), done.stderr


def test_nodes_start_for_a_run_and_those_that_come_late_are_used(head: str, tmp_path: Path) -> None:
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
    report, workers, printed = evaluated(tmp_path, head, NODES)
    assert len(workers) >= NODES
    assert "waiting for nodes that an autoscaler should start" in printed
    expected, (_,), _ = evaluated(tmp_path, "local", 1)
    assert report["images"] == {"expected": IMAGES, "scored": IMAGES, "failed": 0}
    assert report == expected
