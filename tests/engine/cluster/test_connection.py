"""Two nodes on one machine: what every node has to see, and how large workers may be."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from PIL import Image
from ray.cluster_utils import Cluster

from ovss_ray.config import loading as configs
from ovss_ray.engine.cluster import connection, preflight
from ovss_ray.errors import OvssError
from ovss_ray.runs.plan import JOB, RunPlan, plan_run

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def nodes() -> Iterator[None]:
    """A head and a second node, of two processors each."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    made.add_node(num_cpus=2)
    ray.init(made.address, log_to_driver=False)
    yield
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def request_(tmp_path: Path) -> RunPlan:
    for folder, shape in (("photos", (8, 8, 3)), ("labels", (8, 8))):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / folder / "a.png")
    (tmp_path / "a.pth").write_text("weights")
    (tmp_path / "mine.yaml").write_text("images: photos/*.png\nlabels: labels/*.png\nclasses: [a, b]\n")
    raw = {
        "benchmarks": [f"folder:{tmp_path}/mine.yaml"],
        "data_root": str(tmp_path),
        "pools": [{"stages": [{"use": "san", "options": {"variant": "san_tiny", "weights": str(tmp_path / "a.pth")}}]}],
    }
    return plan_run(configs.validate(raw, "test"), str(tmp_path / "run"))


def test_the_largest_node_is_known_beside_the_whole(nodes: None) -> None:
    with connection.connect():
        size = connection.size()
        assert (size.cpus, size.node_cpus, size.gpus) == (4, 2, 0)


def test_a_node_that_does_not_see_a_file_is_named_before_workers_start(
    nodes: None, request_: RunPlan, tmp_path: Path
) -> None:
    request_.folder.save_json("identity.json", {})
    preflight.run(request_)
    (tmp_path / "b.pth").write_text("other")
    other = replace(request_, sources=((tmp_path / "b.pth",),))  # as if the command had another file at this path
    with pytest.raises(OvssError, match=r"node .* has other weights of san than .*a\.pth: [0-9a-f]{64} on the node"):
        preflight.run(other)
    (tmp_path / "photos/a.png").unlink()
    with pytest.raises(OvssError, match=r"node .* cannot access .*photos/a\.png\. Pass --out"):
        preflight.run(request_)


def test_a_node_that_has_died_unnoticed_is_passed_over(
    nodes: None, request_: RunPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_.folder.save_json("identity.json", {})
    with connection.connect():
        there = connection.ray.nodes()
        monkeypatch.setattr(connection.ray, "nodes", lambda: [{**there[0], "NodeID": "ab" * 28}, *there])
        preflight.run(request_)
        (tmp_path / "labels/a.png").unlink()
        with pytest.raises(OvssError, match=r"cannot access .*labels/a\.png"):
            preflight.run(request_)


def test_a_disk_that_is_too_small_is_said_before_ray_starts(request_: RunPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    request_.folder.save_json("identity.json", {})
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(OvssError, match=r"run: disk too small, only 0\.00 GB free.*--set keep_predictions=none"):
        preflight.room(request_)


def test_a_job_brings_variables_and_gets_those_of_its_head_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSS_CACHE", "/shared/cache")
    monkeypatch.delenv("OVSS_WEIGHTS", raising=False)
    monkeypatch.delenv(JOB, raising=False)
    assert connection._runtime() == {"env_vars": {"OVSS_CACHE": "/shared/cache"}}
    monkeypatch.setenv(JOB, '{"runtime_env": {"working_dir": "gcs://a.zip"}}')
    assert connection._runtime() == {"env_vars": {"OVSS_CACHE": "/shared/cache"}}
    monkeypatch.setenv(JOB, '{"runtime_env": {"env_vars": {"OVSS_CACHE": "/shared/cache"}}}')
    assert connection._runtime() is None, "the environment of the job is enough, and each further one takes time"


def test_an_address_at_which_nothing_listens_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(OvssError, match=r"RAY_ADDRESS=127\.0\.0\.1:1: no cluster answers at this address"):
        connection._address()


def test_a_cluster_of_this_machine_that_has_ended_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert connection._address() is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:1")
    assert connection._address() == "local"
