"""SAM's training: prompts lie where they should, losses are those of the formulas, and a few steps teach something."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ovss_ray import models
from ovss_ray.datasets import scenes
from ovss_ray.models.sam.network import Answer, Embedded
from ovss_ray.models.sam.variants import VARIANTS
from ovss_ray.models.sam_layers.prompts import BESIDE, ON, Prompts
from ovss_ray.training import config, loop
from ovss_ray.training import scenes as drawn_scenes
from ovss_ray.training.recipes.sam import task as sam
from ovss_ray.training.recipes.sam.config import Config as SamTraining
from tests.paths import ROOT
from tests.training import one_batch

CONFIG = SamTraining(
    task="sam", steps=3, batch=2, prompts=4, rate=1e-3, warmup=1, precision="fp32", device="cpu", measured=0
)
TINIER = replace(
    VARIANTS["sam_tiny"], width=32, heads=2, layers=2, globals=(1,), pixels=128, embed=32, decoder_mlp=64, fit_width=32
)
FREQUENCIES = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
"""The only values that are not trained."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training is tested, not the size of the network."""
    monkeypatch.setitem(VARIANTS, "sam_tiny", TINIER)


@pytest.fixture
def task() -> sam.Task:
    return sam.Task(CONFIG)


def test_clicks_lie_on_what_they_ask_for_and_boxes_around_it(task: sam.Task) -> None:
    kinds: list[bool] = []
    for step in range(3):
        batch = task.batch(step)
        assert batch["images"].shape == (2, 3, 128, 128)
        assert batch["which"].tolist() == [0] * 4 + [1] * 4
        for points, labels, truth in zip(batch["points"], batch["labels"], batch["truth"], strict=True):
            assert truth.shape == (64, 64)
            rows, columns = (truth > 0).nonzero().T
            kinds.append(labels.tolist() == [2, 3])
            if kinds[-1]:
                expected = [[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]]
                assert (points - 2 * torch.tensor(expected)).abs().max() <= 20 / 1024 * 128 + 1
            else:
                assert labels.tolist() == [1, -1]
                x, y = points[0].long() // 2
                assert truth[y, x] > 0
    assert 0 < sum(kinds) < len(kinds)


def test_truth_is_how_much_of_a_cell_is_the_regions(task: sam.Task) -> None:
    batch = task.batch(4)
    assert ((batch["truth"] > 0) & (batch["truth"] < 1)).any()
    assert batch["truth"].min() == 0
    width = drawn_scenes.batch(CONFIG.seed, 4, 1, CONFIG.things, CONFIG.unnamed)[0].regions.shape[1]
    height = round(128 * 256 / width)
    assert not batch["truth"][:, math.ceil(height / 2) + 1 :].any()
    assert (batch["truth"].sum((1, 2)) >= sam.SMALLEST / 4).all()


def test_the_same_step_is_the_same_batch(task: sam.Task) -> None:
    one, two = task.batch(7), task.batch(7)
    for key, value in one.items():
        assert torch.equal(value, two[key]), key
    assert not torch.equal(one["truth"], task.batch(8)["truth"])


def test_further_clicks_go_where_the_answer_was_wrong() -> None:
    truth = torch.zeros(3, 8, 8)
    truth[:, 2:6, 2:6] = 1
    logits = torch.where(truth > 0.5, 1.0, -1.0)
    logits[0, 2:6, 2:4] = -1  # too little
    logits[1, 0, 7] = 1  # too much
    given = set()
    for seed in range(20):
        torch.manual_seed(seed)
        prompts = Prompts(torch.zeros(3, 2, 2), torch.ones(3, 2, dtype=torch.long))
        made = sam.corrected(prompts, logits, truth, cell=4)
        assert made.points.shape == (3, 3, 2)
        assert made.labels[:, 2].tolist() == [ON, BESIDE, ON]
        x, y = ((made.points[:, 2] - 1.5) / 4).T.tolist()
        assert (2 <= x[0] < 4, 2 <= y[0] < 6) == (True, True)
        assert (x[1], y[1]) == (7, 0)
        assert all(2 <= place < 6 for place in (x[2], y[2]))
        given.add(made.masks is not None)
    assert given == {True, False}


