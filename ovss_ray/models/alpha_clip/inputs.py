"""Inputs of CLIP and AlphaCLIP for a region: a square image, and the region's mask with the same geometry.

The window of a region is the part of the photograph that the network sees. Inside the region's mask, the image shows
the photograph. Outside the mask, the image shows the background that the option `background` selects.

Dimensions: H W pixels of the photograph, h w pixels of a rectangle in it, n side of the square input.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models.alpha_clip.variants import Look
from ovss_ray.models.photograph import CLIP_MEAN, CLIP_STD

MEAN, STD = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
"""(3, 1, 1) float32 each: mean and standard deviation of CLIP's training images, for RGB in 0..1"""
ALPHA_MEAN, ALPHA_STD = 0.5, 0.26
"""Mean and standard deviation that normalise AlphaCLIP's alpha channel, whose values are in 0..1"""
BLUR, SIGMA = 15, 2.6
"""Kernel side and standard deviation, in pixels, of the Gaussian that blurs the background"""
RED = torch.tensor((1.0, 0.0, 0.0))[:, None, None]
AXES, LINE = 0.75, 4
"""Shape of the red ellipse that the option marker="ellipse" draws around a region.

The half-axes of the ellipse are AXES times the width of the region's box, and AXES times its height. LINE is the width
of the ellipse's line in pixels.
"""


class Area(NamedTuple):
    """A rectangle of pixels, half open: x1 and y1 lie outside."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width in pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    def of(self, pixels: Tensor) -> Tensor:
        """Return the part of `pixels` (…, H, W) inside the rectangle."""
        return pixels[..., self.y0 : self.y1, self.x0 : self.x1]

    def inside(self, outer: "Area") -> "Area":
        """Return the same rectangle, with coordinates relative to the top left corner of `outer`."""
        return Area(self.x0 - outer.x0, self.y0 - outer.y0, self.x1 - outer.x0, self.y1 - outer.y0)

    def around(self, other: "Area") -> "Area":
        """Return the smallest rectangle that contains this one and `other`."""
        return Area(min(self.x0, other.x0), min(self.y0, other.y0), max(self.x1, other.x1), max(self.y1, other.y1))

    def within(self, outer: "Area") -> "Area":
        """Return the intersection with `outer`. If the rectangles do not overlap, the intersection has no pixels."""
        x0, y0 = max(self.x0, outer.x0), max(self.y0, outer.y0)
        return Area(x0, y0, max(x0, min(self.x1, outer.x1)), max(y0, min(self.y1, outer.y1)))


class View(NamedTuple):
    """The network's input for one region. Regions with equal input images share one tensor `picture`."""

    picture: Tensor
    """(3, n, n) float32: normalised input image"""
    alpha: Tensor
    """(1, n, n) float32: normalised mask of the region"""


class Viewer:
    """Builder of the network's inputs for the regions of one photograph."""

    def __init__(self, image: np.ndarray, look: Look, pixels: int, device: torch.device | str = "cpu") -> None:
        """Prepare a photograph (H, W, 3) uint8 RGB. `pixels` is the side n of the inputs."""
        self.look, self.pixels = look, pixels
        self.image = torch.tensor(image, device=device).permute(2, 0, 1).float() / 255
        self.mean, self.std, self.red = (value.to(device) for value in (MEAN, STD, RED))
        self.whole = Area(0, 0, image.shape[1], image.shape[0])
        self.background = self._background()
        self._shared: tuple[Area, Tensor, Tensor] | None = None

    def views(self, boxes: np.ndarray, masks: Iterable[np.ndarray]) -> Iterator[View]:
        """Yield the model input of each of R regions.

        `boxes` (R, 4) are the regions' boxes: x0 y0 x1 y1, half open. `masks` has the mask of each region inside the
        region's box, (h, w) bool.
        """
        for box, mask in zip(boxes.tolist(), masks, strict=True):
            yield self.view(Area(*box), torch.tensor(mask, device=self.image.device))

    def view(self, box: Area, mask: Tensor) -> View:
        """Return the model input of a region. `mask` is the region's mask inside its box, (h, w) bool."""
        seen = window(box, self.whole, self.look)
        base, shared = self._base(seen)
        touched = self._touched(box, seen)
        # Resizing is linear: all regions of a window share the resized background, and only the change is resized.
        picture = shared
        if min(touched.size) > 0:
            change = self.compose(touched, box, mask) - touched.of(self.background)
            picture = (base + self._resized(change, touched.inside(seen), seen, "bicubic") - self.mean) / self.std
        return View(picture, (self._alpha(box, mask, seen) - ALPHA_MEAN) / ALPHA_STD)

    def compose(self, area: Area, box: Area, mask: Tensor) -> Tensor:
        """Return a region's image at the photograph's resolution, cut to the rectangle `area`: (3, h, w) in 0..1.

        `area` contains the region's box `box`. `mask` is the region's mask inside `box`, (h, w) bool.
        """
        pixels = area.of(self.background).clone()
        inner = box.inside(area).of(pixels)
        inner.copy_(torch.where(mask, box.of(self.image), inner))
        return pixels if self.look.marker == "none" else torch.where(self._ellipse(area, box), self.red, pixels)

    def _background(self) -> Tensor:
        """Return the background that the option `background` selects, (3, H, W) in 0..1."""
        if self.look.background == "blur":
            return blurred(self.image)
        if self.look.background == "keep":
            return self.image
        colour = self.mean if self.look.background == "mean" else torch.zeros_like(self.mean)
        return colour.expand_as(self.image)

    def _touched(self, box: Area, window: Area) -> Area:
        """Return the part of `window` whose pixels depend on the region. `box` is the region's bounding box."""
        touched = box if self.look.background != "keep" else Area(box.x0, box.y0, box.x0, box.y0)
        if self.look.marker == "ellipse" and min(box.size) > 0:
            touched = touched.around(_reach(box))
        return touched.within(window)

    def _ellipse(self, area: Area, box: Area) -> Tensor:
        """Return the mask of the red ellipse around a region's box, within `area`: (h, w) bool."""
        import cv2  # only where it is needed: tenths of a second to import

        canvas = np.zeros(area.size, np.uint8)
        (x, y), axes = _ellipse(box)
        cv2.ellipse(canvas, (x - area.x0, y - area.y0), axes, 0, 0, 360, 1, LINE)
        return torch.tensor(canvas.view(bool), device=self.image.device)

    def _base(self, seen: Area) -> tuple[Tensor, Tensor]:
        """Return the resized background of a window as two tensors: the pixels from 0 to 1, and the normalised pixels.

        Both tensors are (3, n, n) float32. The result is cached until another window is requested.
        """
        if self._shared is None or self._shared[0] != seen:
            base = self._resized(seen.of(self.background), Area(0, 0, *seen.size[::-1]), seen, "bicubic")
            self._shared = seen, base, (base - self.mean) / self.std
        return self._shared[1:]

    def _alpha(self, box: Area, mask: Tensor, seen: Area) -> Tensor:
        """Return the alpha channel of the window `seen`, (1, n, n) in 0..1.

        If the option `alpha` is "mask", the alpha channel is the resized mask. If `alpha` is "ones", every value is 1.
        """
        if self.look.alpha == "ones":
            return self.image.new_ones(1, self.pixels, self.pixels)
        return self._resized(mask[None].float(), box.inside(seen), seen, "bilinear")

    def _resized(self, pixels: Tensor, where: Area, seen: Area, mode: str) -> Tensor:
        """Resize the window `seen` to (C, n, n). The window has `pixels` in the area `where`, and zeros elsewhere."""
        height, width = seen.size
        down, across = (
            axis(length, other, self.look.fit, self.pixels, mode).to(pixels)
            for length, other in ((height, width), (width, height))
        )
        return down[:, where.y0 : where.y1] @ pixels @ across[:, where.x0 : where.x1].T


