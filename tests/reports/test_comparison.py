"""Published figures beside measured ones: for which runs, of which convention, and when without a difference."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ovss_ray import registry
from ovss_ray.models import zoo
from ovss_ray.models.san.variants import WEIGHTS
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.reports import published
from ovss_ray.reports.published import comparison
from ovss_ray.reports.schema import BenchmarkReport, Published

SAN = [StageConfig(use="san")]
OWN = {"file": "/weights/san_vit_b_16.pth", "sha256": "a" * 64, "fake": False}
WHOLE = {"ade20k:847": 2000, "pascal_context:459": 5104, "pascal_context:59": 5104, "camvid": 101, "pascal5i:0": 346}


def measured(name: str = "pascal_context:459", **changed: Any) -> BenchmarkReport:
    """Return the report of a benchmark of which every image was scored."""
    every = WHOLE[name.partition("@")[0]]
    complete = {
        "images": {"expected": every, "scored": every, "failed": 0},
        "final": True,
        "selection": {"split": "val", "ids": None, "limit": None},
        "metrics": {"miou": 16.5, "miou_classic": 12.5},
    }
    return BenchmarkReport.model_validate({**complete, **changed})


def beside(name: str = "pascal_context:459", one: BenchmarkReport | None = None, **weights: Any) -> Published:
    told = comparison.published_for(name, one or measured(name), SAN, [{**OWN, **weights}])
    assert told is not None
    return told


def test_each_figure_stands_beside_the_value_of_its_own_convention() -> None:
    told = beside()
    assert (told.method, told.backbone, told.not_comparable) == ("SAN", "CLIP ViT-B/16", ())
    log, paper = told.figures
    assert (log.miou, log.convention, log.metric, log.measured) == (16.7053, "miou", "miou", 16.5)
    assert log.difference == pytest.approx(-0.2053, abs=1e-9)
    assert (paper.miou, paper.convention, paper.measured) == (12.6, "miou_classic", 12.5)
    assert paper.difference == pytest.approx(-0.1, abs=1e-9)
    assert "san_vit_b_16.log" in log.where


def test_the_large_one_has_its_own_figures() -> None:
    large = [StageConfig(use="san", options={"variant": "san_vit_large_14", "precision": "bf16"})]
    told = comparison.published_for(
        "ade20k:847", measured("ade20k:847"), large, [{**OWN, "file": "san_vit_large_14.pth"}]
    )
    assert told is not None
    assert [one.miou for one in told.figures] == [12.9597, 12.4]
    assert told.not_comparable == ()


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
    assert comparison.published_for("ade20k:847", measured("ade20k:847"), stages, [OWN]) is None


def test_where_nobody_has_published_anything_nothing_is_said() -> None:
    assert comparison.published_for("camvid", measured("camvid"), SAN, [OWN]) is None


@pytest.mark.parametrize(
    ("name", "changed", "weights", "reason"),
    [
        ("ade20k:847", {}, {"fake": True}, "/weights/san_vit_b_16.pth holds made-up values"),
        ("ade20k:847", {}, {"file": "/mine/last.pth"}, "/mine/last.pth is not the published san_vit_b_16.pth"),
        ("ade20k:847", {"images": {"expected": 5, "scored": 5}}, {}, "5 of the 2000 images were requested"),
        ("ade20k:847", {"selection": {"split": "train"}}, {}, "figures are of the split val, and this run is of train"),
        (
            "ade20k:847",
            {"images": {"expected": 2000, "scored": 1990}, "final": False},
            {},
            "1990 of 2000 images have a result",
        ),
        ("pascal_context:59", {}, {}, "of other labels: evaluate pascal_context:59-json"),
        ("pascal_context:59@ovseg", {}, {}, "the class names are those of ovseg"),
    ],
)
def test_what_is_not_the_same_is_said_in_place_of_a_difference(
    name: str, changed: dict[str, Any], weights: dict[str, Any], reason: str
) -> None:
    told = beside(name, measured(name, **changed), **weights)
    assert len(told.not_comparable) == 1
    assert reason in told.not_comparable[0]
    assert told.figures
    assert all(one.difference is None and one.measured == 16.5 for one in told.figures)


def test_without_a_word_about_the_weights_nothing_is_compared() -> None:
    told = comparison.published_for("ade20k:847", measured("ade20k:847"), SAN, [])
    assert told is not None
    assert told.not_comparable == ("the run did not record its weights",)


def test_a_checkpoint_is_known_by_its_digest_where_one_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "by its name san_vit_b_16.pth alone" in beside().checkpoint
    monkeypatch.setitem(WEIGHTS, "san_vit_b_16", replace(WEIGHTS["san_vit_b_16"], sha256="a" * 64))
    assert beside(file="renamed.pth").not_comparable == ()
    assert "its sha256" in beside(file="renamed.pth").checkpoint
    assert beside(sha256="b" * 64).not_comparable == (f"{OWN['file']} is not the published san_vit_b_16.pth",)


def test_a_figure_of_unknown_convention_has_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    one = replace(published.of("ade20k:847")[0], method="SAN", backbone="CLIP ViT-B/16", convention="unknown")
    monkeypatch.setattr(published, "of", lambda name: (one,))
    (figure,) = beside("ade20k:847").figures
    assert (figure.metric, figure.measured, figure.difference) == (None, None, None)


@pytest.fixture
def scan(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the stages of a run of scan_vitL, whose stage need not exist here; its checkpoint is SCAN.pth."""
    monkeypatch.setattr(zoo, "weights_of", lambda name: replace(WEIGHTS["san_vit_b_16"], file="SCAN.pth"))
    return [SimpleNamespace(use="scan", settings=lambda: SimpleNamespace(variant="scan_vitL"))]


