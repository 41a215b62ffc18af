"""SAM's automatic masks: all that a grid of clicks finds in an image. The released generator's, in its order.

Kirillov et al., 2023, §4 and appendix B. The order of the work is another one, so that little is done for masks that
are not kept: encoder → decoder → predicted IoU → of those that pass, masks at low resolution → at full size stability
and box in one pass → of those that pass, bits → non-maximum suppression over boxes. No mask of full size is kept, and
none is written as run lengths. On a GPU the host waits three times for a batch of images, if its memory holds what
their clicks make of them: for the predicted IoU, for stability and boxes, and for the bits of the masks that are left.

Letters: P clicks, R regions, H W pixels of an image, h w of what it is resized to, L cells of its embedding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ovss_ray import regions
from ovss_ray.errors import OvssError
from ovss_ray.models.photograph import rgb
from ovss_ray.models.sam import Sam
from ovss_ray.models.sam_decoder import ON, Prompts
from ovss_ray.models.sam_fast import Answered, FastDecoder, Seen
from ovss_ray.models.sam_masks import Frame, Measured, measure, numbers, packed, stability, stable
from ovss_ray.models.sam_nms import clean, nms
from ovss_ray.models.sam_points import Settings, crops, cut_off
from ovss_ray.models.sam_variants import Size, resized_size
from ovss_ray.models.transfer import down, up

CACHED, HELD = 1 << 24, 1 / 8
"""What images may take, each changed by its click, for a group of clicks: bytes of a CPU's cache, share of a GPU's
memory that is free."""

MASKS_BYTES = 1 << 31
"""The most bytes that packed masks of a crop may take before repeated ones are left out. On a GPU, which packs whole
masks, they may take its share if that is more."""


@dataclass(frozen=True)
class Proposals:
    """The regions that were found in an image, best first."""

    boxes: np.ndarray
    """(R, 4) int32: x0 y0 x1 y1, half open; zeros if a mask is empty"""
    bits: list[np.ndarray]
    """of each, its mask inside its box, packed: (n,) uint8"""
    predicted_iou: np.ndarray
    """(R,) float32"""
    stability: np.ndarray
    """(R,) float32"""
    points: np.ndarray
    """(R, 2) float64: the click that found each, x and y in pixels of the image"""
    crops: np.ndarray
    """(R, 4) int64: the crop of the image that was looked at, x0 y0 x1 y1"""

    def chosen(self, rows: np.ndarray) -> "Proposals":
        """Some of them, by their indices."""
        parts = (self.predicted_iou, self.stability, self.points, self.crops)
        return Proposals(self.boxes[rows], [self.bits[i] for i in rows.tolist()], *(part[rows] for part in parts))

    @classmethod
    def joined(cls, parts: Sequence["Proposals"]) -> "Proposals":
        """Those of several crops, one after the other."""
        names = ("predicted_iou", "stability", "points", "crops")
        rest = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        return cls(np.concatenate([part.boxes for part in parts]), [x for part in parts for x in part.bits], *rest)


@dataclass(frozen=True)
class Crop:
    """A part of an image that is looked at by itself."""

    image: int
    """index of the image"""
    size: Size
    """H, W of that image"""
    box: regions.Box
    points: np.ndarray
    """(P, 2) float64: the clicks, x and y in pixels of the crop"""


class Generator:
    """Proposes regions with a Sam; `batch` crops share a forward of the encoder, and their clicks those after it."""

    def __init__(self, model: Sam, settings: Settings | None = None, batch: int = 1) -> None:
        self.model, self.settings, self.batch = model, settings or Settings(), batch
        self.grids = self.settings.grids()
        self.fast = FastDecoder(model)
        self.held, self.cap = CACHED, MASKS_BYTES
        if model.device.type == "cuda":
            self.held = int(HELD * torch.cuda.mem_get_info(model.device)[0])
            self.cap = max(self.cap, self.held)

    @torch.inference_mode()
    def generate(self, images: Sequence[np.ndarray]) -> list[Proposals]:
        """Regions of images, each (H, W, 3) uint8 RGB. Raises OvssError if those of one do not fit regions.BYTES.

        Grey and RGBA are taken too. Raises ValueError for what is no photograph (see photograph.rgb).
        """
        if isinstance(images, np.ndarray) and images.ndim < 4:  # its rows would pass for grey images
            raise ValueError(f"an array {images.shape} in the place of a list of images: type generate([image])")
        images = [rgb(image) for image in images]
        todo = [crop for i, image in enumerate(images) for crop in self._crops(i, image.shape[:2])]
        found: list[list[Proposals]] = [[] for _ in images]
        for begin in range(0, len(todo), self.batch):
            some = todo[begin : begin + self.batch]
            for crop, proposals in zip(some, self._look(images, some), strict=True):
                found[crop.image].append(proposals)
        return [self._merge(parts, image.shape[:2]) for parts, image in zip(found, images, strict=True)]

    def _crops(self, number: int, size: Size) -> Iterator[Crop]:
        for layer, box in crops(size, self.settings.crop_n_layers, self.settings.crop_overlap_ratio):
            yield Crop(number, size, box, self.grids[layer] * (box[2] - box[0], box[3] - box[1]))

    def _look(self, images: Sequence[np.ndarray], some: Sequence[Crop]) -> list[Proposals]:
        """The regions that are found in each crop by itself."""
        device, variant = self.model.device, self.model.variant
        cut = [images[crop.image][crop.box[1] : crop.box[3], crop.box[0] : crop.box[2]] for crop in some]
        inputs = torch.stack([self.model.preprocess(np.ascontiguousarray(one)) for one in cut])
        seen = self.fast.see(self.model.encode(up(inputs, device)))
        resized = [resized_size(one.shape[0], one.shape[1], variant) for one in cut]
        scales = [(w / one.shape[1], h / one.shape[0]) for one, (h, w) in zip(cut, resized, strict=True)]
        places = np.concatenate([crop.points * scale for crop, scale in zip(some, scales, strict=True)])
        which = np.repeat(np.arange(len(some)), [len(crop.points) for crop in some])
        frames = [
            Frame(4 * variant.grid, variant.pixels, size, one.shape[:2], device)
            for one, size in zip(cut, resized, strict=True)
        ]
        fit, parts = self._decode(seen, places, which, frames)
        return self._select(some, parts, fit, which)

    def _decode(
        self, seen: Seen, places: np.ndarray, which: np.ndarray, frames: Sequence[Frame]
    ) -> tuple[np.ndarray, list[list[Measured]]]:
        """Click at places (P, 2) of the input, each on the image `which` (P,).

        Returns the predicted IoU (P, SEVERAL), and of each image the masks that it lets pass, in this order.
        """
        clicks, images = up(places, self.model.device), up(which, self.model.device)
        fits: list[np.ndarray] = []
        parts: list[list[Measured]] = [[] for _ in frames]
        offset, least = self.settings.stability_score_offset, self.settings.stability_score_thresh
        for pieces in self._groups(len(places), seen):
            answers = [self._answer(seen, clicks[piece], images[piece]) for piece in pieces]
            fit = down(torch.cat([answer.fit for answer in answers]).float())
            fits.append(fit)
            kept, begin = self._passes(fit), pieces[0].start
            for piece, answer in zip(pieces, answers, strict=True):
                here = kept[piece.start - begin : piece.stop - begin]
                for i in np.unique(which[piece]).tolist():
                    chosen = here & (which[piece] == i)[:, None]
                    if chosen.any():
                        parts[i].append(measure(self._masks(answer, chosen), frames[i], offset, least))
                        _limit(sum(part.nbytes for part in parts[i]), self.cap)
            del answers, answer  # a GPU would hold them beside those of the next group
        return np.concatenate(fits), parts

    def _groups(self, clicks: int, seen: Seen) -> Iterator[list[slice]]:
        """Cut a number of clicks into pieces, decoded at a time, in groups, between which a GPU is waited for."""
        each = seen.image[0].nbytes
        size = max(1, min(self.settings.points_per_batch, self.held // each))
        several = max(1, self.held // (each * size))
        pieces = [slice(begin, min(begin + size, clicks)) for begin in range(0, clicks, size)]
        yield from (pieces[begin : begin + several] for begin in range(0, len(pieces), several))

    def _answer(self, seen: Seen, places: Tensor, which: Tensor) -> Answered:
        points = places[:, None]
        prompts = Prompts.of(points, torch.full(points.shape[:2], ON, device=points.device))
        with self.model.computing():
            return self.fast.answer(seen, prompts, which if len(seen.image) > 1 else None)

    def _passes(self, fit: np.ndarray) -> np.ndarray:
        """Which predicted IoUs suffice."""
        least = self.settings.pred_iou_thresh
        return fit > least if least > 0 else np.ones(fit.shape, bool)

    def _masks(self, answer: Answered, chosen: np.ndarray) -> Tensor:
        """The chosen of the masks (P, SEVERAL) of some clicks: logits (M, s, s)."""
        rows = np.flatnonzero(chosen.any(1))
        with self.model.computing():
            made = self.fast.masks(answer, up(rows, self.model.device)).float()
        return made.flatten(0, 1)[up(np.flatnonzero(chosen[rows]), self.model.device)]

    def _select(
        self, some: Sequence[Crop], parts: list[list[Measured]], fit: np.ndarray, which: np.ndarray
    ) -> list[Proposals]:
        """Those of each crop's masks that are stable, not cut off, and do not repeat a better one.

        `fit` (P, SEVERAL) is the predicted IoU of all masks, also of those that `parts` do not have, and `which` (P,)
        the crop that each prompt was put to.
        """
        made, rows, found = [], [], numbers(parts)
        for i, crop in enumerate(some):
            prompts, masks = np.nonzero(self._passes(fit) & (which == i)[:, None])
            points = crop.points[prompts - np.flatnonzero(which == i)[0]]
            made.append(_measured(crop, found[i], fit[prompts, masks], points))
            rows.append(self._best(crop, made[-1]))
        bits = packed(parts, [one[:, 2:] for one in found], rows)
        return [replace(one.chosen(best), bits=some) for one, best, some in zip(made, rows, bits, strict=True)]

    def _best(self, crop: Crop, found: Proposals) -> np.ndarray:
        """The indices of a crop's masks that are kept, best first."""
        inner = corners(found.boxes, found.crops[:, :2])
        good = stable(found.stability, self.settings.stability_score_thresh)
        rows = np.flatnonzero(good & ~cut_off(inner, crop.box, crop.size))
        return rows[nms(inner[rows], found.predicted_iou[rows], self.settings.box_nms_thresh)]

    def _merge(self, parts: Sequence[Proposals], size: Size) -> Proposals:
        """The regions of an image: those of its crops, but not twice, and without specks."""
        found = Proposals.joined(parts)
        if len(parts) > 1:
            areas = (found.crops[:, 2:] - found.crops[:, :2]).prod(1).astype(np.float32)
            inner = corners(found.boxes, found.crops[:, :2])
            found = found.chosen(nms(inner, 1 / areas, self.settings.crop_nms_thresh))
        _limit(sum(map(len, found.bits)), regions.BYTES)
        return self._cleaned(found, size) if self.settings.min_mask_region_area > 0 else found

    def _cleaned(self, found: Proposals, size: Size) -> Proposals:
        """Without specks and small holes; of masks that are then alike, one that needed no change is kept."""
        boxes, bits, same = found.boxes.copy(), list(found.bits), np.ones(len(found.boxes), np.float32)
        for i, box in enumerate(found.boxes):
            mask = regions.masks(box[None], found.bits[i], size)[0]
            mask, changed = clean(mask, self.settings.min_mask_region_area)
            if changed:
                x0, y0, x1, y1 = boxes[i] = regions.box_of(mask)
                bits[i], same[i] = np.packbits(mask[y0:y1, x0:x1]), 0
        threshold = max(self.settings.box_nms_thresh, self.settings.crop_nms_thresh)
        rows = nms(corners(boxes, np.zeros((len(boxes), 2), np.int64)), same, threshold)
        return replace(found, boxes=boxes, bits=bits).chosen(rows)


