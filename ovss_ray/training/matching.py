"""Matcher and losses of Mask2Former. The losses and the matcher's costs are weighted as in SAN.

Cheng et al., "Masked-attention Mask Transformer", CVPR 2022, arXiv 2112.01527, §3.3 and appendix. Masks are compared
at P random points.

Dimensions: B images, Q queries, T ground-truth masks of an image, K classes, N matched pairs of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.structures.columns import IGNORE

CLASS, MASK, DICE = 2.0, 5.0, 5.0
"""Weights of the class, mask and dice losses, and of the matcher's three costs"""
OVERSAMPLE = 3
"""Number of random candidate points for each point of the mask losses; 100 points have 300 candidates"""
IMPORTANCE = 0.75
"""Fraction of the points that are chosen among the candidates. The candidates with mask logits nearest to zero are
chosen. All other points are new random points"""


@dataclass(frozen=True)
class Target:
    """The ground truth of one image: its classes and their masks."""

    classes: Tensor
    """(T,) int64"""
    masks: Tensor
    """(T, H, W) float32, 0 or 1"""


@dataclass(frozen=True)
class Answer:
    """The network's output for a batch, from the final or an intermediate block."""

    mask_logits: Tensor
    """(B, Q, h, w) float32"""
    class_logits: Tensor
    """(B, Q, K + 1) float32, the last column "no object" """


Pair = tuple[Tensor, Tensor]
"""Indices of an image's matched queries, and indices of their ground-truth masks, each (T,) int64"""


def target(labels: np.ndarray) -> Target:
    """Return the classes that occur in a label map (H, W) uint16, and one mask per class."""
    present = np.setdiff1d(labels, [IGNORE])
    return Target(
        torch.from_numpy(present.astype(np.int64)), torch.from_numpy(labels == present[:, None, None]).float()
    )


def losses(answers: Sequence[Answer], targets: Sequence[Target], points: int, no_object: float) -> dict[str, Tensor]:
    """Return the losses `class`, `mask` and `dice` of a batch, weighted by CLASS, MASK and DICE.

    `answers` has one Answer for each block of the network that the training compares with the ground truth. Each loss
    is summed over the answers. `targets` has one Target for each image. The mask and dice losses are computed at
    `points` points per mask. `no_object` is the weight of the class "no object" in the class loss.
    """
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
    """Return the matching of queries and ground-truth masks of one image that has the lowest total cost.

    `image` is the index of the image in the batch of `answer`. `target` is the ground truth of this image. Masks are
    compared at `points` random points.
    """
    where = torch.rand(1, points, 2, device=target.masks.device)
    logits = at_points(answer.mask_logits[image][:, None], where.expand(answer.mask_logits.shape[1], -1, -1))
    truth = at_points(target.masks[:, None], where.expand(len(target.masks), -1, -1))
    named = answer.class_logits[image].softmax(-1)[:, target.classes]
    cost = -CLASS * named + MASK * pairwise_bce(logits, truth) + DICE * pairwise_dice(logits, truth)
    queries, masks = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(queries, device=where.device), torch.as_tensor(masks, device=where.device)


def pairwise_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the binary cross-entropy (Q, T) of each query and ground-truth mask, as a mean over P points.

    `logits` (Q, P) are the mask logits of the queries at the points. `truth` (T, P) has the values of the ground-truth
    masks at the points, from 0 to 1.
    """
    return (F.softplus(-logits) @ truth.T + F.softplus(logits) @ (1 - truth).T) / logits.shape[1]


def pairwise_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """Return 1 − dice (Q, T) of `logits` (Q, P) and `truth` (T, P). The dice adds 1 to numerator and denominator."""
    inside = logits.sigmoid()
    return 1 - (2 * inside @ truth.T + 1) / (inside.sum(1)[:, None] + truth.sum(1)[None] + 1)


def class_loss(answer: Answer, targets: Sequence[Target], pairs: Sequence[Pair], no_object: float) -> Tensor:
    """Return the cross-entropy over K + 1 classes, in which "no object" has the weight `no_object`.

    An unmatched query has the label "no object".
    """
    logits = answer.class_logits
    labels = torch.full(logits.shape[:2], logits.shape[2] - 1, device=logits.device)
    for i, (target, (queries, masks)) in enumerate(zip(targets, pairs, strict=True)):
        labels[i, queries] = target.classes[masks]
    weight = torch.ones(logits.shape[2], device=logits.device)
    weight[-1] = no_object
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight)


def mask_losses(answer: Answer, targets: Sequence[Target], pairs: Sequence[Pair], points: int) -> tuple[Tensor, Tensor]:
    """Return the binary cross-entropy and 1 − dice of N matched pairs of masks. Both losses are means over the pairs.

    `points` is the number of points at which each mask is compared (see `point_losses`). If N is 0, both losses are 0.
    """
    logits = torch.cat([answer.mask_logits[i][queries] for i, (queries, _) in enumerate(pairs)])[:, None]
    truth = torch.cat([target.masks[masks] for target, (_, masks) in zip(targets, pairs, strict=True)])[:, None]
    if not len(truth):
        return (zero := answer.mask_logits.sum() * 0), zero
    return point_losses(logits, truth, points)


def point_losses(logits: Tensor, truth: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Return the mean binary cross-entropy and the mean 1 − dice of N masks at their `uncertain_points`.

    `logits` are (N, 1, h, w). `truth` is (N, 1, H, W), 0 or 1. H and W may differ from h and w.
    """
    where = uncertain_points(logits.detach(), points)
    sampled_truth, sampled_logits = at_points(truth, where), at_points(logits, where)
    inside = sampled_logits.sigmoid()
    dice = 1 - (2 * (inside * sampled_truth).sum(1) + 1) / (inside.sum(1) + sampled_truth.sum(1) + 1)
    return F.binary_cross_entropy_with_logits(sampled_logits, sampled_truth), dice.mean()


def at_points(maps: Tensor, where: Tensor) -> Tensor:
    """Return the values (N, P) of maps (N, 1, h, w) at points `where` (N, P, 2), interpolated bilinearly.

    A point is x, y in 0..1. The upper left corner of the map is 0, 0.
    """
    return F.grid_sample(maps, 2 * where[:, :, None] - 1, mode="bilinear", align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def uncertain_points(logits: Tensor, points: int) -> Tensor:
    """Return uncertain and random points (N, P, 2) of N masks, as x, y in 0..1 (see IMPORTANCE).

    `logits` (N, 1, h, w) are the mask logits, and `points` is P.
    """
    tried = torch.rand(len(logits), OVERSAMPLE * points, 2, device=logits.device)
    important = round(IMPORTANCE * points)
    best = at_points(logits, tried).abs().topk(important, dim=1, largest=False).indices
    uncertain = tried.gather(1, best[..., None].expand(-1, -1, 2))
    anywhere = torch.rand(len(logits), points - important, 2, device=logits.device)
    return torch.cat([uncertain, anywhere], 1)
