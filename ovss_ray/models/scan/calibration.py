"""Semantic-assisted calibration of proposal embeddings with a frozen CLIP that sees the whole photograph.

Liu et al., "Open-Vocabulary Segmentation with Semantic-Assisted Calibration", CVPR 2024, arXiv 2312.04089, §3.2.
Parameters have the names of the official code. Dimensions: B batch, Q queries, n side of CLIP's input in pixels,
g side of CLIP's patch grid; C channels of CLIP's image tower, D features, L tokens.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.clip import Attention, WholeImageTower, as_map
from ovss_ray.models.scan.variants import Variant


@dataclass(frozen=True)
class Overview:
    """The frozen CLIP's features of whole photographs."""

    maps: list[Tensor]
    """patch tokens (B, C, g, g) after each block that Variant.levels lists"""
    class_tokens: Tensor
    """(B, blocks, C): class token after each block that Variant.replaced lists

    The contextual shift (shift.py) replaces background tokens of crops by these class tokens."""
    embeddings: Tensor
    """(B, D): embeddings of the photographs, not normalised"""


def overview(tower: WholeImageTower, images: Tensor, levels: Collection[int], replaced: Collection[int]) -> Overview:
    """Return the Overview of photographs, given as normalised images (B, 3, n, n).

    `levels` are the numbers of the blocks for Overview.maps. `replaced` are the numbers of the blocks for
    Overview.class_tokens. The first block has the number 1.
    """
    x, size = tower.embed(images)
    maps, class_tokens = [], []
    for number, block in enumerate(tower.resblocks, 1):
        x = block(x)
        if number in levels:
            maps.append(as_map(x[:, 1:], size).float())
        if number in replaced:
            class_tokens.append(x[:, 0].float())
    return Overview(maps, torch.stack(class_tokens, 1), tower.project(x[:, 0]).float())


class LowPassFusion(nn.Module):
    """Filter of CLIP's patch tokens in the frequency domain. The filtered tokens are added to the original ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * width, 2 * width, 1)
        self.conv2 = nn.Conv2d(2 * width, 2 * width, 1)

    def forward(self, features: Tensor, sigma: float) -> Tensor:
        """Return the sum (B, C, g, g) of the maps `features` (B, C, g, g) and the filtered maps.

        The filter multiplies the spectrum by 1 − G, and then applies two learned convolutions. G is a Gaussian with the
        maximum 1 at the highest frequency. `sigma` is the standard deviation of G, in bins of the 2-D spectrum.
        """
        # the lowest frequency is at the top left, so the middle of the spectrum has the highest frequencies
        spectrum = torch.fft.fft2(features) * (1 - gaussian(features.shape[-2], features.shape[-1], sigma, features))
        mixed = self.conv2(F.relu(self.conv1(torch.cat([spectrum.real, spectrum.imag], 1))))
        real, imaginary = mixed.chunk(2, 1)
        return torch.fft.ifft2(torch.complex(real, imaginary)).real + features


def gaussian(height: int, width: int, sigma: float, like: Tensor) -> Tensor:
    """Return a Gaussian (height, width) of maximum 1 at the middle cell, with the dtype and device of `like`."""
    rows, columns = (
        torch.arange(side, dtype=like.dtype, device=like.device) - side // 2 for side in (height, width)
    )  # fmt: skip
    return torch.exp(-(rows[:, None] ** 2 + columns**2) / (2 * sigma**2))


class TokenProjection(nn.Module):
    """Two linear layers without an activation, from CLIP's channels to the channels of proposals."""

    def __init__(self, width: int, embed: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, embed)
        self.fc2 = nn.Linear(embed, embed)

    def forward(self, tokens: Tensor) -> Tensor:
        """Project tokens (B, L, C) to (B, L, D)."""
        return self.fc2(self.fc1(tokens))


class FusionDecoder(nn.Module):
    """Layers of cross-attention from proposals to CLIP's tokens. A norm follows each layer except the last."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.multiattn = nn.ModuleList(Attention(width, heads) for _ in range(layers))
        self.ln = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers - 1))

    def forward(self, proposals: Tensor, tokens: Tensor) -> Tensor:
        """Return proposals (B, Q, D) after attention over tokens (B, L, D)."""
        layers: list[Any] = [*self.multiattn]
        for attention, norm in zip(layers, [*self.ln, nn.Identity()], strict=True):
            proposals = norm(proposals + attention.across(proposals, tokens, tokens))
        return proposals


class QueryLayer(nn.Module):
    """A post-norm transformer layer in which each query attends only to itself."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, inner)
        self.linear2 = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return queries (B, Q, D) after the layer."""
        x = self.norm1(x + self.self_attn(x, _itself))
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


def _itself(_query: Tensor, _key: Tensor, value: Tensor) -> Tensor:
    return value


class QueryTransformer(nn.Module):
    """Transformer layers in which each proposal attends only to itself.

    The official code passes each query as a sequence of length one, so the released weights need this restriction.
    """

    def __init__(self, width: int, heads: int, inner: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(QueryLayer(width, heads, inner) for _ in range(layers))

    def forward(self, proposals: Tensor) -> Tensor:
        """Return proposals (B, Q, D) after all layers."""
        for layer in self.layers:
            proposals = layer(proposals)
        return proposals


class Calibrated(nn.Module):
    """Base class of Scan, with the modules that calibrate proposal embeddings."""

    # This is not a submodule of Scan, because the official names of the parameters have no common prefix.

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        clip, layers = variant.clip, variant.calibration_layers
        self.sigmas: Sequence[float] = variant.sigmas
        self.LFM = LowPassFusion(clip.width)
        self.oriclip_mlp = TokenProjection(clip.width, clip.embed)
        self.fusion_decoder = FusionDecoder(clip.embed, variant.heads, layers)
        self.learnable_weight = nn.Parameter(torch.empty(1))
        self.lightweight_transformer = QueryTransformer(clip.embed, variant.heads, variant.decoder_inner, layers)

    def calibrate(self, proposals: Tensor, tokens: Tensor, embeddings: Tensor) -> Tensor:
        """Return calibrated proposal embeddings (B, Q, D), not normalised.

        `proposals` (B, Q, D) are from the mask network. `tokens` (B, L, D) are from `clip_tokens`. `embeddings` (B, D)
        are Overview.embeddings.
        """
        proposals = self.fusion_decoder(proposals, tokens)
        proposals = proposals + self.learnable_weight * F.normalize(embeddings, dim=-1)[:, None]
        return self.lightweight_transformer(proposals)

    def clip_tokens(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the filtered and projected tokens (B, L, D) of Overview.maps, map by map.

        Each map is (B, C, g, g). L is the number of maps times g².
        """
        filtered = [self.LFM(features, sigma) for features, sigma in zip(maps, self.sigmas, strict=True)]
        return self.oriclip_mlp(torch.cat([features.flatten(2) for features in filtered], 2).transpose(1, 2))