def whole_picture(image: np.ndarray, pixels: int, device: torch.device | str = "cpu") -> Tensor:
    """Return a photograph (H, W, 3) uint8 RGB as the normalised input (3, n, n) float32 of a plain CLIP.

    As in CLIP's evaluation, the short side becomes n = `pixels`, and the long side is cropped.
    """
    viewer = Viewer(image, Look(fit="center_crop"), pixels, device)
    empty = Area(0, 0, 0, 0)
    return viewer.view(empty, torch.zeros(empty.size, dtype=torch.bool, device=viewer.image.device)).picture


def normalised(image: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Return the pixels of a photograph (H, W, 3) uint8 RGB as (3, H, W) float32, normalised as for CLIP."""
    pixels = torch.tensor(image, device=device).permute(2, 0, 1).float() / 255
    return (pixels - MEAN.to(device)) / STD.to(device)


def window(box: Area, whole: Area, look: Look) -> Area:
    """Return the window of a region: the part of the photograph that the network sees.

    The window of an empty region is the whole photograph.
    """
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
    """Return an image (3, H, W) blurred by the Gaussian of BLUR and SIGMA, with mirrored borders."""
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
    """Return centre (x, y) and half-axes (along x, along y), in pixels, of the red ellipse around a box."""
    height, width = box.size
    return (box.x0 + width // 2, box.y0 + height // 2), (int(AXES * width), int(AXES * height))


def _reach(box: Area) -> Area:
    """Return a rectangle that contains the red ellipse around a box, including the width of the ellipse's line."""
    (x, y), (across, down) = _ellipse(box)
    return Area(x - across - LINE, y - down - LINE, x + across + LINE + 1, y + down + LINE + 1)


@lru_cache(maxsize=32)
def axis(length: int, other: int, fit: str, pixels: int, mode: str) -> Tensor:
    """Return the matrix (n, length) that pads or crops one axis of a window, and then resizes the axis.

    n is `pixels`, the length after the resize. The window has `length` pixels along this axis, and `other` pixels along
    the other axis. If `fit` is "pad_square", the shorter axis is padded to the length of the longer axis. If `fit` is
    "center_crop", the longer axis is cropped to the length of the shorter axis. `mode` is the mode of torch's resize.
    """
    side = max(length, other) if fit == "pad_square" else min(length, other)
    if side >= length:
        begin = (side - length) // 2  # rounded as in AlphaCLIP's training
        return resize(side, pixels, mode)[:, begin : begin + length]
    begin = length // 2 - side // 2  # rounded as in AlphaCLIP's evaluation
    return F.pad(resize(side, pixels, mode), (begin, length - side - begin))


@lru_cache(maxsize=32)
def resize(cells: int, pixels: int, mode: str) -> Tensor:
    """Return the matrix (pixels, cells) that resizes an axis of `cells` elements as torch does with antialiasing."""
    columns = torch.arange(cells)
    parts = [
        F.interpolate((columns[:, None] == part).float()[None, None], (pixels, len(part)), mode=mode, antialias=True)
        for part in columns.split(1024)
    ]
    return torch.cat(parts, 3)[0, 0]
