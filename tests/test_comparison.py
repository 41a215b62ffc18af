"""Published figures beside measured ones: for which runs, of which convention, and when without a difference."""

from dataclasses import replace
from typing import Any

import pytest

from ovss_ray import published, stage
from ovss_ray.published import comparison
from ovss_ray.stage import StageConfig
from ovss_ray.weights import WEIGHTS

SAN = [StageConfig(use="san")]
OWN = {"file": "/weights/san_vit_b_16.pth", "sha256": "a" * 64, "fake": False}
WHOLE = {"ade20k:847": 2000, "pascal_context:459": 5104, "pascal_context:59": 5104, "camvid": 101}


def measured(name: str = "pascal_context:459", **changed: Any) -> dict[str, Any]:
    """What a report says of a benchmark that was done in full."""
    every = WHOLE[name.partition("@")[0]]
    return {
        "images": {"expected": every, "scored": every, "failed": 0},
        "final": True,
        "selection": {"split": "val", "ids": None, "limit": None},
        "metrics": {"miou": 16.5, "miou_classic": 12.5},
        **changed,
    }


def beside(name: str = "pascal_context:459", one: dict[str, Any] | None = None, **weights: Any) -> dict[str, Any]:
    told = comparison.beside(name, one or measured(name), SAN, [{**OWN, **weights}])
    assert told is not None
    return told


def test_each_figure_stands_beside_the_value_of_its_own_convention() -> None:
    told = beside()
    assert (told["method"], told["backbone"], told["not_comparable"]) == ("SAN", "CLIP ViT-B/16", [])
    log, paper = told["figures"]
    assert (log["miou"], log["convention"], log["metric"], log["measured"]) == (16.7053, "miou", "miou", 16.5)
    assert log["difference"] == pytest.approx(-0.2053, abs=1e-9)
    assert (paper["miou"], paper["convention"], paper["measured"]) == (12.6, "miou_classic", 12.5)
    assert paper["difference"] == pytest.approx(-0.1, abs=1e-9)
    assert "san_vit_b_16.log" in log["where"]


def test_the_large_one_has_its_own_figures() -> None:
    large = [StageConfig(use="san", options={"variant": "san_vit_large_14", "precision": "bf16"})]
    told = comparison.beside("ade20k:847", measured("ade20k:847"), large, [{**OWN, "file": "san_vit_large_14.pth"}])
    assert told is not None
    assert [one["miou"] for one in told["figures"]] == [12.9597, 12.4]
    assert told["not_comparable"] == []


@pytest.mark.parametrize(
    "stages",
    [
        [StageConfig(use="san", options={"variant": "san_tiny"})],
        [StageConfig(use="predictions", options={"path": "x"})],
        [StageConfig(use="sam"), StageConfig(use="alpha_clip"), StageConfig(use="paint")],
        [StageConfig(use="san"), StageConfig(use="paint")],
    ],
)
def test_runs_of_other_methods_have_no_published_figures(stages: list[StageConfig]) -> None:
    assert comparison.beside("ade20k:847", measured("ade20k:847"), stages, [OWN]) is None


def test_where_nobody_has_published_anything_nothing_is_said() -> None:
    assert comparison.beside("camvid", measured("camvid"), SAN, [OWN]) is None


@pytest.mark.parametrize(
    ("name", "changed", "weights", "reason"),
    [
        ("ade20k:847", {}, {"fake": True}, "/weights/san_vit_b_16.pth holds made-up values"),
        ("ade20k:847", {}, {"file": "/mine/last.pth"}, "/mine/last.pth is not the published san_vit_b_16.pth"),
        ("ade20k:847", {"images": {"expected": 5, "scored": 5}}, {}, "5 of the 2000 images were asked for"),
        ("ade20k:847", {"selection": {"split": "train"}}, {}, "figures of the split val, and this is train"),
        (
            "ade20k:847",
            {"images": {"expected": 2000, "scored": 1990}, "final": False},
            {},
            "1990 of 2000 images have a result",
        ),
        ("pascal_context:59", {}, {}, "of other labels: evaluate pascal_context:59-json"),
        ("pascal_context:59@ovseg", {}, {}, "the classes are asked for in the words of ovseg"),
    ],
)
def test_what_is_not_the_same_is_said_in_place_of_a_difference(
    name: str, changed: dict[str, Any], weights: dict[str, Any], reason: str
) -> None:
    told = beside(name, measured(name, **changed), **weights)
    assert len(told["not_comparable"]) == 1
    assert reason in told["not_comparable"][0]
    assert told["figures"]
    assert all(one["difference"] is None and one["measured"] == 16.5 for one in told["figures"])


def test_without_a_word_about_the_weights_nothing_is_compared() -> None:
    told = comparison.beside("ade20k:847", measured("ade20k:847"), SAN, [])
    assert told is not None
    assert told["not_comparable"] == ["nothing says which weights these were"]


def test_a_checkpoint_is_known_by_its_digest_where_one_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "by its name san_vit_b_16.pth alone" in beside()["checkpoint"]
    monkeypatch.setitem(WEIGHTS, "san_vit_b_16", replace(WEIGHTS["san_vit_b_16"], sha256="a" * 64))
    assert beside(file="renamed.pth")["not_comparable"] == []
    assert "its sha256" in beside(file="renamed.pth")["checkpoint"]
    assert beside(sha256="b" * 64)["not_comparable"] == [f"{OWN['file']} is not the published san_vit_b_16.pth"]


def test_a_figure_of_unknown_convention_has_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    one = replace(published.of("ade20k:847")[0], method="SAN", backbone="CLIP ViT-B/16", convention="unknown")
    monkeypatch.setattr(published, "of", lambda name: (one,))
    (figure,) = beside("ade20k:847")["figures"]
    assert (figure["metric"], figure["measured"], figure["difference"]) == (None, None, None)


def test_every_method_that_is_known_by_its_stage_has_a_checkpoint_a_stage_and_figures() -> None:
    rows = published._told()["methods"]
    assert len(rows) == 2
    for use, variant, known in rows:
        settings = stage.find("ovss_ray.actors", use, "Stage").Config(variant=variant)
        assert settings.variant in WEIGHTS
        benchmarks = {one.benchmark for one in published.figures() if [one.method, one.backbone] == known}
        assert len(benchmarks) == 6