def test_scan_has_its_miou_and_its_second_hand_sg_iou_which_is_not_compared(scan: list[Any]) -> None:
    metrics = {"miou": 18.0, "miou_classic": 16.0, "sg_miou": 19.0, "sg_miou_classic": 17.0}
    shown = comparison.published_for(
        "pascal_context:459", measured(metrics=metrics), scan, [{**OWN, "file": "SCAN.pth"}]
    )
    assert shown is not None
    assert (shown.method, shown.backbone, shown.not_comparable) == ("SCAN", "CLIP ViT-L/14", ())
    miou, sg = shown.figures
    assert (miou.miou, miou.metric, miou.measured) == (16.7, "miou_classic", 16.0)
    assert miou.difference == pytest.approx(-0.7, abs=1e-9)
    assert (sg.miou, sg.metric, sg.measured, sg.difference) == (17.2, "sg_miou_classic", 17.0, None)
    assert sg.kind == "second-hand"
    assert "backbone not stated" in sg.where


def test_without_relations_nothing_is_measured_for_a_published_sg_iou(scan: list[Any]) -> None:
    shown = comparison.published_for("ade20k:847", measured("ade20k:847"), scan, [{**OWN, "file": "SCAN.pth"}])
    assert shown is not None
    assert [(one.miou, one.measured) for one in shown.figures] == [(14.0, 16.5), (14.6, None)]


def test_every_method_that_is_known_by_its_stage_has_figures_and_san_a_checkpoint_and_a_stage() -> None:
    rows = published._content()["methods"]
    names = {"SAN": ["san_vit_b_16", "san_vit_large_14"], "SCAN": ["scan_vitB", "scan_vitL"]}
    names |= {"Fusioner": ["fusioner_vit_l_14"]}
    assert [variant for _, variant, _ in rows] == [variant for variants in names.values() for variant in variants]
    for use, variant, known in rows:
        assert variant in names[known[0]]
        if use in registry.known("ovss_ray.actors"):
            settings = registry.find("ovss_ray.actors", use, "Stage").Config(variant=variant)
            weights = zoo.weights_of(settings.variant)
            assert weights.url or weights.manual
        benchmarks = {one.benchmark for one in published.figures() if [one.method, one.backbone] == known}
        assert len(benchmarks) == {"SAN": 6, "SCAN": 5, "Fusioner": 8}[known[0]]
    assert "san" in registry.known("ovss_ray.actors")


def fusioner(name: str, **changed: Any) -> tuple[Published, str]:
    """Return the published figures beside a run of Fusioner, and the reasons why they are not comparable."""
    stages = [StageConfig(use="fusioner", options=changed.pop("options", {}))]
    one = measured("pascal5i:0", metrics={"miou": 50.0, "fold_miou": 61.0}, **changed)
    shown = comparison.published_for(name, one, stages, [{**OWN, "file": "mine.pth"}])
    assert shown is not None
    return shown, "; ".join(shown.not_comparable)


def test_fusioner_s_folds_stand_beside_the_mean_over_the_fold() -> None:
    shown, reasons = fusioner("pascal5i:0")
    (figure,) = shown.figures
    assert (figure.miou, figure.metric, figure.measured, figure.difference) == (61.9, "fold_miou", 61.0, None)
    assert "no checkpoint of fusioner_vit_l_14 is published" in reasons
    assert "scored at original resolution" not in reasons
    assert "scored at original resolution" in fusioner("pascal5i:0", options={"resolution": "square_224"})[1]


def test_the_figures_for_coco_20i_are_of_the_first_1000_episodes() -> None:
    whole = {"expected": 17912, "scored": 17912, "failed": 0}
    assert "published are the first 1000: add --limit 1000" in fusioner("coco20i:1", images=whole)[1]
    part = {"images": {**whole, "expected": 1000, "scored": 1000}, "selection": {"split": "val", "limit": 1000}}
    assert "were requested" not in fusioner("coco20i:1", **part)[1]
