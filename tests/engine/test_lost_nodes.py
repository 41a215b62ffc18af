"""Nodes that are lost or join while a run goes on, and a cluster that ends under it."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from tests import in_process
from tests.commands import ovss
from tests.engine import test_chaos
from tests.engine.test_chaos import IMAGES, ROOT, command
from tests.test_jobs import results

pytestmark = [pytest.mark.ray, pytest.mark.slow]

data = test_chaos.data
IMPATIENT = "-c", "from ovss_ray.cli.app import main; from ovss_ray.engine import watch; watch.GONE = 12.0; main()"
"""A program that gives up a lost node or cluster after 12 instead of 30 seconds."""


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head for the driver, and two nodes with room for one of the larger workers each."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100_000_000})
    for _ in range(2):
        made.add_node(num_cpus=2, object_store_memory=100_000_000)
    yield made
    made.shutdown()


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A single node for the driver and the workers."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "object_store_memory": 100_000_000})
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def alone(data: Path) -> dict[str, Any]:
    """The results of the same run without a cluster: numbers, cells of the records, and label maps."""
    options = ["--benchmark", f"folder:{data}/mine.yaml", "--data-root", str(data), "--out", str(data / "alone")]
    with in_process.pools():
        done = ovss("evaluate", str(data / "config.yaml"), *options, "--set", "tests.small_san.seconds=0")
    assert done.returncode == 0, done.stderr
    found = results(data / "alone")
    (report,) = found["report"].values()
    assert report["images"] == {"expected": IMAGES, "scored": IMAGES, "failed": 0}
    assert len(found["maps"]) == IMAGES
    return found


def begun(out: Path, data: Path, nodes: Cluster, *overrides: str, count: int = 1) -> subprocess.Popen[str]:
    """A run of which so many workers have begun images."""
    witness = out.with_suffix(".txt")
    process = command(data, out, witness, nodes.address, *overrides, program=IMPATIENT)
    until = time.monotonic() + 300
    while len(workers(witness)) < count:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    return process


def workers(witness: Path) -> set[str]:
    """The processes that have begun images."""
    return {line.partition("@")[2] for line in witness.read_text().split()} if witness.exists() else set()


def test_a_node_that_does_not_come_back_is_done_without(data: Path, nodes: Cluster, alone: dict[str, Any]) -> None:
    out = data / "without"
    # At 2 s an image, the worker that is left cannot be done before the watch gives the other one up.
    slow = ("pools.0.cpus=1.5", "pools.0.workers=[1, 2]", "tests.small_san.seconds=2.0")
    process = begun(out, data, nodes, *slow, count=2)
    (lost, *_) = sorted(nodes.worker_nodes, key=str)
    nodes.remove_node(lost, allow_graceful=False)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert (
        "a node was lost, and no other node has room for the workers of the lost node: continuing with the remaining "
        "images" in said
    )
    assert results(out) == alone


def test_a_node_that_joins_late_gets_workers(data: Path, head: Cluster, alone: dict[str, Any]) -> None:
    out, witness = data / "late", data / "late.txt"
    slow = ("pools.0.cpus=2", "pools.0.workers=[1, 2]", "tests.small_san.seconds=2.0")
    process = begun(out, data, head, *slow)
    head.add_node(num_cpus=2, object_store_memory=100_000_000)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert len(workers(witness)) == 2, "the head has room for one worker"
    assert results(out) == alone


def test_a_driver_that_ends_with_its_own_node_leaves_a_word(data: Path, head: Cluster) -> None:
    process = begun(data / "orphan", data, head)
    head.head_node.all_processes["raylet"][0].process.kill()
    said, _ = process.communicate(timeout=120)
    assert process.returncode not in (0, 2), said
    assert "ovss: this process was killed" in said


def test_a_cluster_that_ends_under_a_run_is_noticed_and_said(data: Path, head: Cluster) -> None:
    out = data / "other"
    process = begun(out, data, head, "tests.small_san.seconds=1.0")
    # The control service first: while it lives it tells the driver that its node died, which ends it (the test above).
    head.head_node.kill_gcs_server(check_alive=False)
    for node in head.list_all_nodes():
        node.kill_all_processes(check_alive=False, allow_graceful=False)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "ovss: the cluster has not answered for" in said
    assert "Traceback" not in said
    again = command(data, out, out.with_suffix(".txt"), "local", "tests.small_san.seconds=0.0")
    said, _ = again.communicate(timeout=240)
    assert again.returncode == 0, said
    assert f"{IMAGES}/{IMAGES}" in said
