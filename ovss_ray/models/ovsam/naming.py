"""Class scores of masks, and their best classes. Masks are processed in blocks, to limit memory.

Dimensions: P masks, K classes, T best classes, g side of the image embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovss_ray.models.ovsam import head
from ovss_ray.models.ovsam.inputs import Embedded
from ovss_ray.models.ovsam.network import Ovsam
from ovss_ray.models.text import Classifier

BRANCHES = ("fused_scores", "head_logits", "clip_logits")
"""Keys of the result of Ovsam.scores, in the order of the last axis of Named.probabilities"""


@dataclass(frozen=True)
class Named:
    """The scores of P masks, and their best classes."""

    scores: np.ndarray
    """(P, K) float32: logarithms of fused probabilities; in mode "demo", the head's logits"""
    classes: np.ndarray
    """(P, T) int64: indices of the best classes, best first; on ties, the lower index first"""
    probabilities: np.ndarray
    """(P, T, 3) float32: probabilities of the best classes, from the ensemble, the head and CLIP

    For each mask, the ensemble's probabilities of all K classes add up to 1. The same holds for the head and for CLIP.
    In mode "demo", the ensemble's probabilities equal those of the head, and probabilities from CLIP are NaN.
    """

    @classmethod
    def joined(cls, parts: Sequence["Named"]) -> "Named":
        """Return the results of several blocks of masks, concatenated."""
        fields = ("scores", "classes", "probabilities")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))


def named(
    model: Ovsam, seen: Embedded, logits: Tensor, classes: Classifier, base: Tensor, novel: Tensor,
    clip_boxes: Tensor | None = None, top: int = 0,
) -> Named:  # fmt: skip
    """Return the class scores of masks, and the `top` best classes of each mask.

    `logits` (P, 4 g, 4 g) are the mask logits. For the other parameters, see Ovsam.scores.
    """
    each = max(1, head.SCORES // (1 + len(classes.classes)))
    boxes = [None] * len(logits) if clip_boxes is None else clip_boxes.split(each)
    parts = [
        _best(model.scores(seen, block, classes, base, novel, corners), top)
        for block, corners in zip(logits.split(each), boxes, strict=False)
    ]
    return Named.joined([empty(len(classes.classes), top), *parts])


def empty(count: int, top: int = 0) -> Named:
    """Return a Named without masks, for `count` classes."""
    return Named(np.zeros((0, count), np.float32), *_nothing(0, min(top, count)))


def _nothing(masks: int, best: int) -> tuple[np.ndarray, np.ndarray]:
    """Return empty arrays for Named.classes (P, T) and Named.probabilities (P, T, 3).

    `masks` is P, and `best` is T. The arrays are empty because P or T is 0.
    """
    return np.zeros((masks, best), np.int64), np.zeros((masks, best, 3), np.float32)


def _best(result: dict[str, Tensor], top: int) -> Named:
    """Return scores and best classes of a block of masks. `result` is the result of Ovsam.scores."""
    fused, by_head, by_clip = (result[name][:, 0, :-1].float().cpu() if name in result else None for name in BRANCHES)
    scores = by_head if fused is None else fused
    assert scores is not None
    if not top:
        return Named(scores.numpy(), *_nothing(len(scores), 0))
    order = torch.from_numpy(np.argsort(-scores.numpy(), axis=1, kind="stable")[:, :top].copy())
    unknown = torch.full(order.shape, torch.nan)
    branches = [
        unknown if branch is None else branch.softmax(-1).gather(1, order) for branch in (scores, by_head, by_clip)
    ]
    return Named(scores.numpy(), order.numpy(), torch.stack(branches, -1).numpy())
