"""The command that waits for nodes: what it counts, what it asks the autoscaler for, and how it ends."""

import importlib.util
import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.cluster.manifests import CLUSTER

specification = importlib.util.spec_from_file_location("wait_for", CLUSTER / "wait_for.py")
assert specification
assert specification.loader
wait_for = importlib.util.module_from_spec(specification)
specification.loader.exec_module(wait_for)

HEAD = {"Alive": True, "Resources": {"memory": 8e9}}
WORKER = {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 4.0}}
DEAD = {"Alive": False, "Resources": {"CPU": 16.0, "GPU": 4.0}}


class Cluster:
    """A cluster to which a node is added at each look, after a head and a dead node."""

    def __init__(self, workers: int) -> None:
        self.looks, self.workers = 0, workers
        self.requests: list[Mapping[str, Any]] = []

    def nodes(self) -> list[Mapping[str, Any]]:
        self.looks += 1
        return [HEAD, DEAD, *[WORKER] * min(self.looks - 1, self.workers)]

    def request(self, **resources: Any) -> None:
        self.requests.append(resources)


def run(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, *arguments: str) -> None:
    monkeypatch.setattr(wait_for.ray, "init", lambda *_, **__: None)
    monkeypatch.setattr(wait_for.ray, "nodes", cluster.nodes)
    monkeypatch.setattr(wait_for, "request_resources", cluster.request)
    monkeypatch.setattr(wait_for, "PAUSE", 0)
    monkeypatch.setattr("sys.argv", ["wait_for.py", *arguments])
    wait_for.main()


def test_it_ends_when_live_nodes_have_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(workers=5)
    run(monkeypatch, cluster, "nodes=2", "GPU=12")
    assert capsys.readouterr().out.splitlines() == [
        f"waiting for the cluster: nodes {nodes} of 2, GPU {4 * nodes} of 12" for nodes in range(4)
    ]


def test_the_autoscaler_is_asked_and_released_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(workers=2)
    run(monkeypatch, cluster, "GPU=8", "CPU=20")
    assert cluster.requests == [{"num_cpus": 20, "bundles": [{"GPU": 1}] * 8}, {"num_cpus": 0, "bundles": []}]


def test_a_cluster_that_stays_too_small_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster(workers=1)
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, cluster, "GPU=8", "--seconds", "0.05")
    assert "still too small" in capsys.readouterr().err
    assert cluster.requests[-1] == {"num_cpus": 0, "bundles": []}, "the autoscaler does not keep the nodes"


@pytest.mark.parametrize("argument", ["gpus=8", "GPU=many", "GPU", "GPU=-1"])
def test_other_arguments_are_refused_with_an_example(
    argument: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, Cluster(1), argument)
    assert "such as GPU=8" in capsys.readouterr().err


def test_it_connects_again_while_the_head_is_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([ConnectionError("no node yet"), ConnectionError("no node yet"), None])

    def init(*_: Any, **__: Any) -> None:
        if answer := next(answers):
            raise answer

    monkeypatch.setattr(wait_for.ray, "init", init)
    monkeypatch.setattr(wait_for, "PAUSE", 0)
    wait_for.connect(time.monotonic() + 60)
    assert next(answers, "used up") == "used up"
    monkeypatch.setattr(wait_for.ray, "init", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("none")))
    with pytest.raises(ConnectionError, match="none"):
        wait_for.connect(0)


def test_each_kind_is_given_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, Cluster(workers=1), "GPU=2", "GPU=4")
    assert end.value.code == 2
    assert "may each be given once" in capsys.readouterr().err
