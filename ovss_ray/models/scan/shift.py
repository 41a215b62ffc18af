"""Contextual shift: the class token of the whole photograph replaces background tokens of a crop.

Liu et al., "Open-Vocabulary Segmentation with Semantic-Assisted Calibration", CVPR 2024, arXiv 2312.04089, §3.3. A
background token is the token of a patch without any pixel of the mask. Dimensions: V regions of an image, B
regions of a batch, T patch tokens, C channels. The dimension `blocks` is the length of Variant.replaced, a list of CLIP
blocks. After each of these blocks, tokens are replaced.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovss_ray.errors import OvssError
from ovss_ray.models.clip import After


@dataclass(frozen=True)
class Shift:
    """Tokens that the contextual shift replaces in the V regions of one image, after each of several CLIP blocks.

    Arrays with the shape (blocks · V,) have the axes block and region, flattened in this order.
    """

    populations: np.ndarray
    """(blocks · V,) int64: for each block and region, number of the region's background tokens"""
    counts: np.ndarray
    """(blocks · V,) int64: number of tokens that are replaced after each block, in each of V regions"""
    indices: np.ndarray
    """(sum of counts,) int64: positions of the replaced tokens, in the order of `counts`

    Position 0 is the region's first background token."""
    replaced: np.ndarray
    """(V, blocks, T) bool: True if the patch token is replaced after the block"""


def generator(image: np.ndarray, seed: int) -> random.Random:
    """Return a random generator for the draws of one image (H, W, 3) uint8.

    The draws depend only on `seed` and on the pixels and shape of the image.
    """
    # The official code uses one generator for all images, so that the order of the images affects the draws.
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    return random.Random(f"{seed} {image.shape} {digest}")


def draw(foreground: np.ndarray, blocks: int, ratio: float, source: random.Random) -> Shift:
    """Return a Shift with randomly drawn background tokens.

    `foreground` is (V, T) bool for the T tokens of V regions; False marks background tokens. For each block and region,
    floor(`ratio` · n) of the region's n background tokens are drawn.
    """
    populations, counts = _counts(foreground, blocks, ratio)
    # The order of the official code: all regions for the first block, then all regions for the second block, and so on.
    drawn = [source.sample(range(n), k) for n, k in zip(populations.tolist(), counts.tolist(), strict=True)]
    return _shift(foreground, blocks, populations, counts, np.array([i for part in drawn for i in part], np.int64))


def replay(foreground: np.ndarray, blocks: int, ratio: float, indices: Sequence[int] | np.ndarray) -> Shift:
    """Return the Shift of an earlier `draw` with the same arguments. `indices` are the Shift.indices of that draw.

    Raises OvssError if the number of indices is wrong, or if an index is outside of 0..n − 1. The number n is the
    region's number of background tokens.
    """
    populations, counts = _counts(foreground, blocks, ratio)
    flat = np.asarray(indices, np.int64)
    if flat.shape != (counts.sum(),) or (flat < 0).any() or (flat >= np.repeat(populations, counts)).any():
        raise OvssError(
            f"shift_indices of shape {flat.shape} do not fit this image: {len(foreground)} regions and {blocks} CLIP "
            f"blocks need the shape ({counts.sum()},). Each index must be at least 0, and below the number of "
            'background tokens of its region. Pass "shift.indices" of an earlier prediction with the same image and '
            "options, or pass None"
        )
    return _shift(foreground, blocks, populations, counts, flat)


def _counts(foreground: np.ndarray, blocks: int, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Return Shift.populations and Shift.counts."""
    populations = (~foreground).sum(1)
    counts = np.array([int(ratio * n) for n in populations.tolist()], np.int64)
    return np.tile(populations, blocks), np.tile(counts, blocks)


def _shift(
    foreground: np.ndarray, blocks: int, populations: np.ndarray, counts: np.ndarray, indices: np.ndarray
) -> Shift:
    replaced = np.zeros((len(foreground), blocks, foreground.shape[1]), bool)
    background = [np.flatnonzero(~region) for region in foreground]
    parts = np.split(indices, np.cumsum(counts)[:-1]) if len(counts) else []
    for number, part in enumerate(parts):
        block, region = divmod(number, len(foreground))
        replaced[region, block, background[region][part]] = True
    return Shift(populations, counts, indices, replaced)


def shifted(tokens: Tensor, replaced: Tensor, class_tokens: Tensor) -> Tensor:
    """Return `tokens` (B, T + 1, C) in which `class_tokens` (B, C) replace the patch tokens marked by `replaced`.

    `replaced` is (B, T) bool. The last token is the crop's own class token, which is never replaced.
    """
    patches = torch.where(replaced[..., None], class_tokens[:, None].to(tokens.dtype), tokens[:, :-1])
    return torch.cat([patches, tokens[:, -1:]], 1)


def between(blocks: Sequence[int], replaced: Tensor, class_tokens: Tensor) -> After:
    """Return the function `after` for WholeImageTower.encode. The function replaces tokens after each of `blocks`.

    `blocks` are block numbers, from 1. `replaced` is (B, blocks, T) bool, `class_tokens` is (B, blocks, C).
    """

    def after(number: int, tokens: Tensor) -> Tensor:
        if number not in blocks:
            return tokens
        place = blocks.index(number)
        return shifted(tokens, replaced[:, place], class_tokens[:, place])

    return after
