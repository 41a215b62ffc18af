"""The side adapter network of SAN: a small ViT that proposes masks, and computes a bias for CLIP's attention.

Xu et al., "Side Adapter Network for Open-Vocabulary Semantic Segmentation", CVPR 2023, arXiv 2302.12242, §3.2. The
parameters have the names of the official code. Dimensions: B batch, Q queries, N heads of CLIP, h w the grid of
patches, C channels of the side network.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.clip import as_map, resize_positions
from ovss_ray.models.layers import Block, ChannelNorm, Mlp
from ovss_ray.models.san.variants import Variant


class SideAdapter(nn.Module):
    """A ViT over learned queries and the patches of the image; CLIP's features are added between blocks."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width = variant.side_width
        self.query_embed = nn.Parameter(torch.empty(1, variant.queries, width))
        self.query_pos_embed = nn.Parameter(torch.empty(1, variant.queries, width))
        self.vit_model = Patches(variant)
        self.fusion_layers = nn.ModuleDict(
            {f"layer_{position}": Fusion(variant.width, width) for position in range(len(variant.fusion))}
        )
        self.mask_decoder = MaskDecoder(width, variant.mask_width, variant.heads)
        self.fusion = variant.fusion

    def forward(self, images: Tensor, features: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
        """Return queries (B, Q, C) and patches (B, C, h, w) of images (B, 3, Hp, Wp).

        `features` maps the number of a CLIP block to the output map of the block (see ImageTower).
        """
        return self.after(images, features, (len(self.vit_model.blocks),))[0]

    def after(
        self, images: Tensor, features: Mapping[int, Tensor], depths: Collection[int]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return queries and patches as in `forward`, once for each number of blocks in `depths`.

        The elements of the result are in the order of increasing numbers of blocks. If `depths` is (8, 4), the first
        element is the queries and patches after 4 blocks. The second element is the queries and patches after 8
        blocks.
        """
        patches, patch_positions, size = self.vit_model(images)
        queries = self.query_embed.expand(len(images), -1, -1)
        count, outputs = queries.shape[1], []
        positions = torch.cat([self.query_pos_embed, patch_positions], 1)
        x = self._fuse(torch.cat([queries, patches], 1) + positions, 0, features, size)
        for i, block in enumerate(self.vit_model.blocks[: max(depths)], 1):
            x = block(x if i == 1 else x + positions)
            x = self._fuse(x, i, features, size)
            if i in depths:
                outputs.append((x[:, :count], as_map(x[:, count:], size)))
        return outputs

    def _fuse(self, x: Tensor, block: int, features: Mapping[int, Tensor], size: torch.Size) -> Tensor:
        """Add CLIP's features to the patch tokens in `x`, and return all tokens (B, Q + h·w, C).

        `x` (B, Q + h·w, C) are the queries and patch tokens after `block` blocks of the side network. The added
        features are the output of CLIP block `fusion[block]`, projected and resized. If `fusion` has no element
        with the index `block`, `x` is returned unchanged.
        """
        if block >= len(self.fusion):
            return x
        added = self.fusion_layers[f"layer_{block}"](features[self.fusion[block]], size)
        count = self.query_embed.shape[1]
        return torch.cat([x[:, :count], x[:, count:] + added.flatten(2).transpose(1, 2)], 1)


class Patches(nn.Module):
    """The patch projection, positions and blocks of a ViT without class token and without final norm."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width, patch = variant.side_width, variant.side_patch
        self.grid = variant.side_grid
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid * self.grid, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.ModuleList(Block(width, variant.side_heads, eps=1e-6) for _ in range(variant.side_layers))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        """Return patch tokens (B, h·w, C) of images (B, 3, Hp, Wp), position embeddings (1, h·w, C), and (h, w).

        The caller must add the position embeddings to the patch tokens.
        """
        patches = self.patch_embed["proj"](images)
        size, tokens = patches.shape[-2:], patches.flatten(2).transpose(1, 2)
        return tokens, self.positions(size), size

    def positions(self, size: torch.Size) -> Tensor:
        """Return the position embedding (1, h·w, C) for a grid of h × w patches. `size` is (h, w).

        If h·w differs from the number of patches in training, the embedding is resized to the grid. Otherwise, the
        embedding is returned unchanged, as in the official code. With 40 × 40 patches in training, a grid of 10 × 160
        patches also gets the unchanged embedding.
        """
        # the official code has the same rule, and the published results were computed with it
        if size.numel() == self.pos_embed.shape[1]:
            return self.pos_embed
        return resize_positions(self.pos_embed, (self.grid, self.grid), size)


class Fusion(nn.Module):
    """A norm over the channels of CLIP's maps, and a projection to the channels of the side network."""

    def __init__(self, width: int, side_width: int) -> None:
        super().__init__()
        self.input_proj = nn.Sequential(ChannelNorm(width, eps=1e-6), nn.Conv2d(width, side_width, 1))

    def forward(self, features: Tensor, size: torch.Size) -> Tensor:
        """Project CLIP's map `features` (B, width, h', w'), and resize the projection to (B, side_width, h, w).

        `size` is (h, w).
        """
        return F.interpolate(self.input_proj(features), tuple(size), mode="bilinear", align_corners=False)


class MaskDecoder(nn.Module):
    """The decoder of mask logits, and of an attention bias for each head of CLIP.

    Both are dot products of query vectors and patch vectors.
    """

    def __init__(self, width: int, mask_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_mlp = Mlp(width, mask_width, mask_width, nn.Linear)
        self.pix_mlp = Mlp(width, mask_width, mask_width, _pointwise)
        self.attn_mlp = Mlp(width, mask_width, mask_width * heads, _pointwise)
        self.bias_scaling = nn.Linear(1, 1)

    def forward(self, queries: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mask logits (B, Q, h, w) and the attention bias (B, N, Q, h, w).

        `queries` are (B, Q, C), `patches` are (B, C, h, w).
        """
        # to save memory, the last layer of `attn_mlp` is applied to the queries, not to the patches
        q = self.query_mlp(queries)
        masks = torch.einsum("bqc,bchw->bqhw", q, self.pix_mlp(patches))
        weight, bias = (value.unflatten(0, (self.heads, -1)) for value in self.attn_mlp.last())
        folded = torch.einsum("bqc,ncd->bnqd", q, weight)
        shift = torch.einsum("bqc,nc->bnq", q, bias)[..., None, None]
        attention = torch.einsum("bnqd,bdhw->bnqhw", folded, self.attn_mlp.hidden(patches)) + shift
        return masks, attention * self.bias_scaling.weight[0, 0] + self.bias_scaling.bias


def _pointwise(width: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(width, out, 1)
