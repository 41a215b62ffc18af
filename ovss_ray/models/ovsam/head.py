"""Class scores of Open-Vocabulary SAM's regions: the head CLIP2SAM, CLIP's own branch, and their ensemble.

Yuan et al., ECCV 2024, arXiv 2401.02955, §3.3. The parameters have the official names. Dimensions: P prompts, K
classes, D features, C channels. An image embedding has g × g cells. A mask has s × s pixels, where s = 4 g. A
region's grid has r × r points.
"""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.layers import Mlp
from ovss_ray.models.ovsam.variants import Variant
from ovss_ray.models.sam_layers.decoder import MaskHead
from ovss_ray.models.sam_layers.prompts import embedding
from ovss_ray.models.text import Classifier

LEVELS = 4
"""Number of levels of the feature pyramid"""
FINEST = 56
"""Length in the formula for the pyramid level of a region, in pixels of a 1024 × 1024 input.

If the region's box has the area A, the level is ⌊log₂(√A / FINEST)⌋, limited to 0..3. For example, a box of
112 × 112 pixels gets level 1.
"""
LOGIT_SCALE = 4.6052
"""Natural logarithm of the factor by which cosine similarities are multiplied; the factor is about 100"""
BASE_WEIGHT, NOVEL_WEIGHT = 0.1, 0.9
"""Weights of CLIP's branch in the ensemble.

BASE_WEIGHT is for base classes and "no object"; NOVEL_WEIGHT is for novel classes.
"""
EXCLUDED = -1000.0
"""Score of classes that are neither base nor novel"""
SCORES = 1 << 22
"""Maximum number of cosine similarities computed at a time: 16 MB of float32"""


class Head(nn.Module):
    """SAM's decoder with a label token, and the layers that embed regions for classification."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width = variant.embed
        self.strides = variant.strides
        self.mask_decoder = MaskHead(variant, 1)
        self.label_token = embedding(1, width)
        self.label_mlp = Mlp(width, width, variant.features, nn.Linear)
        convolution = nn.Conv2d(width, variant.features, 1, bias=False)
        self.roi_conv = nn.Sequential(nn.ModuleDict({"conv": convolution}))

    def forward(self, image: Tensor, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return mask logits (P, 1, s, s).

        `image` (P, C, g, g) has an image embedding for each prompt. `tokens` (P, N, C) has N tokens for each prompt.
        `positions` (g², C) has the position encoding of each cell of an image embedding.
        """
        # the official code multiplies the output of `label_mlp` by zero, so `label_mlp` is not applied here
        return self.mask_decoder.decode(self.label_token.weight, image, tokens, positions)[1]

    def regions(self, pyramid: Sequence[Tensor], rois: Tensor, levels: Tensor, side: int) -> Tensor:
        """Return features (P, C, side, side) of regions, pooled from the maps of a pyramid.

        `rois` (P, 5) are the boxes of the regions, as in `aligned`. `levels` (P,) int64 has the index of the map from
        which each region is pooled.
        """
        pooled = rois.new_zeros(len(rois), pyramid[0].shape[1], side, side)
        for level, (features, stride) in enumerate(zip(pyramid, self.strides, strict=True)):
            rows = (levels == level).nonzero()[:, 0]
            if len(rows):
                pooled[rows] = aligned(features, rois[rows], side, stride)
        return pooled

    def embed(self, pooled: Tensor) -> Tensor:
        """Return embeddings (P, D), not normalised, of pooled features (P, C, r, r)."""
        return self.roi_conv.get_submodule("0.conv")(pooled).relu().mean((2, 3))


def aligned(features: Tensor, rois: Tensor, side: int, stride: int) -> Tensor:
    """Return features (P, C, side, side) of regions, pooled from the maps `features` (B, C, h, w) of B images.

    A row of `rois` (P, 5) is the index of an image, then x0 y0 x1 y1. Coordinates are in pixels of the network's input.
    A cell of a map covers `stride` × `stride` pixels. The method is RoIAlign (He et al., ICCV 2017, arXiv 1703.06870).
    """
    if features.device.type == "cpu" and not (torch.is_grad_enabled() and features.requires_grad):
        return _kernel()(features, rois, 1 / stride, side, side, -1, True)
    from torchvision.ops import roi_align  # with gradients, and deterministic on a GPU if that is requested

    return roi_align(features, rois, side, 1 / stride, sampling_ratio=-1, aligned=True)


