"""The stage `ovsam`: a mask and scores for each prompt. They depend on image, prompt, vocabulary and benchmark only."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ovss_ray.actors import ovsam as actor
from ovss_ray.benchmarks import catalog
from ovss_ray.config import loading as configs
from ovss_ray.config.shipped import shipped_configs
from ovss_ray.models import text
from ovss_ray.models.fake import clouds
from ovss_ray.models.ovsam import network, words
from ovss_ray.models.ovsam.variants import VARIANTS
from ovss_ray.pipeline import execution
from ovss_ray.runs.complete import complete
from ovss_ray.structures.masks import regions
from ovss_ray.structures.vocabulary import Vocabulary
from tests.small_ovsam import SMALL, state_dict

WORDS = Vocabulary.of([["red star", "red circle"], "grass", "blue cross", "sand"])
OTHERS = Vocabulary.of(["water", "wood"])
VOCABULARIES = {words.digest: words for words in (WORDS, OTHERS)}
SIZES = ((60, 80), (80, 60), (90, 90))
POINTS = (np.array([[[20.0, 30.0]], [[70.0, 10.0]]]), np.empty((1, 0, 2)), np.empty((0, 1, 2)))
"""Two clicks in the first image, a box in the second, no prompt in the third."""
BOXES = (np.empty((2, 0, 4)), np.array([[[5.0, 10.0, 40.0, 70.0]]]), np.empty((0, 0, 4)))
FRAMES = np.array([[0, 0, 9, 9], [10, 20, 50, 60], [30, 5, 79, 40]], np.float32)
"""Annotated boxes; those of the prompts are the second and third."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "ovsam_small", SMALL)
        folder = tmp_path_factory.mktemp("stage")
        patch.setenv("OVSS_CACHE", str(folder / "cache"))
        torch.save(state_dict(SMALL), folder / "small.pth")
        yield folder / "small.pth"


@pytest.fixture(scope="module")
def model(weights: Path) -> network.Ovsam:
    return network.load("ovsam_small", [weights])


def stage(weights: Path, prepared: dict[str, np.ndarray] | None = None, **options: Any) -> actor.Stage:
    config = actor.Stage.Config(variant="ovsam_small", weights=str(weights), device="cpu", **options)
    built = actor.Stage(config, prepared)
    scenes = catalog.load("scenes:seen")
    groups = {"base": (0,), "novel": (1, 3)}
    built.benchmarks = {
        "plain": replace(scenes, vocabulary=WORDS, index=(), labels=(), groups={}),
        "split": replace(scenes, vocabulary=WORDS, index=(), labels=(), groups=groups),
    }
    return built


def batch(rows: list[int], benchmark: str = "plain") -> dict[str, np.ndarray]:
    images = [image[: size[0], : size[1]] for image, size in zip(clouds(3, len(SIZES)), SIZES, strict=True)]
    return execution.start(
        len(rows),
        image=[images[row] for row in rows],
        vocabulary=[(WORDS, OTHERS, WORDS)[row].digest for row in rows],
        benchmark=[benchmark] * len(rows),
        prompt_points=[POINTS[row] for row in rows],
        prompt_boxes=[BOXES[row] for row in rows],
        true_frames=[FRAMES] * len(rows),
        prompt_instances=[np.arange(1, 1 + len(POINTS[row])) for row in rows],
    )


def test_every_prompt_gets_the_mask_and_scores_that_the_network_predicts_for_it(
    weights: Path, model: network.Ovsam
) -> None:
    rows = batch([0, 1, 2])
    answers = stage(weights, batch=3)(rows, VOCABULARIES)
    assert [len(boxes) for boxes in answers["boxes"]] == [2, 1, 0]
    assert [scores.shape for scores in answers["scores"]] == [(2, 4), (1, 2), (0, 4)]
    questions = [{"points": POINTS[0]}, {"boxes": BOXES[1][:, 0]}]
    for row, (question, names) in enumerate(zip(questions, (WORDS, OTHERS), strict=True)):
        expected = model.predict(rows["image"][row], names=names, **question)
        packed = regions.masks(answers["boxes"][row], answers["bits"][row], SIZES[row])
        assert np.count_nonzero(packed != expected["masks"]) <= 2
        fused = expected["fused_scores"][:, 0, :-1].numpy()
        assert np.allclose(answers["scores"][row], fused, atol=1e-4)


def test_exactly_computed_rows_do_not_depend_on_their_batch(weights: Path) -> None:
    exact = stage(weights, exact=True, batch=3)
    together = exact(batch([0, 1, 2]), VOCABULARIES)
    for row in range(3):
        alone = exact(batch([row]), VOCABULARIES)
        for name in exact.writes:
            assert np.array_equal(together[name][row], alone[name][0])


