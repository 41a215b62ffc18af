"""How pools share the GPUs of a cluster, and what fits nodes with resources and labels of their own."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from ovss_ray.config.run import Pool, RunConfig
from ovss_ray.engine.cluster import estimate, placement
from ovss_ray.engine.cluster.nodes import Node, Size, even, matches
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.io import processor
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.runs.complete import complete


def pool(use: str, **settings: Any) -> Pool:
    return Pool(stages=(StageConfig(use=use),), **settings)


def place(size: Size, *pools: Pool) -> list[Placed]:
    return placement.place(complete(RunConfig(pools=pools)), size)


def on_gpus(size: Size, *pools: Pool) -> list[tuple[float, int]]:
    """GPUs of a worker, and the first workers, of each pool that uses GPUs."""
    placed = place(size, *pools)
    assert placement.unmet([replace(one, least=one.first) for one in placed], size) == "", "pools are started full"
    return [(one.gpus, one.first) for one in placed if one.gpus]


TWO = (pool("sam"), pool("alpha_clip"), pool("paint"))


@pytest.mark.parametrize(("nodes", "gpus"), [(1, 1), (1, 8), (4, 2), (125, 8)])
def test_two_networks_share_every_gpu(nodes: int, gpus: int) -> None:
    assert on_gpus(even(nodes, 8.0 * gpus, gpus), *TWO) == [(0.5, nodes * gpus)] * 2


def test_a_fraction_places_what_fits_single_gpus() -> None:
    assert on_gpus(even(1, 16, 1), pool("san", gpus=0.3)) == [(0.3, 3)]
    assert on_gpus(even(2, 64, 4), pool("san", gpus=0.3)) == [(0.3, 24)]
    assert on_gpus(even(1, 64, 8), pool("san", gpus=0.25)) == [(0.25, 32)]
    assert on_gpus(even(3, 16, 3), pool("san", gpus=2)) == [(2, 3)]


def test_pools_without_numbers_take_what_the_others_leave() -> None:
    fixed = pool("alpha_clip", gpus=0.4, workers=1)
    assert on_gpus(even(1, 8, 1), pool("sam"), fixed, pool("paint")) == [(0.6, 1), (0.4, 1)]
    assert on_gpus(even(1, 32, 4), pool("sam"), fixed, pool("paint")) == [(1.0, 3), (0.4, 1)]
    whole = pool("alpha_clip", gpus=0.995, workers=1)
    crowded = place(even(1, 8, 1), pool("sam"), whole, pool("paint"))
    assert "There is no room for the workers of" in placement.unmet(crowded, even(1, 8, 1))


@pytest.mark.parametrize("cpus", [2, 4, 8, 9])
def test_workers_on_gpus_leave_processors_for_decoding_and_writing(cpus: int) -> None:
    placed = place(even(1, cpus, 8), pool("san"))
    assert placed[1].first == 8
    assert sum(one.first * one.cpus for one in placed) + placement.WRITING <= cpus


def test_photographs_may_be_decoded_on_nodes_without_a_gpu_only() -> None:
    mixed = Size((Node(8, 8), *[Node(16, labels={"ray.io/node-group": "decoding"})] * 2))
    decode, san, rest = place(mixed, pool("decode", labels={"ray.io/node-group": "decoding"}), pool("san"))
    assert (san.first, san.cpus) == (8, 1), "they need not leave processors to the other pools"
    assert (decode.most, decode.gpus, rest.gpus) == (10, 0, 0)
    assert decode.options() == {"num_cpus": 1.0, "label_selector": {"ray.io/node-group": "decoding"}}
    assert placement.unmet([decode, san, rest], mixed) == ""
    assert "on nodes with ray.io/node-group=decoding" in placement.unmet([decode], even(4, 16, 8))


def test_a_type_of_gpu_and_custom_resources_choose_the_nodes() -> None:
    a100, t4 = ({f"accelerator_type:{kind}": 1.0, "disk": 2.0} for kind in ("A100", "T4"))
    mixed = Size((Node(16, 4, resources=t4), Node(16, 2, resources=a100)))
    assert on_gpus(mixed, pool("san", accelerator="A100")) == [(1, 2)]
    assert on_gpus(mixed, pool("san", resources={"disk": 1})) == [(1, 4)]
    assert "accelerator_type:H100" in placement.unmet(place(mixed, pool("san", accelerator="H100")), mixed)


def test_pools_grow_where_nodes_may_join() -> None:
    open_cluster = replace(even(1, 64, 8), grows=True)
    decode, san, _ = place(open_cluster, pool("san"))
    assert (san.first, san.most > 1000, decode.most > 1000) == (8, True, True)
    fixed = place(open_cluster, pool("san", workers=4))[1]
    uneven = place(open_cluster, pool("san", gpus=0.3))[1]
    assert (fixed.most, uneven.most) == (4, 24), "Ray would add a worker to what 24 workers leave of 8 GPUs"


def test_networks_for_gpus_on_the_cpus_of_a_cluster_are_reported() -> None:
    cluster = replace(even(1, 4), grows=True)
    slow = place(cluster, pool("san"))
    assert "san: computed on CPUs" in placement.on_cpus(slow, cluster, 1e9)
    assert placement.on_cpus(slow, cluster, 1e7) == "", "small networks are made for CPUs, too"
    assert placement.on_cpus(slow, even(1, 4), 1e9) == "", "nor can nodes join a laptop"
    assert placement.on_cpus(place(replace(cluster, nodes=(Node(4, 1),)), pool("san")), cluster, 1e9) == ""


def test_gpus_that_the_memory_leaves_idle_are_reported() -> None:
    def warning(memory: float, **settings: Any) -> str:
        pools, cluster = complete(RunConfig(pools=(pool("san", **settings),))), even(1, 64, 8, memory)
        return "".join(estimate.warnings(pools, placement.place(pools, cluster, 1e9), cluster, 1e9))

    assert warning(7e9).startswith("4 of 8 GPUs have no worker: the nodes offer Ray 7.0 GB of memory")
    assert "a worker is expected to need 2.0 GB. Set `workers` of the pool" in warning(7e9)
    assert warning(5e9, gpus=2).startswith("2 of 8 GPUs have no worker")
    assert warning(16e9) == "", "eight workers fit"
    assert warning(7e9, workers=3) == "", "three are asked for"
    assert warning(64e9, gpus=5) == "", "two GPUs are too few for another worker, not the memory"


def test_bf16_on_cpus_without_its_instructions_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "lacks_bf16", lambda: True)
    half = Pool(stages=(StageConfig(use="san", options={"precision": "bf16"}),))
    warning = placement.bf16_on_cpus(place(even(1, 4), half))
    assert warning.startswith("san: precision bf16 on a CPU without bf16 instructions")
    assert warning.endswith("type --set san.precision=fp32")
    assert placement.bf16_on_cpus(place(even(1, 4), pool("san"))) == ""
    assert placement.bf16_on_cpus(place(even(1, 4, 1), half)) == "", "it computes on the GPU"
    monkeypatch.setattr(processor, "lacks_bf16", lambda: False)
    assert placement.bf16_on_cpus(place(even(1, 4), half)) == ""


@pytest.mark.parametrize(
    ("selector", "chosen"), [("a", "a"), ("!a", "bc"), ("in(a, b)", "ab"), ("!in(a,b)", "c"), ("d", "")]
)
def test_labels_are_selected_as_ray_does(selector: str, chosen: str) -> None:
    assert "".join(value for value in "abc" if matches({"zone": value}, "zone", selector)) == chosen


@pytest.mark.parametrize("wrong", [{"gpus": 1.5}, {"gpus": -1}, {"cpus": float("nan")}, {"resources": {"disk": 0}}])
def test_numbers_that_ray_refuses_are_refused_first(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        pool("san", **wrong)
