"""Waiting for the nodes of a cluster that is still too small: what is requested, printed, and when it ends."""

from types import SimpleNamespace
from typing import Any

import pytest

from ovss_ray.config import loading
from ovss_ray.config.run import Pool, WaitFor
from ovss_ray.engine.cluster import preflight, waiting
from ovss_ray.engine.cluster.nodes import Node, Size
from ovss_ray.errors import OvssError
from ovss_ray.pipeline.stage import StageConfig

HEAD, GPU, NO_WORK = Node(4), Node(8, 2), Node(0)


class Cluster:
    """A cluster to which a node is added after every fourth look, and what is printed and requested meanwhile."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, workers: int, scaled: bool = True, head: Node = HEAD, node: Node = GPU
    ) -> None:
        self.looks, self.workers, self.head, self.node = 0, workers, head, node
        self.said: list[str] = []
        self.requests: list[Any] = []
        self.groups: list[Any] = []
        monkeypatch.setattr(waiting.connection, "size", self.size)
        monkeypatch.setattr(waiting.autoscaler, "autoscaled", lambda: scaled)
        monkeypatch.setattr(waiting, "request_resources", lambda bundles: self.requests.append(bundles))
        monkeypatch.setattr(waiting, "placement_group", self.group)
        monkeypatch.setattr(waiting, "remove_placement_group", lambda group: self.groups.append(f"without {group}"))
        monkeypatch.setattr(waiting, "PAUSE", 0.0)

    def group(self, bundles: list[dict[str, float]], strategy: str) -> str:
        self.groups.append((bundles, strategy))
        return "group"

    def size(self) -> Size:
        self.looks += 1
        return Size((self.head, *[self.node] * min(self.looks // 4, self.workers)), grows=True)


def pools(**settings: Any) -> list[Pool]:
    return [Pool(stages=(StageConfig(use="san"),), **settings)]


def test_a_run_waits_for_the_gpus_that_an_autoscaler_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, workers=1)
    (placed,), _ = waiting.for_pools(pools(gpus=1), 1e7, 0.0, 600.0, cluster.said.append)
    assert (placed.gpus, placed.first) == (1, 2)
    assert cluster.requests == [[{"CPU": 1.0, "GPU": 1}], []], "the autoscaler does not keep the nodes"
    assert "1 nodes, 4 CPUs and 0 GPUs (waited 0 of at most 600 s)" in cluster.said[0]


def test_heavy_networks_wait_for_a_first_gpu_and_small_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    (placed,), _ = waiting.for_pools(pools(), 1e9, 0.0, 600.0, Cluster(monkeypatch, workers=1).said.append)
    assert placed.gpus == 1
    (placed,), _ = waiting.for_pools(pools(), 1e7, 0.0, 600.0, Cluster(monkeypatch, workers=1).said.append)
    assert placed.gpus == 0
    still = Cluster(monkeypatch, workers=1, scaled=False)
    assert waiting.for_pools(pools(), 1e9, 0.0, 600.0, still.said.append)[0][0].gpus == 0, "no autoscaler, no wait"
    assert still.requests == []


def test_without_any_cpus_small_networks_request_cpus_and_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, workers=2, head=NO_WORK, node=Node(1))
    (placed,), _ = waiting.for_pools(pools(workers=2), 1e7, 0.0, 600.0, cluster.said.append)
    assert cluster.requests == [[{"CPU": 1.0}] * 2, []]
    assert (placed.gpus, placed.least) == (0, 2)
    with pytest.raises(OvssError, match=r"need at least 2\.1 CPUs and 0 GPUs.*patience=3600$"):
        waiting.for_pools(pools(workers=2), 1e7, 0.0, 0.02, Cluster(monkeypatch, 0, head=NO_WORK).said.append)
    cluster = Cluster(monkeypatch, workers=1, head=NO_WORK)
    assert waiting.for_pools(pools(), 1e9, 0.0, 600.0, cluster.said.append)[0][0].gpus == 1
    assert cluster.requests[0] == [{"CPU": 1.0, "GPU": 1.0}], "a large network requests a GPU"


def test_a_large_network_that_the_config_keeps_on_cpus_waits_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, workers=0)
    (placed,), _ = waiting.for_pools(pools(gpus=0, workers=4), 1e9, 0.0, 600.0, cluster.said.append)
    assert (placed.gpus, placed.least, cluster.requests, cluster.said) == (0, 4, [], [])


def test_a_request_that_another_command_has_replaced_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "REPEAT", 0.0)
    cluster = Cluster(monkeypatch, workers=1)
    waiting.for_pools(pools(gpus=1), 1e7, 0.0, 600.0, cluster.said.append)
    *repeated, last = cluster.requests
    assert len(repeated) > 1
    assert repeated == [[{"CPU": 1.0, "GPU": 1}]] * len(repeated)
    assert last == []


@pytest.mark.parametrize(("workers", "checks"), [(0, 0), (1, 1)])
def test_nodes_that_joined_during_the_wait_are_checked_before_they_get_workers(
    workers: int, checks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, checked = Cluster(monkeypatch, workers), list[Any]()
    monkeypatch.setattr(preflight, "run", checked.append)
    plan: Any = SimpleNamespace(pools=pools(gpus=workers), sources=[], config=SimpleNamespace(patience=600.0))
    preflight.place(plan, 0.0, cluster.said.append)
    assert len(checked) == checks


def test_a_wait_in_vain_ends_with_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, workers=0)
    with pytest.raises(OvssError, match=r"cluster too small.*ray status.*patience=3600, or .*gpus: 0"):
        waiting.for_pools(pools(gpus=1), 1e7, 0.0, 0.02, cluster.said.append)
    assert cluster.requests[-1] == []
    with pytest.raises(OvssError, match="pass --wait-for gpus=N"):
        waiting.for_pools(pools(gpus=1), 1e7, 0.0, 600.0, Cluster(monkeypatch, 0, scaled=False).said.append)


def test_wait_for_counts_nodes_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, workers=5)
    waiting.until_reached(WaitFor.model_validate("gpus=4,nodes=3"), 600.0, cluster.said.append)
    assert cluster.requests == [[{"GPU": 1.0}] * 4, []]
    assert cluster.groups == [([{"CPU": waiting.SHARE}] * 3, "STRICT_SPREAD"), "without group"]
    assert cluster.said[0].startswith("waiting for the cluster: 1 of 3 nodes, 0 of 4 gpus")
    with pytest.raises(OvssError, match=r"still too small after 0 s: .*0 of 4 gpus"):
        waiting.until_reached(WaitFor(gpus=4), 0.0, Cluster(monkeypatch, workers=0).said.append)
    still = Cluster(monkeypatch, workers=0)
    with pytest.raises(OvssError, match=r"1 of 9 nodes"):
        waiting.until_reached(WaitFor(nodes=9), 0.02, still.said.append)
    assert still.requests == []
    assert still.groups[-1] == "without group", "the autoscaler does not keep the nodes"


def test_no_command_waits_for_nodes_of_a_cluster_that_it_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting.connection, "size", lambda: Size((HEAD,)))
    waiting.until_reached(WaitFor(cpus=4, nodes=1), 600.0, print)
    with pytest.raises(OvssError, match=r"0 of 1 gpus\. .*no nodes can join it\. .*RAY_ADDRESS"):
        waiting.until_reached(WaitFor(gpus=1), 600.0, print)


@pytest.mark.parametrize("wrong", ["gpus", "gpu=8", "gpus=8,gpus=4", "gpus=-1", "gpus=many", ""])
def test_other_sizes_are_refused_with_an_example(wrong: str) -> None:
    raw = {"pools": [{"stages": [{"use": "san"}]}], "wait_for": wrong}
    with pytest.raises(OvssError, match=r"wait_for.*such as gpus=8,nodes=2"):
        loading.validate(raw, "my.yaml")
