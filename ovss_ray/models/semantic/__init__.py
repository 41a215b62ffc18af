"""Exact label maps from masks and their class probabilities, without a score map of all classes.

The score of class c at a pixel is the sum of p[q, c] · m[q] over all masks q. The factor p[q, c] is the probability
of class c for mask q. The factor m[q] is the probability of mask q at the pixel. Source: Cheng et al., MaskFormer,
NeurIPS 2021, §3.4.
Dimensions: Q masks, h w cells of a mask, K classes, H W pixels.
"""

# All K × H × W scores would take 1.2 GB for ADE20K-847 at 512 × 683, but only the best class of a pixel is needed. So
# scores are computed in blocks of tiles of 16 × 16 pixels, and only for classes that may be the best in a tile.

import numpy as np
import torch
from torch import Tensor

from ovss_ray.errors import OvssError, in_parts
from ovss_ray.models.semantic.classes import All, Pruned
from ovss_ray.models.semantic.tiles import PIXELS, SIDE, Geometry, Sigmoid, probabilities, tiles
from ovss_ray.structures.columns import NONE

__all__ = ["Geometry", "label_map", "probabilities"]

# 2 MB fit into a CPU's cache.
CPU_BLOCK, GPU_BLOCK = 1 << 21, 1 << 28
"""Default values of `block_bytes` in `label_map`: 2 MB on a CPU, 256 MB on a GPU"""
FEW = 100
"""Minimum number of classes for which the parameter `prune` of `label_map` is True by default

If `prune` is True, `label_map` searches for classes that it can skip. With fewer than FEW classes, the search would
take more time than it saves."""


def label_map(
    mask_logits: Tensor, class_probabilities: Tensor, geometry: Geometry, block_bytes: int | None = None,
    sigmoid: Sigmoid = "original", prune: bool | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the index of the best class of every pixel, (H, W) uint16; on ties, the lowest index.

    `mask_logits` (Q, h, w) float32 and `class_probabilities` (Q, K) float32 are on one device. `geometry` maps the
    masks to the photograph. `sigmoid` is described at tiles.Sigmoid. The class scores in memory take about
    `block_bytes` bytes. If `block_bytes` is None, CPU_BLOCK or GPU_BLOCK is the value.

    If `prune` is true, classes that cannot be the best are skipped, which saves time. The skipping does not change
    the result. If `prune` is None, `prune` is true for K ≥ FEW. If a class probability is negative, no class is
    skipped. Raises OvssError if K is above NONE (65,534).
    """
    queries, count = class_probabilities.shape
    if count > NONE:
        raise OvssError(f"too many classes: {count}; a label map can name at most {NONE}. Remove classes")
    budget = block_bytes or (CPU_BLOCK if mask_logits.device.type == "cpu" else GPU_BLOCK)
    # pruning needs probabilities of at least 0
    pruned = (count >= FEW if prune is None else prune) and bool((class_probabilities >= 0).all())
    classes = Pruned(class_probabilities, budget) if pruned else All(class_probabilities, budget)
    photograph = tiles(mask_logits, geometry, sigmoid)
    # mask probabilities take at most half of the budget
    size = max(1, budget // max(classes.bytes_per_tile, _bytes_per_tile(queries, geometry, sigmoid)))
    labels = torch.empty(*photograph.shape, PIXELS, dtype=torch.int32, device=mask_logits.device)
    for block in in_parts(photograph.blocks(size)):
        labels[block.left : block.right, block.top : block.end] = classes.best(photograph, block)
    laid = labels.unflatten(2, (SIDE, SIDE)).permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
    height, width = geometry.original
    return laid[:height, :width].cpu().numpy().astype(np.uint16)


def _bytes_per_tile(queries: int, geometry: Geometry, sigmoid: Sigmoid) -> int:
    """Return the number of bytes to reserve for a tile: twice the size of the tile's float32 mask probabilities."""
    # "resized" also needs the mask probabilities of the resized photograph. The larger of the two arrays counts.
    (height, width), (tall, wide) = geometry.original, geometry.resized
    resized = -(-PIXELS * tall * wide // (height * width)) if sigmoid == "resized" else 0
    return 8 * queries * max(PIXELS, resized)
