"""Image encoder of Open-Vocabulary SAM (Yuan et al., ECCV 2024, arXiv 2401.02955, §3.2 and §3.3).

The parameters have the official names. Dimensions: B images, g side of the image embedding, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.clip import Stem, WholeImageTower, as_map
from ovss_ray.models.clip_sizes import ClipSizes
from ovss_ray.models.ovsam.variants import Variant
from ovss_ray.models.photograph import CLIP, IMAGENET
from ovss_ray.models.sam_layers.grid import Block, projection
from ovss_ray.models.sam_layers.prompts import embedding


class Backbone(nn.Module):
    """CLIP's ResNet. `forward` stops before the attention pool; `head` is the attention pool, which embeds regions."""

    seen = 3
    """index of a map in the output of `forward`; regions are pooled from this map, and then embedded by `head`"""

    def __init__(self, variant: Variant) -> None:
        from open_clip.modified_resnet import ModifiedResNet  # takes 6 CPU seconds, and a Tower does without

        super().__init__()
        pixels = variant.strides[-1] * variant.clip_grid
        tower = ModifiedResNet(
            list(variant.resnet_layers), variant.features, variant.resnet_heads, pixels, variant.resnet_width
        )
        self.stem = nn.Sequential(
            *(tower.conv1, tower.bn1, tower.act1, tower.conv2, tower.bn2, tower.act2),
            *(tower.conv3, tower.bn3, tower.act3, tower.avgpool),
        )
        self.layer1, self.layer2, self.layer3, self.layer4 = tower.layer1, tower.layer2, tower.layer3, tower.layer4
        self.head = tower.attnpool
        self.eval()

    def train(self, mode: bool = True) -> "Backbone":
        """Set evaluation mode, whatever the value of `mode`, and return the backbone.

        In all trainings, the parameters of CLIP and the statistics of CLIP's batch norms stay unchanged.
        """
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the four stages' maps (B, C, h / s, w / s) of normalised images (B, 3, h, w).

        The strides s are in Variant.strides.
        """
        x = self.stem(images)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps


class Tower(WholeImageTower):
    """CLIP's vision transformer with a convolutional stem, for small networks.

    The stem computes three maps. The first blocks of the transformer compute a fourth map. The parameter `shallow` is
    the number of blocks that compute the fourth map.
    """

    conv1: Stem
    seen = 2
    """index of a map in the output of `forward`; regions are pooled from this map, and then embedded by `head`"""

    def __init__(self, sizes: ClipSizes, ratio: float, shallow: int) -> None:
        super().__init__(
            sizes.width, sizes.heads, sizes.layers, sizes.patch, sizes.grid, sizes.embed, sizes.stem, sizes.quick
        )
        self.ratio, self.shallow = ratio, shallow

    def forward(self, images: Tensor) -> list[Tensor]:  # type: ignore[override]  # the maps of a Backbone, not taps
        """Return four maps (B, C, h / s, w / s) of images (B, 3, h, w) in ImageNet's normalisation.

        The strides s are in Variant.strides.
        """
        mean, std = (part.to(images.device) for part in CLIP)
        pixels = images * IMAGENET.std.to(images.device) + IMAGENET.mean.to(images.device)
        shrunk = F.interpolate((pixels - mean) / std, scale_factor=self.ratio, mode="bilinear", align_corners=False)
        maps = self.conv1.maps(shrunk)
        tokens = self.tokens(maps[-1])
        for block in self.resblocks[: self.shallow]:
            tokens = block(tokens)
        return [*maps, as_map(tokens[:, 1:], maps[-1].shape[-2:])]

    def head(self, patches: Tensor) -> Tensor:
        """Return the embeddings (P, D) of P regions, not normalised.

        `patches` (P, C, r, r) has the features of each region in a grid of r × r cells.
        """
        return self.encode(patches)


def backbone(variant: Variant) -> Backbone | Tower:
    """Build CLIP's image tower; the caller loads its weights."""
    return Tower(variant.tower, variant.ratio, variant.shallow) if variant.tower else Backbone(variant)


def resampling(channels: int, width: int, stride: int, patch: int) -> nn.Module:
    """Return a convolution from `channels` to `width` channels that multiplies a map's h and w by `stride` / `patch`.

    A cell of the input map covers `stride` × `stride` pixels of the network's image. A cell of the output map covers
    `patch` × `patch` pixels.
    """
    if stride > patch:
        return nn.ConvTranspose2d(channels, width, stride // patch, stride // patch)
    return nn.Conv2d(channels, width, patch // stride, patch // stride)


class Neck(nn.Module):
    """SAM2CLIP: conversion of CLIP's four maps to an image embedding like that of SAM's image encoder."""

    pos_embed: Tensor

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width, levels = variant.width, zip(variant.channels, variant.strides, strict=True)
        layers = [resampling(channels, width, stride, variant.patch) for channels, stride in levels]
        self.patch_embeds = nn.ModuleList(nn.ModuleDict({"projection": layer}) for layer in layers)
        self.level_encoding = embedding(len(layers), width)
        self.register_buffer("pos_embed", torch.empty(1, variant.grid, variant.grid, width))
        self.blocks = nn.ModuleList(Block(variant, window) for window in variant.windows)
        self.neck = projection(width, variant.embed)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return image embeddings (B, C, g, g), where C is Variant.embed.

        `maps` are the four maps that Backbone or Tower returns.
        """
        x = self.pos_embed
        for layer, encoding, level in zip(self.patch_embeds.children(), self.level_encoding.weight, maps, strict=True):
            x = x + layer.get_submodule("projection")(level).permute(0, 2, 3, 1) + encoding
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))


class Pyramid(nn.Module):
    """A feature pyramid without norms (Lin et al., CVPR 2017, arXiv 1612.03144). Parameters have mmdet's names."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        lateral = [nn.Conv2d(channels, variant.embed, 1) for channels in variant.channels]
        last = [nn.Conv2d(variant.embed, variant.embed, 3, padding=1) for _ in lateral]
        self.lateral_convs = nn.ModuleList(nn.ModuleDict({"conv": layer}) for layer in lateral)
        self.fpn_convs = nn.ModuleList(nn.ModuleDict({"conv": layer}) for layer in last)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return four maps (B, C, h, w), where C is Variant.embed.

        `maps` are the four maps that Backbone or Tower returns. Map i of the result has the height and width of
        `maps[i]`.
        """
        parts = zip(self.lateral_convs.children(), maps, strict=True)
        mixed = [layer.get_submodule("conv")(level) for layer, level in parts]
        for finer, coarser in ((2, 3), (1, 2), (0, 1)):
            mixed[finer] = mixed[finer] + F.interpolate(mixed[coarser], mixed[finer].shape[-2:], mode="nearest")
        results = zip(self.fpn_convs.children(), mixed, strict=True)
        return [layer.get_submodule("conv")(level) for layer, level in results]
