"""Fusioner's training: its loss against a slow one, its schedules, what is trained, and what is exported."""

import json
import math
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torchvision import tv_tensors

from ovss_ray.benchmarks.catalog import load
from ovss_ray.datasets import scenes
from ovss_ray.datasets.scenes.scene import Thing
from ovss_ray.errors import OvssError
from ovss_ray.models import zoo
from ovss_ray.models.fusioner import network
from ovss_ray.models.fusioner.variants import VARIANTS
from ovss_ray.structures.vocabulary import Vocabulary
from ovss_ray.training import config, loop
from ovss_ray.training.recipes.fusioner import drawn, photographs, samples
from ovss_ray.training.recipes.fusioner import task as fusioner
from ovss_ray.training.recipes.fusioner.config import Config
from ovss_ray.training.recipes.fusioner.validation import counted
from tests.paths import ROOT
from tests.training import one_batch

SMALL = replace(VARIANTS["fusioner_tiny"], width=16, heads=2, layers=1, doublings=1, templates="single")
CONFIG = Config(
    task="fusioner", steps=4, batch=4, questions=2, rate=1e-3, warmup=2, weight_decay=0.01, clip_norm=None,
    precision="fp32", device="cpu", measured=0,
)  # fmt: skip
TRAINED = ("fusion.", "decoder.")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe is tested, not the size of the network."""
    monkeypatch.setitem(VARIANTS, "fusioner_tiny", SMALL)


@pytest.fixture
def pascal(tmp_path: Path) -> Path:
    """A data root with three photographs of VOC, and lists of both authors."""
    root = tmp_path / "data"
    drawn = np.random.default_rng(0)
    for name in ("JPEGImages", "SegmentationClassAug"):
        (root / "VOCdevkit/VOC2012" / name).mkdir(parents=True)
    for stem, values in {
        "2007_000001": (0, 1, 7, 255),
        "2007_000002": (6, 11, 12, 0),
        "2008_000003": (1, 6, 16, 0),
    }.items():
        noise = drawn.integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(noise).save(root / f"VOCdevkit/VOC2012/JPEGImages/{stem}.jpg")
        labels = np.repeat(np.repeat(np.array(values, np.uint8).reshape(2, 2), 30, 0), 40, 1)
        Image.fromarray(labels).save(root / f"VOCdevkit/VOC2012/SegmentationClassAug/{stem}.png")
    for folder, more in (("hsnet/splits", ""), ("fusioner/dataset/splits", "\n2008_000003__16")):
        lists = root / folder / "pascal"
        (lists / "trn").mkdir(parents=True)
        for fold, pairs in enumerate(
            ["2007_000001__01", "2007_000002__06", "2007_000002__11", f"2007_000002__16{more}"]
        ):
            (lists / f"trn/fold{fold}.txt").write_text(pairs)  # without a final newline, as the official lists
    (root / "hsnet/splits/pascal/val").mkdir()
    (root / "hsnet/splits/pascal/val/fold0.txt").write_text("2007_000001__01\n2008_000003__01\n")
    return root


def test_a_whole_training_ends_in_a_file_that_the_network_reads_with_the_shipped_clip(tmp_path: Path) -> None:
    weights = loop.run(CONFIG.model_copy(update={"measured": 1}), tmp_path)
    model = network.load("fusioner_tiny", [weights, zoo.find("clip_tiny")])
    result = model.predict(scenes.of_address("seen/validation/0")[0].image, ["sky"])
    assert torch.isfinite(result["logits"]).all()
    assert all(name.startswith(TRAINED) for name in network.checkpoint.read(weights))
    measured = json.loads((tmp_path / "weights.json").read_text())["trainings"][0]["measured"]
    groups = ("foreground", "things", "surfaces")
    assert set(measured) == {f"{kind}_{group}" for kind in ("seen", "held-out") for group in groups}


def test_the_loss_is_that_of_a_slow_reference() -> None:
    """Sample by sample: the window through the network that predicts, then the mean over pixels that count."""
    task = fusioner.Task(CONFIG)
    batch = task.batch(1)
    batch["targets"][0] = samples.NOT_COUNTED  # the plain mean, as no pixel counts
    assert (batch["targets"] == samples.NOT_COUNTED).any((1, 2)).sum() > 1
    total = 0.0
    with torch.no_grad():
        logits = task.forward(batch, 1)
        for number, target in enumerate(batch["targets"].tolist()):
            name = task.source.names[batch["classes"][number]]
            row = task.model.classifier(Vocabulary.of([name]))
            visual = task.model.visual(batch["windows"][batch["which"][number]][None])
            (alone,) = task.model.logits(visual, row[None])
            assert torch.allclose(alone[0], logits[number], atol=1e-4)
            pairs = zip(alone[0].flatten().tolist(), np.array(target).ravel().tolist(), strict=True)
            terms = [(math.log1p(math.exp(-x)) + (0 if y == 1 else x), y) for x, y in pairs]
            valid = [term for term, y in terms if y != samples.NOT_COUNTED] or [term for term, _ in terms]
            total += sum(valid) / len(valid)
    assert float(task.losses(logits, batch)["bce"]) == pytest.approx(total / len(batch["targets"]), rel=1e-4)


def test_gradients_reach_fusion_and_decoder_and_nothing_else() -> None:
    task = fusioner.Task(CONFIG)
    batch = task.batch(0)
    task.losses(task.forward(batch, 0), batch)["bce"].backward()
    # A bias in front of an instance norm has no effect, so its gradient is only rounding.
    without = {name for name, value in task.model.named_parameters() if value.grad is None}
    assert without == {name for name in task.model.state_dict() if not name.startswith(TRAINED)}
    silent = [n for n, value in task.model.named_parameters() if value.grad is not None and not value.grad.abs().sum()]
    assert not silent
    listed = [value for group in task.groups() for value in group["params"]]
    assert {id(value) for value in listed} == {id(v) for v in task.model.parameters() if v.requires_grad}
    assert len(listed) == len(set(map(id, listed)))


def test_a_training_on_one_batch_learns_it_and_leaves_clip_as_it_was(tmp_path: Path) -> None:
    settings = CONFIG.model_copy(update={"steps": 30, "rate": 3e-3, "decoder_rate": 3e-3})
    task = fusioner.Task(settings)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    steps = one_batch.totals(task, settings, tmp_path)
    assert steps[-1] < 0.6 * steps[0]
    changed = {name for name, value in task.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith(TRAINED)}


def test_schedules_are_those_of_the_official_code() -> None:
    settings = CONFIG.model_copy(update={"steps": 51, "warmup": 10, "final_rate": 2e-6, "final_weight_decay": 0.4})
    task = fusioner.Task(settings)
    matrices, vectors, decoder = zip(*map(task.settings, range(51)), strict=True)
    rates = [*np.linspace(0, 1e-3, 10), *(2e-6 + 0.499e-3 * (1 + math.cos(math.pi * i / 41)) for i in range(41))]
    assert [step["lr"] for step in matrices] == pytest.approx(rates)
    assert [step["lr"] for step in vectors] == pytest.approx(rates)
    decays = [0.4 - 0.195 * (1 + math.cos(math.pi * i / 51)) for i in range(51)]
    assert [step["weight_decay"] for step in matrices] == pytest.approx(decays)
    assert {step["lr"] for step in decoder} == {1e-3}
    first, second, third = task.groups()
    assert all(value.ndim > 1 for value in first["params"])
    assert second["weight_decay"] == third["weight_decay"] == 0
    falling = fusioner.Task(settings.model_copy(update={"final_decoder_rate": 0.0})).settings(50)[2]
    assert 0 < falling["lr"] < 1e-5


def test_the_loop_uses_the_schedules_of_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[tuple[float, float]]] = []
    step = torch.optim.AdamW.step
    keys = ("lr", "weight_decay")

    def recorded(optimizer: Any, *arguments: Any) -> Any:
        seen.append([tuple(group[key] for key in keys) for group in optimizer.param_groups])
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    task = fusioner.Task(CONFIG)
    loop.train(task, CONFIG, tmp_path)
    expected = [[(group["lr"], group.get("weight_decay", 0.0)) for group in task.settings(i)] for i in range(4)]
    assert seen == expected


def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, resumed = fusioner.Task(CONFIG), fusioner.Task(CONFIG)
    loop.train(whole, CONFIG, tmp_path / "whole")
    loop.train(resumed, CONFIG, tmp_path / "parts", until=2)
    again = fusioner.Task(CONFIG)
    loop.train(again, CONFIG, tmp_path / "parts")
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())
    assert any(not torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())
    other = fusioner.Task(CONFIG.model_copy(update={"seed": 1}))
    assert not torch.equal(other.model.fusion.cls_emb, fusioner.Task(CONFIG).model.fusion.cls_emb)


def test_a_target_has_what_the_name_describes_and_nothing_counts_outside_the_scene() -> None:
    source = fusioner.Task(CONFIG).source
    assert isinstance(source, drawn.Drawn)
    things = [Thing("red", None, "star"), Thing("red", "plain", "star"), Thing("red", "plain", "ring")]
    partly = next(
        window
        for number in range(40)
        if {"red star", "plain red star"} <= dict((window := draw(source, things, number)).samples).keys()
    )
    targets = dict(partly.samples)
    outside = (partly.pixels == -1).all(0).numpy()
    for target in targets.values():
        assert np.array_equal(target == samples.NOT_COUNTED, outside)
        assert (target == 1).sum() >= drawn.SMALLEST
    both, exact = targets["red star"] == 1, targets["plain red star"] == 1
    assert (both & exact).sum() == exact.sum() < both.sum()
    assert not (both & (targets.get("plain red ring", np.zeros_like(outside)) == 1)).any()


def draw(source: drawn.Drawn, things: list[Thing], number: int) -> samples.Window:
    """A window of a scene with these things, and 12 samples: all names that are visible in it."""
    return source.window(np.random.default_rng(number), scenes.scene(things, "targets", number, (256, 320)), 12)


def test_no_name_of_a_held_out_combination_is_asked_in_training() -> None:
    source = fusioner.Task(CONFIG.model_copy(update={"unnamed": 0.5})).source
    asked = {name for step in range(40) for window in source.batch(step) for name, _ in window.samples}
    assert len(asked) > 60
    assert asked <= set(drawn.names())
    assert not asked & set(map(scenes.name, scenes.HELD_OUT))
    assert {len(name.split()) for name in asked} == {1, 2, 3}


def official(root: Path, **given: Any) -> Config:
    return CONFIG.model_copy(update={"data": "pascal5i", "data_root": str(root), "batch": 3, **given})


@pytest.mark.parametrize(("lists", "count"), [("hsnet", 3), ("fusioner", 4)])
def test_a_pair_is_of_a_class_outside_the_fold_and_the_longer_lists_are_a_switch(
    pascal: Path, lists: str, count: int
) -> None:
    source = fusioner.Task(official(pascal, lists=lists)).source
    assert isinstance(source, photographs.Photographs)
    assert [item.part for item in source.items] == ["bus", "diningtable", *["pottedplant"] * (count - 2)]
    assert "aeroplane" not in source.names
    (bus,) = (item for item in source.items if item.part == "bus")
    target = source.target(bus, Path(bus.truth).read_bytes())
    assert target[::30, ::40].tolist() == [[1, 0], [0, 0]]
    values = np.array([[6, 1, 255]], np.uint8)
    Image.fromarray(values).save(pascal / "ignored.png")
    assert source.target(bus, (pascal / "ignored.png").read_bytes()).tolist() == [[1, 0, samples.NOT_COUNTED]]


def test_each_epoch_has_every_pair_once_and_a_batch_depends_on_seed_and_step_alone(pascal: Path) -> None:
    task, same = fusioner.Task(official(pascal)), fusioner.Task(official(pascal))
    state = torch.random.get_rng_state()
    first, again = task.batch(5), same.batch(5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert first["windows"].shape == (3, 3, 128, 128)
    assert sorted(first["classes"].tolist()) == [0, 1, 2]
    assert not torch.equal(first["windows"], task.batch(6)["windows"])
    assert not torch.equal(first["windows"], fusioner.Task(official(pascal, seed=1)).batch(5)["windows"])
    assert set(first["targets"].unique().tolist()) <= {0, 1, samples.NOT_COUNTED}


def test_photograph_and_target_change_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target marks bright pixels; after crops, flips and affine maps it still does."""
    bright = np.zeros((90, 120), np.uint8)
    bright[20:60, 30:100] = 1
    change = photographs.changes("coco", 64)
    outcomes = []
    for seed in range(30):
        torch.manual_seed(seed)
        image = torch.from_numpy(bright * 200 + 20).expand(3, -1, -1)
        changed, target = change(tv_tensors.Image(image), tv_tensors.Mask(torch.from_numpy(bright)))
        assert changed.shape == (3, 64, 64)
        assert changed.dtype == torch.uint8
        outcomes.append(((changed.float().mean(0) > 100) == target.bool()).float().mean().item())
        assert set(target.unique().tolist()) <= {0, 1}
    assert min(outcomes) > 0.9
    assert len(set(outcomes)) > 20


