"""CLIP2SAM's training: prompts of instances, its losses, what is trained and what is not, and what is exported."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ovss_ray.datasets import scenes
from ovss_ray.errors import OvssError
from ovss_ray.models import zoo
from ovss_ray.models.ovsam import network
from ovss_ray.models.ovsam.backbone import Neck
from ovss_ray.models.ovsam.variants import PARTS
from ovss_ray.models.sam_layers.prompts import FIRST_CORNER, ON
from ovss_ray.training import config, loop
from ovss_ray.training.initial import initialise
from ovss_ray.training.recipes.clip2sam import samples
from ovss_ray.training.recipes.clip2sam import task as clip2sam
from ovss_ray.training.recipes.clip2sam.config import Config
from tests import small_ovsam_tiny
from tests.paths import ROOT
from tests.training import one_batch

CONFIG = Config(
    task="clip2sam", variant="ovsam_tiny", steps=2, batch=2, prompts=5, points=256, rate=1e-3, warmup=1,
    precision="fp32", device="cpu", measured=0, smallest=40,
)  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """The recipe is tested, not the size of the network or of the vocabulary."""
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        teacher = small_ovsam_tiny.put(patch, folder)
        patch.setattr(scenes, "TRAINED", scenes.TRAINED[::40])
        neck = Neck(small_ovsam_tiny.STUDENT)
        initialise(neck, 2, 0)
        torch.nn.init.zeros_(neck.pos_embed)
        torch.save({f"neck_student.{name}": value for name, value in neck.state_dict().items()}, folder / "neck.pth")
        yield CONFIG.model_copy(update={"teacher": str(teacher), "neck": str(folder / "neck.pth")})


@pytest.fixture(scope="module")
def task(settings: Config) -> clip2sam.Task:
    return clip2sam.Task(settings)


def test_prompts_are_points_in_the_masks_of_things_or_their_tight_boxes(task: clip2sam.Task) -> None:
    kinds: list[bool] = []
    for step in range(3):
        batch = task.batch(step)
        assert batch["images"].shape == (2, 3, 128, 128)
        assert batch["which"].tolist() == [0] * 5 + [1] * 5
        names = [task.source.vocabulary.names[label] for label in batch["classes"]]
        assert set(names) <= set(map(scenes.name, scenes.TRAINED))
        rows = zip(batch["points"], batch["labels"], batch["frames"], batch["truth"], strict=True)
        for points, labels, frame, truth in rows:
            assert truth.shape == (128, 128)
            assert truth.sum() >= 40
            inside = truth.nonzero()
            x0, y0, x1, y1 = frame.long().tolist()
            assert [y0, x0] == inside.min(0).values.tolist()
            assert [y1, x1] == (inside.max(0).values + 1).tolist()
            kinds.append(int(labels[0]) == FIRST_CORNER)
            if kinds[-1]:
                assert torch.equal(points.flatten(), frame)
            else:
                assert labels.tolist() == [ON, -1]
                x, y = points[0].long().tolist()
                assert truth[y, x] == 1
        assert torch.equal(task.batch(step)["points"], batch["points"])
    assert 0 < sum(kinds) < len(kinds)


def test_losses_are_those_of_the_paper(task: clip2sam.Task) -> None:
    truth = torch.zeros(3, 128, 128, dtype=torch.uint8)
    truth[:, 32:96, 32:64] = 1
    logits = torch.tensor([[4.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 3.0, 0.0]])
    batch = {"truth": truth, "classes": torch.tensor([0, 1, 2])}
    masks = 40.0 * truth[:, ::2, ::2] - 20.0
    losses = task.losses((masks, logits), batch)
    each = -logits.log_softmax(1)[torch.arange(3), batch["classes"]]
    weights = torch.tensor([1.0, 1.0, 0.1])  # the last class is "no object"
    assert float(losses["class"]) == pytest.approx(float(2 * (weights * each).sum() / weights.sum()), rel=1e-5)
    assert float(losses["dice"]) < 0.3
    torch.manual_seed(0)
    wrong = task.losses((-masks, logits), batch)
    assert float(wrong["mask"]) > 30
    assert 4.5 < float(wrong["dice"]) <= 5


@pytest.mark.slow
def test_steps_on_one_batch_bring_its_losses_down_and_frozen_parts_stay(settings: Config, tmp_path: Path) -> None:
    long = settings.model_copy(update={"steps": 12, "batch": 1, "rate": 3e-3, "cooldown": 0.0})
    task = clip2sam.Task(long)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    totals = one_batch.totals(task, long, tmp_path)
    assert np.mean(totals[-3:]) < 0.6 * np.mean(totals[:2]), totals
    state = task.model.state_dict()
    changed = {name.partition(".")[0] for name, value in state.items() if not torch.equal(value, before[name])}
    assert changed == {"fpn_neck", "mask_decoder"}


@pytest.mark.slow
def test_an_interrupted_training_ends_in_the_same_weights_which_are_loaded_by_name(
    settings: Config, tmp_path: Path
) -> None:
    own = settings.model_copy(update={"train_neck": True})
    whole, resumed = clip2sam.Task(own), clip2sam.Task(own)
    neck = whole.model.neck.blocks[0].attn.qkv.weight.clone()
    loop.train(whole, own, tmp_path / "whole")
    loop.train(resumed, own, tmp_path / "parts", until=1)
    loop.train(clip2sam.Task(own), own, tmp_path / "parts")
    saved = torch.load(tmp_path / "parts" / loop.CHECKPOINT, weights_only=True)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in whole.model.state_dict().items())
    assert not torch.equal(neck, whole.model.neck.blocks[0].attn.qkv.weight)
    file = loop.export(whole, tmp_path / "whole")
    model = network.load("ovsam_tiny", [file, zoo.find("clip_tiny")])
    token = whole.model.mask_decoder.label_token.weight
    assert torch.equal(model.mask_decoder.label_token.weight, token.half().float())
    answer = model.predict(np.zeros((50, 70, 3), np.uint8), [[3, 4], [60, 40]], names=["red star", "grass", "sand"])
    assert answer["masks"].shape == (2, 50, 70)
    assert answer["fused_scores"].shape == (2, 1, 4)
    checkpoint = network.load("ovsam_tiny", [tmp_path / "whole" / loop.CHECKPOINT])
    assert torch.equal(checkpoint.words.text_projection, model.words.text_projection)


def test_the_checkpoint_of_the_released_network_has_the_trained_parts_alone(task: clip2sam.Task) -> None:
    names = {name.partition(".")[0] for name in task.weights()}
    assert names == {"neck", "fpn_neck", "pe", "mask_decoder"}
    assert set(PARTS["ovsam_rn50x16"].values()) == {"fpn_neck.", "mask_decoder."}


def test_photographs_give_the_base_classes_of_a_benchmark(shared: Path) -> None:
    root = str(shared / "parity/ovsam/tiny_coco")
    settings = CONFIG.model_copy(update={"data": "coco:instances_48_17", "data_root": root, "split": "val"})
    source = samples.Photographs(settings, 256)
    assert len(source.vocabulary) == 48
    seen: set[str] = set()
    for step in range(3):
        for sample in source.batch(step):
            assert max(sample.image.shape[:2]) <= 256
            assert sample.masks.shape[1:] == sample.image.shape[:2]
            assert (sample.masks.sum((1, 2)) >= 40).all()
            seen |= {source.vocabulary.names[label] for label in sample.classes}
        again = zip(source.batch(step), source.batch(step), strict=True)
        assert all(np.array_equal(first.image, second.image) for first, second in again)
    assert seen
    official = config.load(ROOT / "configs/train_ovsam_clip2sam_coco.yaml").data
    named = samples.Photographs(settings.model_copy(update={"data": official}), 256).vocabulary
    assert named.classes[0][:3] == ("person", "child", "girl")
    assert len(named) == len(source.vocabulary)
    with pytest.raises(OvssError, match=r"has no instances\. Use a benchmark such as coco:instances_48_17"):
        samples.Photographs(CONFIG.model_copy(update={"data": "scenes:seen"}), 256)


def test_an_image_and_its_masks_change_together() -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[10:40, 20:70] = 1
    image = np.repeat(200 * mask[..., None], 3, 2)
    flipped = 0
    for seed in range(6):
        pixels, (cut,) = samples.augmented(np.random.default_rng(seed), image, mask[None], 64, (0.9, 2.0))
        assert max(pixels.shape[:2]) <= 64
        assert ((pixels[..., 0] > 100) != cut).mean() < 0.05
        flipped += bool(cut.any())
    assert flipped


def test_the_configs_are_those_of_this_training() -> None:
    assert config.load(ROOT / "configs/train_ovsam_tiny.yaml").train_neck
    official = config.load(ROOT / "configs/train_ovsam_clip2sam_coco.yaml", ["steps=1200"])
    assert [loop.schedule(official, step) for step in (0, 799, 801, 1101)] == pytest.approx([1, 1, 0.1, 0.01])
    wide = config.load(ROOT / "configs/train_ovsam_clip2sam_lvis.yaml")
    assert wide.scales == (0.1, 2.0)
    part = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2))
    decayed, plain = (len(of["params"]) for of in loop.groups(part, wide))
    assert (decayed, plain) == (4, 0), "all parameters have weight decay"
    with pytest.raises(OvssError, match=r"ovsam_tiny has no shipped neck \(SAM2CLIP\)\. Run `ovss train"):
        clip2sam.Task(CONFIG)
