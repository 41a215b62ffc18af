"""Windows over a photograph, and the mean of the windows' logits. Windows that extend beyond the photograph are padded.

Dimensions: H W pixels of the photograph, h w pixels of the resized photograph, n side of a window; V windows, k
classes. Without a resize, (h, w) equals (H, W).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.errors import OvssError

LARGEST = 4 * 10**9
"""Maximum size in bytes of one photograph's float32 logits"""
PADDING = -1.0
"""Value of pixels outside the photograph, in normalised units"""


@dataclass(frozen=True)
class Layout:
    """The windows of one photograph."""

    height: int
    """height h of the resized photograph in pixels"""
    width: int
    """width w of the resized photograph in pixels"""
    side: int
    """n: side of a window in pixels"""
    stride: int
    original: tuple[int, int] | None = None
    """H, W of the photograph in pixels; None: equal to h, w"""

    def __len__(self) -> int:
        return len(list(self.corners()))

    def corners(self) -> Iterator[tuple[int, int]]:
        """Yield the first row and column of each window, row by row."""
        for top in self._starts(self.height):
            yield from ((top, left) for left in self._starts(self.width))

    def _starts(self, length: int) -> range:
        steps = -(-(max(length, self.side) - self.side) // self.stride)
        return range(0, steps * self.stride + 1, self.stride)

    def cut(self, pixels: Tensor) -> Tensor:
        """Return the windows (V, 3, n, n) of normalised pixels (3, h, w)."""
        corners = list(self.corners())
        windows = torch.full((len(corners), len(pixels), self.side, self.side), PADDING)
        for window, (top, left) in zip(windows, corners, strict=True):
            part = pixels[:, top : top + self.side, left : left + self.side]
            window[:, : part.shape[1], : part.shape[2]] = part
        return windows

    def check(self, classes: int) -> None:
        """Raise OvssError if the logits of `classes` classes need more than LARGEST bytes.

        The logits are (k, H, W). If the photograph was resized, logits (k, h, w) are counted, too.
        """
        height, width = self.original or (self.height, self.width)
        bytes_of_class = 4 * (height * width + self._resized * self.height * self.width)
        if classes * bytes_of_class > LARGEST:
            fewer = LARGEST // bytes_of_class
            advice = (
                f"Request at most {fewer} classes, or use a smaller photograph" if fewer else "Use a smaller photograph"
            )
            raise OvssError(
                f"{classes} classes in a photograph of {height} × {width} pixels need "
                f"{classes * bytes_of_class / 1e9:.1f} GB for their logits; the limit is {LARGEST / 1e9:g} GB. "
                f"{advice}"
            )

    @property
    def _resized(self) -> bool:
        return self.original not in (None, (self.height, self.width))

    def mean(self, logits: Iterable[Tensor]) -> Tensor:
        """Return the mean logits (k, H, W) over the windows that cover each pixel.

        `logits` are (k, n, n) for each window, in the order of `cut`. If the photograph was resized, the mean is
        resized bilinearly to (H, W).
        """
        total = covering = torch.empty(0)
        for window, (top, left) in zip(logits, self.corners(), strict=True):
            if not total.numel():
                total = window.new_zeros(len(window), self.height, self.width)
                covering = window.new_zeros(self.height, self.width)
            part = total[:, top : top + self.side, left : left + self.side]
            part += window[:, : part.shape[1], : part.shape[2]]
            covering[top : top + self.side, left : left + self.side] += 1
        mean = total.div_(covering)
        if not self._resized:
            return mean
        return F.interpolate(mean[None], self.original, mode="bilinear", align_corners=False)[0]
