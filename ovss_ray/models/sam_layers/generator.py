"""SAM's automatic mask generator, for networks with SAM's decoder: the regions that a grid of clicks finds in an image.

Kirillov et al., 2023, §4 and appendix B. The regions have the same order as in SamAutomaticMaskGenerator, SAM's
official code. If a network does not predict the IoU of masks, the stability of a mask replaces the predicted IoU.

Dimensions: P clicks, M masks, R regions, H W pixels of an image, s side of low-resolution masks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ovss_ray.errors import OvssError, in_parts
from ovss_ray.models.runtime import autocast, down, up
from ovss_ray.models.sam_layers.fast_decoder import Answered, FastDecoder, Seen
from ovss_ray.models.sam_layers.frame import Frame
from ovss_ray.models.sam_layers.masks import Measured, measure, numbers, packed, stability, stable
from ovss_ray.models.sam_layers.nms import clean, nms
from ovss_ray.models.sam_layers.points import Settings, crops, cut_off
from ovss_ray.models.sam_layers.prompts import ON, Prompts
from ovss_ray.models.sam_layers.sizes import Size
from ovss_ray.structures.masks import regions

CACHED, HELD = 1 << 24, 1 / 8  # each click has its own copy of the image embedding
"""Memory limit for clicks decoded together: CACHED bytes on a CPU, the fraction HELD of free memory on a GPU."""

MASKS_BYTES = 1 << 31
"""Memory limit for a crop's packed masks, in bytes.

On a GPU, the limit is the larger of MASKS_BYTES and the fraction HELD of the free memory.
"""


@dataclass(frozen=True)
class Proposals:
    """The regions of an image, or of a crop.

    `Generator.propose` returns the regions of a crop in the order of decreasing `predicted_iou`. `Generator.merge` puts
    regions from smaller crops first. If `min_mask_region_area` is above 0, `Generator.merge` also removes small pieces
    of masks and fills small holes. In this case, regions whose masks were changed come last.
    """

    boxes: np.ndarray
    """(R, 4) int32: x0 y0 x1 y1, half open; zeros if a mask is empty"""
    bits: list[np.ndarray]
    """for each region, (n,) uint8: its mask inside its box, one bit per pixel"""
    predicted_iou: np.ndarray
    """(R,) float32: IoU of each mask as predicted by the network; the stability if the network predicts none"""
    stability: np.ndarray
    """(R,) float32: stability of each mask (see masks.stability)"""
    points: np.ndarray
    """(R, 2) float64: the click that found each region, x and y in pixels of the image"""
    crops: np.ndarray
    """(R, 4) int64: the crop in which each region was found, x0 y0 x1 y1 in pixels of the image"""

    def select(self, rows: np.ndarray) -> "Proposals":
        """Return the regions with the indices `rows` (n,) int64."""
        parts = (self.predicted_iou, self.stability, self.points, self.crops)
        return Proposals(self.boxes[rows], [self.bits[i] for i in rows.tolist()], *(part[rows] for part in parts))

    @classmethod
    def joined(cls, parts: Sequence["Proposals"]) -> "Proposals":
        """Return the regions of several crops, concatenated."""
        names = ("predicted_iou", "stability", "points", "crops")
        rest = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        return cls(np.concatenate([part.boxes for part in parts]), [x for part in parts for x in part.bits], *rest)


@dataclass(frozen=True)
class Crop:
    """A part of an image that is processed separately."""

    image: int
    """index of the image in its batch"""
    size: Size
    """H, W of the whole image, from which the crop is cut"""
    box: regions.Box
    points: np.ndarray
    """(P, 2) float64: the clicks, x and y in pixels of the crop"""


@dataclass(frozen=True)
class Encoded:
    """Crops of one batch, encoded."""

    embeddings: Tensor
    """(B, D, g, g) float32: image embeddings of B crops, with D channels and g × g cells"""
    resized: Sequence[Size]
    """h, w: size of each crop inside the network's input"""
    scales: Sequence[tuple[float, float]]
    """for each crop, factors for x and y that convert pixels of the crop to pixels of the network's input"""


