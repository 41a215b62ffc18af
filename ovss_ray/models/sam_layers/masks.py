"""Measurements of SAM's masks at full size: areas, stability, boxes and packed bits.

Dimensions: M masks, s side of the decoder's masks, h w of the resized image, H W of the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models.runtime import down, up
from ovss_ray.models.sam_layers.frame import BLOCK, Frame
from ovss_ray.structures.masks import regions

FULL_BYTES = 1 << 31
"""Maximum bytes of the full-size masks that a GPU measures at a time; a mask takes 8 bytes per pixel"""


@dataclass(frozen=True)
class Measured:
    """Measurements of the masks of an image or crop, on the device that computed them."""

    numbers: Tensor
    """(M, 6) int64. Columns 0 and 1: number of pixels with a logit above +offset, and above −offset. Columns 2 to 5:
    box x0 y0 x1 y1, half open; zeros if the mask is empty"""
    bits: list[np.ndarray] | Tensor
    """masks (logits above 0), one bit per pixel. On a CPU: a list of arrays (n,) uint8, each with the bits of a mask
    inside its box; the array of an unstable mask is empty. On a GPU: all masks at full size, (M, H, ⌈W / 8⌉) uint8"""

    @property
    def nbytes(self) -> int:
        """Return the number of bytes that `bits` takes."""
        return self.bits.nbytes if isinstance(self.bits, Tensor) else sum(map(len, self.bits))


def measure(logits: Tensor, frame: Frame, offset: float, least: float) -> Measured:
    """Resize mask logits (M, s, s) to full size, and measure them at the thresholds 0, +offset and −offset.

    `least` is the minimum stability (see `stable`); on a CPU, an unstable mask gets no bits.
    """
    if logits.is_cuda:
        most = max(1, FULL_BYTES // (8 * frame.size[0] * frame.size[1]))
        parts = [measure_together(part, frame, offset) for part in logits.split(most)]
        return Measured(torch.cat([values for values, _ in parts]), torch.cat([bits for _, bits in parts]))
    each = [measure_alone(mask, frame, offset, least) for mask in logits]
    values = torch.tensor([row for row, _ in each], dtype=torch.int64).view(-1, 6)
    return Measured(values, [bits for _, bits in each])


def measure_alone(logits: Tensor, frame: Frame, offset: float, least: float) -> tuple[tuple[int, ...], np.ndarray]:
    """Return numbers and bits (see Measured) of one mask with logits (s, s), on a CPU.

    The mask is computed in blocks that fit the CPU's cache.
    """
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
    """Return numbers and bits (see Measured) of masks with logits (M, s, s). The host does not wait for the GPU."""
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
    """Return an array (M, 6) int64 per image, with the rows of Measured.numbers of all masks of the image.

    The numbers of all images are copied from the device at once.
    """
    every = [part.numbers for parts in images for part in parts]
    fetched = down(torch.cat(every)) if every else np.zeros((0, 6), np.int64)
    counts = [sum(len(part.numbers) for part in parts) for parts in images]
    return np.split(fetched, np.cumsum(counts)[:-1])


def packed(
    images: Sequence[Sequence[Measured]], boxes: Sequence[np.ndarray], selected: Sequence[np.ndarray]
) -> list[list[np.ndarray]]:
    """Return a list for each image. The list has an array (n,) uint8 for each selected mask of the image.

    An array has the packed bits of a mask inside the mask's box. For each image, `boxes` (M, 4) int64 are the boxes of
    all masks. `selected` (m,) int64 are the indices of the selected masks. The selected masks of all images are copied
    from a GPU at once.
    """
    device = next((part.bits.device for parts in images for part in parts if isinstance(part.bits, Tensor)), None)
    if device is None:
        every = [[mask for part in parts for mask in part.bits] for parts in images]
        return [[bits[i] for i in rows.tolist()] for bits, rows in zip(every, selected, strict=True)]
    held = [_rows(parts, rows, device) for parts, rows in zip(images, selected, strict=True)]
    fetched = down(torch.cat([bits.flatten() for bits in held]))
    begins = np.cumsum([bits.numel() for bits in held])[:-1]
    result = []
    for full, flat, corners, rows in zip(held, np.split(fetched, begins), boxes, selected, strict=True):
        inside = zip(flat.reshape(full.shape), corners[rows], strict=True)
        result.append([np.packbits(np.unpackbits(bits, axis=1)[y0:y1, x0:x1]) for bits, (x0, y0, x1, y1) in inside])
    return result


def _rows(parts: Sequence[Measured], selected: np.ndarray, device: torch.device) -> Tensor:
    """Return an image's selected masks at full size, one bit per pixel: (m, H, ⌈W / 8⌉) uint8, on the device."""
    held = [part.bits for part in parts if isinstance(part.bits, Tensor)]
    rows = torch.cat(held) if held else torch.zeros(0, 1, 1, dtype=torch.uint8, device=device)
    return rows[up(selected, device)]


def stability(numbers: np.ndarray) -> np.ndarray:
    """Return the stability (M,) float32 of masks from the first two columns of Measured.numbers.

    It is the IoU of the mask at threshold +offset with the mask at −offset; NaN if both are empty.
    """
    inner, outer = numbers[:, :2].astype(np.float32).T
    with np.errstate(invalid="ignore"):
        return inner / outer


def stable(stabilities: np.ndarray, least: float) -> np.ndarray:
    """Return (M,) bool: whether each stability is at least `least`. If `least` is 0, all are True, even for NaN."""
    return stabilities >= least if least > 0 else np.ones(len(stabilities), bool)
