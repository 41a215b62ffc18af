"""SCAN's training: its losses against slow ones, what is trained and what is not, and what is exported."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint, zoo
from ovss_ray.models.clip_sizes import ClipSizes
from ovss_ray.models.scan import network
from ovss_ray.models.scan.variants import VARIANTS, Variant
from ovss_ray.training import config, loop
from ovss_ray.training.matching import at_points, uncertain_points
from ovss_ray.training.recipes.scan import task as scan
from ovss_ray.training.recipes.scan.config import Config
from tests.paths import ROOT
from tests.training import one_batch

CONFIG = Config(
    task="scan", steps=3, batch=2, crop=64, points=64, rate=1e-3, warmup=1, whole=0, precision="fp32", device="cpu",
    measured=0,
)  # fmt: skip
SMALL = replace(VARIANTS["scan_tiny"], decoder_layers=3, queries=8)
SMALL_CLIP = ClipSizes(
    width=32, heads=2, layers=6, patch=16, grid=4, embed=32, text_width=32, text_heads=2, text_layers=1, quick=False
)
SMALL_B = Variant(
    clip=SMALL_CLIP, levels=(2, 4, 6), replaced=(1, 3), backbone_width=8, backbone_depths=(1, 2, 1, 1),
    backbone_heads=(1, 2, 2, 2), window=4, hidden=32, heads=2, encoder_layers=1, encoder_inner=32, decoder_layers=3,
    decoder_inner=32, embed_hidden=32, queries=8, calibration_layers=2,
)  # fmt: skip
"""A SCAN with everything that scan_vitB has: byte pairs, patches without a stem, and no shipped CLIP."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe is tested, not the size of the network."""
    monkeypatch.setitem(VARIANTS, "scan_tiny", SMALL)
    monkeypatch.setitem(VARIANTS, "scan_vitB", SMALL_B)


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


def slow_losses(masks: Tensor, logits: Tensor, targets: list[scan.Target], points: int) -> tuple[float, float, float]:
    """The class, mask and dice loss of one output, value by value; random points are drawn in the same order."""
    rows: list[list[list[float]]] = logits.tolist()
    pairs: list[dict[int, int]] = []
    for image, target in enumerate(targets):
        where = torch.rand(1, points, 2)
        read = at_points(masks[image][:, None], where.expand(masks.shape[1], -1, -1)).sigmoid().tolist()
        truth = at_points(target.masks[:, None], where.expand(len(target.masks), -1, -1)).tolist()
        costs = [
            [
                -2 * softmax(rows[image][q])[int(target.classes[t])] + 5 * bce(read[q], truth[t])
                + 5 * dice(read[q], truth[t])
                for t in range(len(truth))
            ]
            for q in range(len(read))
        ]  # fmt: skip
        pairs.append(dict(zip(*map(np.ndarray.tolist, linear_sum_assignment(np.array(costs))), strict=True)))
    matched = [(image, q, t) for image, chosen in enumerate(pairs) for q, t in chosen.items()]
    chosen_masks = torch.stack([masks[image, q] for image, q, _ in matched])[:, None]
    chosen_truth = torch.stack([targets[image].masks[t] for image, _, t in matched])[:, None]
    where = uncertain_points(chosen_masks, points)
    read, truth = at_points(chosen_masks, where).sigmoid().tolist(), at_points(chosen_truth, where).tolist()
    total = weights = 0.0
    for image, chosen in enumerate(pairs):
        for q, row in enumerate(rows[image]):
            right = int(targets[image].classes[chosen[q]]) if q in chosen else len(row) - 1
            weight = 1.0 if q in chosen else 0.1
            total, weights = total - weight * math.log(softmax(row)[right]), weights + weight
    mask = sum(bce(a, b) for a, b in zip(read, truth, strict=True)) / len(read)
    return 2 * total / weights, 5 * mask, 5 * sum(dice(a, b) for a, b in zip(read, truth, strict=True)) / len(read)


def bce(inside: list[float], truth: list[float]) -> float:
    return -sum(t * math.log(p) + (1 - t) * math.log(1 - p) for p, t in zip(inside, truth, strict=True)) / len(truth)


def dice(inside: list[float], truth: list[float]) -> float:
    common = sum(p * t for p, t in zip(inside, truth, strict=True))
    return 1 - (2 * common + 1) / (sum(inside) + sum(truth) + 1)