def _measured(crop: Crop, found: np.ndarray, fit: np.ndarray, points: np.ndarray) -> Proposals:
    """All masks of a crop, without their bits: numbers (M, 6) as in Measured, predicted IoU (M,), clicks (M, 2)."""
    x0, y0 = crop.box[:2]
    boxes = (found[:, 2:] + (found[:, 4:5] > 0) * (x0, y0, x0, y0)).astype(np.int32)
    none = [np.empty(0, np.uint8)] * len(boxes)
    every = np.tile(np.array(crop.box), (len(boxes), 1))
    return Proposals(boxes, none, fit, stability(found), points + np.array((x0, y0)), every)


def corners(boxes: np.ndarray, origins: np.ndarray) -> np.ndarray:
    """Boxes (R, 4) as the released code has them, both ends inside: (R, 4) int64; where empty, origins (R, 2)."""
    return np.where(boxes[:, 2:3] > 0, boxes.astype(np.int64) - (0, 0, 1, 1), np.tile(origins, 2))


def _limit(taken: int, cap: int) -> None:
    """Raise OvssError if the packed masks of an image take more bytes than they may."""
    if taken > cap:
        raise OvssError(
            f"the masks of an image take {taken:,} bytes when packed, and the cap is {cap:,}. Cut the image into "
            "tiles, put fewer points to it, or raise pred_iou_thresh and stability_score_thresh"
        )
