"""Layers shared by several families of networks. Parameter names are those of the official checkpoints."""

from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map, separately at each position."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map. Input and output are (B, C, h, w)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """A stack of `depth` layers, with ReLU between the layers.

    `layer(inputs, outputs)` builds each layer: nn.Linear, or a pointwise convolution.
    """

    def __init__(self, width: int, hidden: int, out: int, layer: type[nn.Linear] | object, depth: int = 3) -> None:
        super().__init__()
        sizes = [(width, hidden), *[(hidden, hidden)] * (depth - 2), (hidden, out)]
        self.layers = nn.ModuleList(layer(*size) for size in sizes)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's output, (…, out), for an input (…, width).

        `width` and `out` are arguments of the constructor. If the layers are convolutions, the input is
        (B, width, h, w), and the output is (B, out, h, w).
        """
        return self.layers[-1](self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """Return the output (…, hidden) of all layers but the last, after ReLU. `x` is (…, width).

        `width` and `hidden` are arguments of the constructor. If the layers are convolutions, `x` is (B, width, h, w),
        and the result is (B, hidden, h, w).
        """
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return x

    def last(self) -> tuple[Tensor, Tensor]:
        """Return weight (out, hidden) and bias (out,) of the last layer. A convolution's weight is flattened."""
        layer = self.layers[-1]
        return layer.get_parameter("weight").flatten(1), layer.get_parameter("bias")


class MlpBlock(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, inner: int, activation: nn.Module) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, inner)
        self.lin2 = nn.Linear(inner, width)
        self.act = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (…, width) for an input (…, width)."""
        return self.lin2(self.act(self.lin1(x)))


class Block(nn.Module):
    """A transformer block like timm's, with timm's parameter names.

    `eps` is the epsilon of both norms. The blocks of timm have an epsilon of 1e-6.
    """

    # timm itself is not imported, since its import takes seconds.
    def __init__(self, width: int, heads: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens (B, L, C) after the block.

        First, the input x becomes x + attn(norm1(x)). Then x becomes x + mlp(norm2(x)).
        """
        q, k, v = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.attn["proj"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))