def slow(logits: list[float], truth: list[float]) -> tuple[float, float, float]:
    """Focal loss (α 0.75, γ 2), 1 − dice and IoU of one mask, from their definitions."""
    p = [1 / (1 + math.exp(-x)) for x in logits]
    terms = [
        -t * 0.75 * (1 - q) ** 2 * math.log(q) - (1 - t) * 0.25 * q**2 * math.log(1 - q)
        for q, t in zip(p, truth, strict=True)
    ]
    common = sum(q * t for q, t in zip(p, truth, strict=True))
    both = [(x > 0, t > 0.5) for x, t in zip(logits, truth, strict=True)]
    iou = sum(a and b for a, b in both) / max(1, sum(a or b for a, b in both))
    return sum(terms) / len(terms), 1 - (2 * common + 1) / (sum(p) + sum(truth) + 1), iou


@pytest.mark.parametrize("first", [True, False])
def test_losses_are_those_of_a_slow_reference(first: bool) -> None:
    random = torch.Generator().manual_seed(0)
    masks = 2 * torch.randn(3, 4, 6, 5, generator=random)
    fit, truth = torch.rand(3, 4, generator=random), torch.rand(3, 6, 5, generator=random)
    expected: dict[str, list[float]] = {"focal": [], "dice": [], "iou": []}
    for p in range(3):
        each = [slow(masks[p, m].flatten().tolist(), truth[p].flatten().tolist()) for m in range(4)]
        best = min(range(1, 4), key=lambda m: 20 * each[m][0] + each[m][1])
        counted = (0, best) if first else (0,)
        expected["focal"].append(20 * sum(each[m][0] for m in counted))
        expected["dice"].append(sum(each[m][1] for m in counted))
        expected["iou"] += [(float(fit[p, m]) - each[m][2]) ** 2 for m in (range(4) if first else range(1))]
    found = sam.losses(masks, fit, truth, first)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert float(found[name]) == pytest.approx(np.mean(values), abs=1e-5), name


def test_only_the_best_of_the_three_masks_learns_where_it_is() -> None:
    truth = torch.zeros(1, 6, 6)
    truth[0, 2:4, 2:4] = 1
    masks = torch.stack([truth, -truth, 4 * truth - 2, truth * 0 + 3], 1).requires_grad_()
    found = sam.losses(masks, torch.zeros(1, 4), truth, first=True)
    (found["focal"] + found["dice"]).backward()
    assert [bool(gradient.any()) for gradient in masks.grad[0]] == [True, False, True, False]


def test_the_answer_that_is_gone_on_with_is_the_one_thought_best() -> None:
    masks = torch.arange(8.0).reshape(2, 4, 1, 1)
    fit = torch.tensor([[9, 0.1, 0.3, 0.2], [9, 0.5, 0.3, 0.2]])
    assert sam.most_fitting(masks, fit).flatten().tolist() == [2, 5]


def test_the_prompts_of_a_step_grow_by_its_number(task: sam.Task) -> None:
    for step, count in ((0, 1), (1, 2), (2, 3), (3, 1)):
        torch.manual_seed(0)
        batch = task.batch(step)
        with torch.no_grad():
            seen = task.forward(batch, step)
        assert [masks.shape for masks, _ in seen] == [(8, 4, 64, 64)] * count
        parts = [sam.losses(*answer, batch["truth"], i == 0) for i, answer in enumerate(seen)]
        assert float(task.losses(seen, batch)["dice"]) == pytest.approx(np.mean([float(p["dice"]) for p in parts]))


def test_a_few_steps_on_one_batch_bring_its_loss_down(tmp_path: Path) -> None:
    settings = CONFIG.model_copy(update={"steps": 25, "batch": 1, "rate": 2e-3, "cooldown": 0.0, "answers": 1})
    task = sam.Task(settings)
    totals = one_batch.totals(task, settings, tmp_path)
    assert np.mean(totals[-3:]) < 0.6 * np.mean(totals[:2]), totals


