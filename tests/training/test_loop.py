"""Trainings go down, go on where they were, and end in a file that can be used."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovss_ray import models, registry
from ovss_ray.cli import app
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.models import checkpoint
from ovss_ray.models.san.variants import VARIANTS
from ovss_ray.training import config, loop, photographs
from ovss_ray.training.recipes.alpha_clip.config import Config as AlphaClipTraining
from ovss_ray.training.recipes.clip import task as clip
from ovss_ray.training.recipes.clip.config import Config as ClipTraining
from ovss_ray.training.recipes.san import task as san
from ovss_ray.training.recipes.san.config import Config as SanTraining
from tests.checkpoints import SMALL, small_checkpoint
from tests.paths import ROOT
from tests.training import one_batch

CLIP = ClipTraining(
    task="clip", steps=4, batch=1, crops=2, rate=1e-3, warmup=2, precision="fp32", device="cpu", measured=0
)


TINIER = replace(
    VARIANTS["san_tiny"],
    width=32,
    heads=2,
    layers=3,
    shallow=2,
    fusion=(0, 2),
    embed=32,
    text_width=32,
    text_layers=1,
    side_width=32,
    side_layers=3,
    side_patch=16,
    queries=12,
    mask_width=32,
    stem=1,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop is tested, not the size of the network."""
    monkeypatch.setitem(VARIANTS, "san_tiny", TINIER)