def slow_calibrated(model: network.Scan, raw: Tensor, maps: list[Tensor], embedding: Tensor) -> Tensor:
    """One query of one image (D,), calibrated by the steps of the paper; maps (C, g, g) and embedding (D,)."""
    tokens = []
    for features, sigma in zip(maps, model.variant.sigmas, strict=True):
        side = features.shape[-1]
        spectrum = torch.fft.fft2(features.double())
        for y in range(side):
            for x in range(side):
                apart = (y - side // 2) ** 2 + (x - side // 2) ** 2
                spectrum[:, y, x] *= 1 - math.exp(-apart / (2 * sigma**2))
        stacked = torch.cat([spectrum.real, spectrum.imag]).flatten(1).T
        first, second = (conv.weight[:, :, 0, 0].double() for conv in (model.LFM.conv1, model.LFM.conv2))
        hidden = (stacked @ first.T + model.LFM.conv1.bias.double()).clamp(min=0)
        real, imaginary = (hidden @ second.T + model.LFM.conv2.bias.double()).T.unflatten(1, (side, side)).chunk(2)
        tokens.append((torch.fft.ifft2(torch.complex(real, imaginary)).real + features).flatten(1).T)
    keys = model.oriclip_mlp(torch.cat(tokens).float())
    x = raw
    for number, part in enumerate(model.fusion_decoder.multiattn):
        q, k, v = (keys if i else x for i in range(3))
        weights, biases = part.in_proj_weight.chunk(3), part.in_proj_bias.chunk(3)
        q, k, v = (value @ w.T + b for value, w, b in zip((q, k, v), weights, biases, strict=True))
        width = len(raw) // part.heads
        heads = []
        for head in range(part.heads):
            at = slice(head * width, (head + 1) * width)
            heads.append((k[:, at] @ q[at] / math.sqrt(width)).softmax(0) @ v[:, at])
        x = x + part.out_proj(torch.cat(heads))
        x = model.fusion_decoder.ln[number](x) if number < len(model.fusion_decoder.ln) else x
    x = x + model.learnable_weight * embedding / embedding.norm()
    for layer in model.lightweight_transformer.layers:
        value = x @ layer.self_attn.in_proj_weight.chunk(3)[2].T + layer.self_attn.in_proj_bias.chunk(3)[2]
        x = layer.norm1(x + layer.self_attn.out_proj(value))
        x = layer.norm2(x + layer.linear2(layer.linear1(x).relu()))
    return x


@pytest.mark.parametrize("auxiliary", ["official", "all"])
def test_the_losses_are_those_of_a_slow_reference(auxiliary: str) -> None:
    """The outputs supervised: the initial one, those of the layers, and of the last; one less in the official code."""
    task = scan.Task(CONFIG.model_copy(update={"auxiliary": auxiliary}))
    batch = task.batch(1)
    with torch.no_grad():
        outputs = task.forward(batch, 1)
        torch.manual_seed(5)
        losses = {name: float(value) for name, value in task.losses(outputs, batch).items()}
        model = task.model
        seen, proposals = _slow_forward(task, batch["images"])
        supervised = [*proposals[: -2 if auxiliary == "official" else -1], proposals[-1]]
        assert len(supervised) == len(outputs) == SMALL.decoder_layers + (auxiliary == "all")
        rows = torch.cat([task.words, torch.nn.functional.normalize(model.clip_adapter.non_object_embedding, dim=-1)])
        torch.manual_seed(5)
        expected = np.zeros(3)
        for output, (masks, calibrated) in zip(supervised, outputs, strict=True):
            assert torch.equal(masks, output.mask_logits)
            slow = slow_calibrated(
                model, output.embeddings[1, 3], [level[1] for level in seen.maps], seen.embeddings[1]
            )
            assert torch.allclose(calibrated[1, 3], slow, atol=1e-4)
            cosines = calibrated / calibrated.norm(dim=-1, keepdim=True) @ rows.T
            expected += slow_losses(masks, 100 * cosines, batch["targets"], CONFIG.points)
    assert [losses[name] for name in ("class", "mask", "dice")] == pytest.approx(expected.tolist(), rel=1e-4)


def _slow_forward(task: scan.Task, images: Tensor) -> tuple[Any, list[Any]]:
    """The frozen CLIP's features of the photographs, and all outputs of the decoder."""
    model, side = task.model, SMALL.clip.pixels
    clip_mean, clip_std = (
        255 * torch.tensor(v)[:, None, None]
        for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    places = (torch.arange(side) * images.shape[-1] / side).long()  # crops are square
    small = ((images.float() - clip_mean) / clip_std)[:, :, places][..., places]
    seen = scan.overview(model.clip_adapter.original_clip, small, SMALL.levels, SMALL.replaced)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    normal = (images.float() - mean[:, None, None]) / std[:, None, None]
    return seen, model.sem_seg_head(model.backbone(normal), every=True)


@pytest.mark.parametrize("auxiliary", ["official", "all"])
def test_gradients_reach_all_that_is_trained_and_nothing_else(auxiliary: str) -> None:
    task = scan.Task(CONFIG.model_copy(update={"auxiliary": auxiliary}))
    for name, value in task.model.named_parameters():
        if "attention_weights.weight" in name:  # starts at zero, so that queries get no gradient in the first step
            torch.nn.init.normal_(value, std=0.1)
    batch = task.batch(0)
    sum(task.losses(task.forward(batch, 0), batch).values()).backward()
    for name, value in task.model.named_parameters():
        frozen = name.startswith("clip_adapter.") and name != "clip_adapter.non_object_embedding"
        assert value.requires_grad != frozen, name
        assert (value.grad is not None) != frozen, name
    still = [
        name for name, value in task.model.named_parameters() if value.grad is not None and not value.grad.abs().any()
    ]
    assert still == []


def test_norms_embeddings_and_position_biases_do_not_decay_in_the_official_recipe() -> None:
    task = scan.Task(CONFIG)
    decayed, plain = loop.groups(task.model, CONFIG.model_copy(update={"undecayed": "norms"}))
    names = {id(value): name for name, value in task.model.named_parameters()}
    kept = {names[id(value)] for value in plain["params"]}
    assert plain["weight_decay"] == 0
    assert {"backbone.patch_embed.norm.bias", "backbone.norm0.weight", "fusion_decoder.ln.0.weight"} < kept
    assert {f"sem_seg_head.predictor.{name}.weight" for name in ("query_feat", "query_embed", "level_embed")} < kept
    assert "backbone.layers.0.blocks.0.attn.relative_position_bias_table" in kept
    assert "sem_seg_head.pixel_decoder.adapter_1.norm.weight" in kept
    moved = {names[id(value)] for value in decayed["params"]}
    assert {"learnable_weight", "LFM.conv1.bias", "clip_adapter.non_object_embedding"} < moved
    assert not kept & moved
    layers = [name for name, part in task.model.named_modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)]
    assert not kept & {f"{name}.weight" for name in layers}


def test_an_interrupted_training_ends_in_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    whole = scan.Task(CONFIG)
    before = {name: value.clone() for name, value in whole.model.state_dict().items()}
    loop.train(whole, CONFIG, tmp_path / "whole")
    loop.train(scan.Task(CONFIG), CONFIG, tmp_path / "parts", until=1)
    resumed = scan.Task(CONFIG)
    loop.train(resumed, CONFIG, tmp_path / "parts")
    after = whole.model.state_dict()
    for name, value in after.items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {name for name, value in whole.model.named_parameters() if value.requires_grad}


def test_a_few_steps_on_one_batch_bring_its_loss_down(tmp_path: Path) -> None:
    settings = CONFIG.model_copy(update={"steps": 20, "cooldown": 0.0})
    totals = one_batch.totals(scan.Task(settings), settings, tmp_path)
    assert np.mean(totals[-3:]) < 0.6 * np.mean(totals[:2]), totals


def test_the_official_rate_rises_from_a_millionth_and_falls_to_zero() -> None:
    settings = config.load(ROOT / "configs/train_scan_vitL.yaml")
    rates = {step: settings.rate * loop.schedule(settings, step) for step in (0, 750, 1500, 60_000, 119_999)}
    assert rates[0] == pytest.approx(6e-11)
    assert rates[750] == pytest.approx(6e-5 * (0.5 + 0.5e-6) * (1 - 750 / 120_000) ** 0.9)
    assert rates[1500] == pytest.approx(6e-5 * (1 - 1500 / 120_000) ** 0.9)
    assert rates[60_000] == pytest.approx(6e-5 * 0.5**0.9)
    assert rates[119_999] < 1e-8


@pytest.mark.parametrize("name", ["train_scan_vitL", "train_scan_vitB"])
def test_the_official_configs_have_the_numbers_of_the_paper_and_code(name: str) -> None:
    settings = config.load(ROOT / f"configs/{name}.yaml")
    assert isinstance(settings, Config)
    assert (settings.variant, settings.auxiliary) == (name.removeprefix("train_"), "official")
    assert (settings.steps, settings.batch, settings.rate, settings.weight_decay) == (120_000, 32, 6e-5, 0.01)
    assert (settings.clip_norm, settings.warmup, settings.decay, settings.undecayed) == (0.01, 1500, "poly", "norms")
    assert settings.short_sides == tuple(range(320, 1281, 64))
    assert len(settings.short_sides) == 16
    assert (settings.crop, settings.points, settings.no_object, settings.precision) == (640, 12544, 0.1, "fp32")


@pytest.fixture
def official(tmp_path: Path) -> list[str]:
    """Overrides of the official recipe: three photographs, a small CLIP and a small Swin in the official formats."""
    drawn = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(drawn.integers(0, 256, (90, 120, 3), np.uint8)).save(tmp_path / f"{i}.jpg")
        Image.fromarray(np.repeat(drawn.integers(0, 4, (90, 12), np.uint8), 10, axis=1)).save(tmp_path / f"{i}.png")
    (tmp_path / "d.yaml").write_text("images: '*.jpg'\nlabels: '*.png'\nclasses: [sky, road, tree]\nignore: 3\n")
    torch.manual_seed(0)
    model = network.Scan(SMALL_B)
    scan.initialise(model, 4, 1)
    clip = {
        name.replace("visual.resblocks", "visual.transformer.resblocks"): value
        for name, value in model.clip_adapter.clip_model.state_dict().items()
    }
    torch.save(clip | {"attn_mask": torch.zeros(77, 77)}, tmp_path / "clip.pt")
    swin = {name: value for name, value in model.backbone.state_dict().items() if not name.startswith("norm")}
    more = {
        "norm.weight": torch.ones(64),
        "head.weight": torch.ones(5, 64),
        "layers.1.blocks.1.attn_mask": torch.ones(4),
    }
    index = {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.int64)}
    torch.save({"model": swin | more | index}, tmp_path / "swin.pth")
    return [
        *(f"clip={tmp_path / 'clip.pt'}", f"backbone={tmp_path / 'swin.pth'}", f"data=folder:{tmp_path / 'd.yaml'}"),
        *("steps=2", "batch=2", "points=50", "workers=0", "short_sides=[64, 96]", "crop=96", "device=cpu"),
    ]


