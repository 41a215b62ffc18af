"""AlphaCLIP's training: what regions look like in it, what is learned, and what stays as it was."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from ovss_ray import models
from ovss_ray.actors.alpha_clip import Stage
from ovss_ray.config import loading as run_config
from ovss_ray.datasets import scenes
from ovss_ray.models import checkpoint, zoo
from ovss_ray.models.alpha_clip.variants import Look
from ovss_ray.structures.masks import regions
from ovss_ray.training import captions, config, loop
from ovss_ray.training import scenes as drawn_scenes
from ovss_ray.training.recipes.alpha_clip import task as alpha_clip
from ovss_ray.training.recipes.alpha_clip.config import Config as AlphaClipTraining
from tests.paths import ROOT
from tests.training import one_batch

CONFIG = AlphaClipTraining(
    task="alpha_clip", steps=3, batch=1, rate=1e-3, warmup=1, precision="fp32", device="cpu", measured=0,
    look={"context": "crop_square"}, unnamed=0.3,
)  # fmt: skip


@pytest.fixture(scope="module")
def task() -> alpha_clip.Task:
    return alpha_clip.Task(CONFIG)


def test_regions_look_as_they_do_when_they_are_classified() -> None:
    exact = alpha_clip.Task(CONFIG.model_copy(update={"imperfect": 0.0, "ones": 0.0}))
    batch = exact.batch(2)
    scene = drawn_scenes.batch(CONFIG.seed, 2, 1, CONFIG.things, CONFIG.unnamed)[0]
    chosen = drawn_scenes.visible(scene, alpha_clip.SMALLEST)
    boxes, bits = regions.pack(scene.regions == region for region in chosen)
    views = list(exact.model.viewer(scene.image, CONFIG.look).views(boxes, regions.Masks(boxes, bits)))
    assert len(views) == len(chosen) == len(batch["which"])
    for view, alpha, which in zip(views, batch["alphas"], batch["which"], strict=True):
        assert torch.equal(view.picture, batch["pictures"][which])
        assert torch.equal(view.alpha, alpha)
    assert [captions.Region.of(scene.contents[q]).attributes for q in chosen] == [
        *map(tuple, batch["attributes"].tolist())
    ]


def test_some_things_are_shown_without_their_mask_and_no_surface_is() -> None:
    bare = alpha_clip.Task(CONFIG.model_copy(update={"ones": 1.0})).batch(0)
    whole = (bare["alphas"] == (1 - 0.5) / 0.26).all((1, 2, 3))
    assert whole.any()
    assert torch.equal(whole, bare["attributes"][:, 2] >= 0)


def test_no_held_out_name_is_ever_said(task: alpha_clip.Task) -> None:
    held_out = [scenes.name(thing) for thing in scenes.HELD_OUT]
    for step in range(3):
        assert not [prompt for prompt in task.batch(step)["prompts"] if any(name in prompt for name in held_out)]


def test_the_same_step_is_the_same_batch(task: alpha_clip.Task) -> None:
    one, two = task.batch(7), task.batch(7)
    assert one["prompts"] == two["prompts"]
    for key in ("pictures", "alphas", "which", "shown", "target", "attributes"):
        assert torch.equal(one[key], two[key]), key
    assert not torch.equal(one["pictures"][0], task.batch(8)["pictures"][0])


def test_imperfect_masks_are_off_by_some_pixels_a_part_or_a_smaller_region() -> None:
    drawn = np.random.default_rng(0)
    numbers = np.zeros((90, 120), np.uint8)
    numbers[20:60, 30:80], numbers[70:80, 30:40] = 1, 2
    mask, other = numbers == 1, numbers == 2
    near = np.zeros_like(mask)
    near[15:65, 25:85] = True
    sizes, joined = [], 0
    for _ in range(200):
        made = alpha_clip.imperfect(drawn, numbers, 1)
        assert made.dtype == bool
        assert not (made & ~near & ~other).any()
        assert (made & mask).sum() >= 0.3 * mask.sum()
        assert (made & other).sum() in (0, 100)
        joined += (made & other).any()
        sizes.append(made.sum() / mask.sum())
    assert 0 < joined < 40
    assert min(sizes) < 0.5
    assert max(sizes) > 1.2
    assert np.mean(np.array(sizes) == 1) < 0.5


def test_of_a_small_region_enough_is_left() -> None:
    numbers = np.zeros((50, 50), np.uint8)
    numbers[20:31, 20:31] = 1
    for i in range(50):
        assert alpha_clip.imperfect(np.random.default_rng(i), numbers, 1).sum() >= alpha_clip.SMALLEST


def test_losses_are_those_of_a_slow_reference(task: alpha_clip.Task) -> None:
    batch = task.batch(1)
    with torch.no_grad():
        embeddings, prompts = task.forward(batch, 1)
    found = {name: float(value) for name, value in task.losses((embeddings, prompts), batch).items()}
    scale = math.exp(float(task.model.text.logit_scale))
    logits = (embeddings.double() @ prompts.double().T * scale).tolist()
    names = batch["shown"].shape[1]

    def surprise(row: list[float], right: int, among: list[int]) -> float:
        return -math.log(math.exp(row[right]) / sum(math.exp(row[p]) for p in among))

    shown = [[p for p in range(names) if allowed[p]] for allowed in batch["shown"].tolist()]
    named = [surprise(row, p, among) for row, p, among in zip(logits, batch["target"].tolist(), shown, strict=True)]
    assert found["to_name"] == pytest.approx(np.mean(named), abs=1e-4)
    begin = names
    for i, kind in enumerate(("pattern", "colour", "shape")):
        among = list(range(begin, begin + len(captions.ATTRIBUTES[i])))
        begin = among[-1] + 1
        asked = [(row, one[i]) for row, one in zip(logits, batch["attributes"].tolist(), strict=True) if one[i] >= 0]
        expected = 0.5 * np.mean([surprise(row, among[right], among) for row, right in asked])
        assert found[kind] == pytest.approx(expected, abs=1e-4), kind
    assert found.keys() == {"pattern", "colour", "shape", "to_name", "to_region"}


def test_before_the_first_step_it_is_the_clip_that_it_is_made_of(task: alpha_clip.Task) -> None:
    batch = task.batch(0)
    plain = models.load("clip_tiny")
    with torch.inference_mode():
        expected = plain(batch["pictures"], batch["alphas"], batch["which"])
        assert torch.equal(task.model(batch["pictures"], batch["alphas"], batch["which"]), expected)


def test_a_few_steps_on_one_batch_bring_its_loss_down(tmp_path: Path) -> None:
    settings = CONFIG.model_copy(update={"steps": 8, "cooldown": 0.0})
    task = alpha_clip.Task(settings)
    totals = one_batch.totals(task, settings, tmp_path)
    assert totals[-1] < 0.5 * totals[0], totals


def test_a_training_that_was_interrupted_ends_the_same_and_changes_only_what_it_should(tmp_path: Path) -> None:
    whole = alpha_clip.Task(CONFIG)
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    loop.train(whole, CONFIG, tmp_path / "whole")
    loop.train(alpha_clip.Task(CONFIG), CONFIG, tmp_path / "parts", until=1)
    resumed = alpha_clip.Task(CONFIG)
    loop.train(resumed, CONFIG, tmp_path / "parts")
    after = whole.model.state_dict()
    for name, value in after.items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    blocks = {name for name in after if name.startswith(tuple(f"visual.resblocks.{i}." for i in (2, 3, 4, 5)))}
    assert changed == blocks | {
        f"visual.{name}" for name in ("conv1_alpha.weight", "ln_post.weight", "ln_post.bias", "proj")
    }
    assert whole.weights().keys() == {name.removeprefix("visual.") for name in changed}


def test_what_is_exported_is_loaded_beside_its_base_and_can_be_started_from(
    tmp_path: Path, task: alpha_clip.Task
) -> None:
    loop.train(task, CONFIG.model_copy(update={"steps": 1}), tmp_path)
    file = loop.export(task, tmp_path)
    assert checkpoint.read(file).keys() == task.weights().keys()
    model = models.load("alpha_clip_tiny", (zoo.find("clip_tiny"), file))
    for name, value in task.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value.half().float()), name
    card = json.loads((tmp_path / loop.CARD).read_text())
    assert card["trainings"][-1]["config"]["look"]["context"] == "crop_square"
    again = alpha_clip.Task(CONFIG.model_copy(update={"start": str(tmp_path / loop.CHECKPOINT)}))
    assert all(torch.equal(value, task.model.state_dict()[name]) for name, value in again.model.state_dict().items())


def test_an_untrained_one_tells_surfaces_at_chance(task: alpha_clip.Task) -> None:
    found = alpha_clip.naming(models.load("clip_tiny"), CONFIG.look, 1)
    assert found["surface"] < 50
    assert {"trained_shape", "held_out_colour"} < found.keys()


@pytest.mark.parametrize("name", ["truth_alpha_clip_tiny", "sam_alpha_clip_tiny"])
def test_regions_are_shown_in_runs_as_they_were_in_the_training(name: str) -> None:
    folder = ROOT / "configs"
    trained = config.load(folder / "train_alpha_clip_tiny.yaml")
    stages = run_config.load(folder / f"{name}.yaml").stages()
    asked = Stage.Config(**next(one.options for one in stages if one.use == "alpha_clip"))
    assert asked.variant == trained.variant
    assert {option: getattr(asked, option) for option in Look.model_fields} == dict(trained.look)
