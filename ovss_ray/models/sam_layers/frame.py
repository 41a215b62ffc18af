"""Full-size masks from SAM's low-resolution logits.

Dimensions: M masks, s side of the decoder's masks, h w of the resized image, H W of the image.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ovss_ray.models.runtime import up
from ovss_ray.models.sam_layers.sizes import Size

BLOCK = 1 << 18
"""Maximum number of pixels resized and thresholded at a time on a CPU: 1 MB of logits"""

Taps = tuple[Tensor, Tensor, Tensor]
"""Linear interpolation between samples, at n points.

The first tensor (n,) int64 has the index of the sample before each point. The second tensor (n,) int64 has the index of
the sample after each point. The third tensor (n, 1) float32 has the weight of the sample after each point.
"""


class Frame:
    """Mapping of masks to an image: resize to the network's input, removal of the padding, resize to the image.

    Both resizes are bilinear, as in torch.
    """

    def __init__(self, side: int, pixels: int, resized: Size, size: Size, device: torch.device) -> None:
        self.size = size
        self.rows, self.columns = (
            [taps(side, pixels, device, inner)] + ([taps(inner, outer, device)] if inner != outer else [])
            for inner, outer in zip(resized, size, strict=True)
        )

    def __call__(self, logits: Tensor) -> Tensor:
        """Return logits (M, s, s) resized to the image, (M, H, W) float32."""
        return torch.cat(list(self.blocks(logits, self.size[0])), 1)

    def blocks(self, logits: Tensor, rows: int) -> Iterator[Tensor]:
        """Yield the resized logits in blocks of at most `rows` rows, (M, n, W) float32, from top to bottom."""
        resized = logits.transpose(1, 2).contiguous()
        for step in self.columns:
            resized = between(resized, step)
        resized = resized.transpose(1, 2).contiguous()
        *steps, last = self.rows
        for step in steps:
            resized = between(resized, step)
        for y in range(0, self.size[0], rows):
            low, high, share = (part[y : y + rows] for part in last)
            yield between(resized, (low, high, share))


def taps(cells: int, pixels: int, device: torch.device, first: int | None = None) -> Taps:
    """Return the Taps that resize an axis from `cells` samples to `pixels` samples.

    The Taps have one point per output sample. If `first` is not None, the Taps have points only for the output samples
    with indices below `first`.
    """
    # float32, as in torch, so that the weights are rounded in the same way
    ratio = torch.tensor(cells, dtype=torch.float32) / pixels
    place = (ratio * (torch.arange(pixels if first is None else first) + 0.5) - 0.5).clamp(min=0)
    low = place.long().clamp(max=cells - 1)
    share = (place - low)[:, None]
    return up(low, device), up((low + 1).clamp(max=cells - 1), device), up(share, device)


def between(x: Tensor, step: Taps) -> Tensor:
    """Interpolate between the rows of `x` (M, n, m). Return one row per point in `step`, (M, n', m)."""
    low, high, share = step
    return torch.lerp(x.index_select(1, low), x.index_select(1, high), share)


def thresholded(logits: Tensor, frame: Frame) -> np.ndarray:
    """Return masks (M, H, W) bool of logits (M, s, s). A mask is True where the resized logit is above 0.

    On a CPU, the logits are resized in blocks of rows. The blocks are small enough for the CPU's cache (see BLOCK).
    """
    height, width = frame.size
    masks = np.empty((len(logits), height, width), bool)
    rows = height if logits.is_cuda else max(1, BLOCK // (len(logits) * width))
    for number, block in enumerate(frame.blocks(logits, rows)):
        masks[:, number * rows : number * rows + rows] = (block > 0).cpu().numpy()
    return masks
