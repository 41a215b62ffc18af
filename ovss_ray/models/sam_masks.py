"""From SAM's small logits to masks of a photograph's size, what is to be known of them, and their bits.

Letters: M masks, s side of the decoder's masks, h w of what the image was resized to, H W of the image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray import regions
from ovss_ray.models.sam_variants import Size
from ovss_ray.models.transfer import down, up

BLOCK = 1 << 18
"""Pixels that are enlarged and thresholded at a time on a CPU: 1 MB of logits."""
FULL_BYTES = 1 << 31
"""The most that masks of full size may take on a GPU at a time."""

Taps = tuple[Tensor, Tensor, Tensor]
"""For each of n places along an axis the two values that it lies between, (n,) int64, and its share of the second."""


class Frame:
    """How masks are laid over an image: enlarged to the network's input, the padding cut off, enlarged to the image.

    Both steps are torch's bilinear interpolation, first of the columns and then of the rows; a step that changes
    nothing is left out.
    """

    def __init__(self, side: int, pixels: int, resized: Size, size: Size, device: torch.device) -> None:
        self.size = size
        self.rows, self.columns = (
            [taps(side, pixels, device, inner)] + ([taps(inner, outer, device)] if inner != outer else [])
            for inner, outer in zip(resized, size, strict=True)
        )

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (M, s, s) → (M, H, W) float32."""
        return torch.cat(list(self.blocks(logits, self.size[0])), 1)

    def blocks(self, logits: Tensor, rows: int) -> Iterator[Tensor]:
        """Logits (M, s, s) → (M, n, W) float32, n ≤ `rows`, from top to bottom: together they are (M, H, W)."""
        made = logits.transpose(1, 2).contiguous()
        for step in self.columns:
            made = between(made, step)
        made = made.transpose(1, 2).contiguous()
        *steps, last = self.rows
        for step in steps:
            made = between(made, step)
        for y in range(0, self.size[0], rows):
            low, high, share = (part[y : y + rows] for part in last)
            yield between(made, (low, high, share))


def taps(found: int, wanted: int, device: torch.device, first: int | None = None) -> Taps:
    """Where the `first` of `wanted` pixels lie among those found, whose centres fill the same length.

    In float32 as torch does it: the last bits of these shares are seen in logits that are far apart.
    """
    ratio = torch.tensor(found, dtype=torch.float32) / wanted
    place = (ratio * (torch.arange(wanted if first is None else first) + 0.5) - 0.5).clamp(min=0)
    low = place.long().clamp(max=found - 1)
    share = (place - low)[:, None]
    return up(low, device), up((low + 1).clamp(max=found - 1), device), up(share, device)


def between(x: Tensor, step: Taps) -> Tensor:
    """Interpolate the rows of (M, n, m): (M, n', m)."""
    low, high, share = step
    return torch.lerp(x.index_select(1, low), x.index_select(1, high), share)


