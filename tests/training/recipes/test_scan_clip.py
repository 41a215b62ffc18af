"""The training of SCAN's region CLIP: crops as in inference, CLIP's loss, and what is trained."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovss_ray.datasets import scenes
from ovss_ray.models import checkpoint, zoo
from ovss_ray.models.scan import network, regions
from ovss_ray.models.scan.network import Scan
from ovss_ray.models.scan.towers import SCALE
from ovss_ray.models.scan.variants import VARIANTS
from ovss_ray.training import captions, config, loop
from ovss_ray.training import scenes as drawn_scenes
from ovss_ray.training.recipes.scan_clip import task as scan_clip
from ovss_ray.training.recipes.scan_clip.config import Config
from tests.paths import ROOT
from tests.training import one_batch
from tests.training.test_pairs import write_pairs

CONFIG = Config(
    task="scan_clip", steps=3, batch=1, rate=1e-3, warmup=1, precision="fp32", device="cpu", measured=0, unnamed=0.3,
    blocks=3,
)  # fmt: skip
SIZES = VARIANTS["scan_tiny"].clip


@pytest.fixture(scope="module")
def task() -> scan_clip.Task:
    return scan_clip.Task(CONFIG)


def test_regions_look_as_they_do_in_inference() -> None:
    exact = scan_clip.Task(CONFIG.model_copy(update={"imperfect": 0.0}))
    batch = exact.batch(2)
    scene = drawn_scenes.batch(CONFIG.seed, 2, 1, CONFIG.things, CONFIG.unnamed)[0]
    chosen = drawn_scenes.visible(scene, scan_clip.SMALLEST)
    model = Scan(VARIANTS["scan_tiny"])
    inputs = model.preprocess(scene.image)
    assert inputs.geometry.resized == scene.image.shape[:2], "scenes are drawn at the size of inference"
    masks = torch.stack([torch.from_numpy(scene.regions == number) for number in chosen])
    cut = regions.of_masks(20 * masks.float() - 10, inputs.geometry, 0.5, SIZES)
    expected = torch.stack(list(regions.crops(inputs.pixels, cut, SIZES.pixels)))
    assert torch.equal(batch["crops"], expected)
    assert torch.equal(batch["photographs"][0], inputs.overview)
    background = ~torch.from_numpy(cut.foreground)
    for block in range(2):
        replaced = batch["replaced"][:, block]
        assert not (replaced & ~background).any()
        assert replaced.sum(1).tolist() == [int(0.15 * count) for count in background.sum(1).tolist()]
    assert not torch.equal(batch["replaced"][:, 0], batch["replaced"][:, 1])
    regions_of = [captions.Region.of(scene.contents[number]).attributes for number in chosen]
    assert regions_of == [*map(tuple, batch["attributes"].tolist())]


def test_a_shifted_token_is_the_class_token_of_the_whole_photograph(task: scan_clip.Task) -> None:
    """The tower with the shift, block by block, against the tower that is written out here."""
    batch, tower = task.batch(0), task.model.clip_model.visual
    with torch.no_grad():
        seen, _ = task.model.original_clip.embed(batch["photographs"])
        x, _ = tower.embed(batch["crops"])
        for number, (block, other) in enumerate(
            zip(tower.resblocks, task.model.original_clip.resblocks, strict=True), 1
        ):
            x, seen = block(x), other(seen)
            if number in (1, 3):
                for region, place in batch["replaced"][:, (1, 3).index(number)].nonzero().tolist():
                    x[region, 1 + place] = seen[batch["which"][region], 0]
        expected = F.normalize(tower.ln_post(x[:, 0]) @ tower.proj, dim=-1)
        found = task.model(batch["crops"], batch["replaced"], batch["photographs"], batch["which"])
    assert torch.allclose(found, expected, atol=1e-5)


def surprise(row: list[float], right: int, among: list[int]) -> float:
    top = max(row[p] for p in among)
    return top - row[right] + math.log(sum(math.exp(row[p] - top) for p in among))


def test_losses_on_drawn_scenes_are_those_of_a_slow_reference(task: scan_clip.Task) -> None:
    batch = task.batch(1)
    with torch.no_grad():
        embeddings, prompts = task.forward(batch, 1)
        losses = {name: float(value) for name, value in task.losses((embeddings, prompts), batch).items()}
    logits = (100 * embeddings.double() @ prompts.double().T).tolist()
    names, right = batch["shown"].shape[1], batch["target"].tolist()
    shown = [[p for p in range(names) if allowed[p]] for allowed in batch["shown"].tolist()]
    to_name = [surprise(row, p, among) for row, p, among in zip(logits, right, shown, strict=True)]
    assert losses["to_name"] == pytest.approx(0.5 * np.mean(to_name), rel=1e-4)
    to_region = []
    for p in range(batch["own"]):
        column = {r: row[p] for r, row in enumerate(logits) if p in shown[r]}
        top = max(column.values())
        powers = {r: math.exp(value - top) for r, value in column.items()}
        own = sum(power for r, power in powers.items() if right[r] == p)
        to_region.append(-math.log(max(own, 1e-300) / sum(powers.values())))
    assert losses["to_region"] == pytest.approx(0.5 * np.mean(to_region), rel=1e-4)
    assert losses.keys() == {"pattern", "colour", "shape", "to_name", "to_region"}


def test_the_loss_of_a_table_is_that_of_open_clip(tmp_path: Path) -> None:
    """Both directions, with each caption a class of its own, even where two are equal."""
    table = write_pairs(tmp_path, "csv", ["a photo of a red ball.", "a photo of grass.", "a photo of grass."])
    task = scan_clip.Task(CONFIG.model_copy(update={"data": str(table), "batch": 3}))
    batch = task.batch(0)
    assert sorted(batch["prompts"]) == ["a photo of a red ball.", "a photo of grass.", "a photo of grass."]
    with torch.no_grad():
        embeddings, prompts = task.forward(batch, 0)
        losses = task.losses((embeddings, prompts), batch)
    logits = (SCALE * embeddings.double() @ prompts.double().T).tolist()
    columns = [list(column) for column in zip(*logits, strict=True)]
    expected = [np.mean([surprise(row, i, [0, 1, 2]) for i, row in enumerate(rows)]) / 2 for rows in (logits, columns)]
    assert [float(losses["to_name"]), float(losses["to_region"])] == pytest.approx(expected, rel=1e-4)
    assert losses.keys() == {"to_name", "to_region"}


def test_gradients_reach_the_image_tower_and_nothing_else() -> None:
    for blocks in (None, 2):
        task = scan_clip.Task(CONFIG.model_copy(update={"blocks": blocks}))
        batch = task.batch(0)
        sum(task.losses(task.forward(batch, 0), batch).values()).backward()
        last = ("clip_model.visual.resblocks.4.", "clip_model.visual.resblocks.5.")
        few = (*last, "clip_model.visual.ln_post.", "clip_model.visual.proj")
        trained = ("clip_model.visual.",) if blocks is None else few
        for name, value in task.model.named_parameters():
            reached = value.grad is not None and bool(value.grad.abs().any())
            assert reached == name.startswith(trained), name


def test_an_interrupted_training_ends_the_same_and_changes_only_what_it_should(tmp_path: Path) -> None:
    whole = scan_clip.Task(CONFIG)
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    loop.train(whole, CONFIG, tmp_path / "whole")
    loop.train(scan_clip.Task(CONFIG), CONFIG, tmp_path / "parts", until=1)
    resumed = scan_clip.Task(CONFIG)
    loop.train(resumed, CONFIG, tmp_path / "parts")
    after = whole.model.state_dict()
    assert all(torch.equal(value, resumed.model.state_dict()[name]) for name, value in after.items())
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {name for name, value in whole.model.named_parameters() if value.requires_grad}


def test_a_few_steps_on_one_batch_bring_its_loss_down(tmp_path: Path) -> None:
    settings = CONFIG.model_copy(update={"steps": 8, "cooldown": 0.0})
    totals = one_batch.totals(scan_clip.Task(settings), settings, tmp_path)
    assert totals[-1] < 0.5 * totals[0], totals


def test_no_held_out_name_is_ever_said(task: scan_clip.Task) -> None:
    held_out = [scenes.name(thing) for thing in scenes.HELD_OUT]
    for step in range(3):
        assert not [prompt for prompt in task.batch(step)["prompts"] if any(name in prompt for name in held_out)]


def test_the_same_step_is_the_same_batch(task: scan_clip.Task) -> None:
    first, second = task.batch(7), task.batch(7)
    assert first["prompts"] == second["prompts"]
    for key in ("crops", "replaced", "photographs", "which", "target"):
        assert torch.equal(first[key], second[key]), key
    assert not torch.equal(first["photographs"], task.batch(8)["photographs"])


def test_what_is_exported_is_the_clip_of_the_regions_and_holds_what_has_changed(tmp_path: Path) -> None:
    task = scan_clip.Task(CONFIG)
    loop.train(task, CONFIG.model_copy(update={"steps": 1}), tmp_path)
    file = loop.export(task, tmp_path)
    names = checkpoint.read(file).keys()
    trained = {name for name, value in task.model.clip_model.named_parameters() if value.requires_grad}
    assert {name.replace(".transformer.", ".") for name in names} == trained | {"visual.positional_embedding"}
    words, visual = checkpoint.read_clip(zoo.find("clip_tiny"))
    kept = {name: value for name, value in visual.items() if name != "positional_embedding"}
    assert all(torch.equal(task.model.original_clip.state_dict()[name], value) for name, value in kept.items())
    assert json.loads((tmp_path / loop.CARD).read_text())["trainings"][-1]["config"]["task"] == "scan_clip"
    assert words


def test_accuracy_is_measured_on_true_regions(task: scan_clip.Task) -> None:
    short = scan_clip.Task(CONFIG.model_copy(update={"measured": 1}))
    assert {"surface", "trained_shape", "held_out_colour"} < short.measure().keys()


def test_the_official_config_has_the_numbers_of_the_script() -> None:
    settings = config.load(ROOT / "configs/train_scan_clip_vitL.yaml")
    assert isinstance(settings, Config)
    assert (settings.variant, settings.rate, settings.batch, settings.warmup) == ("scan_vitL", 5e-6, 256, 100)
    assert settings.steps == round(10 * 442_117 / 256)
    assert (settings.blocks, settings.quick, settings.replace_ratio) == (None, True, 0.15)
    rates = [loop.schedule(settings, step) for step in (0, 99, 100, 8685, 17269)]
    assert rates == pytest.approx([0.01, 1, 1, 0.5, 0], abs=1e-4)


def test_quick_changes_the_activation_in_training_alone() -> None:
    quick = scan_clip.Task(CONFIG.model_copy(update={"quick": False}))
    plain = scan_clip.Task(CONFIG)
    batch = plain.batch(0)
    inputs = {key: batch[key] for key in ("crops", "replaced", "photographs", "which")}
    with torch.no_grad():
        assert not torch.allclose(quick.model(**inputs), plain.model(**inputs), atol=1e-3)
    assert replace(SIZES, quick=False) == quick.sizes
    assert network.VARIANTS["scan_tiny"].clip.quick