def test_validation_counts_the_episodes_of_the_fold(pascal: Path) -> None:
    task = fusioner.Task(official(pascal, measured=100, resolution="square_224"))
    benchmark = load("pascal5i:0")
    items = benchmark.items(str(pascal), "val")
    result = counted(task.model, benchmark, items, 100, "pascal", "square_224")
    assert result.counted() == {"episodes": 2, "without_foreground": 0, "classes_seen": 1, "classes_of_fold": 5}
    assert int(result.total.counts.sum()) == 2 * 128**2 - 64 * 64  # without the quarter that is 255
    assert result.hits[0] + result.union[0] > 0
    assert counted(task.model, benchmark, items, 1).counted()["episodes"] == 1
    assert set(task.measure()) == {"fold_miou", "fb_iou"}
    assert task.measure()["fold_miou"] == pytest.approx(result.result()["fold_miou"])


def test_coco_reads_the_pairs_of_its_own_training_list(tmp_path: Path) -> None:
    for name in ("train2014", "annotations/train2014"):
        (tmp_path / "COCO2014" / name).mkdir(parents=True)
    Image.new("RGB", (70, 50), "red").save(tmp_path / "COCO2014/train2014/COCO_train2014_000000000009.jpg")
    labels = np.repeat(np.array([[2, 51, 1, 0]], np.uint8), 50, 0).repeat(18, 1)[:, :70]
    Image.fromarray(labels).save(tmp_path / "COCO2014/annotations/train2014/COCO_train2014_000000000009.png")
    pairs = {number: [] for number in range(80)}
    pairs[1] = pairs[50] = ["train2014/COCO_train2014_000000000009.jpg"]
    (tmp_path / "hsnet/splits/coco/trn").mkdir(parents=True)
    file = tmp_path / "hsnet/splits/coco/trn/fold0.pkl"
    file.write_bytes(pickle.dumps(pairs))
    source = fusioner.Task(official(tmp_path, data="coco20i")).source
    assert source.names == ["bicycle", "broccoli"]
    assert source.target(source.items[0], Path(source.items[0].truth).read_bytes())[0, ::18].tolist() == [1, 0, 0, 0]
    file.write_bytes(pickle.dumps(pairs | {9: pairs[1]}))  # evaluation asks in the same words
    words = load("coco20i:1").for_binary().question("traffic light")[0]
    assert fusioner.Task(official(tmp_path, data="coco20i")).source.names[1] == words.names[1] == "trafficlight"
    file.write_bytes(pickle.dumps(pairs | {0: pairs[1]}))
    with pytest.raises(OvssError, match=r"listed under the key 0\. The keys of this list must be"):
        fusioner.Task(official(tmp_path, data="coco20i"))
    file.write_bytes(pickle.dumps(pairs | {2: ["train2014/COCO_train2014_000000000025.jpg"]}))
    with pytest.raises(OvssError, match=r"^3 training pairs .* only 2 .*_000000000025\. Get it: .*/train2014\.zip"):
        fusioner.Task(official(tmp_path, data="coco20i"))