@cache
def _kernel() -> Callable[..., Tensor]:
    """Return torchvision's compiled RoIAlign. Import torchvision only if the file of the compiled code is not found."""
    # importing torchvision also imports torch.compile, which takes 3 CPU seconds in each worker
    package: Any = find_spec("torchvision")
    libraries = sorted(Path(package.submodule_search_locations[0]).glob("_C*.so"))
    if libraries:
        torch.ops.load_library(libraries[0])
    else:
        import torchvision  # noqa: F401 - it loads the library from wherever it is

    return torch.ops.torchvision.roi_align


def boxes(logits: Tensor, scale: float) -> Tensor:
    """Return the tight boxes (P, 4) float32 of the masks `logits` > 0.

    A box is x0 y0 x1 y1 in pixels of the network's input. `logits` are (P, s, s), and each logit covers
    `scale` × `scale` pixels. Boxes are half open. The box of an empty mask is all zeros.
    """
    masks = logits > 0
    ends = []
    for lines in (masks.any(1), masks.any(2)):
        first, last = lines.byte().argmax(1), lines.shape[1] - lines.flip(1).byte().argmax(1)
        ends.append((first, last * lines.any(1)))
    return scale * torch.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], 1).float()


def levels(corners: Tensor, pixels: int = 1024) -> Tensor:
    """Return the pyramid level of each box, (P,) int64. Levels are from 0 to 3, see FINEST.

    A row of `corners` (P, 4) is a box x0 y0 x1 y1 in pixels of the network's square input. The side of the input is
    `pixels`.
    """
    sides = corners[:, 2:] - corners[:, :2]
    finest = FINEST * pixels / 1024
    return (sides.prod(1).sqrt() / finest + 1e-6).log2().floor().clamp(0, LEVELS - 1).long()


def with_index(corners: Tensor, image: int = 0) -> Tensor:
    """Return rows (P, 5) float32. Row i is the image index `image`, then the box x0 y0 x1 y1 in row i of `corners`."""
    return F.pad(corners.float(), (1, 0), value=image)


def logits(embeddings: Tensor, classes: Classifier) -> Tensor:
    """Return class logits (P, K + 1) of unnormalised region embeddings (P, D).

    The first K logits of a region belong to the K classes. Each class has one or several name embeddings. The logit of
    a class is 100 times the highest cosine similarity of a name embedding and the region embedding. The last logit
    belongs to "no object", and is 0.
    """
    each = max(1, SCORES // classes.classes.numel())
    unit = F.normalize(embeddings, dim=-1)
    parts = [classes(part) for part in unit.split(each)]
    scores = torch.cat(parts) if parts else unit.new_zeros(0, len(classes.classes))
    return F.pad(torch.tensor(LOGIT_SCALE).exp().item() * scores, (0, 1))


def ensemble(head: Tensor, clip: Tensor, masks: Tensor, base: Tensor, novel: Tensor, cells: int = 32) -> Tensor:
    """Return scores (P, K + 1): logarithms of weighted geometric means of the probabilities from two branches.

    `head` and `clip` are the logits (P, K + 1) of the branches. `base` and `novel` (K,) bool mark the base classes and
    the novel classes. CLIP's branch has BASE_WEIGHT for base classes and "no object", and NOVEL_WEIGHT for novel
    classes. Classes that are neither base nor novel get the score EXCLUDED.

    `masks` (P, s, s) are mask logits. Masks are resized to `cells` × `cells`, the size of CLIP's map. If the resized
    mask i is empty, only the head's probabilities are used in row i.
    """
    small = F.interpolate(masks[:, None].float(), (cells, cells), mode="bilinear", align_corners=False)
    visible = (small > 0).flatten(1).any(1)
    per_class = torch.where(base, BASE_WEIGHT, NOVEL_WEIGHT)
    weight = visible[:, None] * F.pad(per_class, (0, 1), value=BASE_WEIGHT)
    scores = (1 - weight) * head.log_softmax(-1) + weight * clip.log_softmax(-1)
    return scores.masked_fill(~F.pad(base | novel, (0, 1), value=True), EXCLUDED)