def test_an_interrupted_training_ends_in_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    whole = sam.Task(CONFIG)
    loop.train(whole, CONFIG, tmp_path / "whole")
    loop.train(sam.Task(CONFIG), CONFIG, tmp_path / "parts", until=1)
    resumed = sam.Task(CONFIG)
    loop.train(resumed, CONFIG, tmp_path / "parts")
    start = sam.Task(CONFIG).model.state_dict()
    same = {name for name, value in whole.model.state_dict().items() if torch.equal(value, start[name])}
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    unchosen = ".output_hypernetworks_mlps."  # of masks that were the best of no answer yet
    assert {name for name in same if unchosen not in name} == {FREQUENCIES}


def test_what_is_exported_is_loaded_by_name_and_can_be_started_from(tmp_path: Path, task: sam.Task) -> None:
    loop.train(task, CONFIG, tmp_path)
    file = loop.export(task, tmp_path)
    model = models.load("sam_tiny", file)
    assert torch.equal(model.state_dict()[FREQUENCIES], task.model.state_dict()[FREQUENCIES])
    answer = model.predict(model.embed(np.zeros((50, 70, 3), np.uint8)), [[3, 4]], [1])
    assert answer.masks.shape == (3, 50, 70)
    again = sam.Task(CONFIG.model_copy(update={"start": str(file)})).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_the_shipped_config_is_that_of_this_training() -> None:
    shipped = config.load(ROOT / "configs/train_sam_tiny.yaml")
    assert isinstance(shipped, SamTraining)
    assert shipped.variant == "sam_tiny"


class Oracle:
    """Knows the regions by heart; thinks most of the second of its masks, which is wrong if it is `misled`."""

    def __init__(self, misled: bool = False) -> None:
        self.misled = misled
        self.regions = {}
        for key in ("seen", "held-out"):
            scene, _ = scenes.of_address(f"{key}/validation/0")
            self.regions[scene.image.tobytes()] = scene.regions

    def embed(self, image: np.ndarray) -> Embedded:
        return Embedded(torch.from_numpy(self.regions[image.tobytes()]), (0, 0), (0, 0))

    def predict(self, image: Embedded, points=None, labels=None, box=None, multimask: bool = True) -> Answer:
        regions = image.embedding.numpy()
        if points:
            assert labels == [1]
            right = regions == regions[points[0][1], points[0][0]]
        else:
            edges = [np.argwhere(regions == q) for q in np.unique(regions)]
            found = [[*e.min(0)[::-1], *(e.max(0)[::-1] + 1)] for e in edges]
            right = regions == np.unique(regions)[found.index([*map(int, box)])]
        masks = [np.ones_like(right), ~right if self.misled else right, right] if multimask else [right]
        return Answer(np.stack(masks), np.array([0, 1, 0.5][: len(masks)]), np.zeros(0))


def test_measurements_are_mean_ious_of_the_chosen_of_the_best_and_of_boxes() -> None:
    kinds = {kind + part for kind in ("seen_things", "held-out_things", "surfaces") for part in ("", "_best_of_three")}
    boxes = {"seen_things_box", "held-out_things_box", "surfaces_box"}
    assert sam.measured(Oracle(), 1) == dict.fromkeys(kinds | boxes, 100.0)
    misled = sam.measured(Oracle(misled=True), 1)
    assert misled["seen_things"] == misled["surfaces"] == 0
    assert misled["seen_things_best_of_three"] == 100


def test_the_centre_is_the_place_farthest_from_the_edge() -> None:
    region = np.zeros((9, 12), bool)
    region[1:4, 1:11] = True  # a bar, one end of which is wider
    region[1:8, 0:7] = True
    assert sam.centre(region) == (3, 4)
    assert sam.centre(np.ones((3, 3), bool)) == (1, 1)