def test_a_training_does_not_start_with_a_part_of_its_pairs(pascal: Path) -> None:
    voc = pascal / "VOCdevkit/VOC2012"
    (voc / "SegmentationClassAug/2008_000003.png").rename(pascal / "elsewhere.png")
    assert len(fusioner.Task(official(pascal)).source.names) == 3
    with pytest.raises(OvssError, match=r"^4 training pairs .* only 3 .* 2008_000003\. Get it: .*ClassAug\.zip"):
        fusioner.Task(official(pascal, lists="fusioner"))
    (voc / "SegmentationClassAug").rename(voc / "SegmentationClass")
    with pytest.raises(OvssError, match=r"not found .*SegmentationClassAug.*unpack SegmentationClassAug\.zip"):
        fusioner.Task(official(pascal))


def test_training_lists_without_a_pair_are_an_error(pascal: Path) -> None:
    for file in (pascal / "hsnet/splits/pascal/trn").iterdir():
        file.write_text("")
    with pytest.raises(OvssError, match=r"the training lists have no pair.*copy the folder data/splits"):
        fusioner.Task(official(pascal))


def test_missing_lists_are_reported_with_the_place_and_the_source(pascal: Path) -> None:
    (pascal / "fusioner").rename(pascal / "elsewhere")
    with pytest.raises(OvssError, match=r"fusioner/splits/pascal/trn/fold1\.txt.*copy the folder dataset/splits of"):
        fusioner.Task(official(pascal, lists="fusioner"))
    assert len(fusioner.Task(official(pascal)).source.names) == 3