def test_the_official_recipe_runs_on_labelled_photographs(official: list[str], tmp_path: Path) -> None:
    """The shipped config, but for a smaller network, three photographs and two steps."""
    settings = config.load(ROOT / "configs/train_scan_vitB.yaml", official)
    task = scan.Task(settings)
    swin = checkpoint.read(tmp_path / "swin.pth")
    assert torch.equal(task.model.backbone.state_dict()["patch_embed.proj.weight"], swin["patch_embed.proj.weight"])
    loop.train(task, settings, tmp_path / "out")
    again = network.load("scan_vitB", [loop.export(task, tmp_path / "out")], variant=SMALL_B)
    for name, value in task.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.half().float()), name
    labels = again.segment(np.zeros((40, 50, 3), np.uint8), ["sky", "road"], short_edge=64)
    assert labels.shape == (40, 50)


def test_a_backbone_of_another_size_is_refused(official: list[str], tmp_path: Path) -> None:
    torch.save({"patch_embed.proj.weight": torch.zeros(9, 3, 4, 4)}, tmp_path / "swin.pth")
    with pytest.raises(OvssError, match="not a Swin of the size that"):
        scan.Task(config.load(ROOT / "configs/train_scan_vitB.yaml", official))


def test_a_variant_without_a_shipped_clip_needs_one() -> None:
    with pytest.raises(OvssError, match=r"scan_vitB has no shipped CLIP.*--set clip=PATH"):
        scan.Task(CONFIG.model_copy(update={"variant": "scan_vitB"}))


