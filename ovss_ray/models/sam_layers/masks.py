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
"""Limit on the GPU memory, in bytes, for the masks that `measure` measures at a time

The memory is estimated at 8 bytes for each full-size pixel of a mask: the float32 logit, and temporary arrays."""


@dataclass(frozen=True)
class Measured:
    """Results of `measure` for the masks of an image or crop, on the device that computed them."""

    numbers: Tensor
    """(M, 6) int64: two pixel counts for each mask, and the half-open box x0 y0 x1 y1 of the mask

    The first count is of the pixels with a logit above `offset`, a parameter of `measure`. The second count is of the
    pixels with a logit above −`offset`. The box encloses the pixels with a logit above 0. If no logit is above
    0, the box is 0 0 0 0."""
    bits: list[np.ndarray] | Tensor
    """packed bits of the masks, one bit per pixel: 1 if the pixel's logit is above 0

    On a GPU, `bits` is a tensor (M, H, ⌈W / 8⌉) uint8 with the bits of all pixels. On a CPU, `bits` is a list with one
    array uint8 per mask. The array has only the bits of the pixels in the mask's box. If `stable` is False for a mask,
    the mask's array is empty."""

    @property
    def nbytes(self) -> int:
        """Return the number of bytes that `bits` takes."""
        return self.bits.nbytes if isinstance(self.bits, Tensor) else sum(map(len, self.bits))


def measure(logits: Tensor, frame: Frame, offset: float, least: float) -> Measured:
    """Resize mask logits (M, s, s) to the image with `frame`, and measure the masks at three logit thresholds.

    The thresholds are 0, `offset` and −`offset`. On a GPU, Measured.bits has the bits of all masks. On a CPU,
    Measured.bits omits the bits of masks whose stability is below `least`. See `stability` and `stable`.
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
    """Return one array (M, 6) int64 per image: Measured.numbers of the image's M masks.

    For each image, `images` has a sequence of objects Measured, each with some of the M masks.
    """
    # one copy from the device for all images
    every = [part.numbers for parts in images for part in parts]
    fetched = down(torch.cat(every)) if every else np.zeros((0, 6), np.int64)
    counts = [sum(len(part.numbers) for part in parts) for parts in images]
    return np.split(fetched, np.cumsum(counts)[:-1])


def packed(
    images: Sequence[Sequence[Measured]], boxes: Sequence[np.ndarray], selected: Sequence[np.ndarray]
) -> list[list[np.ndarray]]:
    """Return the packed bits of the selected masks: one list per image, with one array uint8 per selected mask.

    An array has one bit for each pixel in the mask's box. Each argument has one element per image. For an image with
    M masks, this element is:

    - in `images`: a sequence of Measured, which together contain the M masks
    - in `boxes`: the boxes of the M masks, (M, 4) int64
    - in `selected`: the indices of the selected masks, (m,) int64
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
    """Return the packed bits of an image's selected masks: a tensor (m, H, ⌈W / 8⌉) uint8 on `device`, a GPU.

    `parts` are the image's Measured. `selected` (m,) int64 are indices of masks, among all masks in `parts`.
    """
    held = [part.bits for part in parts if isinstance(part.bits, Tensor)]
    rows = torch.cat(held) if held else torch.zeros(0, 1, 1, dtype=torch.uint8, device=device)
    return rows[up(selected, device)]


def stability(numbers: np.ndarray) -> np.ndarray:
    """Return the stability (M,) float32 of masks from the first two columns of Measured.numbers.

    The stability of a mask is the first column divided by the second column. The stability is the IoU of two sets of
    pixels: pixels with a logit above `offset`, and pixels with a logit above −`offset`. `offset` is a parameter of
    `measure`. If both sets are empty, the stability is NaN.
    """
    inner, outer = numbers[:, :2].astype(np.float32).T
    with np.errstate(invalid="ignore"):
        return inner / outer


def stable(stabilities: np.ndarray, least: float) -> np.ndarray:
    """Return (M,) bool: whether each stability is at least `least`. If `least` is 0, all are True, even for NaN."""
    return stabilities >= least if least > 0 else np.ones(len(stabilities), bool)
