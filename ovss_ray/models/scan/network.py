"""SCAN: a masked decoder predicts masks; classes come from calibrated proposal embeddings, and from CLIP on crops.

Liu et al., "Open-Vocabulary Segmentation with Semantic-Assisted Calibration", CVPR 2024, arXiv 2312.04089. Official
code: https://github.com/yongliu20/SCAN. Parameters have the official names, except those that towers.ours renames.

Dimensions: B batch, H W pixels of the photograph, h w of the resized photograph, Hp Wp of the padded photograph; n side
of CLIP's input in pixels, T patches of CLIP's input; Q queries, V queries with a region, K classes, D features, C
channels of CLIP's image tower.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models import checkpoint, photograph, runtime, semantic, text
from ovss_ray.models.runtime import int8
from ovss_ray.models.scan import fusion, regions, shift
from ovss_ray.models.scan.calibration import Calibrated, overview
from ovss_ray.models.scan.mask_decoder import MaskNetwork
from ovss_ray.models.scan.regions import Cut
from ovss_ray.models.scan.swin import Swin
from ovss_ray.models.scan.towers import ADAPTER, MODEL, VISUAL, VOID, Adapter, Words, classifier, logits, state_of
from ovss_ray.models.scan.variants import VARIANTS, Options, Variant
from ovss_ray.models.semantic import Geometry
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.recent import Recent
from ovss_ray.structures.vocabulary import Vocabulary

TOWERS = ("backbone", "clip_adapter.clip_model.visual", "clip_adapter.original_clip")
"""Submodules that are image transformers. With precision int8, their linear layers compute with 8-bit integers."""
BATCH = 32
"""Default maximum number of crops in one forward pass"""


@dataclass(frozen=True)
class Inputs:
    """One photograph, prepared for the network."""

    pixels: Tensor
    """(3, h, w) uint8: the resized photograph, from which regions are cut"""
    padded: Tensor
    """(3, Hp, Wp) float32: normalised for the mask network"""
    overview: Tensor
    """(3, n, n) float32: the padded photograph, normalised for CLIP"""
    geometry: Geometry


@dataclass(frozen=True)
class Features:
    """SCAN's features of a batch of images, independent of the vocabulary."""

    mask_logits: Tensor
    """(B, Q, Hp / 4, Wp / 4) float32"""
    raw: Tensor
    """(B, Q, D) float32: proposal embeddings of the mask network"""
    proposals: Tensor
    """(B, Q, D) float32: calibrated proposal embeddings, of unit norm"""
    class_tokens: Tensor
    """(B, blocks, C) float32: CLIP's class token of the whole image, after each block in Variant.replaced"""