def test_what_is_exported_holds_what_the_shipped_clip_does_not(tmp_path: Path) -> None:
    fine = {"visual.proj": torch.ones(128, 128), "visual.transformer.resblocks.5.ln_1.bias": torch.full((128,), 2.0)}
    torch.save(fine, tmp_path / "regions.pt")
    settings = CONFIG.model_copy(update={"steps": 1, "regions": str(tmp_path / "regions.pt")})
    task = scan.Task(settings)
    loop.train(task, settings, tmp_path / "out")
    file = loop.export(task, tmp_path / "out")
    names = checkpoint.read(file).keys()
    kept = {name for name in names if name.startswith("clip_adapter.")}
    assert kept == {
        "clip_adapter.non_object_embedding",
        "clip_adapter.original_clip.positional_embedding",
        "clip_adapter.clip_model.visual.positional_embedding",
        "clip_adapter.clip_model.visual.proj",
        "clip_adapter.clip_model.visual.resblocks.5.ln_1.bias",
    }
    model = network.load("scan_tiny", [file, zoo.find("clip_tiny")], variant=SMALL)
    for name, value in task.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value.half().float()), name
    assert model.clip_adapter.clip_model.visual.proj.mean() == 1
    card = json.loads((tmp_path / "out" / loop.CARD).read_text())
    assert card["trainings"][-1]["config"]["regions"] == str(tmp_path / "regions.pt")


def test_scores_are_measured_with_the_numbers_of_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = scan.Task(CONFIG.model_copy(update={"measured": 1, "mask_threshold": 0.25, "replace_ratio": 0.05}))
    seen: list[dict[str, Any]] = []
    segment = task.model.segment
    monkeypatch.setattr(
        task.model, "segment", lambda *given, **options: seen.append(options) or segment(*given, **options)
    )
    assert {"seen", "held-out", "seen_things"} < task.measure().keys()
    assert seen == [{"mask_threshold": 0.25, "ensemble_weight": 0.7, "replace_ratio": 0.05}] * 2
