"""Which query answers for which mask, and how far off it is: the matcher and losses of Mask2Former, as SAN uses them.

Cheng et al., "Masked-attention Mask Transformer", CVPR 2022, arXiv 2112.01527, §3.3 and appendix; SAN's weights. Masks
are compared at P random points. Letters: B images, Q queries, T masks of an image, K classes, N pairs of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

CLASS, MASK, DICE = 2.0, 5.0, 5.0
"""Weights of the three losses, and of the three costs of the matcher."""
OVERSAMPLE, IMPORTANCE = 3, 0.75
"""So many times as many points are tried, and this part of them taken where the masks are least certain."""


@dataclass(frozen=True)
class Target:
    """The classes of one image and where they are."""

    classes: Tensor
    """(T,) int64"""
    masks: Tensor
    """(T, H, W) float32, 0 or 1"""


@dataclass(frozen=True)
class Answer:
    """What the network says of a batch after one of its blocks."""

    mask_logits: Tensor
    """(B, Q, h, w) float32"""
    class_logits: Tensor
    """(B, Q, K + 1) float32, the last column "no object" """


Pair = tuple[Tensor, Tensor]
"""The matched queries of an image and the masks that they answer for, each (T,) int64."""


def losses(answers: Sequence[Answer], targets: Sequence[Target], points: int, no_object: float) -> dict[str, Tensor]:
    """The three weighed losses, each summed over the supervised blocks."""
    summed: dict[str, Tensor] = {}
    for answer in answers:
        pairs = [match(answer, i, target, points) for i, target in enumerate(targets)]
        bce, dice = mask_losses(answer, targets, pairs, points)
        parts = {
            "class": CLASS * class_loss(answer, targets, pairs, no_object),
            "mask": MASK * bce,
            "dice": DICE * dice,
        }
        summed = {name: value + summed.get(name, 0) for name, value in parts.items()}
    return summed


@torch.no_grad()
def match(answer: Answer, image: int, target: Target, points: int) -> Pair:
    """The assignment of queries to the masks of one image that costs least in all."""
    where = torch.rand(1, points, 2, device=target.masks.device)
    logits = at_points(answer.mask_logits[image][:, None], where.expand(answer.mask_logits.shape[1], -1, -1))
    truth = at_points(target.masks[:, None], where.expand(len(target.masks), -1, -1))
    named = answer.class_logits[image].softmax(-1)[:, target.classes]
    cost = -CLASS * named + MASK * pairwise_bce(logits, truth) + DICE * pairwise_dice(logits, truth)
    queries, masks = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(queries, device=where.device), torch.as_tensor(masks, device=where.device)


def pairwise_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy of every query and mask, mean over points: (Q, P), (T, P) → (Q, T)."""
    return (F.softplus(-logits) @ truth.T + F.softplus(logits) @ (1 - truth).T) / logits.shape[1]


def pairwise_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """1 − dice of every query and mask, smoothed by one point: (Q, P), (T, P) → (Q, T)."""
    inside = logits.sigmoid()
    return 1 - (2 * inside @ truth.T + 1) / (inside.sum(1)[:, None] + truth.sum(1)[None] + 1)


def class_loss(answer: Answer, targets: Sequence[Target], pairs: Sequence[Pair], no_object: float) -> Tensor:
    """Cross-entropy over K + 1 classes; queries without a mask should say "no object", which weighs less."""
    logits = answer.class_logits
    wanted = torch.full(logits.shape[:2], logits.shape[2] - 1, device=logits.device)
    for i, (target, (queries, masks)) in enumerate(zip(targets, pairs, strict=True)):
        wanted[i, queries] = target.classes[masks]
    weight = torch.ones(logits.shape[2], device=logits.device)
    weight[-1] = no_object
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), weight)


def mask_losses(answer: Answer, targets: Sequence[Target], pairs: Sequence[Pair], points: int) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy (mean over points) and 1 − dice of the matched pairs, both means over the N pairs."""
    logits = torch.cat([answer.mask_logits[i][queries] for i, (queries, _) in enumerate(pairs)])[:, None]
    truth = torch.cat([target.masks[masks] for target, (_, masks) in zip(targets, pairs, strict=True)])[:, None]
    if not len(truth):
        return (zero := answer.mask_logits.sum() * 0), zero
    where = uncertain_points(logits.detach(), points)
    wanted, found = at_points(truth, where), at_points(logits, where)
    inside = found.sigmoid()
    dice = 1 - (2 * (inside * wanted).sum(1) + 1) / (inside.sum(1) + wanted.sum(1) + 1)
    return F.binary_cross_entropy_with_logits(found, wanted), dice.mean()


def at_points(maps: Tensor, where: Tensor) -> Tensor:
    """Maps (N, 1, h, w) at points (N, P, 2), x and y in 0..1 from edge to edge, bilinear → (N, P)."""
    return F.grid_sample(maps, 2 * where[:, :, None] - 1, mode="bilinear", align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def uncertain_points(logits: Tensor, points: int) -> Tensor:
    """Points (N, P, 2) for masks (N, 1, h, w): most where the logits are nearest to zero, the rest anywhere."""
    tried = torch.rand(len(logits), OVERSAMPLE * points, 2, device=logits.device)
    important = round(IMPORTANCE * points)
    best = at_points(logits, tried).abs().topk(important, dim=1, largest=False).indices
    chosen = tried.gather(1, best[..., None].expand(-1, -1, 2))
    anywhere = torch.rand(len(logits), points - important, 2, device=logits.device)
    return torch.cat([chosen, anywhere], 1)
