"""Which pools a run gets, and what "auto" means on clusters of several kinds."""

import pytest

from ovss_ray.config.run import Pool, RunConfig
from ovss_ray.engine.cluster import placement
from ovss_ray.engine.cluster.nodes import even
from ovss_ray.errors import OvssError
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.runs.complete import complete

BIG = even(1, 64, 8)
SAVE = StageConfig(use="save", options={"folder": "out"})


def config(*stages: str) -> RunConfig:
    return RunConfig(pools=(Pool(stages=tuple(StageConfig(use=name) for name in stages)),))


def uses(pools: list[Pool]) -> list[list[str]]:
    return [[stage.use for stage in pool.stages] for pool in pools]


def test_a_network_gets_images_before_it_and_is_measured_after_it() -> None:
    assert uses(complete(config("san"), SAVE)) == [["decode"], ["san"], ["truth", "measure", "save"]]


def test_photographs_are_not_read_if_no_stage_looks_at_them() -> None:
    assert uses(complete(config("predictions"))) == [["predictions"], ["truth", "measure"]]


def test_the_truth_is_read_before_the_first_stage_that_needs_it() -> None:
    assert uses(complete(config("oracle"))) == [["decode"], ["truth", "oracle"], ["measure"]]


def test_proposed_regions_are_measured_beside_the_label_map() -> None:
    oracle = complete(config("truth_regions", "alpha_clip", "paint"))
    assert uses(oracle) == [
        ["decode"],
        ["truth", "truth_regions", "alpha_clip", "paint"],
        ["measure"],
    ]
    assert oracle[-1].stages[0].writes() == ("confusion", "proposal_recall")
    assert complete(config("san"))[-1].stages[-1].writes() == ("confusion",)
    named = complete(config("sam", "alpha_clip", "paint", "truth", "measure"))
    assert uses(named)[-1] == ["sam", "alpha_clip", "paint", "truth", "measure"]
    assert named[-1].stages[-1].writes() == ("confusion", "proposal_recall")


def test_the_stage_that_measured_regions_is_named_with_what_to_do() -> None:
    with pytest.raises(OvssError, match=r"`measure_regions` was removed; the stage `measure` does its work\. Delete"):
        complete(config("sam", "alpha_clip", "paint", "truth", "measure_regions"))


def test_a_config_may_put_everything_into_one_pool() -> None:
    whole = ("decode", "san", "truth", "measure")
    assert uses(complete(config(*whole))) == [list(whole)]


def test_with_gpus_there_is_one_worker_for_each() -> None:
    pools = placement.place(complete(config("san")), BIG)
    assert [(pool.gpus, pool.least, pool.most) for pool in pools] == [(0, 1, 16), (1, 1, 8), (0, 1, 16)]


def test_without_gpus_light_work_is_done_by_those_who_compute() -> None:
    small = even(1, 4)
    whole = ["decode", "san", "truth", "measure", "save"]
    assert uses(placement.fused(complete(config("san"), SAVE), small)) == [whole]
    assert len(placement.fused(complete(config("san"), SAVE), BIG)) == 3
    apart = RunConfig(pools=tuple(Pool(stages=(StageConfig(use=name),)) for name in ("sam", "alpha_clip", "paint")))
    parts = [["decode", "sam"], ["alpha_clip", "paint", "truth", "measure"]]
    assert uses(placement.fused(complete(apart), small)) == parts
    light = complete(config("predictions"))
    assert placement.fused(light, small) == light


def test_a_pool_that_the_config_places_itself_stays_alone() -> None:
    pools = (Pool(stages=(StageConfig(use="decode"),), workers=2), *config("san").pools)
    assert uses(placement.fused(pools, even(1, 4))) == [["decode"], ["san"]]


@pytest.mark.parametrize("cpus", [1, 2, 4, 16, 64])
def test_without_gpus_all_first_workers_fit_and_a_processor_is_left_for_writing(cpus: int) -> None:
    pools = placement.place(complete(config("san")), even(1, cpus))
    assert all(pool.gpus == 0 for pool in pools)
    assert sum(pool.least * pool.cpus for pool in pools) <= max(1, cpus) - 0.1
    assert (pools[1].threads, pools[1].most) == (1, cpus)


def test_batches_are_large_on_gpus_and_single_images_without() -> None:
    assert {pool.batch for pool in placement.place(complete(config("san")), BIG)} == {8}
    assert {pool.batch for pool in placement.place(complete(config("san")), even(1, 2))} == {1}


def test_numbers_in_the_config_are_kept() -> None:
    pool = Pool(stages=(StageConfig(use="san"),), workers=3, cpus=2, gpus=0.5)
    placed = placement.place([pool], BIG)[0]
    assert (placed.least, placed.most, placed.cpus, placed.gpus) == (3, 3, 2, 0.5)


def test_workers_fit_the_nodes_of_a_cluster_of_small_ones() -> None:
    size = even(4, 2)
    pools = placement.place(complete(config("san")), size)
    assert pools[1].cpus <= 2
    assert placement.unmet(pools, size) == ""


@pytest.mark.parametrize("asked", [{"gpus": 1}, {"cpus": 16}, {"workers": 40, "cpus": 1}])
def test_what_a_cluster_can_never_give_is_said_before_ray_waits_for_it(asked: dict[str, int]) -> None:
    pool = Pool(stages=(StageConfig(use="san"),), **asked)  # type: ignore[arg-type]
    size = even(1, 4)
    assert "the cluster has 4 CPUs and 0 GPUs" in placement.unmet(placement.place([pool], size), size)


def test_memory_bounds_the_workers_that_auto_gives() -> None:
    pools = complete(config("san"))
    roomy = placement.place(pools, even(1, 64, memory=256e9), weights=1e9)
    tight = placement.place(pools, even(1, 64, memory=8e9), weights=1e9)
    none = placement.place(pools, even(1, 64, memory=1e9), weights=1e9)
    assert [(p[1].most, p[1].threads) for p in (roomy, tight, none)] == [(64, 1), (4, 4), (1, 4)]
