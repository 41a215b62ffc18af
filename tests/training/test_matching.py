"""The matcher and the losses, against slow ones that are written from the formulas."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from ovss_ray.training.matching import (
    Answer,
    Target,
    at_points,
    class_loss,
    losses,
    mask_losses,
    match,
    pairwise_bce,
    pairwise_dice,
    uncertain_points,
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_bce(logits: Tensor, truth: Tensor) -> float:
    terms = [
        -(t * math.log(sigmoid(x)) + (1 - t) * math.log(1 - sigmoid(x)))
        for x, t in zip(logits.tolist(), truth.tolist(), strict=True)
    ]
    return sum(terms) / len(terms)


def slow_dice(logits: Tensor, truth: Tensor) -> float:
    inside = [sigmoid(x) for x in logits.tolist()]
    common = sum(x * t for x, t in zip(inside, truth.tolist(), strict=True))
    return 1 - (2 * common + 1) / (sum(inside) + float(truth.sum()) + 1)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def answer(random: torch.Generator, images: int = 2, queries: int = 5, classes: int = 4) -> Answer:
    masks = 3 * torch.randn(images, queries, 8, 8, generator=random)
    return Answer(masks, torch.randn(images, queries, classes + 1, generator=random))


def squares(count: int) -> Target:
    masks = torch.zeros(count, 16, 16)
    for i in range(count):
        masks[i, 4 * i : 4 * i + 6, 3 * i : 3 * i + 8] = 1
    return Target(torch.arange(count), masks)


def test_costs_of_all_pairs_are_those_of_the_formulas(random: torch.Generator) -> None:
    logits = torch.randn(5, 40, generator=random)
    truth = torch.rand(3, 40, generator=random).round()
    for fast, slow in ((pairwise_bce, slow_bce), (pairwise_dice, slow_dice)):
        expected = [[slow(some, other) for other in truth] for some in logits]
        assert torch.allclose(fast(logits, truth), torch.tensor(expected), atol=1e-5)


def test_the_matching_is_the_cheapest_of_all(random: torch.Generator) -> None:
    said, target, points = answer(random), squares(3), 500
    torch.manual_seed(1)
    queries, masks = match(said, 1, target, points)
    torch.manual_seed(1)
    where = torch.rand(1, points, 2)
    logits = at_points(said.mask_logits[1][:, None], where.expand(5, -1, -1))
    truth = at_points(target.masks[:, None], where.expand(3, -1, -1))
    named = said.class_logits[1].softmax(-1)

    def cost(chosen: tuple[int, ...]) -> float:
        return sum(
            -2 * float(named[q, target.classes[t]])
            + 5 * slow_bce(logits[q], truth[t])
            + 5 * slow_dice(logits[q], truth[t])
            for t, q in enumerate(chosen)
        )

    best = min(permutations(range(5), 3), key=cost)
    assert dict(zip(masks.tolist(), queries.tolist(), strict=True)) == dict(enumerate(best))


def test_a_perfect_answer_is_matched_and_costs_least() -> None:
    target = squares(3)
    masks = torch.full((1, 5, 16, 16), -20.0)
    masks[0, [4, 0, 2]] = 40 * target.masks - 20
    named = torch.zeros(1, 5, 5)
    named[0, :, 4] = 20
    for query, kind in ((4, 0), (0, 1), (2, 2)):
        named[0, query] = 20 * torch.eye(5)[kind]
    found = losses([Answer(masks, named)], [target], 400, 0.1)
    assert found["class"] < 1e-3
    wrong = losses([Answer(masks.roll(1, 1), named)], [target], 400, 0.1)
    assert sum(wrong.values()) > 5 * sum(found.values())  # points between pixels are neither in nor out


def test_queries_without_a_mask_say_no_object_at_a_tenth_of_the_weight(random: torch.Generator) -> None:
    said = answer(random, images=1)
    pairs = [(torch.tensor([3, 1]), torch.tensor([0, 1]))]
    target = Target(torch.tensor([2, 0]), torch.zeros(2, 16, 16))
    wanted = {3: 2, 1: 0}
    logs = said.class_logits[0].log_softmax(-1)
    weights = [1.0 if q in wanted else 0.1 for q in range(5)]
    expected = -sum(w * float(logs[q, wanted.get(q, 4)]) for q, w in enumerate(weights)) / sum(weights)
    assert float(class_loss(said, [target], pairs, 0.1)) == pytest.approx(expected, abs=1e-5)


def test_mask_losses_are_means_over_the_pairs_of_the_batch(random: torch.Generator) -> None:
    said, targets = answer(random), [squares(3), squares(1)]
    pairs = [(torch.tensor([0, 2, 4]), torch.tensor([2, 0, 1])), (torch.tensor([1]), torch.tensor([0]))]
    torch.manual_seed(2)
    bce, dice = mask_losses(said, targets, pairs, 64)
    logits = torch.stack(
        [said.mask_logits[0, 0], said.mask_logits[0, 2], said.mask_logits[0, 4], said.mask_logits[1, 1]]
    )
    truth = torch.stack([targets[0].masks[2], targets[0].masks[0], targets[0].masks[1], targets[1].masks[0]])
    torch.manual_seed(2)
    where = uncertain_points(logits[:, None], 64)
    found, wanted = at_points(logits[:, None], where), at_points(truth[:, None], where)
    assert float(bce) == pytest.approx(np.mean([slow_bce(*pair) for pair in zip(found, wanted, strict=True)]), abs=1e-5)
    assert float(dice) == pytest.approx(np.mean([slow_dice(*p) for p in zip(found, wanted, strict=True)]), abs=1e-5)


def test_points_are_sampled_where_masks_are_uncertain() -> None:
    ramp = torch.linspace(-10, 10, 64).expand(1, 1, 64, 64)
    where = uncertain_points(ramp, 400)
    assert where.shape == (1, 400, 2)
    near = (where[0, :, 0] - 0.5).abs() < 0.15
    assert 0.75 <= near.float().mean() < 0.95  # three quarters are chosen, and some of the rest fall there by chance


def test_a_point_is_read_at_the_centre_of_its_pixel() -> None:
    grid = torch.arange(12.0).view(1, 1, 3, 4)
    found = at_points(grid, torch.tensor([[[0.125, 0.5 / 3], [0.625, 2.5 / 3], [0.25, 0.5 / 3]]]))
    assert torch.allclose(found, torch.tensor([[0, 10, 0.5]]), atol=1e-5)


def test_an_image_without_labels_costs_only_its_classes(random: torch.Generator) -> None:
    empty = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 16, 16))
    found = losses([answer(random, images=1)], [empty], 50, 0.1)
    assert found["mask"] == found["dice"] == 0
    assert found["class"] > 0