@pytest.fixture
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CLIP."""
    file = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save(clip.Task(CLIP).model.state_dict(), file)
    return file


def side(file: Path, **given: Any) -> SanTraining:
    base = {"task": "san", "clip": str(file), "steps": 4, "batch": 2, "crop": 64, "points": 256, "rate": 1e-3}
    return SanTraining(
        **{
            **base,
            "warmup": 2,
            "whole": 0,
            "measured": 0,
            "precision": "fp32",
            "device": "cpu",
            "positions": False,
            **given,
        }
    )


@pytest.mark.parametrize("kind", ["clip", "san"])
def test_an_interrupted_training_ends_in_the_weights_of_an_unbroken_one(
    kind: str, tmp_path: Path, small_clip: Path
) -> None:
    settings = CLIP if kind == "clip" else side(small_clip)
    make = clip.Task if kind == "clip" else san.Task
    whole = make(settings)
    loop.train(whole, settings, tmp_path / "whole")
    loop.train(make(settings), settings, tmp_path / "parts", until=1)
    resumed = make(settings)
    loop.train(resumed, settings, tmp_path / "parts")
    start = make(settings).model.state_dict()
    moved = 0
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
        moved += not torch.equal(value, start[name])
    assert moved > 20


@pytest.mark.parametrize("kind", ["clip", "san"])
def test_a_few_steps_on_one_batch_bring_its_loss_down(kind: str, tmp_path: Path, small_clip: Path) -> None:
    changes = {"steps": 20, "cooldown": 0.0, "warmup": 1}
    settings = (CLIP if kind == "clip" else side(small_clip)).model_copy(update=changes)
    task = clip.Task(settings) if kind == "clip" else san.Task(settings)
    totals = one_batch.totals(task, settings, tmp_path)
    assert np.mean(totals[-3:]) < 0.85 * np.mean(totals[:2]), totals


def test_clip_stays_as_it_is_while_the_side_network_is_trained(tmp_path: Path, small_clip: Path) -> None:
    settings = side(small_clip, steps=2)
    task = san.Task(settings)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    loop.train(task, settings, tmp_path)
    changed = {name for name, value in task.model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"side_adapter_network.query_embed", "ov_classifier.bg_embed"} < changed
    assert all(name.startswith("side_adapter_network.") or name == "ov_classifier.bg_embed" for name in changed)


def test_what_is_exported_can_be_loaded_and_says_how_it_was_made(tmp_path: Path, small_clip: Path) -> None:
    settings = side(small_clip, steps=1)
    task = san.Task(settings)
    loop.train(task, settings, tmp_path)
    model = models.load("san_tiny", loop.export(task, tmp_path))
    labels = model.segment(np.zeros((50, 70, 3), np.uint8), ["sky", "plain red ball"])
    assert labels.shape == (50, 70)
    card = json.loads((tmp_path / loop.CARD).read_text())
    assert card["trainings"][-1]["config"]["clip"] == str(small_clip)
    assert card["trainings"][-1]["seconds"] >= 0
    assert card["environment"]["packages"]["torch"]


def test_the_history_has_the_training_of_each_checkpoint_and_its_own_training_last(tmp_path: Path) -> None:
    for name, base in (("clip", None), ("alpha", str(tmp_path / "clip/checkpoint.pt")), ("other", "/none/clip.pt")):
        (tmp_path / name).mkdir()
        settings = AlphaClipTraining(task="alpha_clip", base=base, steps=4, batch=1, rate=1e-3)
        (tmp_path / name / loop.CONFIG).write_text(config.dump(settings))
        (tmp_path / name / loop.LOG).write_text('{"step": 4, "seconds": 2.0}\n')
    assert [entry["config"]["base"] for entry in loop.history(tmp_path / "alpha")] == [
        None,
        str(tmp_path / "clip/checkpoint.pt"),
    ]
    assert len(loop.history(tmp_path / "other")) == 1


def test_a_folder_of_another_training_is_refused_but_more_steps_are_not(tmp_path: Path) -> None:
    loop.claim(tmp_path, CLIP)
    loop.claim(tmp_path, CLIP.model_copy(update={"steps": 8}))
    with pytest.raises(OvssError, match="training with a different config"):
        loop.claim(tmp_path, CLIP.model_copy(update={"rate": 0.1}))


def test_the_rate_rises_stays_and_falls() -> None:
    settings = CLIP.model_copy(update={"steps": 100, "warmup": 10, "cooldown": 0.2})
    rates = [loop.schedule(settings, step) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert set(rates[10:80]) == {1.0}
    assert rates[80:] == pytest.approx(np.arange(20, 0, -1) / 20)


def test_faults_of_a_config_are_named_with_the_nearest_word(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: clip\nsteps: 0\nbatch: 1\nrate: 1\nnegativs: 3\n")
    message = r"(?s)steps: .*greater than or equal to 1.*unknown key 'negativs'.*'negatives'"
    with pytest.raises(OvssError, match=message):
        config.load(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("task: clip\nsteps: 1\nbatch: 1\nrate: 1\n")
    assert config.load(tmp_path / "a.yaml", ["steps=7"]).steps == 7
    (tmp_path / "b.yaml").write_text(config.dump(config.load(tmp_path / "a.yaml", ["things=[1, 2]"])))
    assert config.load(tmp_path / "b.yaml").things == (1, 2)


def test_every_recipe_is_a_folder_with_a_config_that_needs_no_torch() -> None:
    recipes = registry.known(config.RECIPES)
    assert {"alpha_clip", "clip", "sam", "san", "scan", "scan_clip"} <= set(recipes)
    code = (
        "import sys; from ovss_ray.training import config; "
        f"assert all(issubclass(config.part(name, 'config', 'Config'), config.Training) for name in {recipes}); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    shipped = {config.load(file).task for file in (ROOT / "configs").glob("train_*.yaml")}
    assert shipped == set(recipes)


def test_a_recipe_of_the_user_is_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "their_recipes" / "small"
    package.mkdir(parents=True)
    (package / "config.py").write_text(
        "from ovss_ray.training.config import Training\n\n\nclass Config(Training):\n    depth: int = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "a.yaml").write_text("task: their_recipes.small\nsteps: 1\nbatch: 1\nrate: 1\nvariant: small\n")
    assert config.load(tmp_path / "a.yaml", ["depth=5"]).model_dump()["depth"] == 5


def test_a_task_that_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("steps: 1\nbatch: 1\nrate: 1\n")
    with pytest.raises(
        OvssError, match=r"a\.yaml: task: expected the name of a training, got None.*alpha_clip, clip, "
    ):
        config.load(tmp_path / "a.yaml")
    with pytest.raises(UnknownName, match=r"unknown training 'sann'.*'san'"):
        config.load(tmp_path / "a.yaml", ["task=sann"])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three labelled images, and the description of them."""
    drawn = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(drawn.integers(0, 256, (90, 120, 3), np.uint8)).save(tmp_path / f"{i}.jpg")
        Image.fromarray(np.repeat(drawn.integers(0, 4, (90, 12), np.uint8), 10, axis=1)).save(tmp_path / f"{i}.png")
    (tmp_path / "d.yaml").write_text("images: '*.jpg'\nlabels: '*.png'\nclasses: [sky, road, tree]\nignore: 3\n")
    return tmp_path / "d.yaml"