COCO_FOLDS = {0: (95_476, 730), 1: (133_927, 861), 2: (141_054, 894), 3: (141_016, 876)}
"""Fold → training pairs, and photographs with the first 1,000 validation episodes"""


def test_the_config_of_coco_has_the_numbers_of_its_own_pairs() -> None:
    file = ROOT / "configs/train_fusioner_vit_l_14_coco.yaml"
    official = config.load(file, ["data_root=/data"])
    assert isinstance(official, Config)
    rows = {0: [official.steps, official.warmup, official.measure_every, official.measured]}
    for line in re.findall(r"^#   (\d .*)$", file.read_text(), re.MULTILINE):
        fold, pairs, *numbers = (int(number.replace(",", "")) for number in line.split())
        assert pairs == COCO_FOLDS[fold][0]
        rows[fold] = numbers
    for fold, (pairs, photographs_measured) in COCO_FOLDS.items():
        epoch = -(-pairs // 32)
        assert rows[fold] == [510 * epoch, 10 * epoch, epoch // 3, photographs_measured]
    assert (official.data, official.fold, official.variant) == ("coco20i", 0, "fusioner_vit_l_14")
    assert (official.batch, official.rate, official.resolution) == (32, 1e-3, "square_224")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("train_fusioner_tiny", {"fold": 1}),
        ("train_fusioner_tiny", {"lists": "fusioner"}),
        ("train_fusioner_tiny", {"data_root": "/data"}),
        ("train_fusioner_tiny", {"cooldown": 0.5}),
        ("train_fusioner_vit_l_14", {"things": "[1, 4]"}),
        ("train_fusioner_vit_l_14", {"unnamed": 0.5}),
        ("train_fusioner_vit_l_14_coco", {"questions": 2}),
        ("train_fusioner_vit_l_14_coco", {"overhang": 8}),
        ("train_fusioner_vit_l_14_coco", {"lists": "fusioner"}),
    ],
)
def test_a_setting_without_effect_is_refused(name: str, settings: dict[str, Any]) -> None:
    ((key, value),) = settings.items()
    with pytest.raises(OvssError, match=rf"yaml: {key}=.* has no effect .*\. Remove `{key}`, or set `{key}` to its"):
        config.load(ROOT / f"configs/{name}.yaml", [f"{key}={value}"])