def thresholded(logits: Tensor, frame: Frame) -> np.ndarray:
    """Masks (M, s, s) at full size, (M, H, W) bool; on a CPU rows by rows, so that only the masks leave its cache."""
    height, width = frame.size
    masks = np.empty((len(logits), height, width), bool)
    rows = height if logits.is_cuda else max(1, BLOCK // (len(logits) * width))
    for number, block in enumerate(frame.blocks(logits, rows)):
        masks[:, number * rows : number * rows + rows] = (block > 0).cpu().numpy()
    return masks


@dataclass(frozen=True)
class Measured:
    """Masks of an image, or of a crop of one; where they were made."""

    numbers: Tensor
    """(M, 6) int64: the pixels above +offset, those above −offset, and the box, x0 y0 x1 y1, half open; 0 if empty"""
    bits: list[np.ndarray] | Tensor
    """of each, packed: inside its box (if it is stable), or, on a GPU, (M, H, ⌈W / 8⌉) uint8, row by row"""

    @property
    def nbytes(self) -> int:
        """The bytes that the bits take."""
        return self.bits.nbytes if isinstance(self.bits, Tensor) else sum(map(len, self.bits))


def measure(logits: Tensor, frame: Frame, offset: float, least: float) -> Measured:
    """Threshold masks (M, s, s) at full size and at ±offset in one pass; `least` is the stability that is asked for."""
    if logits.is_cuda:
        most = max(1, FULL_BYTES // (8 * frame.size[0] * frame.size[1]))
        parts = [measure_together(some, frame, offset) for some in logits.split(most)]
        return Measured(torch.cat([one for one, _ in parts]), torch.cat([bits for _, bits in parts]))
    each = [measure_alone(one, frame, offset, least) for one in logits]
    return Measured(torch.tensor([one for one, _ in each], dtype=torch.int64).view(-1, 6), [bits for _, bits in each])


def measure_alone(logits: Tensor, frame: Frame, offset: float, least: float) -> tuple[tuple[int, ...], np.ndarray]:
    """The numbers and bits of one mask (s, s), on a CPU: rows by rows, so that no more than bits leave its cache."""
    mask = np.empty(frame.size, bool)
    inner = outer = y = 0
    for block in frame.blocks(logits[None], max(1, BLOCK // frame.size[1])):
        values = block[0].numpy()
        np.greater(values, 0, out=mask[y : y + len(values)])
        inner += int(np.count_nonzero(values > offset))
        outer += int(np.count_nonzero(values > -offset))
        y += len(values)
    x0, y0, x1, y1 = box = regions.box_of(mask)
    wanted = stable(stability(np.array([[inner, outer]])), least)[0]
    return (inner, outer, *box), np.packbits(mask[y0:y1, x0:x1]) if wanted else np.empty(0, np.uint8)


def measure_together(logits: Tensor, frame: Frame, offset: float) -> tuple[Tensor, Tensor]:
    """The numbers and bits of masks (M, s, s), on a GPU, without a wait for it."""
    values = frame(logits)
    masks = values > 0
    numbers = [(values > offset).sum((1, 2)), (values > -offset).sum((1, 2))]
    ends = []
    for lines in (masks.any(1), masks.any(2)):
        first, last = lines.byte().argmax(1), lines.shape[1] - lines.flip(1).byte().argmax(1)
        ends.append((first, last * lines.any(1)))
    numbers += [ends[0][0], ends[1][0], ends[0][1], ends[1][1]]
    eight = F.pad(masks, (0, -masks.shape[2] % 8)).unflatten(2, (-1, 8))
    places = 2 ** torch.arange(7, -1, -1, dtype=torch.uint8, device=masks.device)
    return torch.stack(numbers, 1), (eight * places).sum(-1, dtype=torch.uint8)


def numbers(images: Sequence[Sequence[Measured]]) -> list[np.ndarray]:
    """Those of the masks of each image, (M, 6) int64, all fetched together."""
    every = [part.numbers for parts in images for part in parts]
    fetched = down(torch.cat(every)) if every else np.zeros((0, 6), np.int64)
    counts = [sum(len(part.numbers) for part in parts) for parts in images]
    return np.split(fetched, np.cumsum(counts)[:-1])


def packed(
    images: Sequence[Sequence[Measured]], boxes: Sequence[np.ndarray], chosen: Sequence[np.ndarray]
) -> list[list[np.ndarray]]:
    """The bits (n,) uint8 of chosen masks of each image inside their boxes (M, 4) int64, all fetched together.

    `chosen` (m,) int64 are indices into all the masks of an image.
    """
    device = next((part.bits.device for parts in images for part in parts if isinstance(part.bits, Tensor)), None)
    if device is None:
        every = [[one for part in parts for one in part.bits] for parts in images]
        return [[bits[i] for i in rows.tolist()] for bits, rows in zip(every, chosen, strict=True)]
    held = [_rows(parts, rows, device) for parts, rows in zip(images, chosen, strict=True)]
    fetched = down(torch.cat([one.flatten() for one in held]))
    begins = np.cumsum([one.numel() for one in held])[:-1]
    made = []
    for one, flat, corners, rows in zip(held, np.split(fetched, begins), boxes, chosen, strict=True):
        inside = zip(flat.reshape(one.shape), corners[rows], strict=True)
        made.append([np.packbits(np.unpackbits(bits, axis=1)[y0:y1, x0:x1]) for bits, (x0, y0, x1, y1) in inside])
    return made


def _rows(parts: Sequence[Measured], chosen: np.ndarray, device: torch.device) -> Tensor:
    """The bits of chosen masks of an image, on the device where they were made: (m, H, ⌈W / 8⌉) uint8."""
    held = [part.bits for part in parts if isinstance(part.bits, Tensor)]
    rows = torch.cat(held) if held else torch.zeros(0, 1, 1, dtype=torch.uint8, device=device)
    return rows[up(chosen, device)]


def stability(numbers: np.ndarray) -> np.ndarray:
    """The IoU of masks at +offset and −offset (M, ≥ 2): (M,) float32; NaN if both are empty."""
    inner, outer = numbers[:, :2].astype(np.float32).T
    with np.errstate(invalid="ignore"):
        return inner / outer


def stable(found: np.ndarray, least: float) -> np.ndarray:
    """Which stabilities suffice: (M,) bool. Those that are asked for nothing do, even NaN."""
    return found >= least if least > 0 else np.ones(len(found), bool)
