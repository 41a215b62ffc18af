"""Several models in one service: which configs go together, and how they share a machine."""

from pathlib import Path

import pytest

from ovss_ray.config import loading as configs
from ovss_ray.config.run import RunConfig
from ovss_ray.config.shipped import shipped_configs
from ovss_ray.engine.cluster.nodes import even
from ovss_ray.errors import OvssError
from ovss_ray.serve.deployments import share


def shipped(*names: str, overrides: tuple[str, ...] = ()) -> dict[str, RunConfig]:
    return configs.load_several([shipped_configs()[name] for name in names], overrides)


def test_both_tiny_models_fit_on_two_processors_and_leave_none_idle_on_many() -> None:
    both = shipped("san_tiny", "sam_alpha_clip_tiny")
    placed = share.place(both, even(1, 2, 0, 24e9), 1e7)
    assert list(placed) == ["san_tiny", "sam_alpha_clip_tiny"]
    for (one,) in placed.values():
        assert (one.least, one.most, one.threads, one.batch) == (1, 1, 1, share.BATCH)
    assert sum(one.cpus for (one,) in placed.values()) <= 2
    for (one,) in share.place(both, even(1, 16, 0, 64e9), 1e7).values():
        assert one.most * one.cpus > 7


def test_every_pool_of_a_model_is_placed_in_its_order() -> None:
    placed = share.place(shipped("san_tiny", "sam_alpha_clip"), even(1, 8, 3, 64e9), 1e7)
    assert [[stage.use for stage in one.stages] for one in placed["sam_alpha_clip"]] == [
        ["sam"],
        ["alpha_clip"],
        ["paint"],
    ]
    assert [one.gpus for some in placed.values() for one in some] == [1, 1, 1, 0]


def test_models_that_want_more_gpus_than_there_are_get_a_part_of_one_each() -> None:
    placed = share.place(shipped("san_tiny", "sam_alpha_clip"), even(1, 8, 1, 64e9), 1e7)
    gpus = [one.gpus for some in placed.values() for one in some]
    assert gpus == [0.33, 0.33, 0.33, 0]
    assert all(one.most == 1 for some in placed.values() for one in some if one.gpus)
    two = share.place(shipped("san_tiny", "sam_alpha_clip"), even(2, 4, 1, 32e9), 1e7)
    assert [one.gpus for some in two.values() for one in some] == [0.5, 0.5, 0.5, 0]


def test_what_does_not_fit_is_said_with_what_there_is() -> None:
    wanted = shipped("san_tiny", "sam_alpha_clip_tiny", overrides=("pools.0.cpus=2",))
    with pytest.raises(OvssError, match=r"cluster too small: the pools need at least 4\.1 CPUs"):
        share.place(wanted, even(1, 2, 0, 24e9), 1e7)


def test_an_override_goes_to_the_models_that_have_what_it_changes() -> None:
    both = shipped("san_tiny", "sam_alpha_clip_tiny", overrides=("sam.points_per_side=5", "limits.seconds=60"))
    assert both["sam_alpha_clip_tiny"].stages()[0].options["points_per_side"] == 5
    assert share.limits(both).seconds == 60
    with pytest.raises(OvssError, match="sum"):
        shipped("san_tiny", "sam_alpha_clip_tiny", overrides=("sum.points_per_side=5",))


def test_a_config_that_sets_others_side_by_side_stands_for_these() -> None:
    assert list(shipped("default")) == ["san_tiny", "sam_alpha_clip_tiny"]


def test_models_that_cannot_stand_side_by_side_are_refused(tmp_path: Path) -> None:
    (tmp_path / "san_tiny.yaml").write_text((shipped_configs()["san_tiny"]).read_text())
    with pytest.raises(OvssError, match="two configs have the name 'san_tiny'"):
        configs.load_several([shipped_configs()["san_tiny"], tmp_path / "san_tiny.yaml"])
    (tmp_path / "slow.yaml").write_text((shipped_configs()["san_tiny"]).read_text() + "limits: {seconds: 90}\n")
    with pytest.raises(OvssError, match="san_tiny, slow differ in `limits`"):
        share.limits(configs.load_several([shipped_configs()["san_tiny"], tmp_path / "slow.yaml"]))
    (tmp_path / "my model.yaml").write_text((shipped_configs()["san_tiny"]).read_text())
    with pytest.raises(OvssError, match="invalid model name 'my model'"):
        share.limits(configs.load_several([tmp_path / "my model.yaml"]))
