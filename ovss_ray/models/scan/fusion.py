"""Class scores of mask proposals, fused from the scores of two classifiers.

The first classifier compares the calibrated embedding of a proposal with class names. The second is CLIP on crops.

The official code calls the classifiers "in-vocabulary" and "out-of-vocabulary". Dimensions: Q queries, V valid
queries (with at least one pixel in their binary mask), K classes.
"""

import torch
from torch import Tensor

from ovss_ray.models.scan.variants import Options

TINY = 1e-8
"""Constant that `with_void` adds to probabilities before the logarithm"""


def in_vocabulary(logits: Tensor) -> Tensor:
    """Return class probabilities (Q, K) from logits (Q, K + 1), whose last column is "void".

    The softmax is over all K + 1 columns. Then the last column is dropped.
    """
    return logits.softmax(-1)[:, :-1]


def out_of_vocabulary(clip_logits: Tensor, valid: Tensor) -> Tensor:
    """Return class probabilities (Q, K) of the queries' crops. The row of a query without a crop is all ones.

    `valid` (Q,) bool marks the V queries with a crop. `clip_logits` (V, K + 1) are the logits of these crops, with
    "void" as last column. First the column "void" is dropped. Then the softmax is over the K classes. If no query has
    a crop, the result is all ones. The official code raises an error in this case.
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

    `logits` (Q, K + 1) are the logits of proposals. `clip_logits` (V, K + 1) are the logits of crops. `valid` (Q,) bool
    marks the V queries with a crop. The rules are those of the official code:

    - If `ensemble_weight` is None, the scores are `logits`, with the column "void".
    - If `ensemble_weight` is 0, the scores are the result of `out_of_vocabulary`, but a query without a crop gets
      zeros. If no query has a crop, all scores stay ones.
    - If `ensemble_weight` is above 0, the scores are the result of `fused`. If `fusion` is "log", `with_void`
      normalises these scores.
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
    """Return a dictionary of two tensors (Q, K): the probabilities of crops, and the fused scores.

    `logits`, `clip_logits` and `valid` are as in `scores`. `weight` is the value of `ensemble_weight`. The keys are the
    tensors' names in the official code.
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
