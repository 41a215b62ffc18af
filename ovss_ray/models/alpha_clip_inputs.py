"""What CLIP and AlphaCLIP are shown of a region: a square picture, and where the region lies in it.

Everything here is linear in the pixels, so a picture is the background, resized once for all regions that share it,
plus the resized difference that the region or its marker makes where it lies. Crop or padding and resize together are
one matrix per axis, the same for image and mask. Letters: H W pixels of the image, h w of an area, n of the square.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models.alpha_clip_variants import Look

MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073))[:, None, None]
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711))[:, None, None]
"""Of CLIP's training images, for RGB in 0..1."""
ALPHA_MEAN, ALPHA_STD = 0.5, 0.26
"""Of AlphaCLIP's fourth channel, which is 0 or 1 before."""
BLUR, SIGMA = 15, 2.6
"""The Gaussian that hides the background: its side and standard deviation in pixels."""
RED = torch.tensor((1.0, 0.0, 0.0))[:, None, None]
AXES, LINE = 0.75, 4
"""The ellipse that marks a region: half-axes as a fraction of the box's sides, and the line's width in pixels."""


class Area(NamedTuple):
    """A rectangle of pixels, half open."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def size(self) -> tuple[int, int]:
        """h, w."""
        return self.y1 - self.y0, self.x1 - self.x0

    def of(self, pixels: Tensor) -> Tensor:
        """This part of pixels (…, H, W)."""
        return pixels[..., self.y0 : self.y1, self.x0 : self.x1]

    def inside(self, outer: "Area") -> "Area":
        """The same rectangle, counted from the corner of another."""
        return Area(self.x0 - outer.x0, self.y0 - outer.y0, self.x1 - outer.x0, self.y1 - outer.y0)

    def around(self, other: "Area") -> "Area":
        """The smallest rectangle that holds both."""
        return Area(min(self.x0, other.x0), min(self.y0, other.y0), max(self.x1, other.x1), max(self.y1, other.y1))

    def within(self, outer: "Area") -> "Area":
        """What of it lies in another."""
        x0, y0 = max(self.x0, outer.x0), max(self.y0, outer.y0)
        return Area(x0, y0, max(x0, min(self.x1, outer.x1)), max(y0, min(self.y1, outer.y1)))


class View(NamedTuple):
    """What is seen of one region. Regions that look alike share the picture itself, not only its values."""

    picture: Tensor
    """(3, n, n) float32, normalised"""
    alpha: Tensor
    """(1, n, n) float32, normalised"""


class Viewer:
    """One image, ready to be shown region by region."""

    def __init__(self, image: np.ndarray, look: Look, pixels: int, device: torch.device | str = "cpu") -> None:
        """Take an image (H, W, 3) uint8 RGB, and the side n of the pictures to be made."""
        self.look, self.pixels = look, pixels
        self.image = torch.tensor(image, device=device).permute(2, 0, 1).float() / 255
        self.mean, self.std, self.red = (value.to(device) for value in (MEAN, STD, RED))
        self.whole = Area(0, 0, image.shape[1], image.shape[0])
        self.background = self._background()
        self._shared: tuple[Area, Tensor, Tensor] | None = None

    def views(self, boxes: np.ndarray, masks: Iterable[np.ndarray]) -> Iterator[View]:
        """Show regions: boxes (R, 4), and for each its mask inside the box (h, w) bool."""
        for box, mask in zip(boxes.tolist(), masks, strict=True):
            yield self.view(Area(*box), torch.tensor(mask, device=self.image.device))

    def view(self, box: Area, mask: Tensor) -> View:
        """Show one region: its box and its mask inside that, (h, w) bool."""
        seen = window(box, self.whole, self.look)
        base, shared = self._base(seen)
        touched = self._touched(box, seen)
        picture = shared
        if min(touched.size) > 0:
            change = self.compose(touched, box, mask) - touched.of(self.background)
            picture = (base + self._resized(change, touched.inside(seen), seen, "bicubic") - self.mean) / self.std
        return View(picture, (self._alpha(box, mask, seen) - ALPHA_MEAN) / ALPHA_STD)

    def compose(self, area: Area, box: Area, mask: Tensor) -> Tensor:
        """What is to be seen of a region in an area around its box, in full resolution: (3, h, w) in 0..1."""
        made = area.of(self.background).clone()
        inner = box.inside(area).of(made)
        inner.copy_(torch.where(mask, box.of(self.image), inner))
        return made if self.look.marker == "none" else torch.where(self._ellipse(area, box), self.red, made)

    def _background(self) -> Tensor:
        """What every region is shown against, (3, H, W)."""
        if self.look.background == "blur":
            return blurred(self.image)
        if self.look.background == "keep":
            return self.image
        colour = self.mean if self.look.background == "mean" else torch.zeros_like(self.mean)
        return colour.expand_as(self.image)

    def _touched(self, box: Area, seen: Area) -> Area:
        """Where the picture of a region differs from its background."""
        touched = box if self.look.background != "keep" else Area(box.x0, box.y0, box.x0, box.y0)
        if self.look.marker == "ellipse" and min(box.size) > 0:
            touched = touched.around(_reach(box))
        return touched.within(seen)

    def _ellipse(self, area: Area, box: Area) -> Tensor:
        """The line around a region, (h, w) bool."""
        import cv2  # only where it is asked for: tenths of a second to import

        canvas = np.zeros(area.size, np.uint8)
        (x, y), axes = _ellipse(box)
        cv2.ellipse(canvas, (x - area.x0, y - area.y0), axes, 0, 0, 360, 1, LINE)
        return torch.tensor(canvas.view(bool), device=self.image.device)

    def _base(self, seen: Area) -> tuple[Tensor, Tensor]:
        """The background of a window, resized: in 0..1, and normalised. The last one is kept."""
        if self._shared is None or self._shared[0] != seen:
            base = self._resized(seen.of(self.background), Area(0, 0, *seen.size[::-1]), seen, "bicubic")
            self._shared = seen, base, (base - self.mean) / self.std
        return self._shared[1:]

    def _alpha(self, box: Area, mask: Tensor, seen: Area) -> Tensor:
        """The region in its picture, (1, n, n) in 0..1."""
        if self.look.alpha == "ones":
            return self.image.new_ones(1, self.pixels, self.pixels)
        return self._resized(mask[None].float(), box.inside(seen), seen, "bilinear")

    def _resized(self, pixels: Tensor, where: Area, seen: Area, mode: str) -> Tensor:
        """What pixels (C, h, w) at a place in the window become in the picture, where all else is 0: (C, n, n)."""
        height, width = seen.size
        down, across = (
            axis(one, other, self.look.fit, self.pixels, mode).to(pixels)
            for one, other in ((height, width), (width, height))
        )
        return down[:, where.y0 : where.y1] @ pixels @ across[:, where.x0 : where.x1].T


def window(box: Area, whole: Area, look: Look) -> Area:
    """The part of the image that is shown for a region. An empty region has no surroundings: the whole image."""
    if look.context == "full" or min(box.size) == 0:
        return whole
    height, width = box.size
    pad = int(look.padding * max(height, width))
    x0, y0, height, width = box.x0 - pad, box.y0 - pad, height + 2 * pad, width + 2 * pad
    if look.context == "crop":
        return Area(x0, y0, x0 + width, y0 + height).within(whole)
    side = max(height, width)
    x0, y0 = x0 - (side - width) // 2, y0 - (side - height) // 2
    x0, y0 = (max(0, min(at, end - side)) for at, end in ((x0, whole.x1), (y0, whole.y1)))  # moved, not cut, if it fits
    return Area(x0, y0, x0 + side, y0 + side).within(whole)


def blurred(image: Tensor) -> Tensor:
    """Blur (3, H, W) by the Gaussian of BLUR and SIGMA; beyond the border the image goes on mirrored."""
    half = BLUR // 2
    weights = torch.exp(-((torch.arange(BLUR, dtype=torch.float64) - half) ** 2) / (2 * SIGMA**2))
    kernel = (weights / weights.sum()).to(image)
    for axis_ in (1, 2):
        length = image.shape[axis_]
        at = torch.arange(-half, length + half, device=image.device).abs() % max(1, 2 * length - 2)
        mirrored = image.index_select(axis_, torch.minimum(at, (2 * length - 2 - at).abs()))
        image = mirrored.unfold(axis_, BLUR, 1) @ kernel
    return image


def _ellipse(box: Area) -> tuple[tuple[int, int], tuple[int, int]]:
    """Centre and half-axes, x before y."""
    height, width = box.size
    return (box.x0 + width // 2, box.y0 + height // 2), (int(AXES * width), int(AXES * height))


def _reach(box: Area) -> Area:
    """A rectangle that holds the ellipse around a box."""
    (x, y), (across, down) = _ellipse(box)
    return Area(x - across - LINE, y - down - LINE, x + across + LINE + 1, y + down + LINE + 1)


@lru_cache(maxsize=32)
def axis(length: int, other: int, fit: str, pixels: int, mode: str) -> Tensor:
    """Crop or padding to a square, and resize to n pixels, along one axis, as a matrix (n, length).

    `other` is the length of the other axis. Crops and padding are centred as in AlphaCLIP's evaluation and training.
    """
    side = max(length, other) if fit == "pad_square" else min(length, other)
    if side >= length:
        begin = (side - length) // 2
        return resize(side, pixels, mode)[:, begin : begin + length]
    begin = length // 2 - side // 2
    return F.pad(resize(side, pixels, mode), (begin, length - side - begin))


@lru_cache(maxsize=32)
def resize(cells: int, pixels: int, mode: str) -> Tensor:
    """Resize with antialiasing along one axis, as a matrix (n, cells).

    Made by resizing the columns of an identity matrix, some at a time, so torch itself says where samples lie.
    """
    columns = torch.arange(cells)
    parts = [
        F.interpolate((columns[:, None] == part).float()[None, None], (pixels, len(part)), mode=mode, antialias=True)
        for part in columns.split(1024)
    ]
    return torch.cat(parts, 3)[0, 0]
