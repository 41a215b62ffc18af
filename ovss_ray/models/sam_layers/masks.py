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
    """Results of `measure` for the masks of an image or crop, on the device that computed them."""

    numbers: Tensor
    """(M, 6) int64: number of logits above +offset, number of logits above −offset, half-open box x0 y0 x1 y1

    The box of an empty mask is 0 0 0 0."""
    bits: list[np.ndarray] | Tensor
    """masks (logits above 0), one bit per pixel

    On a GPU, the tensor (M, H, ⌈W / 8⌉) uint8 has the masks at full size. On a CPU, the list has an array (n,) uint8
    for each mask, with the bits inside the mask's box. The array of an unstable mask is empty."""

    @property
    def nbytes(self) -> int:
        """Return the number of bytes that `bits` takes."""
        return self.bits.nbytes if isinstance(self.bits, Tensor) else sum(map(len, self.bits))


def measure(logits: Tensor, frame: Frame, offset: float, least: float) -> Measured:
    """Resize mask logits (M, s, s) to full size, and measure them at the thresholds 0, +offset and −offset.

    On a CPU, a mask whose stability is below `least` gets no bits.
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
    """Return an array (M, 6) int64 for each image: Measured.numbers of all masks of the image."""
    # one copy from the device for all images
    every = [part.numbers for parts in images for part in parts]
    fetched = down(torch.cat(every)) if every else np.zeros((0, 6), np.int64)
    counts = [sum(len(part.numbers) for part in parts) for parts in images]
    return np.split(fetched, np.cumsum(counts)[:-1])


def packed(
    images: Sequence[Sequence[Measured]], boxes: Sequence[np.ndarray], selected: Sequence[np.ndarray]
) -> list[list[np.ndarray]]:
    """Return the packed bits (n,) uint8 of each image's selected masks, inside the masks' boxes.

    For each image, `boxes` (M, 4) int64 are the boxes of all masks. `selected` (m,) int64 are indices of masks.
    """
    device = next((part.bits.device for parts in images for part in parts if isinstance(part.bits, Tensor)), None)
    if device is None:
        every = [[mask for part in parts for mask in part.bits] for parts in images]
        return [[bits[i] for i in rows.tolist()] for bits, rows in zip(every, selected, strict=True)]
    held = [_rows(parts, rows, device) for parts, rows in zip(images, selected, strict=True)]
    fetched = down(torch.cat([bits.flatten() for bits in held]))  # all images in one copy from the GPU
    begins = np.cumsum([bits.numel() for bits in held])[:-1]
    result = []
    for full, flat, corners, rows in zip(held, np.split(fetched, begins), boxes, selected, strict=True):
        inside = zip(flat.reshape(full.shape), corners[rows], strict=True)
        result.append([np.packbits(np.unpackbits(bits, axis=1)[y0:y1, x0:x1]) for bits, (x0, y0, x1, y1) in inside])
    return result


def _rows(parts: Sequence[Measured], selected: np.ndarray, device: torch.device) -> Tensor:
    """Return an image's selected masks at full size on the device, packed bits (m, H, ⌈W / 8⌉) uint8."""
    held = [part.bits for part in parts if isinstance(part.bits, Tensor)]
    rows = torch.cat(held) if held else torch.zeros(0, 1, 1, dtype=torch.uint8, device=device)
    return rows[up(selected, device)]


def stability(numbers: np.ndarray) -> np.ndarray:
    """Return the stability (M,) float32 of masks from the first two columns of Measured.numbers.

    The stability is the IoU of the masks at the thresholds ± offset. If both masks are empty, the stability is NaN.
    """
    inner, outer = numbers[:, :2].astype(np.float32).T
    with np.errstate(invalid="ignore"):
        return inner / outer


def stable(stabilities: np.ndarray, least: float) -> np.ndarray:
    """Return (M,) bool: whether each stability is at least `least`. If `least` is 0, all are True, even for NaN."""
    return stabilities >= least if least > 0 else np.ones(len(stabilities), bool)
