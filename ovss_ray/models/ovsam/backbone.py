"""The parts of Open-Vocabulary SAM that see the image: CLIP's ResNet, the SAM2CLIP neck, and a feature pyramid.

Yuan et al., ECCV 2024, arXiv 2401.02955, §3.2 and §3.3. The parameters have the official names. Letters: B images, g
side of the image embedding, C channels.
"""

from collections.abc import Sequence

import torch
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.ovsam.variants import Variant
from ovss_ray.models.sam_layers.grid import Block, projection
from ovss_ray.models.sam_layers.prompts import embedding

STRIDES = (4, 8, 16, 32)
"""Pixels of the network's input per cell of each of the four maps"""


class Backbone(nn.Module):
    """CLIP's ResNet up to its attention pool, which is kept as `head` for the embeddings of regions."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        tower = ModifiedResNet(
            list(variant.resnet_layers), variant.features, variant.resnet_heads, STRIDES[-1] * variant.clip_grid,
            variant.resnet_width,
        )  # fmt: skip
        self.stem = nn.Sequential(
            *(tower.conv1, tower.bn1, tower.act1, tower.conv2, tower.bn2, tower.act2),
            *(tower.conv3, tower.bn3, tower.act3, tower.avgpool),
        )
        self.layer1, self.layer2, self.layer3, self.layer4 = tower.layer1, tower.layer2, tower.layer3, tower.layer4
        self.head = tower.attnpool

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps of the four stages (B, C, h, w), with STRIDES, of normalised images (B, 3, h, w)."""
        x = self.stem(images)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps


class Neck(nn.Module):
    """SAM2CLIP: the four maps of CLIP become an image embedding like that of SAM's image encoder."""

    pos_embed: Tensor

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        first, second, third, last = variant.channels
        width = variant.width
        layers = (
            *(nn.Conv2d(first, width, 4, 4), nn.Conv2d(second, width, 2, 2)),
            *(nn.Conv2d(third, width, 1), nn.ConvTranspose2d(last, width, 2, 2)),
        )
        self.patch_embeds = nn.ModuleList(nn.ModuleDict({"projection": layer}) for layer in layers)
        self.level_encoding = embedding(len(layers), width)
        self.register_buffer("pos_embed", torch.empty(1, variant.grid, variant.grid, width))
        self.blocks = nn.ModuleList(Block(variant, window) for window in variant.windows)
        self.neck = projection(width, variant.embed)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return embeddings (B, embed, g, g) of the maps of Backbone."""
        x = self.pos_embed
        for layer, encoding, level in zip(self.patch_embeds.children(), self.level_encoding.weight, maps, strict=True):
            x = x + layer.get_submodule("projection")(level).permute(0, 2, 3, 1) + encoding
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))


class Pyramid(nn.Module):
    """A feature pyramid (Lin et al., CVPR 2017, arXiv 1612.03144) with the parameter names of mmdet, without norms."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        lateral = [nn.Conv2d(channels, variant.embed, 1) for channels in variant.channels]
        last = [nn.Conv2d(variant.embed, variant.embed, 3, padding=1) for _ in lateral]
        self.lateral_convs = nn.ModuleList(nn.ModuleDict({"conv": layer}) for layer in lateral)
        self.fpn_convs = nn.ModuleList(nn.ModuleDict({"conv": layer}) for layer in last)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return maps (B, embed, h, w) of the same sizes as the maps of Backbone."""
        parts = zip(self.lateral_convs.children(), maps, strict=True)
        mixed = [layer.get_submodule("conv")(level) for layer, level in parts]
        for finer, coarser in ((2, 3), (1, 2), (0, 1)):
            mixed[finer] = mixed[finer] + F.interpolate(mixed[coarser], mixed[finer].shape[-2:], mode="nearest")
        results = zip(self.fpn_convs.children(), mixed, strict=True)
        return [layer.get_submodule("conv")(level) for layer, level in results]
