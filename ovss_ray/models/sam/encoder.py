"""SAM's image encoder: a ViT with attention in windows, except for a few global blocks.

Kirillov et al., 2023, appendix A; Li et al. (ViTDet), ECCV 2022, arXiv 2203.16527. The parameters have the official
names. Dimensions: B images, g side of the patch grid, D channels of the image embedding.
"""

import torch
from torch import Tensor, nn

from ovss_ray.models.sam.variants import Variant
from ovss_ray.models.sam_layers.grid import Block, projection


class ImageEncoder(nn.Module):
    """Encoder that computes the embedding of an image. All prompts for the image share the embedding."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width, embed, patch = variant.width, variant.embed, variant.patch
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.pos_embed = nn.Parameter(torch.empty(1, variant.grid, variant.grid, width))
        windows = [0 if i in variant.globals else variant.window for i in range(variant.layers)]
        self.blocks = nn.ModuleList(Block(variant, window) for window in windows)
        self.neck = projection(width, embed)

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (B, D, g, g) of normalised and padded images.

        `images` are (B, 3, pixels, pixels), where `pixels` is the side of the network's input, `variant.pixels`.
        """
        x = self.patch_embed["proj"](images).permute(0, 2, 3, 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))
