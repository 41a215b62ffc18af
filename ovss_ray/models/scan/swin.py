"""SCAN's backbone, a Swin transformer with maps at four scales (Liu et al., ICCV 2021, arXiv 2103.14030).

The parameters have the official names. Dimensions: B images, h w tokens of a map, C channels, N heads, n windows, L
tokens of a window.
"""

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.layers import ChannelNorm
from ovss_ray.models.scan.variants import Variant

PATCH = 4
"""Side of a patch, in pixels"""
MLP_RATIO = 4
ELSEWHERE = -100.0
"""Value added to the attention logits of two tokens that the cyclic shift moves from opposite edges into one window"""


class Windows:
    """The division of a batch of maps into square windows, and the constants of attention in these windows.

    `shape` is (B, h, w). `side` is the side of a window, in tokens. `shift` is the cyclic shift of a map up and to the
    left, in tokens.
    """

    def __init__(self, shape: torch.Size, side: int, shift: int, device: torch.device) -> None:
        h, w = shape[1:]
        tokens = torch.arange(shape.numel(), device=device).view(shape)
        padded = F.pad(tokens, (0, -w % side, 0, -h % side), value=shape.numel()).roll((-shift, -shift), (1, 2))
        cut = padded.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3).flatten(3)
        inner, last = slice(-1), slice(-1, None)
        kinds = list(product((inner, last), repeat=2)) if shift else [(slice(None), slice(None))]
        groups = [cut[:, rows, columns].flatten(0, 2) for rows, columns in kinds]
        self.sizes = [len(group) for group in groups]
        """numbers of windows of four kinds: inner, last column, last row, corner. If `shift` is 0, there is one kind"""
        self.order = torch.cat(groups)
        """(n, L) int64: indices of each window's tokens in the flattened maps. Padding has the index B·h·w"""
        places = torch.empty(shape.numel() + 1, dtype=torch.int64, device=device)
        places[self.order.flatten()] = torch.arange(self.order.numel(), device=device)
        self.places = places[:-1]
        """(B·h·w,) int64: position of each token in the flattened `order`"""
        self.masks = edge_masks(side, shift, device) if shift else torch.zeros((1, 1, 1), device=device)
        """(4, L, L) float32: values added to the attention logits, for each of the four kinds of windows in `sizes`

        If `shift` is 0, all windows are of one kind. The array is then a zero of shape (1, 1, 1).
        """
        self.distances = relative_position_index(side, device)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learned bias for each distance in rows and columns."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * side - 1) ** 2, heads))

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Return the outputs for the tokens `x`, both (B·h·w, C)."""
        # A padding token is zero before the projection, and takes part in attention.
        with_padding = torch.cat([x, x.new_zeros(1, x.shape[1])])
        qkv = F.embedding(windows.order, self.qkv(with_padding))
        bias = F.embedding(windows.distances, self.relative_position_bias_table).permute(2, 0, 1).contiguous()
        masks = (bias + windows.masks[:, None]).to(qkv.dtype)
        seen = [
            self.attend(group, mask) for group, mask in zip(qkv.split(windows.sizes), masks, strict=True) if len(group)
        ]
        return self.proj(F.embedding(windows.places, torch.cat(seen)))

    def attend(self, qkv: Tensor, mask: Tensor) -> Tensor:
        """Return the attention outputs (n·L, C) of n windows from `qkv` (n, L, 3 C).

        `mask` (N, L, L) is added to the attention logits of the N heads in every window.
        """
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None])  # 4 axes: else torch takes a slow path
        return seen.transpose(1, 2).flatten(2).flatten(0, 1)


def relative_position_index(side: int, device: torch.device | None = None) -> Tensor:
    """Return the row of the bias table for each pair of tokens in a window, (side², side²) int64."""
    along = torch.arange(side, device=device)
    apart = along[:, None] - along + side - 1
    index = (2 * side - 1) * apart[:, None, :, None] + apart[None, :, None, :]
    return index.flatten(2).flatten(0, 1)


def edge_masks(side: int, shift: int, device: torch.device) -> Tensor:
    """Return attention masks (4, L, L) float32: negative for two tokens from opposite edges of the map, otherwise 0.

    All negative values are equal to the constant ELSEWHERE. The first axis is the kind of window, in the order of
    Windows.sizes.
    """
    # The cyclic shift moves tokens to the opposite edge, into windows of the last row or column.
    moved = torch.arange(side, device=device) >= side - shift
    edge = torch.stack([torch.zeros_like(moved), moved]).long()
    regions = (2 * edge[:, None, :, None] + edge[None, :, None, :]).flatten(2).flatten(0, 1)
    return ELSEWHERE * (regions[:, :, None] != regions[:, None, :]).float()


class Block(nn.Module):
    """A transformer block with attention inside windows."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, side)
        self.norm2 = nn.LayerNorm(width)
        inner = MLP_RATIO * width
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Return the outputs for the tokens `x`, both (B·h·w, C)."""
        x = x + self.attn(self.norm1(x), windows)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Merging(nn.Module):
    """The transition between stages: 2 × 2 tokens are merged into one token with twice the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge tokens (B, h, w, C) into (B, h / 2, w / 2, 2 C)."""
        # The order of the four tokens is: upper left, lower left, upper right, lower right.
        squares = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(squares.flatten(3)))


class Stage(nn.Module):
    """Blocks of one scale, and the transition to the next scale. Every second block shifts windows by half a side."""

    def __init__(self, variant: Variant, i: int) -> None:
        super().__init__()
        width, heads = variant.backbone_width << i, variant.backbone_heads[i]
        depth, last = variant.backbone_depths[i], i + 1 == len(variant.backbone_depths)
        self.side = variant.window
        self.blocks = nn.ModuleList(Block(width, heads, self.side) for _ in range(depth))
        self.downsample = None if last else Merging(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs (B, h, w, C) of the last block, and the input of the next stage. `x` is (B, h, w, C).

        The input of the next stage is (B, h / 2, w / 2, 2 C). The last stage returns its outputs twice.
        """
        size, shifts = x.shape[:3], (0, self.side // 2)
        windows = [Windows(size, self.side, shift, x.device) for shift in shifts[: len(self.blocks)]]
        x = x.flatten(0, 2)
        for j, block in enumerate(self.blocks):
            x = block(x, windows[j % 2])
        x = x.unflatten(0, size)
        return x, x if self.downsample is None else self.downsample(x)


class Swin(nn.Module):
    """The backbone, from pixels to maps of four scales."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        width, scales = variant.backbone_width, range(len(variant.backbone_depths))
        self.patch_embed = nn.Sequential()
        self.patch_embed.add_module("proj", nn.Conv2d(3, width, PATCH, PATCH))
        self.patch_embed.add_module("norm", ChannelNorm(width))
        self.layers = nn.ModuleList(Stage(variant, i) for i in scales)
        for i in scales:
            self.add_module(f"norm{i}", nn.LayerNorm(width << i))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return four maps, of strides 4, 8, 16 and 32, for normalised images (B, 3, H, W) float32.

        H and W are multiples of 32. A map is (B, C, H / stride, W / stride). C is Variant.backbone_width in the first
        map, and doubles from map to map.
        """
        x, maps = self.patch_embed(images).permute(0, 2, 3, 1), []
        for i, stage in enumerate(self.layers):
            outputs, x = stage(x)
            maps.append(self.get_submodule(f"norm{i}")(outputs).permute(0, 3, 1, 2))
        return maps


def constants(variant: Variant) -> list[str]:
    """Return the names of constants that official checkpoints contain, but that this module computes itself.

    In a checkpoint, each of these names has the prefix "backbone.".
    """
    return [
        f"layers.{i}.blocks.{j}.attn.relative_position_index"
        for i, depth in enumerate(variant.backbone_depths)
        for j in range(depth)
    ]
