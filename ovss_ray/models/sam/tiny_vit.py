"""MobileSAM's image encoder, a TinyViT: convolutions, then attention in windows.

Zhang et al., "Faster Segment Anything", 2023, arXiv 2306.14289; Wu et al., "TinyViT", ECCV 2022, arXiv 2207.10666. The
parameters have the names of mobile_sam.pt. Dimensions: B images or windows, h w of a map, N heads, C channels; g
side of the image embedding, D channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.models.sam.variants import TinyVit, Variant
from ovss_ray.models.sam_layers.grid import projection

UNUSED = tuple(f"image_encoder.{layer}.{part}" for layer in ("norm_head", "head") for part in ("weight", "bias"))
"""Entries of mobile_sam.pt that do not affect masks: the classifier of the original TinyViT"""


class ConvNorm(nn.Sequential):
    """A convolution without bias, and a batch norm."""

    def __init__(self, width: int, out: int, size: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.add_module("c", nn.Conv2d(width, out, size, stride, size // 2, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(out))


class Inverted(nn.Module):
    """The block of the first stage: an inverted bottleneck as in MobileNetV2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, 4 * width)
        self.conv2 = ConvNorm(4 * width, 4 * width, 3, groups=4 * width)
        self.conv3 = ConvNorm(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map after the block. Input and output are (B, C, h, w)."""
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class Merging(nn.Module):
    """The transition between stages: it changes the number of channels, and halves the sides if `stride` is 2."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(width, out)
        self.conv2 = ConvNorm(out, out, 3, stride, groups=out)
        self.conv3 = ConvNorm(out, out)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map (B, C', h / stride, w / stride) from a map (B, C, h, w)."""
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class WindowAttention(nn.Module):
    """Multi-head attention in a window, with a learned bias for each distance in rows and in columns."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.empty(heads, side * side))

    def forward(self, x: Tensor) -> Tensor:
        """Return the attention output for the tokens of windows. Input and output are (B, side², C).

        A window has `side` × `side` tokens.
        """
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=self.biases().to(q.dtype))
        return self.proj(seen.transpose(1, 2).flatten(2))

    def biases(self) -> Tensor:
        """Return an array (N, side², side²): for each head, the bias of each pair of tokens in a window.

        A window has `side` × `side` tokens.
        """
        along = torch.arange(self.side, device=self.attention_biases.device)
        apart = (along[:, None] - along).abs()
        index = self.side * apart[:, None, :, None] + apart[None, :, None, :]
        return self.attention_biases[:, index.flatten(2).flatten(0, 1)]


class Mlp(nn.Module):
    """A norm and two linear layers with GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after the MLP. Input and output are (…, C)."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class Block(nn.Module):
    """Attention in windows, a depthwise convolution, and an MLP."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.attn = WindowAttention(width, heads, side)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map after the block. Input and output are (B, C, h, w).

        The map is padded with zeros to whole windows. As in the official code, attention does not mask the padding.
        """
        side, (h, w) = self.side, x.shape[2:]
        cut = F.pad(x, (0, -w % side, 0, -h % side)).unflatten(3, (-1, side)).unflatten(2, (-1, side))
        tokens = cut.permute(0, 2, 4, 3, 5, 1)
        seen = self.attn(tokens.flatten(3, 4).flatten(0, 2)).reshape(tokens.shape)
        x = self.local_conv(x + seen.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)[..., :h, :w])
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks, and the transition to the next stage."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Return the map after the blocks and the transition. The input is a map (B, C, h, w).

        The output is (B, C', h / stride, w / stride), as in Merging. The last stage has no transition, so the output of
        the last stage is (B, C, h, w).
        """
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class TinyVitEncoder(nn.Module):
    """Encoder that computes the embedding of an image. All prompts for the image share the embedding."""

    def __init__(self, variant: Variant, tiny: TinyVit) -> None:
        super().__init__()
        width = tiny.widths[0]
        stem = ConvNorm(3, width // 2, 3, 2), nn.GELU(), ConvNorm(width // 2, width, 3, 2)
        self.patch_embed = nn.ModuleDict({"seq": nn.Sequential(*stem)})
        self.layers = nn.ModuleList(_stage(tiny, i) for i in range(len(tiny.widths)))
        self.neck = projection(tiny.widths[-1], variant.embed)

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (B, D, g, g) of normalised and padded images.

        `images` are (B, 3, pixels, pixels), where `pixels` is the side of the network's input, `variant.pixels`.
        """
        return self.neck(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Return the output (B, C, g, g) of the last stage. `images` are normalised and padded, as for `forward`."""
        x = self.patch_embed["seq"](images)
        for stage in self.layers:
            x = stage(x)
        return x


def _stage(tiny: TinyVit, i: int) -> Stage:
    """Build stage `i`, counted from 0, and the transition to the next stage. The last stage has no transition."""
    width, last = tiny.widths[i], len(tiny.widths) - 1
    blocks: list[nn.Module] = [
        Block(width, tiny.heads[i], tiny.windows[i]) if i else Inverted(width) for _ in range(tiny.depths[i])
    ]
    # The transition to the last stage keeps the height and width of the map.
    return Stage(blocks, Merging(width, tiny.widths[i + 1], 1 if i + 1 == last else 2) if i < last else None)