def test_norms_alone_cannot_be_left_without_weight_decay() -> None:
    with pytest.raises(OvssError, match="undecayed: Input should be 'vectors'"):
        config.load(ROOT / "configs/train_fusioner_tiny.yaml", ["undecayed=norms"])


def test_a_variant_that_does_not_resize_cannot_learn_scenes() -> None:
    message = "data=scenes needs .* variant=fusioner_vit_l_14 does not resize images. Set `variant` to fusioner_tiny"
    with pytest.raises(OvssError, match=message):
        config.load(ROOT / "configs/train_fusioner_tiny.yaml", ["variant=fusioner_vit_l_14"])


def test_the_configs_of_finished_trainings_are_valid(tmp_path: Path) -> None:
    """They state every setting, also those without effect, at their default values."""
    card = json.loads((ROOT / "ovss_ray/models/fusioner/weights/fusioner_tiny.json").read_text())
    for training in card["trainings"]:
        assert Config.model_validate(training["config"]).steps == training["config"]["steps"]
    for file in (ROOT / "configs").glob("train_fusioner_*.yaml"):
        (tmp_path / file.name).write_text(config.dump(config.load(file)))
        assert config.load(tmp_path / file.name) == config.load(file)


def test_the_error_names_the_checkpoint_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {name: value.contiguous() for name, value in fusioner.Task(CONFIG).weights().items()}
    start = str(tmp_path / "start.safetensors")
    safetensors.torch.save_file(weights, start)
    again = fusioner.Task(CONFIG.model_copy(update={"start": start, "seed": 1}))
    assert all(torch.equal(value, weights[name]) for name, value in again.weights().items())
    monkeypatch.setitem(VARIANTS, "fusioner_tiny", replace(SMALL, layers=2))
    with pytest.raises(OvssError, match=r"^start: .*start\.safetensors has no fusion and decoder .* Missing: fusion"):
        fusioner.Task(CONFIG.model_copy(update={"start": start}))
    monkeypatch.setitem(VARIANTS, "fusioner_tiny", replace(SMALL, clip=replace(SMALL.clip, layers=1)))
    with pytest.raises(OvssError, match=r"^clip: .* does not fit fusioner_tiny\."):
        fusioner.Task(CONFIG.model_copy(update={"start": start}))


def test_the_official_config_has_the_numbers_of_the_official_code() -> None:
    official = config.load(ROOT / "configs/train_fusioner_vit_l_14.yaml")
    assert isinstance(official, Config)
    epoch = -(-12_670 // 32)
    assert (official.steps, official.warmup, official.measure_every) == (510 * epoch, 10 * epoch, epoch // 3)
    assert (official.rate, official.final_rate, official.decoder_rate) == (1e-3, 2e-6, 1e-3)
    assert (official.weight_decay, official.final_weight_decay, official.beta2) == (0.01, 0.4, 0.999)
    assert official.final_decoder_rate is None
    assert official.clip_norm is None
    assert (official.batch, official.precision, official.resolution) == (32, "fp32", "square_224")