def test_base_and_novel_classes_are_the_groups_of_the_benchmark(weights: Path, model: network.Ovsam) -> None:
    rows = batch([0], "split")
    scores = stage(weights)(rows, VOCABULARIES)["scores"][0]
    expected = model.predict(rows["image"][0], points=POINTS[0], names=WORDS, base=[0], novel=[1, 3])
    assert np.allclose(scores, expected["fused_scores"][:, 0, :-1].numpy(), atol=1e-4)
    assert (scores[:, 2] < -900).all()
    plain = stage(weights)(batch([0]), VOCABULARIES)["scores"][0]
    assert (plain > -900).all()
    assert not np.allclose(plain[:, 0], scores[:, 0])
    own = stage(weights)({**rows, "vocabulary": batch([1])["vocabulary"]}, VOCABULARIES)["scores"][0]
    expected = model.predict(rows["image"][0], points=POINTS[0], names=OTHERS)
    assert np.allclose(own, expected["fused_scores"][:, 0, :-1].numpy(), atol=1e-4), "words of the image itself"


@pytest.mark.parametrize(("options", "official"), [({"clip_boxes": "truth"}, False), ({"official": True}, True)])
def test_clip_sees_annotated_boxes_on_request_scaled_or_as_published(
    weights: Path, model: network.Ovsam, options: dict[str, Any], official: bool
) -> None:
    rows = batch([0])
    built = stage(weights, **options)
    assert {"true_frames", "prompt_instances"} <= set(built.reads)
    assert not {"true_frames", "prompt_instances"} & set(stage(weights).reads)
    scores = built(rows, VOCABULARIES)["scores"][0]
    boxes = FRAMES[1:]
    expected = model.predict(rows["image"][0], points=POINTS[0], names=WORDS, clip_boxes=boxes, official=official)
    assert np.allclose(scores, expected["fused_scores"][:, 0, :-1].numpy(), atol=1e-4)


def test_the_demo_s_scores_are_those_of_the_head(weights: Path, model: network.Ovsam) -> None:
    rows = batch([0])
    scores = stage(weights, path="demo")(rows, VOCABULARIES)["scores"][0]
    expected = model.predict(rows["image"][0], points=POINTS[0], names=WORDS, path="demo")
    assert np.allclose(scores, expected["head_logits"][:, 0, :-1].numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "demo", "official": True}, "have no effect. Remove these options, or set `path` to evaluation"),
        ({"path": "demo", "clip_boxes": "truth"}, "have no effect"),
        ({"fpn": "/e"}, "the option fpn is for ovsam_rn50x16_demo only, but the variant is ovsam_rn50x16. Remove fpn"),
        ({"variant": "ovsam_tiny", "sam": "/d"}, "neck and sam have no effect with ovsam_tiny"),
    ],
)
def test_options_without_an_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        actor.Stage.Config(**options)


def test_a_prepared_vocabulary_is_not_embedded_again(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = actor.Stage.Config(variant="ovsam_small", weights=str(weights), device="cpu")
    keys = [actor.Stage.key(config, words) for words in (WORDS, OTHERS)]
    prepared = dict(zip(keys, actor.Stage.prepare(config, [WORDS, OTHERS]), strict=True))
    assert [len(rows) for rows in prepared.values()] == [5, 2]
    built = stage(weights, prepared)
    expected = stage(weights)(batch([0, 1]), VOCABULARIES)["scores"]
    monkeypatch.setattr(text, "embed", lambda *inputs: pytest.fail("embedded again"))
    for actual, wanted in zip(built(batch([0, 1]), VOCABULARIES)["scores"], expected, strict=True):
        assert np.allclose(actual, wanted, atol=1e-5)


def test_names_are_split_into_synonyms_once_for_the_images_of_a_run(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = stage(weights)
    first = built(batch([0]), VOCABULARIES)
    monkeypatch.setattr(words, "grouped", lambda *inputs: pytest.fail("split again"))
    assert np.array_equal(built(batch([0]), VOCABULARIES)["scores"][0], first["scores"][0])


def test_the_report_says_which_boxes_clip_saw() -> None:
    def note(**options: Any) -> str:
        (sentence,) = actor.Stage.notes(actor.Stage.Config(**options), "coco:instances_48_17")
        return sentence

    assert "box of the prompt, or of the mask" in note()
    assert note(clip_boxes="truth") == "path evaluation: CLIP's branch sees the annotated box of each instance"
    assert "as in the published evaluation" in note(official=True)
    assert note(path="demo") == "path demo: scores of the head alone"


def test_the_shipped_config_measures_masks_and_names_of_instances() -> None:
    config = configs.load(shipped_configs()["ovsam_rn50x16"])
    pools = complete(config)
    assert [stage.use for pool in pools for stage in pool.stages][-2:] == ["ovsam", "measure"]
    assert {"instance_iou", "instance_accuracy"} <= set(pools[-1].stages[-1].writes())
    official = configs.load(shipped_configs()["ovsam_rn50x16"], ["ovsam.official=true"])
    assert "true_frames" in official.pools[0].stages[1].reads()


def test_the_paths_of_parts_are_those_of_the_variant() -> None:
    config = actor.Stage.Config(variant="ovsam_rn50x16_demo", weights="/a", clip="/b", neck="/c", sam="/d", fpn="/e")
    assert config.paths() == ("/a", "/b", "/c", "/d", "/e")
    assert actor.Stage.Config(weights="/a", neck="/c").paths() == ("/a", None, "/c", None)
    assert actor.Stage.Config(variant="ovsam_tiny", clip="/b").paths() == (None, "/b")
