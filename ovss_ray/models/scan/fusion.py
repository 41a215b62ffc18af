"""Class scores of mask proposals, fused from the scores of two classifiers.

The in-vocabulary classifier compares a proposal's calibrated embedding with class names. The out-of-vocabulary
classifier is CLIP on the proposal's crop. Dimensions: Q queries (one proposal each), V queries with a crop, K classes.
"""

import torch
from torch import Tensor

from ovss_ray.models.scan.variants import Options

TINY = 1e-8
"""Constant that `with_void` adds to probabilities before the logarithm"""


def in_vocabulary(logits: Tensor) -> Tensor:
    """Return class probabilities (Q, K) from logits (Q, K + 1), whose last column is "void".

    The softmax includes "void", so the K probabilities of a query have a sum below 1.
    """
    return logits.softmax(-1)[:, :-1]


def out_of_vocabulary(clip_logits: Tensor, valid: Tensor) -> Tensor:
    """Return class probabilities (Q, K) of the queries' crops. The row of a query without a crop is all ones.

    `valid` (Q,) bool marks the V queries with a crop. The last column of `clip_logits` (V, K + 1) is "void". The
    softmax does not include this column.
    """
    # If no query has a crop, the result is all ones. The official code raises an error in this case.
    probabilities = clip_logits.new_ones(len(valid), clip_logits.shape[1] - 1)
    probabilities[valid] = clip_logits[:, :-1].softmax(-1)
    return probabilities


def fused(inside: Tensor, outside: Tensor, weight: float) -> Tensor:
    """Return the weighted geometric mean inside^(1 - weight) · outside^weight, (Q, K), not normalised.

    `inside` (Q, K) is from `in_vocabulary`. `outside` (Q, K) is from `out_of_vocabulary`.
    """
    return inside ** (1 - weight) * outside**weight


def scores(logits: Tensor, clip_logits: Tensor, valid: Tensor, options: Options) -> Tensor:
    """Return the class scores of all queries: (Q, K), or (Q, K + 1) if `ensemble_weight` is None.

    `logits` (Q, K + 1) are of proposals. `clip_logits` (V, K + 1) are of crops. `valid` (Q,) bool marks the V queries
    with a crop. The scores depend on `options.ensemble_weight`, as in the official code:

    - None: The scores are `logits`, with the column "void" last.
    - 0: The scores are from `out_of_vocabulary`, but queries without a crop have zeros. If no query has a crop, all
      scores are 1.
    - above 0: The scores are from `fused`. If `options.fusion` is "log", `with_void` normalises the scores.
    """
    if options.ensemble_weight is None:
        return logits
    outside = out_of_vocabulary(clip_logits, valid)
    if options.ensemble_weight == 0:
        return outside * valid[:, None] if bool(valid.any()) else outside
    mixed = fused(in_vocabulary(logits), outside, options.ensemble_weight)
    return with_void(mixed, logits) if options.fusion == "log" else mixed


def named(logits: Tensor) -> dict[str, Tensor]:
    """Return the probabilities of classes (Q, K) and of "void" (Q, 1), from the proposals' `logits` (Q, K + 1).

    The keys are the official names "fusion.in_vocab_prob" and "fusion.void_prob".
    """
    return {"fusion.in_vocab_prob": in_vocabulary(logits), "fusion.void_prob": logits.softmax(-1)[:, -1:]}


def named_of_crops(logits: Tensor, clip_logits: Tensor, valid: Tensor, weight: float) -> dict[str, Tensor]:
    """Return the results of `out_of_vocabulary` and of `fused`, both (Q, K).

    The keys are the official names "fusion.out_vocab_prob" and "fusion.fused". `logits`, `clip_logits` and `valid`
    are as in `scores`. `weight` is Options.ensemble_weight.
    """
    outside = out_of_vocabulary(clip_logits, valid)
    return {"fusion.out_vocab_prob": outside, "fusion.fused": fused(in_vocabulary(logits), outside, weight)}


def with_void(mixed: Tensor, logits: Tensor) -> Tensor:
    """Return the fused scores `mixed` (Q, K), normalised for each query to the sum 1 - P("void").

    P("void") is the query's probability of "void", from `logits` (Q, K + 1). The official code normalises scores only
    for ADE20K-847 and PASCAL-Context-459.
    """
    void = logits.softmax(-1)[:, -1:]
    classes = mixed.log().softmax(-1) * (1 - void)
    return (torch.cat([classes, void], -1) + TINY).log().softmax(-1)[:, :-1]
