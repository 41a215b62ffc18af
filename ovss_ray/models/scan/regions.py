"""Regions of SCAN's queries, and the crops of these regions for CLIP.

A region is a query's binary mask, cut to the mask's bounding box. A crop has CLIP's mean colour outside of the mask, as
in the official code. Dimensions: Q queries, V regions; h w pixels of the resized photograph, h' w' cells of the mask
grid; n side of CLIP's input in pixels, T patches of CLIP's input.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models.clip_sizes import ClipSizes
from ovss_ray.models.photograph import CLIP
from ovss_ray.models.scan.shift import Shift
from ovss_ray.models.semantic import Geometry, probabilities
from ovss_ray.structures.masks import regions

CHUNK = 1 << 26
"""Maximum bytes of the mask probabilities that `of_masks` computes at a time"""


@dataclass(frozen=True)
class Regions:
    """The binary masks of one image's queries, as regions; queries without a pixel have no region."""

    valid: np.ndarray
    """(Q,) bool: queries whose binary mask has a pixel"""
    boxes: np.ndarray
    """(V, 4) int32: half-open box x0 y0 x1 y1 of each region, in pixels of the resized photograph"""
    bits: np.ndarray
    """(bytes,) uint8: one bit for each pixel of each box, 1 inside of the mask (see structures.masks.regions)"""
    foreground: np.ndarray
    """(V, T) bool: patches of the crop with at least one pixel of the mask"""

    def __len__(self) -> int:
        return len(self.boxes)

    def masks(self) -> regions.Masks:
        """Return the mask (height, width) bool of each region, at the size of the region's box."""
        return regions.Masks(self.boxes, self.bits)


@dataclass(frozen=True)
class Cut:
    """The regions of one image, and the tokens that the contextual shift replaces in the crops of these regions."""

    regions: Regions
    shift: Shift
    pixels: Tensor
    """(3, h, w) uint8: the resized photograph"""
    class_tokens: Tensor
    """(blocks, C) float32: CLIP's class tokens of the whole image"""


def of_masks(mask_logits: Tensor, geometry: Geometry, threshold: float, sizes: ClipSizes) -> Regions:
    """Return the Regions of mask logits (Q, h', w'). A binary mask has the pixels with probability > `threshold`."""
    chunk = max(1, CHUNK // (4 * geometry.padded[0] * geometry.padded[1]))
    boxes, bits = regions.pack(
        mask
        for part in mask_logits.split(chunk)
        for mask in (probabilities(part, geometry) > threshold).cpu().numpy()
    )  # fmt: skip
    valid = boxes[:, 2] > 0
    foreground = [seen_patches(torch.from_numpy(mask), sizes) for mask in regions.Masks(boxes[valid], bits)]
    empty = np.zeros((0, sizes.grid * sizes.grid), bool)
    return Regions(valid, boxes[valid], bits, np.stack(foreground) if foreground else empty)


def seen_patches(mask: Tensor, sizes: ClipSizes) -> np.ndarray:
    """Return (T,) bool: True for the patches of CLIP's input with at least one pixel of the resized mask.

    `mask` (height, width) bool may have any size. The mask is first resized to the size of CLIP's input, n × n pixels.
    """
    square = F.interpolate(mask[None, None].float(), (sizes.pixels, sizes.pixels), mode="nearest")
    return F.max_pool2d(square, sizes.patch)[0, 0].bool().flatten().numpy()


def crops(pixels: Tensor, cut: Regions, side: int) -> Iterator[Tensor]:
    """Yield the crop (3, n, n) float32 of each region in `cut`, normalised for CLIP.

    The box of a region is stretched to a square. `pixels` (3, h, w) uint8 is the resized photograph. `side` is n.
    """
    mean, std = (value.to(pixels.device) for value in CLIP)
    for (x0, y0, x1, y1), mask in zip(cut.boxes.tolist(), cut.masks(), strict=True):
        inside = torch.from_numpy(mask).to(pixels.device)
        filled = torch.where(inside, (pixels[:, y0:y1, x0:x1] - mean) / std, 0.0)
        yield F.interpolate(filled[None], (side, side), mode="bicubic", align_corners=False)[0]


def described(cut: Cut) -> dict[str, Any]:
    """Return the regions of an image as arrays, under the keys that `Scan.predict` lists."""
    cut_regions, tokens = cut.regions, cut.shift
    masks = np.zeros((len(cut_regions.valid), *cut.pixels.shape[1:]), bool)
    masks[cut_regions.valid] = regions.masks(cut_regions.boxes, cut_regions.bits, masks.shape[1:])
    return {
        "mask_binary": masks,
        "valid_flag": cut_regions.valid,
        "regions.boxes_xyxy": cut_regions.boxes,
        "regions.patch_foreground": cut_regions.foreground,
        "shift.population": tokens.populations,
        "shift.count": tokens.counts,
        "shift.indices": tokens.indices,
    }
