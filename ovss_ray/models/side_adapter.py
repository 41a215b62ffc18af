"""The side adapter network of SAN: a small ViT beside CLIP that proposes masks and says where CLIP should look.

Xu et al., "Side Adapter Network for Open-Vocabulary Semantic Segmentation", CVPR 2023, arXiv 2302.12242, §3.2. The
parameters have the names of the official code. Letters: B batch, Q queries, N heads of CLIP, h w the grid of patches.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.clip import ChannelNorm, as_map, resize_positions
from ovss_ray.models.san_variants import Variant


class SideAdapter(nn.Module):
    """Learned queries and the patches of the image, with CLIP's features added on the way."""

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
        """Images (B, 3, Hp, Wp) and CLIP's maps by output → queries (B, Q, C), and patches as a map (B, C, h, w)."""
        return self.after(images, features, (len(self.vit_model.blocks),))[0]

    def after(
        self, images: Tensor, features: Mapping[int, Tensor], depths: Collection[int]
    ) -> list[tuple[Tensor, Tensor]]:
        """What `forward` returns, after each of these numbers of blocks: training supervises the last two of them.

        The positions are added anew before every block.
        """
        patches, patch_positions, size = self.vit_model(images)
        queries = self.query_embed.expand(len(images), -1, -1)
        count, found = queries.shape[1], []
        positions = torch.cat([self.query_pos_embed, patch_positions], 1)
        x = self._fuse(torch.cat([queries, patches], 1) + positions, 0, features, size)
        for i, block in enumerate(self.vit_model.blocks[: max(depths)], 1):
            x = block(x if i == 1 else x + positions)
            x = self._fuse(x, i, features, size)
            if i in depths:
                found.append((x[:, :count], as_map(x[:, count:], size)))
        return found

    def _fuse(self, x: Tensor, block: int, features: Mapping[int, Tensor], size: torch.Size) -> Tensor:
        """Add CLIP's map to the patch tokens that a side block leaves, if one is meant for it; queries stay."""
        if block >= len(self.fusion):
            return x
        added = self.fusion_layers[f"layer_{block}"](features[self.fusion[block]], size)
        count = self.query_embed.shape[1]
        return torch.cat([x[:, :count], x[:, count:] + added.flatten(2).transpose(1, 2)], 1)


class Patches(nn.Module):
    """The parts of a ViT without class token and without final norm: patches, their positions, and the blocks."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width, patch = variant.side_width, variant.side_patch
        self.grid = variant.side_grid
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid * self.grid, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.ModuleList(Block(width, variant.side_heads) for _ in range(variant.side_layers))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        """Images (B, 3, Hp, Wp) → patch tokens (B, h·w, C), their positions (1, h·w, C), and (h, w)."""
        patches = self.patch_embed["proj"](images)
        size, tokens = patches.shape[-2:], patches.flatten(2).transpose(1, 2)
        return tokens, self.positions(size), size

    def positions(self, size: torch.Size) -> Tensor:
        """The position embedding for a grid, resized unless it has as many tokens as the trained one.

        A grid of other proportions that happens to have as many tokens (10 × 160 for 40 × 40) takes the embedding as it
        lies: so does the official code, and its published numbers stand for it.
        """
        if size.numel() == self.pos_embed.shape[1]:
            return self.pos_embed
        return resize_positions(self.pos_embed, (self.grid, self.grid), size)


class Block(nn.Module):
    """A block of timm's vision transformer as of 0.6, by its names; importing timm would cost a worker seconds."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """Carry tokens (B, L, C) through the block: attention and MLP, each behind its norm and added."""
        q, k, v = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.attn["proj"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Fusion(nn.Module):
    """A norm over channels and a projection that bring a map of CLIP's into the side network."""

    def __init__(self, width: int, side_width: int) -> None:
        super().__init__()
        self.input_proj = nn.Sequential(ChannelNorm(width, eps=1e-6), nn.Conv2d(width, side_width, 1))

    def forward(self, features: Tensor, size: torch.Size) -> Tensor:
        """(B, width, h', w') → (B, side width, h, w): projected first, resized after."""
        return F.interpolate(self.input_proj(features), tuple(size), mode="bilinear", align_corners=False)


class MaskDecoder(nn.Module):
    """Queries meet pixels twice: once for the masks, and once per head of CLIP for the bias of its attention."""

    def __init__(self, width: int, mask_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_mlp = Mlp(width, mask_width, mask_width, nn.Linear)
        self.pix_mlp = Mlp(width, mask_width, mask_width, _pointwise)
        self.attn_mlp = Mlp(width, mask_width, mask_width * heads, _pointwise)
        self.bias_scaling = nn.Linear(1, 1)

    def forward(self, queries: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (B, Q, C), patches (B, C, h, w) → mask logits (B, Q, h, w), attention bias (B, N, Q, h, w).

        The bias is ⟨query, W x + b⟩ per head; it is computed as ⟨Wᵀ query, x⟩ + ⟨query, b⟩, so that the N-fold map of
        W x is never made.
        """
        q = self.query_mlp(queries)
        masks = torch.einsum("bqc,bchw->bqhw", q, self.pix_mlp(patches))
        weight, bias = (value.unflatten(0, (self.heads, -1)) for value in self.attn_mlp.last())
        folded = torch.einsum("bqc,ncd->bnqd", q, weight)
        shift = torch.einsum("bqc,nc->bnq", q, bias)[..., None, None]
        attention = torch.einsum("bnqd,bdhw->bnqhw", folded, self.attn_mlp.hidden(patches)) + shift
        return masks, attention * self.bias_scaling.weight[0, 0] + self.bias_scaling.bias


class Mlp(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, width: int, hidden: int, out: int, layer: type[nn.Linear] | object) -> None:
        super().__init__()
        sizes = [(width, hidden), (hidden, hidden), (hidden, out)]
        self.layers = nn.ModuleList(layer(*size) for size in sizes)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """Apply all three layers."""
        return self.layers[-1](self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """Apply the first two layers."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return x

    def last(self) -> tuple[Tensor, Tensor]:
        """The last layer: its matrix (out, hidden), also if it is a pointwise convolution, and its bias (out,)."""
        layer = self.layers[-1]
        return layer.get_parameter("weight").flatten(1), layer.get_parameter("bias")


def _pointwise(width: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(width, out, 1)
