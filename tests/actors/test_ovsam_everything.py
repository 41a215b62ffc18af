"""Everything mode of Open-Vocabulary SAM: each region has the mask and scores of its click."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovss_ray.actors import ovsam_everything as actor
from ovss_ray.benchmarks import catalog
from ovss_ray.config import loading as configs
from ovss_ray.config.shipped import shipped_configs
from ovss_ray.datasets import scenes
from ovss_ray.datasets.scenes.scene import Thing
from ovss_ray.models.fake import clouds
from ovss_ray.models.ovsam import head, network, words
from ovss_ray.models.ovsam.variants import VARIANTS
from ovss_ray.pipeline import execution
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.reports import report
from ovss_ray.runs import manifest as manifests
from ovss_ray.runs import records
from ovss_ray.runs.plan import RunPlan
from ovss_ray.runs.sources import plan_runs
from ovss_ray.structures.masks import regions
from ovss_ray.structures.vocabulary import Vocabulary
from tests.small_ovsam import SMALL, state_dict

WORDS = Vocabulary.of([["red star", "red circle"], "grass", "blue cross", "sand"])
OTHERS = Vocabulary.of(["water", "wood"])
VOCABULARIES = {words.digest: words for words in (WORDS, OTHERS)}
SIZES = ((60, 80), (80, 60), (90, 90))
KEEP_ALL = {"points_per_side": 3, "stability_score_thresh": 0.0, "stability_score_offset": 0.02, "box_nms_thresh": 1.0}
BENCHMARK, IMAGES = "scenes:seen", 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "ovsam_small", SMALL)
        folder = tmp_path_factory.mktemp("everything")
        patch.setenv("OVSS_CACHE", str(folder / "cache"))
        torch.save(state_dict(SMALL), folder / "small.pth")
        yield folder / "small.pth"


def options(weights: Path, **more: Any) -> dict[str, Any]:
    return {"variant": "ovsam_small", "weights": str(weights), "device": "cpu", **KEEP_ALL, **more}


@pytest.fixture(scope="module")
def stage(weights: Path) -> actor.Stage:
    return actor.Stage(actor.Stage.Config(**options(weights, exact=True, base=("Grass", "unlisted"))))


def batch(rows: list[int]) -> dict[str, np.ndarray]:
    images = [image[: size[0], : size[1]] for image, size in zip(clouds(3, len(SIZES)), SIZES, strict=True)]
    return execution.start(
        len(rows),
        image=[images[row] for row in rows],
        size=[np.array(SIZES[row], np.int32) for row in rows],
        vocabulary=[(WORDS, OTHERS, WORDS)[row].digest for row in rows],
        benchmark=[""] * len(rows),
    )


def test_each_region_is_the_mask_of_its_click_with_the_names_of_that_click(stage: actor.Stage) -> None:
    rows = batch([0])
    answers = {name: values[0] for name, values in stage(rows, VOCABULARIES).items()}
    image = rows["image"][0]
    (found,) = stage.generator.regions(stage.model.embed([image]))
    assert len(found.points) == 9
    expected = stage.model.predict(image, points=found.points, names=WORDS, base=["grass"])
    masks = regions.masks(answers["boxes"], answers["bits"], image.shape[:2])
    assert masks.any((1, 2)).all()
    assert np.count_nonzero(masks != expected["masks"]) <= 2
    assert np.allclose(answers["scores"], expected["fused_scores"][:, 0, :-1].numpy(), atol=1e-3)
    assert np.array_equal(answers["top_classes"][:, 0], expected["labels"].numpy())
    assert answers["top_scores"].shape == (9, len(WORDS), 3)
    kinds = ("fused_scores", "head_logits", "clip_logits")
    branches = torch.stack([expected[kind][:, 0, :-1].softmax(-1) for kind in kinds], -1).numpy()
    assert np.allclose(
        answers["top_scores"], np.take_along_axis(branches, answers["top_classes"][..., None], 1), atol=1e-3
    )
    assert not np.allclose(answers["top_scores"][..., 1], answers["top_scores"][..., 2], atol=0.1)


def test_regions_are_sorted_by_stability_and_unstable_ones_dropped(stage: actor.Stage, weights: Path) -> None:
    every = stage(batch([0]), VOCABULARIES)["predicted_iou"][0]
    assert np.array_equal(every, -np.sort(-every))
    least = float(np.median(every))
    strict = actor.Stage(actor.Stage.Config(**options(weights, stability_score_thresh=least)))
    kept = strict(batch([0]), VOCABULARIES)["predicted_iou"][0]
    assert np.array_equal(kept, every[every >= least])
    none = actor.Stage(actor.Stage.Config(**options(weights, stability_score_thresh=2)))(batch([1]), VOCABULARIES)
    shapes = {name: values[0].shape for name, values in none.items()}
    assert shapes["boxes"] == (0, 4)
    assert shapes["scores"] == (0, 2)
    assert shapes["top_scores"] == (0, 2, 3)


def test_exactly_computed_rows_do_not_depend_on_their_batch(stage: actor.Stage) -> None:
    together = stage(batch([0, 1, 2]), VOCABULARIES)
    for row in range(3):
        alone = stage(batch([row]), VOCABULARIES)
        for name in stage.writes:
            assert together[name][row].tobytes() == alone[name][0].tobytes()


def test_many_names_are_scored_in_blocks_of_masks(stage: actor.Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stage(batch([0]), VOCABULARIES)
    blocks: list[int] = []
    scores = network.Ovsam.scores

    def counted(model: network.Ovsam, seen: Any, logits: torch.Tensor, *more: Any) -> Any:
        blocks.append(len(logits))
        return scores(model, seen, logits, *more)

    monkeypatch.setattr(network.Ovsam, "scores", counted)
    monkeypatch.setattr(head, "SCORES", 4 * (1 + len(WORDS)))
    parts = stage(batch([0]), VOCABULARIES)
    assert blocks == [4, 4, 1]
    assert np.allclose(parts["scores"][0], whole["scores"][0], atol=1e-4)
    assert np.array_equal(parts["top_classes"][0], whole["top_classes"][0])


def test_names_seen_in_training_are_compared_by_their_synonyms() -> None:
    base, novel = words.trained(["Red_circle", "plant/GRASS", "unlisted"], WORDS)
    assert base.tolist() == [True, True, False, False]
    assert torch.equal(novel, ~base)


def test_painted_regions_are_a_prediction_in_which_each_pixel_has_its_surest_class(stage: actor.Stage) -> None:
    rows = batch([0])
    answers = stage(rows, VOCABULARIES)
    painted = StageConfig(use="paint").build()({**rows, **answers}, VOCABULARIES)["prediction"][0]
    masks = regions.masks(answers["boxes"][0], answers["bits"][0], SIZES[0])
    surest, best = answers["top_scores"][0][:, 0, 0], answers["top_classes"][0][:, 0]
    inside = masks.any(0)
    assert 0 < inside.mean() < 1
    topmost = np.where(masks, surest[:, None, None], -1).argmax(0)
    assert np.array_equal(painted[inside], best[topmost][inside])
    assert (painted[~inside] > len(WORDS)).all()


def evaluated(plan: RunPlan, parts: list[list[int]]) -> dict[str, Any]:
    """Results of a run of which each part was computed by a worker of its own; a repeated image as after a kill."""
    folder, (manifest,) = plan.folder, plan.manifests.values()
    folder.claim(plan.config, plan.identity(), plan.weights())
    folder.save_json(folder.card(BENCHMARK), plan.card(BENCHMARK))
    manifests.save(manifest, folder.manifest(BENCHMARK))
    for rows in parts:
        stages = {stage.use: stage.build(benchmarks=plan.benchmarks) for pool in plan.pools for stage in pool.stages}
        table = execution.start(len(rows), **manifest.take(rows).to_pydict())
        records.append(folder.records(BENCHMARK), records.table(execution.run(stages, table, plan.vocabularies)))
    return report.build(folder).benchmarks[BENCHMARK].model_dump()


@pytest.mark.slow
def test_a_run_scores_label_maps_equally_whatever_the_workers_and_after_a_kill(weights: Path, tmp_path: Path) -> None:
    stages = [{"use": "ovsam_everything", "options": options(weights)}, {"use": "paint"}]
    config = {"pools": [{"stages": stages}], "keep_predictions": "none", "exact": True}
    more = {"benchmarks": [BENCHMARK], "limit": IMAGES}
    one, two = (next(iter(plan_runs(config, str(tmp_path / name), (), more).values())) for name in ("one", "two"))
    whole = evaluated(one, [[0, 1, 2, 3]])
    assert evaluated(two, [[2], [3, 0], [1, 0]]) == whole
    assert whole["images"] == {"expected": IMAGES, "scored": IMAGES, "failed": 0}
    assert 0 < max(whole["metrics"].values()) < 100


def test_words_of_an_image_itself_have_no_part_in_the_groups_of_the_benchmark(stage: actor.Stage) -> None:
    scenes = catalog.load(BENCHMARK)
    groups = {"base": (0,), "novel": (1, 3)}
    stage.benchmarks = {"split": replace(scenes, vocabulary=WORDS, index=(), labels=(), groups=groups)}
    rows = [{**batch([row]), "benchmark": np.array(["split"], object)} for row in (0, 1)]
    of_benchmark, own = (stage(row, VOCABULARIES)["scores"][0] for row in rows)
    assert (of_benchmark[:, 2] < -900).all()
    assert np.array_equal(own, stage(batch([1]), VOCABULARIES)["scores"][0])


def test_the_small_network_that_comes_with_the_project_finds_and_names_things_of_a_scene() -> None:
    config = configs.load(shipped_configs()["ovsam_everything_tiny"])
    scene, _ = scenes.of_address("seen/validation/0")
    words = scenes.BENCHMARKS["seen"].vocabulary
    stages = {stage.use: stage.build() for stage in config.stages()}
    rows = execution.start(
        1, image=[scene.image], size=[np.array(scene.image.shape[:2], np.int32)], vocabulary=[words.digest]
    )
    (prediction,) = execution.run(stages, rows, {words.digest: words})["prediction"]
    found = set()
    for number, thing in enumerate(scene.contents):
        if isinstance(thing, Thing):
            mask = prediction == words.names.index(scenes.name(thing))
            inside = scene.regions == number
            found |= {number} if (mask & inside).sum() > 0.5 * (mask | inside).sum() else set()
    assert len(found) >= 2


def test_the_shipped_config_is_an_ordinary_segmenter() -> None:
    config = configs.load(shipped_configs()["ovsam_everything"], ["ovsam_everything.points_per_side=8"])
    assert [stage.use for stage in config.stages()] == ["ovsam_everything", "paint"]
    assert config.stages()[0].settings().model_dump()["points_per_side"] == 8
    assert config.stages()[0].notes("ade20k:150") == (
        "ovsam_everything: predicted_iou is the stability of a mask; scores of the ensemble; CLIP's branch sees the "
        "mask's box",
    )
