"""Contextual shift: the class token of the whole photograph replaces background tokens of a crop.

Liu et al., "Open-Vocabulary Segmentation with Semantic-Assisted Calibration", CVPR 2024, arXiv 2312.04089, §3.3. CLIP
was trained on whole photographs, but the background of a crop is plain. So after some blocks, a random part of the
background tokens is replaced. Dimensions: V regions, T patch tokens, C channels, B regions of a batch.
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
    """The tokens to replace in the regions of one image."""

    populations: np.ndarray
    """(blocks · V,) int64: number of background tokens; element b · V + v is for block b and region v"""
    counts: np.ndarray
    """(blocks · V,) int64: number of replaced tokens; element b · V + v is for block b and region v"""
    indices: np.ndarray
    """(sum of counts,) int64: position of each replaced token among the background tokens of the region

    Position 0 is the region's first background token. The first counts[0] positions belong to element 0 of `counts`,
    the next counts[1] positions to element 1, and so on."""
    replaced: np.ndarray
    """(V, blocks, T) bool: whether a patch token is replaced after a block"""


def generator(image: np.ndarray, seed: int) -> random.Random:
    """Return a random generator for the draws of one image (H, W, 3) uint8.

    The generator's seed combines `seed`, the pixels of the image and the shape of the image. So the draws do not depend
    on other images, the batch, the worker or the file name. The official code uses one generator for all images, so the
    order of the images affects the draws.
    """
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    return random.Random(f"{seed} {image.shape} {digest}")


def draw(foreground: np.ndarray, blocks: int, ratio: float, source: random.Random) -> Shift:
    """Draw at random the background tokens that are replaced in each region after each block.

    If a region has n background tokens, floor(`ratio` · n) of them are drawn for each block. `blocks` is the number of
    blocks. `foreground` is (V, T) bool. The order of the draws is that of the official code. Tokens are drawn for all
    regions in the first block. Then tokens are drawn for all regions in the second block, and so on.
    """
    populations, counts = _counts(foreground, blocks, ratio)
    drawn = [source.sample(range(n), k) for n, k in zip(populations.tolist(), counts.tolist(), strict=True)]
    return _shift(foreground, blocks, populations, counts, np.array([i for part in drawn for i in part], np.int64))


def replay(foreground: np.ndarray, blocks: int, ratio: float, indices: Sequence[int] | np.ndarray) -> Shift:
    """Return the Shift of an earlier draw from the indices of that draw.

    `indices` has the format of Shift.indices. `foreground` (V, T) bool, `blocks` and `ratio` are as in `draw`. Raises
    OvssError if the number of indices is wrong, or if an index does not fit its region. For example, the indices of a
    region with 5 background tokens are from 0 to 4.
    """
    populations, counts = _counts(foreground, blocks, ratio)
    flat = np.asarray(indices, np.int64)
    if flat.shape != (counts.sum(),) or (flat < 0).any() or (flat >= np.repeat(populations, counts)).any():
        raise OvssError(
            f"shift_indices of shape {flat.shape} do not fit this image: {len(foreground)} regions and {blocks} blocks "
            f"need {counts.sum()} indices in one dimension. Each index must be at least 0, and below the number of "
            "background tokens of its region. Pass shift.indices of a result with the same image and options, or pass "
            "None"
        )
    return _shift(foreground, blocks, populations, counts, flat)


def _counts(foreground: np.ndarray, blocks: int, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Return two arrays (blocks · V,) int64: numbers of background tokens, and numbers of tokens to replace.

    Element b · V + v of each array is for block b and region v.
    """
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
    """Return tokens (B, T + 1, C) in which class tokens of whole photographs replace some patch tokens.

    The last token of each region is the region's own class token, and stays unchanged. `replaced` (B, T) bool marks
    the patch tokens to replace. Row b of `class_tokens` (B, C) replaces patch tokens of region b. All tokens are
    outputs of the same block of the image tower.
    """
    patches = torch.where(replaced[..., None], class_tokens[:, None].to(tokens.dtype), tokens[:, :-1])
    return torch.cat([patches, tokens[:, -1:]], 1)


def between(blocks: Sequence[int], replaced: Tensor, class_tokens: Tensor) -> After:
    """Return the function that replaces tokens of a batch between the blocks of CLIP's image tower.

    Pass this function to WholeImageTower.encode as the argument `after`. `blocks` are the numbers of the blocks after
    which tokens are replaced. `replaced` is (B, blocks, T) bool, and `class_tokens` (B, blocks, C) are the class tokens
    of the whole photographs.
    """

    def after(number: int, tokens: Tensor) -> Tensor:
        if number not in blocks:
            return tokens
        place = blocks.index(number)
        return shifted(tokens, replaced[:, place], class_tokens[:, place])

    return after