class Generator:
    """Mask generator with a FastDecoder. Subclasses encode images.

    `pixels` is the side of the network's square input.
    """

    def __init__(
        self, fast: FastDecoder, pixels: int, device: torch.device, precision: str, settings: Settings | None = None
    ) -> None:
        self.fast, self.pixels, self.device, self.precision = fast, pixels, device, precision
        self.settings = settings or Settings()
        self.grids = self.settings.grids()
        self.held, self.cap = CACHED, MASKS_BYTES
        if device.type == "cuda":
            self.held = int(HELD * torch.cuda.mem_get_info(device)[0])
            self.cap = max(self.cap, self.held)  # a GPU packs whole masks, a CPU only the part inside each mask's box

    def crops(self, number: int, size: Size) -> Iterator[Crop]:
        """Yield the crops of an image of size (H, W). `number` is the index of the image in its batch."""
        for layer, box in crops(size, self.settings.crop_n_layers, self.settings.crop_overlap_ratio):
            yield Crop(number, size, box, self.grids[layer] * (box[2] - box[0], box[3] - box[1]))

    def propose(self, batch: Sequence[Crop], encoded: Encoded) -> list[Proposals]:
        """Return the regions of each crop in a batch."""
        seen = self.fast.see(encoded.embeddings)
        places = np.concatenate([crop.points * scale for crop, scale in zip(batch, encoded.scales, strict=True)])
        which = np.repeat(np.arange(len(batch)), [len(crop.points) for crop in batch])
        side = 4 * encoded.embeddings.shape[-1]
        frames = [
            Frame(side, self.pixels, resized, (crop.box[3] - crop.box[1], crop.box[2] - crop.box[0]), self.device)
            for crop, resized in zip(batch, encoded.resized, strict=True)
        ]
        # Discarded masks cost little: only masks whose predicted IoU passes the threshold are computed. If memory
        # suffices, the host waits for a GPU three times: for predicted IoU, for stability and boxes, for packed bits.
        fit, parts = self._decode(seen, places, which, frames)
        return self._select(batch, parts, fit, which)

    def _decode(
        self, seen: Seen, places: np.ndarray, which: np.ndarray, frames: Sequence[Frame]
    ) -> tuple[np.ndarray, list[list[Measured]]]:
        """Return the predicted IoU (P, M) of M masks per click, and the selected masks of each crop.

        A mask is selected if its predicted IoU exceeds `pred_iou_thresh` (see `_passes`). `places` (P, 2) are the
        clicks, x and y in pixels of the network's input. `which` (P,) is the index of each click's crop.
        """
        clicks, images = up(places, self.device), up(which, self.device)
        fits: list[np.ndarray] = []
        parts: list[list[Measured]] = [[] for _ in frames]
        offset, least = self.settings.stability_score_offset, self.settings.stability_score_thresh
        for pieces in in_parts(self._groups(len(places), seen)):
            answers = [self._answer(seen, clicks[piece], images[piece]) for piece in pieces]
            fit = down(torch.cat([answer.fit for answer in answers]).float())
            fits.append(fit)
            kept, begin = self._passes(fit), pieces[0].start
            for piece, answer in zip(pieces, answers, strict=True):
                here = kept[piece.start - begin : piece.stop - begin]
                for i in np.unique(which[piece]).tolist():
                    selected = here & (which[piece] == i)[:, None]
                    if selected.any():
                        parts[i].append(measure(self._masks(answer, selected), frames[i], offset, least))
                        _limit(sum(part.nbytes for part in parts[i]), self.cap)
            del answers, answer  # else a GPU would hold two groups at a time
        return np.concatenate(fits), parts

    def _groups(self, clicks: int, seen: Seen) -> Iterator[list[slice]]:
        """Yield groups of clicks. A group is a list of slices, and a slice is a range of click indices.

        `clicks` is the number of clicks. Each click is in one slice. The decoder processes the clicks of a slice in one
        pass. After all passes of a group, the host waits once for the device.
        """
        each = seen.image[0].nbytes
        size = max(1, min(self.settings.points_per_batch, self.held // each))
        # the predicted IoU of a whole group is copied from a GPU at once, so the host waits once per group
        several = max(1, self.held // (each * size))
        pieces = [slice(begin, min(begin + size, clicks)) for begin in range(0, clicks, size)]
        yield from (pieces[begin : begin + several] for begin in range(0, len(pieces), several))

    def _answer(self, seen: Seen, places: Tensor, which: Tensor) -> Answered:
        points = places[:, None]
        prompts = Prompts.of(points, torch.full(points.shape[:2], ON, device=points.device))
        with autocast(self.device, self.precision):
            return self.fast.answer(seen, prompts, which if len(seen.image) > 1 else None)

    def _passes(self, fit: np.ndarray) -> np.ndarray:
        """Return a bool array of the shape of `fit`: whether each predicted IoU exceeds `pred_iou_thresh`.

        If `pred_iou_thresh` is 0, all elements are True.
        """
        least = self.settings.pred_iou_thresh
        return fit > least if least > 0 else np.ones(fit.shape, bool)

    def _masks(self, answer: Answered, selected: np.ndarray) -> Tensor:
        """Return the logits (n, s, s) of the n masks for which `selected` (P, M) is True."""
        rows = np.flatnonzero(selected.any(1))
        with autocast(self.device, self.precision):
            logits = self.fast.masks(answer, up(rows, self.device)).float()
        return logits.flatten(0, 1)[up(np.flatnonzero(selected[rows]), self.device)]

    def _select(
        self, batch: Sequence[Crop], parts: list[list[Measured]], fit: np.ndarray, which: np.ndarray
    ) -> list[Proposals]:
        """Return one Proposals per crop, with the masks that `_best` selects.

        `parts` and `fit` (P, M) are the results of `_decode`. `which` (P,) is the index of each click's crop.
        """
        measured, rows, values = [], [], numbers(parts)
        for i, crop in enumerate(batch):
            prompts, masks = np.nonzero(self._passes(fit) & (which == i)[:, None])
            points = crop.points[prompts - np.flatnonzero(which == i)[0]]
            ranks = np.nan_to_num(stability(values[i])) if self.fast.fit is None else fit[prompts, masks]
            measured.append(_measured(crop, values[i], ranks, points))
            rows.append(self._best(crop, measured[-1]))
        every = packed(parts, [columns[:, 2:] for columns in values], rows)
        return [
            replace(proposals.select(best), bits=bits)
            for proposals, best, bits in zip(measured, rows, every, strict=True)
        ]

    def _best(self, crop: Crop, proposals: Proposals) -> np.ndarray:
        """Return the indices (n,) int64 of a crop's masks to keep, in the order of decreasing predicted IoU.

        Masks with a stability below `stability_score_thresh` are dropped. Masks that the crop may cut off are also
        dropped (see points.cut_off). If the IoU of two masks' boxes exceeds `box_nms_thresh`, only the mask with the
        higher predicted IoU stays.
        """
        inner = corners(proposals.boxes, proposals.crops[:, :2])
        good = stable(proposals.stability, self.settings.stability_score_thresh)
        rows = np.flatnonzero(good & ~cut_off(inner, crop.box, crop.size))
        return rows[nms(inner[rows], proposals.predicted_iou[rows], self.settings.box_nms_thresh)]

    def merge(self, parts: Sequence[Proposals], size: Size) -> Proposals:
        """Join the regions of an image's crops. Of duplicate regions, only the region from the smallest crop stays.

        If the image has several crops, two regions are duplicates if the IoU of their boxes exceeds `crop_nms_thresh`.
        If `min_mask_region_area` is above 0, the joined regions are changed as in `_cleaned`. Raises OvssError if the
        packed masks take more than regions.BYTES bytes.
        """
        proposals = Proposals.joined(parts)
        if len(parts) > 1:
            areas = (proposals.crops[:, 2:] - proposals.crops[:, :2]).prod(1).astype(np.float32)
            inner = corners(proposals.boxes, proposals.crops[:, :2])
            proposals = proposals.select(nms(inner, 1 / areas, self.settings.crop_nms_thresh))
        _limit(sum(map(len, proposals.bits)), regions.BYTES)
        return self._cleaned(proposals, size) if self.settings.min_mask_region_area > 0 else proposals

    def _cleaned(self, proposals: Proposals, size: Size) -> Proposals:
        """Remove small pieces of masks, and fill small holes. Then drop duplicate regions.

        Pieces and holes are small if they have fewer than `min_mask_region_area` pixels. In the result, regions with
        unchanged masks come first. Two regions are duplicates if the IoU of their boxes exceeds both `box_nms_thresh`
        and `crop_nms_thresh`. Of two duplicates, the region that comes first stays.
        """
        # scores of nms: 1 for an unchanged mask, 0 for a changed mask
        boxes, bits, same = proposals.boxes.copy(), list(proposals.bits), np.ones(len(proposals.boxes), np.float32)
        for i, box in enumerate(proposals.boxes):
            mask = regions.masks(box[None], proposals.bits[i], size)[0]
            mask, changed = clean(mask, self.settings.min_mask_region_area)
            if changed:
                x0, y0, x1, y1 = boxes[i] = regions.box_of(mask)
                bits[i], same[i] = np.packbits(mask[y0:y1, x0:x1]), 0
        threshold = max(self.settings.box_nms_thresh, self.settings.crop_nms_thresh)
        rows = nms(corners(boxes, np.zeros((len(boxes), 2), np.int64)), same, threshold)
        return replace(proposals, boxes=boxes, bits=bits).select(rows)


def _measured(crop: Crop, values: np.ndarray, fit: np.ndarray, points: np.ndarray) -> Proposals:
    """Return the Proposals of a crop, with empty `bits`. `values` (M, 6) has the columns of Measured.numbers."""
    x0, y0 = crop.box[:2]
    boxes = (values[:, 2:] + (values[:, 4:5] > 0) * (x0, y0, x0, y0)).astype(np.int32)
    none = [np.empty(0, np.uint8)] * len(boxes)
    every = np.tile(np.array(crop.box), (len(boxes), 1))
    return Proposals(boxes, none, fit, stability(values), points + np.array((x0, y0)), every)


def corners(boxes: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """Convert half-open boxes (R, 4) to int64 boxes with inclusive ends, as in SAM's official code.

    A box x0 y0 x1 y1 becomes x0 y0 x1−1 y1−1. An empty box becomes x y x y, where x y is the box's row of `origins`
    (R, 2).
    """
    return np.where(boxes[:, 2:3] > 0, boxes.astype(np.int64) - (0, 0, 1, 1), np.tile(origins, 2))


def _limit(taken: int, cap: int) -> None:
    """Raise OvssError if packed masks of `taken` bytes exceed the limit of `cap` bytes."""
    if taken > cap:
        raise OvssError(
            f"too many masks: an image's masks take {taken:,} bytes; the limit is {cap:,}. Cut the image into tiles, "
            "lower points_per_side, or raise pred_iou_thresh and stability_score_thresh"
        )
