"""The estimate of a run before it starts, and the probe of a few images."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ovss_ray.cli import app
from ovss_ray.config import loading as configs
from ovss_ray.engine.cluster import estimate as estimates
from ovss_ray.engine.cluster import placement, probe
from ovss_ray.engine.cluster.estimate import Probed, estimate, imagined, placed
from ovss_ray.engine.cluster.nodes import even
from ovss_ray.errors import OvssError
from ovss_ray.runs import records
from ovss_ray.runs.plan import RunPlan, plan_run
from ovss_ray.structures.columns import MANIFEST, column, empty

ORACLE = "pools: [{stages: [{use: oracle}]}]\nbenchmarks: [scenes:seen]\nlimit: 20\n"
PIXELS = {"image": 1e6, "prediction": 2e5, "truth": 2e5}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    """A network (which only a GPU makes fast) on 20 drawn scenes, with its shipped weights."""
    raw = {"pools": [{"stages": [{"use": "san", "options": {"variant": "san_tiny"}}]}], "benchmarks": ["scenes:seen"]}
    return plan_run(configs.validate(raw | {"limit": 20}, ""), str(tmp_path_factory.mktemp("planned") / "run"))


def probed(plan: RunPlan, seconds: Sequence[float]) -> Probed:
    stages = [stage.use for pool in plan.pools for stage in pool.stages]
    return Probed(16, dict(zip(stages, seconds, strict=True)), PIXELS, start=3.0, prepared=1000)


def test_pools_are_those_of_the_run_and_columns_those_that_later_pools_need(plan: RunPlan) -> None:
    size = even(1, 16, 2, memory=1e12)
    planned = estimate(plan, size)
    assert [step.pool for step in planned.steps] == placement.place(
        placement.fused(plan.pools, size), size, planned.weights
    )
    first, network, last = planned.steps
    assert set(first.columns) - set(MANIFEST) == {"image", "image_digest", "seconds"}
    assert "prediction" in network.columns
    assert "image" not in network.columns
    assert "confusion" in last.columns
    assert planned.rate() is planned.seconds() is planned.store() is None, "nothing was timed"


def test_the_slowest_part_of_the_cluster_sets_the_time(plan: RunPlan) -> None:
    slow = estimate(plan, even(1, 16, 2, memory=1e12), probed(plan, [0.1, 2.0, 0.01, 0.01, 0.01]))
    assert slow.limits()["the GPUs"] == slow.limits()["the workers of san"] == 1.0
    assert slow.rate() == (1.0, "the GPUs")
    assert slow.seconds() == 3.0 + 20
    assert slow.batches() == pytest.approx(3 / 8)
    instant = estimate(plan, even(1, 16, 2, memory=1e12), probed(plan, [0.0] * 5))
    assert instant.rate() == (pytest.approx(8 / (3 * estimates.DRIVER)), "the driver process")


def test_the_object_store_holds_what_keeps_all_workers_busy(plan: RunPlan) -> None:
    planned = estimate(plan, even(2, 8, 1, memory=1e12), probed(plan, [0.1, 2.0, 0.01, 0.01, 0.01]))
    decode, network, last = (step.reach for step in planned.steps)
    assert (decode, network) == (3, 2), "three batches of eight; a worker for each GPU"
    batches = decode * 1e6 + network * (2 * 1e6 + 2e5) + last * 2 * 2e5
    assert planned.store() == pytest.approx(8 * batches + 2 * 1000)


def test_finished_images_are_subtracted_and_a_small_cluster_is_named(plan: RunPlan) -> None:
    table = plan.manifests["scenes:seen"].slice(0, 5)
    row = {**{name: column(table[name].to_pylist()) for name in MANIFEST}, "seconds": empty("seconds", 5)}
    records.append(plan.folder.records("scenes:seen"), records.table(row))
    assert (estimate(plan, even(1, 16, 2)).images, estimate(plan, even(1, 16, 2)).left) == (20, 15)
    needy = replace(plan, pools=(plan.pools[0].model_copy(update={"gpus": 4.0}), *plan.pools[1:]))
    assert "cluster too small" in estimate(needy, even(1, 16, 2)).shortage


def test_nodes_are_described_in_words() -> None:
    size = imagined("nodes=8, cpus=96,gpus=8,memory=500")
    assert (len(size.nodes), size.cpus, size.gpus, size.grows) == (8, 768, 64, False)
    assert size.memory + size.store == pytest.approx(8 * 500e9)


@pytest.mark.parametrize("text", ["", "nodes=8", "cpus=many,memory=1", "cpus=8,memory=9,disks=2", "cpus=-1,memory=9"])
def test_other_descriptions_of_nodes_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(OvssError, match="such as nodes=8,cpus=96"):
        imagined(text)


def test_a_probe_times_every_stage_and_leaves_no_file_in_the_run(tmp_path: Path) -> None:
    (tmp_path / "oracle.yaml").write_text(ORACLE)
    plan = plan_run(configs.load(tmp_path / "oracle.yaml", ["limit=3"]), str(tmp_path / "run"))
    measured = probe.probe(plan, placed(plan, even(1, 2)), lambda text: pytest.fail(text))
    assert measured.images == 3
    assert set(measured.seconds) == {stage.use for pool in plan.pools for stage in pool.stages}
    assert all(math.isfinite(seconds) and seconds > 0 for seconds in measured.seconds.values())
    assert measured.bytes["confusion"] > 0
    assert not (tmp_path / "run").exists()


def test_a_probe_takes_images_from_all_over_the_run(plan: RunPlan) -> None:
    listed = plan.manifests["scenes:seen"]["image_id"].to_pylist()
    taken = probe._spread(plan)["image_id"].tolist()
    assert len(taken) == len(set(taken)) == probe.IMAGES < len(listed)
    assert (taken[0], taken[-1]) == (listed[0], listed[-1])


def test_the_command_prints_pools_and_says_how_to_get_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "oracle.yaml").write_text(ORACLE)
    command = ["plan", str(tmp_path / "oracle.yaml"), "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as end:
        app.main([*command, "--on", "cpus=4,memory=16"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for words in ("oracle", "measure, save", "records: confusion", "images: 20 of scenes:seen", "Add --probe"):
        assert words in shown
    with pytest.raises(SystemExit) as end:
        app.main([*command, "--set", "pools.0.gpus=9", "--on", "cpus=4,memory=16"])
    assert end.value.code == 2
    assert "cluster too small" in capsys.readouterr().err


def test_the_command_warns_of_gpus_that_the_memory_leaves_idle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["plan", "san_tiny", "--benchmark", "scenes:seen", "--limit", "20", "--out", str(tmp_path / "run")]
    for memory, warned in (("10", True), ("100", False)):
        with pytest.raises(SystemExit) as end:
            app.main([*command, "--on", f"cpus=64,gpus=8,memory={memory}"])
        assert end.value.code == 0
        assert ("of 8 GPUs have no worker: the nodes offer Ray 7.0 GB" in capsys.readouterr().err) == warned