def test_the_official_recipe_runs_on_labelled_photographs(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped config, but for a smaller network, three photographs and two steps."""
    monkeypatch.setitem(VARIANTS, "san_vit_b_16", SMALL)
    small_checkpoint(tmp_path / "small.pth")
    shipped = ROOT / "configs/train_san_vit_b_16.yaml"
    given = [f"clip={tmp_path / 'small.pth'}", f"data=folder:{photos}", "steps=2", "batch=2", "points=500", "workers=0"]
    settings = config.load(
        shipped, [*given, "short_sides=[64, 96]", "crop=96", "precision=fp32", "device=cpu", "measured=0"]
    )
    task = san.Task(settings)
    start = {name: value.clone() for name, value in task.model.state_dict().items()}
    loop.train(task, settings, tmp_path / "out")
    changed = {name for name, value in task.model.state_dict().items() if not torch.equal(value, start[name])}
    assert san.POSITIONS in changed
    assert "clip_visual_extractor.conv1.weight" not in changed
    assert loop.schedule(settings, 1) == pytest.approx(0.5**0.9)


def test_photographs_and_their_labels_are_changed_together(photos: Path) -> None:
    settings = SanTraining(task="san", clip="", steps=1, batch=3, rate=1, data=f"folder:{photos}", split="all", crop=64)
    source = photographs.Photographs(settings.model_copy(update={"short_sides": (45, 180)}))
    (image, labels), *_ = source.batch(0)
    assert image.shape == (64, 64, 3)
    assert labels.shape == (64, 64)
    assert set(np.unique(labels)) <= {0, 1, 2, 65535}
    again = zip(source.batch(5), source.batch(5), strict=True)
    assert all(np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1]) for one, two in again)
    seen = {number for step in range(2) for number in source.order(step).tolist()}
    assert seen == {0, 1, 2}


def test_padding_is_grey_and_not_counted() -> None:
    black, first = np.zeros((40, 90, 3), np.uint8), np.zeros((40, 90), np.uint16)
    image, truth = photographs.cut(np.random.default_rng(0), black, first, 64)
    assert (image[40:] == 128).all()
    assert (truth[40:] == 65535).all()
    assert (truth[:40] == 0).all()
    assert (image[:40] == 0).all()


def test_one_command_trains_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", "batch=1", "--set", "crops=0", "--set", "precision=fp32", "--set", "measured=0"]
    for steps in (1, 2):
        with pytest.raises(SystemExit, match="0"):
            app.main(["train", "train_stem_tiny", "--out", str(tmp_path), "--set", f"steps={steps}", *small])
        assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / loop.WEIGHTS)
    assert [json.loads(line)["step"] for line in (tmp_path / loop.LOG).read_text().splitlines()] == [1, 2]
    assert not any(name.startswith("heads.") for name in checkpoint.read(tmp_path / loop.WEIGHTS))
