"""From masks and their classes to one class per pixel, exactly, without a score map of all classes.

Q masks at low resolution (h, w) and their class probabilities (Q, K) stand for scores[c] = Σ_q p[q, c] · sigmoid(m[q]),
with m the logits resized to the padded input, cropped, and resized to the photograph (Cheng et al., MaskFormer, NeurIPS
2021, §3.4; SAN resizes before the sigmoid). All K × H × W scores would be 1.2 GB for ADE20K-847 at 512 × 683. But only
the best class of a pixel is wanted, so pixels are done a few rows and classes a few columns at a time, and the resizes,
which are linear and act on rows and on columns separately, collapse to one matrix for each.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.columns import NONE
from ovss_ray.errors import OvssError

CPU_TILE, GPU_TILE = 1 << 21, 1 << 28
"""Bytes that the scores of a tile may take, and its masks half of that: what a CPU's cache holds, or fills a GPU."""


@dataclass(frozen=True)
class Geometry:
    """How a grid of masks lies on a photograph: sizes as (H, W) in pixels."""

    padded: tuple[int, int]
    """the network's input, which the grid covers"""
    resized: tuple[int, int]
    """the top left part of it that the photograph fills"""
    original: tuple[int, int]
    """the photograph"""


def label_map(
    mask_logits: Tensor, class_probabilities: Tensor, geometry: Geometry, tile_bytes: int | None = None
) -> np.ndarray:
    """The best class of every pixel, (H, W) uint16; the lowest index on ties.

    `mask_logits` (Q, h, w) float32 and `class_probabilities` (Q, K) float32, on one device. Beside the result the
    memory taken grows neither with K nor with H. Raises OvssError for more classes than a label map can name.
    """
    if class_probabilities.shape[1] > NONE:
        raise OvssError(f"{class_probabilities.shape[1]} classes are asked for; a label map can name {NONE}")
    budget = tile_bytes or (CPU_TILE if mask_logits.device.type == "cpu" else GPU_TILE)
    height, width = geometry.original
    down = _resize(mask_logits.shape[1], geometry, axis=0)
    wide = _widen(mask_logits, geometry)
    labels = torch.empty(height * width, dtype=torch.int32, device=mask_logits.device)
    rows = max(1, budget // (8 * width * len(mask_logits)))
    for top in range(0, height, rows):
        masks = _masks(down[top : top + rows], wide)
        labels[top * width :][: len(masks)] = _best(masks, class_probabilities, budget)
    return labels.view(height, width).cpu().numpy().astype(np.uint16)


def _resize(cells: int, geometry: Geometry, axis: int) -> Tensor:
    """Both bilinear resizes and the crop between them along one axis, as a matrix (original, cells) on the CPU.

    Made by resizing the columns of an identity matrix, so torch itself says where samples lie.
    """
    grid = torch.eye(cells)[None]
    padded = F.interpolate(grid, geometry.padded[axis], mode="linear", align_corners=False)
    cropped = padded[..., : geometry.resized[axis]]
    return F.interpolate(cropped, geometry.original[axis], mode="linear", align_corners=False)[0].T


def _widen(mask_logits: Tensor, geometry: Geometry) -> Tensor:
    """Resize masks (Q, h, w) along their rows, to the photograph's width → (h, W, Q)."""
    across = _resize(mask_logits.shape[2], geometry, axis=1).to(mask_logits)
    return across @ mask_logits.permute(1, 2, 0)


def _masks(down: Tensor, wide: Tensor) -> Tensor:
    """Finish the resize for the rows of a tile: (rows, h) @ (h, W, Q) → mask probabilities (rows · W, Q).

    A row is a mixture of three rows of the grid at most, so only the few that the tile touches are multiplied.
    """
    touched = down.any(0).nonzero()  # on the CPU, so that a GPU need not be waited for
    band = slice(int(touched[0]), int(touched[-1]) + 1)
    mixed = down[:, band].to(wide) @ wide[band].flatten(1)
    return mixed.sigmoid_().view(-1, wide.shape[2])


def _best(masks: Tensor, probabilities: Tensor, budget: int) -> Tensor:
    """The best class of each pixel: masks (P, Q), probabilities (Q, K) → (P,) int64, some columns at a time."""
    chunk = max(1, budget // (4 * len(masks)))
    score, best = _top(masks @ probabilities[:, :chunk])
    for begin in range(chunk, probabilities.shape[1], chunk):
        other, index = _top(masks @ probabilities[:, begin : begin + chunk])
        better = other > score  # not at a tie: the lower index stays
        score, best = torch.where(better, other, score), torch.where(better, index + begin, best)
    return best


def _top(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The highest score of each row (P, K), and where it first stands."""
    if scores.device.type != "cpu":
        return scores.max(1)
    index = torch.from_numpy(scores.numpy().argmax(1))  # many times as fast as torch's, which does not use SIMD here
    return scores.gather(1, index[:, None])[:, 0], index
