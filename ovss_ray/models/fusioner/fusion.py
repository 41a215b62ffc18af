"""Fusioner's trained part: the fusion of CLIP's tokens, and the decoder. Parameters have the official names.

Dimensions: B windows of n × n pixels, N patch tokens, k classes. CLIP has D channels, the fusion C.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.clip import as_map
from ovss_ray.models.fusioner.variants import Variant
from ovss_ray.models.layers import Block

TEMPERATURE = 0.07
"""Divisor that converts cosines to logits"""


class Fusion(nn.Module):
    """A transformer over the patch tokens of a window and the embeddings of the classes."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        embed, width = variant.clip.embed, variant.width
        self.cls_emb = nn.Parameter(torch.empty(1, width))
        self.proj_patch = nn.Parameter(torch.empty(width, width))
        self.proj_classes = nn.Parameter(torch.empty(width, width))
        self.blocks = nn.ModuleList(Block(width, variant.heads) for _ in range(variant.layers))
        self.visual_proj = nn.Sequential(nn.LayerNorm(embed), nn.Linear(embed, width), nn.LayerNorm(width))
        self.text_proj = nn.Sequential(nn.LayerNorm(embed), nn.Linear(embed, width))
        self.norm = nn.LayerNorm(width)

    def visual(self, tokens: Tensor) -> Tensor:
        """Project CLIP's patch tokens (B, N, D) to the fusion's channels, (B, N, C)."""
        return self.visual_proj(F.normalize(tokens, dim=-1))

    def forward(self, visual: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of patches (B, N, C) and of classes (B, k, C) after attention over both.

        Patches and classes all attend to each other, so the features of a class depend on the other classes. The
        parameter `visual` (B, N, C) is the result of Fusion.visual. `text` (B, k, D) are text embeddings.
        """
        x = torch.cat([visual, self.text_proj(text) + self.cls_emb], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        patches, classes = x.split([visual.shape[1], text.shape[1]], 1)
        return patches @ self.proj_patch, classes @ self.proj_classes


class Decoder(nn.Module):
    """Convolutions from the grid of patches to the pixels of a window."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width = variant.width
        self.grid, self.side, self.doublings = variant.clip.grid, variant.side, variant.doublings
        for number in range(variant.doublings + 1):
            self.add_module(f"conv_{number}", nn.Conv2d(width, width, 3, padding=1))
        self.add_module(f"conv_{variant.doublings + 1}", nn.Conv2d(width, width, 1))

    def forward(self, patches: Tensor) -> Tensor:
        """Return pixel features (B, C, n, n) of patches (B, N, C)."""
        x = as_map(patches, (self.grid, self.grid))
        for number in range(self.doublings + 1):
            x = F.instance_norm(self.get_submodule(f"conv_{number}")(x)).relu_()
            if number < self.doublings:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = self.get_submodule(f"conv_{self.doublings + 1}")(x)
        return F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False)


def logits(pixels: Tensor, classes: Tensor) -> Tensor:
    """Return logits (B, k, n, n): cosines of pixels (B, C, n, n) and classes (B, k, C), divided by TEMPERATURE."""
    products = torch.einsum("bkc,bchw->bkhw", F.normalize(classes, dim=-1), pixels)
    length = pixels.pow(2).sum(1, keepdim=True).sqrt()  # norm over this axis takes five times as long on a CPU
    return products / (length * TEMPERATURE)