class Prediction(Mapping[str, Any]):
    """SCAN's prediction for one photograph and a vocabulary, with intermediate results under the official names.

    It is a mapping, as in `prediction["clip_logits"]`; see `Scan.predict` for its keys.
    """

    def __init__(self, label_map: np.ndarray, arrays: Mapping[str, Any]) -> None:
        self.label_map = label_map
        """(H, W) uint16: class of each pixel, as an index into the vocabulary, or NONE"""
        self._arrays = {**arrays, "argmax": label_map}

    def __getitem__(self, name: str) -> Any:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class Scan(Calibrated):
    """SCAN: a backbone, a mask network, two CLIPs, and the calibration of proposals.

    The frozen CLIP sees whole photographs. The fine-tuned CLIP sees crops, and embeds class names.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__(variant)
        self.variant = variant
        self.precision = "fp32"
        self.backbone = Swin(variant)
        self.sem_seg_head = MaskNetwork(variant)
        self.clip_adapter = Adapter(variant.clip)
        self.classifiers = Recent[Tensor](text.KEPT, lambda rows: rows.nbytes)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.learnable_weight.device

    def geometry(self, image: np.ndarray, short_edge: int | None = None) -> Geometry:
        """Return the Geometry of a photograph (H, W, 3). `short_edge` in pixels overrides Variant.short_side."""
        return photograph.geometry(image, replace(self.variant, short_side=short_edge or self.variant.short_side))

    def preprocess(self, image: np.ndarray, short_edge: int | None = None) -> Inputs:
        """Return the network's inputs for a photograph (H, W, 3) uint8 RGB, on the CPU.

        `short_edge` overrides Variant.short_side. Grey and RGBA arrays also work. Raises ValueError for other arrays.
        """
        image = photograph.rgb(image)
        placed = self.geometry(image, short_edge)
        pixels, side = photograph.resized(image, placed.resized), self.variant.clip.pixels
        padded = photograph.padded(pixels, photograph.IMAGENET, placed.padded)
        whole = photograph.padded(pixels, photograph.CLIP, placed.padded)
        return Inputs(pixels, padded, F.interpolate(whole[None], (side, side), mode="nearest")[0], placed)

    @runtime.in_full_precision
    def forward(self, inputs: Sequence[Inputs]) -> Features:
        """Return the Features of a batch of photographs. No vocabulary is needed.

        `inputs` has the result of `preprocess` for each photograph. All photographs must have the same padded
        size (Hp, Wp).
        """
        images, whole = (
            torch.stack(parts).to(self.device)
            for parts in ([image.padded for image in inputs], [image.overview for image in inputs])
        )
        clip, variant = self.clip_adapter.original_clip, self.variant
        with runtime.autocast(self.device, self.precision):
            seen = overview(clip, whole, variant.levels, variant.replaced)
            maps = self.backbone(images)
        proposals = self.sem_seg_head([features.float() for features in maps])[-1]
        calibrated = self.calibrate(proposals.embeddings, self.clip_tokens(seen.maps), seen.embeddings)
        return Features(
            proposals.mask_logits, proposals.embeddings, F.normalize(calibrated, dim=-1), seen.class_tokens
        )  # fmt: skip

    def cut(
        self, image: np.ndarray, inputs: Inputs, mask_logits: Tensor, class_tokens: Tensor, options: Options,
        shift_indices: Sequence[int] | np.ndarray | None = None,
    ) -> Cut:  # fmt: skip
        """Return the regions of an image (H, W, 3) uint8 RGB, and the tokens that the contextual shift replaces.

        `mask_logits` (Q, Hp / 4, Wp / 4) and `class_tokens` (blocks, C) are from Features. If `shift_indices` is None,
        the tokens are drawn at random with the seed `options.seed`. Otherwise, `shift_indices` are the Shift.indices of
        an earlier draw, which is repeated. Raises OvssError if `shift_indices` do not fit the regions.
        """
        cut = regions.of_masks(mask_logits, inputs.geometry, options.mask_threshold, self.variant.clip)
        blocks, ratio = len(self.variant.replaced), options.replace_ratio
        if shift_indices is not None:
            tokens = shift.replay(cut.foreground, blocks, ratio, shift_indices)
        else:
            tokens = shift.draw(cut.foreground, blocks, ratio, shift.generator(image, options.seed))
        return Cut(cut, tokens, inputs.pixels, class_tokens)

    @runtime.in_full_precision
    def embed(self, cuts: Iterable[Cut], batch: int = BATCH) -> Tensor:
        """Return embeddings (R, D) float32 of all R regions in `cuts`, in order. The embeddings are not normalised.

        CLIP embeds at most `batch` crops in one forward pass.
        """
        # Crops are made batch by batch, so that their memory does not grow with the number of regions.
        stream = (crop for cut in cuts for crop in self._crops(cut))
        passes = iter(lambda: list(islice(stream, batch)), [])
        parts = [self._embed(*map(torch.stack, zip(*crops, strict=True))) for crops in passes]
        return torch.cat(parts) if parts else torch.empty(0, self.variant.clip.embed, device=self.device)

    def _crops(self, cut: Cut) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield three tensors for each region: a crop (3, n, n), bools (blocks, T), and class tokens (blocks, C).

        Bool [i, t] is True if patch token t of the crop is replaced after block Variant.replaced[i]. Row i of the class
        tokens replaces it. This row is the class token of the whole image after that block.
        """
        pixels, replaced = (value.to(self.device) for value in (cut.pixels, torch.from_numpy(cut.shift.replaced)))
        for crop, tokens in zip(regions.crops(pixels, cut.regions, self.variant.clip.pixels), replaced, strict=True):
            yield crop, tokens, cut.class_tokens

    def _embed(self, crops: Tensor, replaced: Tensor, class_tokens: Tensor) -> Tensor:
        """Return embeddings (b, D) of crops (b, 3, n, n). All arguments are stacked results of `_crops`."""
        tower = self.clip_adapter.clip_model.visual
        after = shift.between(self.variant.replaced, replaced, class_tokens)
        with runtime.autocast(self.device, self.precision):
            return tower.encode(tower.conv1(crops), after).float()

    @runtime.in_full_precision
    def classifier(self, vocabulary: Vocabulary) -> Tensor:
        """Return the classifier of a vocabulary: unit-norm rows (K + 1, D), "void" last. Recent results are cached."""
        adapter = self.clip_adapter
        tower, void = adapter.clip_model, adapter.non_object_embedding
        return self.classifiers.get(vocabulary.digest, lambda: classifier(tower, void, vocabulary, text.embed_cached))

    @runtime.in_full_precision
    def scores(self, proposals: Tensor, crops: Tensor, valid: Tensor, rows: Tensor, options: Options) -> Tensor:
        """Return the class scores of one image: (Q, K), or (Q, K + 1) if `options.ensemble_weight` is None.

        `proposals` (Q, D) are calibrated. `crops` (V, D) are from `embed`. `valid` (Q,) bool marks the queries with a
        region. `rows` are from `classifier`.
        """
        return fusion.scores(logits(proposals, rows), logits(crops, rows), valid, options)

    def labels(self, mask_logits: Tensor, scores: Tensor, placed: Geometry, vocabulary: Vocabulary) -> np.ndarray:
        """Return the label map (H, W) uint16 of a photograph with the Geometry `placed`.

        `mask_logits` (Q, Hp / 4, Wp / 4) are from Features. `scores` are from the method `scores`. A label is an index
        into `vocabulary`. If the best class of a pixel is "void", the label is NONE. If several classes have the same
        prompts, only the first of these classes occurs in the label map.
        """
        indices = np.append(text.first_of_equal(vocabulary), NONE).astype(np.uint16)
        return indices[semantic.label_map(mask_logits, scores, placed, sigmoid="resized")]

    @torch.inference_mode()
    @runtime.in_full_precision
    def predict(
        self, image: np.ndarray, vocabulary: Vocabulary | Iterable[str], short_edge: int | None = None,
        shift_indices: Sequence[int] | np.ndarray | None = None, **options: Any,
    ) -> Prediction:  # fmt: skip
        """Return the label map and intermediate results for a photograph (H, W, 3) uint8 RGB.

        `options` are fields of Options. `short_edge` overrides Variant.short_side. `shift_indices` is "shift.indices"
        of an earlier prediction, whose random draw is repeated. Grey and RGBA arrays also work. Raises ValueError for
        other arrays. Raises OvssError for a wrong option or wrong `shift_indices`.

        Keys of the result: head.pred_logits, head.pred_masks, text_features, in_vocab_logits, fusion.in_vocab_prob,
        fusion.void_prob, scores, argmax. Additional keys if `ensemble_weight` is not None: mask_binary, valid_flag,
        regions.boxes_xyxy, regions.patch_foreground, regions.clip_embedding, shift.population, shift.count,
        shift.indices, clip_logits, fusion.out_vocab_prob, fusion.fused.
        """
        image, vocabulary, checked = photograph.rgb(image), Vocabulary.of(vocabulary), Options.of(options)
        inputs, rows = self.preprocess(image, short_edge), self.classifier(vocabulary)
        features = self([inputs])
        masks, proposals = features.mask_logits[0], features.proposals[0]
        arrays = {
            "head.pred_logits": features.raw[0],
            "head.pred_masks": masks,
            "text_features": rows,
            "in_vocab_logits": logits(proposals, rows),
        }
        arrays |= fusion.named(arrays["in_vocab_logits"])
        crops, valid = proposals[:0], torch.zeros(len(masks), dtype=torch.bool, device=self.device)
        if checked.ensemble_weight is not None:
            cut = self.cut(image, inputs, masks, features.class_tokens[0], checked, shift_indices)
            crops, valid = self.embed([cut]), torch.from_numpy(cut.regions.valid).to(self.device)
            arrays |= regions.described(cut) | {"regions.clip_embedding": crops, "clip_logits": logits(crops, rows)}
            arrays |= fusion.named_of_crops(
                arrays["in_vocab_logits"], arrays["clip_logits"], valid, checked.ensemble_weight
            )
        arrays["scores"] = self.scores(proposals, crops, valid, rows, checked)
        return Prediction(self.labels(masks, arrays["scores"], inputs.geometry, vocabulary), arrays)

    def segment(self, image: np.ndarray, vocabulary: Vocabulary | Iterable[str], **options: Any) -> np.ndarray:
        """Return the label map (H, W) uint16 of a photograph (H, W, 3): class indices or NONE. See `predict`."""
        return self.predict(image, vocabulary, **options).label_map


