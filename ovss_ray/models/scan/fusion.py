"""Class scores of proposals from two classifiers: calibrated proposals, and CLIP on crops.

The official code calls the classifiers "in-vocabulary" and "out-of-vocabulary". Dimensions: Q queries, V valid
queries (with at least one pixel in their binary mask), K classes.
"""

import torch
from torch import Tensor

from ovss_ray.models.scan.variants import Options

TINY = 1e-8
"""Constant added to probabilities before their logarithm (rule "log" only)"""


def in_vocabulary(logits: Tensor) -> Tensor:
    """Return class probabilities (Q, K): the softmax of logits (Q, K + 1), without its last column, "void"."""
    return logits.softmax(-1)[:, :-1]


def out_of_vocabulary(clip_logits: Tensor, valid: Tensor) -> Tensor:
    """Return class probabilities (Q, K) of crops: the softmax of logits (V, K + 1) without the column "void".

    `valid` (Q,) bool marks the queries that have a crop. Queries without a crop get ones, so that only their
    in-vocabulary probabilities affect the fused scores. If no query is valid, all queries get ones; the official code
    raises an error in this case.
    """
    probabilities = clip_logits.new_ones(len(valid), clip_logits.shape[1] - 1)
    probabilities[valid] = clip_logits[:, :-1].softmax(-1)
    return probabilities


def fused(inside: Tensor, outside: Tensor, weight: float) -> Tensor:
    """Return the weighted geometric mean of two probabilities, (Q, K), not normalised.

    The mean is inside^(1 - weight) · outside^weight. `inside` (Q, K) are the in-vocabulary probabilities, `outside`
    (Q, K) the out-of-vocabulary probabilities.
    """
    return inside ** (1 - weight) * outside**weight


def scores(logits: Tensor, clip_logits: Tensor, valid: Tensor, options: Options) -> Tensor:
    """Return the class scores of all queries: (Q, K), or (Q, K + 1) if `ensemble_weight` is None.

    Inputs: `logits` (Q, K + 1) of proposals, `clip_logits` (V, K + 1) of crops, and `valid` (Q,) bool. The rules are
    those of the official code:

    - `ensemble_weight` above 0: the weighted geometric mean of both probabilities (`fused`). If `fusion` is
      "log", `with_void` normalises the mean.
    - `ensemble_weight` 0: the probabilities of crops alone. If some queries have a crop, the others get zeros.
      If no query has a crop, all scores are ones, so the first class is predicted.
    - `ensemble_weight` None: the logits of proposals themselves, "void" included.
    """
    if options.ensemble_weight is None:
        return logits
    outside = out_of_vocabulary(clip_logits, valid)
    if options.ensemble_weight == 0:
        return outside * valid[:, None] if bool(valid.any()) else outside
    mixed = fused(in_vocabulary(logits), outside, options.ensemble_weight)
    return with_void(mixed, logits) if options.fusion == "log" else mixed


def named(logits: Tensor) -> dict[str, Tensor]:
    """Return a dictionary of two tensors: the probabilities of classes (Q, K) and of "void" (Q, 1).

    They are computed from the logits (Q, K + 1) of proposals. The keys are the tensors' names in the official code.
    """
    return {"fusion.in_vocab_prob": in_vocabulary(logits), "fusion.void_prob": logits.softmax(-1)[:, -1:]}


def named_of_crops(logits: Tensor, clip_logits: Tensor, valid: Tensor, weight: float) -> dict[str, Tensor]:
    """Return probabilities of crops and fused scores, under the names of these tensors in the official code.

    The arguments are those of `scores`.
    """
    outside = out_of_vocabulary(clip_logits, valid)
    return {"fusion.out_vocab_prob": outside, "fusion.fused": fused(in_vocabulary(logits), outside, weight)}


def with_void(mixed: Tensor, logits: Tensor) -> Tensor:
    """Return fused scores (Q, K), normalised so that the K scores of a query have the sum 1 - p.

    p is the probability of "void" for this query, from the logits (Q, K + 1).
    The official code uses this normalisation for two data sets: ADE20K-847 and PASCAL-Context-459.
    """
    void = logits.softmax(-1)[:, -1:]
    classes = mixed.log().softmax(-1) * (1 - void)
    return (torch.cat([classes, void], -1) + TINY).log().softmax(-1)[:, :-1]
