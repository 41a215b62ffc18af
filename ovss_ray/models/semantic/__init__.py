"""Exact label maps from masks and their class probabilities, without a score map of all classes.

The inputs are logits of Q masks at low resolution (h, w), and class probabilities p (Q, K). The score of class c at a
pixel is Σ_q p[q, c] · m[q]. Here m[q] is the probability of mask q at the pixel. See Cheng et al., MaskFormer, NeurIPS
2021, §3.4. Mask logits are resized to the network's padded input, cropped to the resized photograph, and resized to the
original photograph. SAN computes the sigmoid after both resizes, SCAN between them.

All K × H × W scores would take 1.2 GB for ADE20K-847 at 512 × 683. Only the best class of a pixel is needed. So scores
are computed in blocks of tiles of 16 × 16 pixels (tiles.py). Classes that cannot be the best of any pixel of a tile are
left out (classes.py).
"""

import numpy as np
import torch
from torch import Tensor

from ovss_ray.errors import OvssError, in_parts
from ovss_ray.models.semantic.classes import All, Pruned
from ovss_ray.models.semantic.tiles import PIXELS, SIDE, Geometry, Sigmoid, probabilities, tiles
from ovss_ray.structures.columns import NONE

__all__ = ["Geometry", "label_map", "probabilities"]

CPU_BLOCK, GPU_BLOCK = 1 << 21, 1 << 28
"""Maximum bytes of the class scores that are computed at a time: 2 MB on a CPU, 256 MB on a GPU

2 MB fit into a CPU's cache. The mask probabilities of a block of tiles take at most half of the maximum: 1 MB on a
CPU, 128 MB on a GPU."""
FEW = 100
"""Number of classes below which all scores are computed: pruning would cost more than it saves"""


def label_map(
    mask_logits: Tensor, class_probabilities: Tensor, geometry: Geometry, block_bytes: int | None = None,
    sigmoid: Sigmoid = "original", prune: bool | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the best class of every pixel, (H, W) uint16; the lowest index on ties.

    `mask_logits` (Q, h, w) float32 and `class_probabilities` (Q, K) float32 are on one device. `sigmoid` is "original"
    or "resized". The sigmoid is computed at the size of the original or of the resized photograph (see Geometry).

    If `prune` is True, classes that cannot be the best are skipped (see classes.py). Pruning saves time, and does not
    change the result. If `prune` is False, no class is skipped. If `prune` is None, it counts as True for K ≥ FEW, and
    as False for K < FEW. If a class probability is negative or NaN, no class is skipped, whatever `prune` is.

    The class scores that are computed at a time take about `block_bytes` bytes. If `block_bytes` is None, CPU_BLOCK or
    GPU_BLOCK is used. Raises OvssError if K is above NONE, the maximum number of classes of a label map.
    """
    queries, count = class_probabilities.shape
    if count > NONE:
        raise OvssError(f"too many classes: {count}; a label map can name at most {NONE}. Remove classes")
    budget = block_bytes or (CPU_BLOCK if mask_logits.device.type == "cpu" else GPU_BLOCK)
    pruned = (count >= FEW if prune is None else prune) and bool((class_probabilities >= 0).all())
    classes = Pruned(class_probabilities, budget) if pruned else All(class_probabilities, budget)
    photograph = tiles(mask_logits, geometry, sigmoid)
    size = max(1, budget // max(classes.bytes_per_tile, _bytes_per_tile(queries, geometry, sigmoid)))
    labels = torch.empty(*photograph.shape, PIXELS, dtype=torch.int32, device=mask_logits.device)
    for block in in_parts(photograph.blocks(size)):
        labels[block.left : block.right, block.top : block.end] = classes.best(photograph, block)
    laid = labels.unflatten(2, (SIDE, SIDE)).permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
    height, width = geometry.original
    return laid[:height, :width].cpu().numpy().astype(np.uint16)


def _bytes_per_tile(queries: int, geometry: Geometry, sigmoid: Sigmoid) -> int:
    """Return twice the number of bytes of a tile's mask probabilities.

    `label_map` divides `block_bytes` by this number, or by a higher one, to get the number of tiles in a block. So the
    mask probabilities of a block take at most half of `block_bytes`. If `sigmoid` is "resized", a tile has mask
    probabilities at two resolutions. The bytes of the higher resolution are returned, doubled.
    """
    (height, width), (tall, wide) = geometry.original, geometry.resized
    resized = -(-PIXELS * tall * wide // (height * width)) if sigmoid == "resized" else 0
    return 8 * queries * max(PIXELS, resized)
