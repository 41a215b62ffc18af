"""Open-Vocabulary SAM, which segments and classifies the object at each prompt with one frozen CLIP.

Yuan et al., "Open-Vocabulary SAM: Segment and Recognize Twenty-thousand Classes Interactively", ECCV 2024, arXiv
2401.02955.

Dimensions: B images, P prompts, n points per prompt, K classes, N names, D features; H W pixels of an image, g
side of the image embedding.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ovss_ray.errors import OvssError
from ovss_ray.models import checkpoint, photograph, runtime, text
from ovss_ray.models.clip import TextTower
from ovss_ray.models.ovsam import head, inputs, words
from ovss_ray.models.ovsam.backbone import Neck, Pyramid, backbone
from ovss_ray.models.ovsam.head import Head
from ovss_ray.models.ovsam.inputs import Embedded, Numbers
from ovss_ray.models.ovsam.parts import WORDS, state_of
from ovss_ray.models.ovsam.variants import VARIANTS, Variant
from ovss_ray.models.ovsam.words import Classes
from ovss_ray.models.runtime import int8
from ovss_ray.models.sam_layers import masks as measuring
from ovss_ray.models.sam_layers.frame import Frame, thresholded
from ovss_ray.models.sam_layers.prompts import PromptEncoder, Prompts
from ovss_ray.models.text import Classifier
from ovss_ray.structures.recent import Recent
from ovss_ray.structures.vocabulary import Vocabulary

TOWERS = ()
"""Submodules whose linear layers compute with 8-bit integers at precision int8: none, so `load` refuses int8"""
BATCH = 32
"""Maximum number of prompts in one pass of the decoder or of the attention pool"""
DEMO_ROI = 7
"""Side, in cells, of the grid to which a region is pooled in mode "demo" """


class Ovsam(nn.Module):
    """The whole network. Its state dict has the official entries, and CLIP's text tower under the prefix `words`."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.precision = "fp32"
        self.backbone = backbone(variant)
        self.neck = Neck(variant)
        self.fpn_neck = Pyramid(variant)
        self.pe = PromptEncoder(variant)
        self.mask_decoder = Head(variant)
        self.words = text_tower(variant)
        self.classifiers = Recent[Tensor](text.KEPT, lambda rows: rows.nbytes)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.pe.no_mask_embed.weight.device

    @torch.inference_mode()
    @runtime.in_full_precision
    def embed(self, images: Sequence[np.ndarray], path: inputs.Path = "evaluation") -> list[Embedded]:
        """Return one encoding per image (H, W, 3) uint8 RGB. All images are encoded in one pass.

        Raises ValueError for other arrays (see photograph.rgb), and OvssError for an unknown `path`.
        """
        checked = [photograph.rgb(image) for image in images]
        places = [inputs.placed(image, path, self.variant.pixels) for image in checked]
        batch = torch.stack([inputs.network_input(image, path, self.variant.pixels) for image in checked])
        with runtime.autocast(self.device, self.precision):
            maps = self.backbone(batch.to(self.device))
            neck, pyramid = self.neck(maps).float(), [level.float() for level in self.fpn_neck(maps)]
        last = maps[self.backbone.seen].float()
        return [
            Embedded(neck[i : i + 1], tuple(level[i : i + 1] for level in pyramid), last[i : i + 1], place, path)
            for i, place in enumerate(places)
        ]

    @torch.inference_mode()
    @runtime.in_full_precision
    def masks(self, seen: Sequence[Embedded], prompts: Sequence[Prompts]) -> list[Tensor]:
        """Return the mask logits (P, 4 g, 4 g) of the prompts of each image; P may differ between images."""
        side = 4 * self.variant.grid
        each = [(i, p) for i, image in enumerate(prompts) for p in range(len(image.points))]
        result = [torch.empty(len(image.points), side, side, device=self.device) for image in prompts]
        for length in sorted({image.points.shape[1] for image in prompts}):
            alike = [(i, p) for i, p in each if prompts[i].points.shape[1] == length]
            for begin in range(0, len(alike), BATCH):
                rows = alike[begin : begin + BATCH]
                points = torch.stack([prompts[i].points[p] for i, p in rows]).to(self.device)
                labels = torch.stack([prompts[i].labels[p] for i, p in rows]).to(self.device)
                images = torch.cat([seen[i].neck for i, _ in rows])
                for (i, p), logits in zip(rows, self.decode(images, Prompts(points, labels)), strict=True):
                    result[i][p] = logits[0]
        return result

    def decode(self, image: Tensor, prompts: Prompts) -> Tensor:
        """Return mask logits (P, 1, 4 g, 4 g). `image` (P, embed, g, g) has the image embedding for each prompt."""
        return self.mask_decoder(image + self.pe.dense(prompts), self.pe.tokens(prompts), self.pe.positions())

    @torch.inference_mode()
    @runtime.in_full_precision
    def regions(self, seen: Embedded, logits: Tensor) -> dict[str, Tensor]:
        """Return the boxes, pyramid levels and embeddings of the masks `logits` > 0. `logits` are (P, 4 g, 4 g).

        - rois (P, 5): the image index 0, then a mask's tight box x0 y0 x1 y1 in pixels of the network's input
        - roi_levels (P,) int64: the pyramid level of each box, see head.levels
        - embeddings (P, D): the embedding of each box, not normalised
        """
        corners = head.boxes(logits, self.variant.pixels / logits.shape[-1])
        rois, levels = head.with_index(corners), head.levels(corners, self.variant.pixels)
        side = DEMO_ROI if seen.path == "demo" else self.variant.roi
        pooled = self.mask_decoder.regions(seen.pyramid, rois, levels, side)
        return {"rois": rois, "roi_levels": levels, "embeddings": self.mask_decoder.embed(pooled)}

    @torch.inference_mode()
    @runtime.in_full_precision
    def clip_embeddings(self, seen: Embedded, corners: Tensor) -> Tensor:
        """Return CLIP's embeddings (P, D), not normalised, of boxes (P, 4) in pixels of the input."""
        rois, side = head.with_index(corners.to(self.device)), self.variant.clip_grid
        stride = self.variant.clip_stride
        parts = [self.backbone.head(head.aligned(seen.clip, part, side, stride)) for part in rois.split(BATCH)]
        return torch.cat(parts)

    @torch.inference_mode()
    @runtime.in_full_precision
    def classifier(self, vocabulary: Vocabulary) -> Tensor:
        """Return unit-norm embeddings (N, D) of all synonyms of all classes, in the order of words.grouped.

        An embedding is the mean over the vocabulary's templates, by default ViLD's.
        """
        return self.classifiers.get(vocabulary.digest, lambda: embed_names(self.words, vocabulary, text.embed_cached))

    @torch.inference_mode()
    @runtime.in_full_precision
    def scores(
        self, seen: Embedded, logits: Tensor, classes: Classifier, base: Tensor, novel: Tensor,
        clip_boxes: Tensor | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return the class scores of masks: the result of `predict` without the keys neck, low_res_masks and masks.

        `logits` (P, 4 g, 4 g) are mask logits. `base` and `novel` (K,) bool mark base classes and novel classes.
        `clip_boxes` (P, 4) are the boxes for CLIP's branch in pixels of the network's input. By default, the
        tight boxes of the masks are used.
        """
        parts = self.regions(seen, logits)
        by_head = head.logits(parts.pop("embeddings"), classes)
        if seen.path == "demo":
            probabilities = by_head.softmax(-1)
            named = {"head_logits": by_head[:, None], "probs": probabilities[:, None, :-1]}
        else:
            corners = parts["rois"][:, 1:] if clip_boxes is None else clip_boxes
            clip = head.logits(self.clip_embeddings(seen, corners), classes)
            groups = base.to(self.device), novel.to(self.device)
            fused = head.ensemble(by_head, clip, logits, *groups, self.variant.pixels // self.variant.clip_stride)
            probabilities = fused.softmax(-1)
            named = {"head_logits": by_head[:, None], "clip_logits": clip[:, None], "fused_scores": fused[:, None]}
            named["probs"] = probabilities
        return parts | named | {"labels": probabilities[:, :-1].argmax(-1)}

    def predict(
        self, image: np.ndarray | Embedded, points: Numbers | None = None, boxes: Numbers | None = None,
        labels: Numbers | None = None, names: Vocabulary | Iterable[str] | None = None,
        embeddings: Tensor | None = None, base: Classes | None = None, novel: Classes | None = None,
        path: inputs.Path = "evaluation", clip_boxes: Numbers | None = None, official: bool = False,
    ) -> Mapping[str, Any]:  # fmt: skip
        """Return masks and classes of P prompts on an image: (H, W, 3) uint8 RGB, or a result of `embed`.

        - `points` (P, 2) or (P, n, 2), `boxes` (P, 4), or both: the prompts, in pixels of the image.
        - `labels` (P, n): 1 for a point on the object, 0 for any other point; default: all 1.
        - `names` or `embeddings`: the classes. `embeddings` (K, S, D) has the embeddings of S names per class.
        - `base`: base classes, by index or name; default: none. `novel`: novel classes; default: all except `base`.
        - `path`: the mode (see inputs.PATHS). If `image` is a result of `embed`, the mode given to `embed` is used.
        - `clip_boxes` (P, 4): boxes for CLIP, in pixels of the image; default: `boxes`, else the masks' tight boxes.
        - `official`: if True, boxes for CLIP are not scaled to the network's input, as in the official code.

        The result has these keys:
        - neck (1, embed, g, g), low_res_masks (P, 1, 4 g, 4 g); rois (P, 5) and roi_levels (P,) as from `regions`.
        - masks (P, H, W) bool, a NumPy array. In mode "demo", masks have the resized image's size.
        - labels (P,): the best class of each prompt.
        - head_logits, clip_logits, fused_scores (P, 1, K + 1); probs (P, K + 1). The last column is "no object".
          In mode "demo", clip_logits and fused_scores are missing, and probs is (P, 1, K) without "no object".

        Raises OvssError for invalid prompts and classes, and ValueError for an image of another shape or dtype.
        """
        seen = image if isinstance(image, Embedded) else self.embed([image], path)[0]
        prompts = inputs.prompts(points, labels, boxes, seen.placed)
        vocabulary, classes = self._classes(names, embeddings)
        count = len(classes.classes)
        known = [] if vocabulary is None else vocabulary.names
        is_base = words.mask(base or (), known, count)
        is_novel = ~is_base if novel is None else words.mask(novel, known, count)
        corners = boxes if clip_boxes is None else clip_boxes
        seen_by_clip = _seen_by_clip(corners, seen.placed, official, len(prompts.points))
        (logits,) = self.masks([seen], [prompts])
        result = self.scores(seen, logits, classes, is_base, is_novel, seen_by_clip)
        size = seen.placed.resized if seen.path == "demo" else seen.placed.size
        masks = self.full_size(seen, logits, size)
        return {"neck": seen.neck, "low_res_masks": logits[:, None], **result, "masks": masks}

    @torch.inference_mode()
    def measured(self, seen: Embedded, logits: Tensor, offset: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return boxes (P, 4) int32, packed bits, and stability (P,) float32 of P masks at the size of the image.

        `logits` are (P, 4 g, 4 g). The bits are np.packbits of each mask inside the mask's box, concatenated to one
        array (n,) uint8. The stability is the IoU of the masks at the logit thresholds +`offset` and −`offset`.
        """
        place = seen.placed
        frame = Frame(logits.shape[-1], self.variant.pixels, place.resized, place.size, self.device)
        parts = [[measuring.measure(logits, frame, offset, 0)]]
        (values,) = measuring.numbers(parts)
        (bits,) = measuring.packed(parts, [values[:, 2:]], [np.arange(len(values))])
        joined = np.concatenate([np.empty(0, np.uint8), *bits])
        return values[:, 2:].astype(np.int32), joined, np.nan_to_num(measuring.stability(values))

    @torch.inference_mode()
    def full_size(self, seen: Embedded, logits: Tensor, size: tuple[int, int] | None = None) -> np.ndarray:
        """Return masks (P, H, W) bool of logits (P, 4 g, 4 g). If `size` (H, W) is None, the image's size is used."""
        frame = Frame(logits.shape[-1], self.variant.pixels, seen.placed.resized, size or seen.placed.size, self.device)
        return thresholded(logits, frame)

    def _classes(
        self, names: Vocabulary | Iterable[str] | None, embeddings: Tensor | None
    ) -> tuple[Vocabulary | None, Classifier]:
        """Return the vocabulary and the classifier. If `embeddings` is given, the vocabulary is None.

        Raises OvssError unless exactly one of `names` and `embeddings` is given.
        """
        if (names is None) == (embeddings is None):
            raise OvssError("expected either names or embeddings, found both or neither: pass one of the two")
        if embeddings is not None:
            return None, words.of_embeddings(embeddings.to(self.device))
        vocabulary = Vocabulary.of(names or ())
        return vocabulary, words.grouped(self.classifier(vocabulary), vocabulary)


def _seen_by_clip(corners: Numbers | None, where: inputs.Placed, official: bool, count: int) -> Tensor | None:
    """Return the boxes (P, 4) for CLIP's branch, or None if `corners` is None and `official` is False.

    `corners` are in pixels of the image. If `official` is False, the boxes are scaled to the network's input. Raises
    OvssError if `corners` is None and `official` is True. Raises OvssError if the number of boxes is not `count`.
    """
    if corners is None:
        if official:
            raise OvssError("official=True has no effect without boxes: pass boxes or clip_boxes, or omit official")
        return None
    boxes = inputs.scaled_boxes(corners, where, not official)
    if len(boxes) != count:
        raise OvssError(f"{len(boxes)} clip_boxes for {count} prompts: pass one per prompt")
    return boxes


def text_tower(variant: Variant) -> TextTower:
    """Build CLIP's text tower; the caller loads its weights."""
    return TextTower(
        variant.text_vocabulary, variant.context, variant.text_width, variant.text_heads, variant.text_layers,
        variant.features, variant.words,
    )  # fmt: skip


@torch.inference_mode()
def embed_names(tower: TextTower, vocabulary: Vocabulary, embed: text.Embed | None = None) -> Tensor:
    """Return unit-norm embeddings (N, D) float32 of all synonyms of all classes.

    An embedding is the mean over the vocabulary's templates, by default ViLD's. `embed` is the function that embeds
    texts; default: text.embed.
    """
    names = [name for of_class in vocabulary.classes for name in words.synonyms(of_class)]
    with runtime.full_precision(tower.text_projection.device):
        return (embed or text.embed)(tower, names, text.templates(vocabulary, "vild")).clone()


def load(
    name: str, files: Sequence[Path], device: str = "cpu", precision: str = "fp32", variant: Variant | None = None
) -> Ovsam:
    """Load an Open-Vocabulary SAM for inference.

    `files` are the checkpoints, see parts.state_of. The default of `variant` is VARIANTS[name]. Raises OvssError if a
    file is missing or does not fit the network.
    """
    precision = runtime.checked_precision(precision)
    with torch.device("meta"):
        model = Ovsam(variant or VARIANTS[name])
    checkpoint.fill(model, state_of(name, files), files[0], name, {})
    model.precision = precision
    return int8.placed(model, device, precision, TOWERS)


def load_text(name: str, files: Sequence[Path], device: str = "cpu", variant: Variant | None = None) -> TextTower:
    """Load only the text tower, to embed vocabularies. `files` are those of `load`."""
    with torch.device("meta"):
        tower = text_tower(variant or VARIANTS[name])
    entries = {key.removeprefix(WORDS): value for key, value in state_of(name, files).items() if key.startswith(WORDS)}
    return checkpoint.fill(tower, entries, files[0], name, {}).to(device)