def load(
    name: str, files: Sequence[Path], device: str = "cpu", precision: str = "fp32", variant: Variant | None = None
) -> Scan:
    """Load a SCAN for inference from its official checkpoint.

    `files` have the order of variants.checkpoints. If `variant` is None, the sizes are VARIANTS[name]. Raises OvssError
    if a file is missing or does not fit the network.
    """
    precision = runtime.checked_precision(precision)
    variant = variant or VARIANTS[name]
    with torch.device("meta"):
        model = Scan(variant)
    checkpoint.fill(model, state_of(files, variant), files[0], name, _others(name))
    model.precision = precision
    return int8.placed(model, device, precision, TOWERS)


def load_text(name: str, files: Sequence[Path], device: str = "cpu", variant: Variant | None = None) -> Words:
    """Load only the text tower and the embedding of "void", to embed vocabularies."""
    variant = variant or VARIANTS[name]
    with torch.device("meta"):
        tower = Words(variant.clip)
    state = state_of(files, variant)
    words = {key: value for key, value in state.items() if key.startswith((MODEL, VOID)) and VISUAL not in key}
    part = {key.removeprefix(MODEL).removeprefix(ADAPTER): value for key, value in words.items()}
    return checkpoint.fill(tower, part, files[0], name, {}).to(device)


def _others(name: str) -> dict[str, checkpoint.Shapes]:
    """Return the tensor shapes of each network in VARIANTS except `name`, as {network: {tensor: shape}}."""
    # If a file does not fit, the error message names the network that the file fits.
    with torch.device("meta"):
        return {other: checkpoint.shapes(Scan(variant)) for other, variant in VARIANTS.items() if other != name}
