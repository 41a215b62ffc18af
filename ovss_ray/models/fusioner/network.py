"""Fusioner: attention between the patch tokens of a frozen CLIP and the embeddings of class names, then a decoder.

Ma et al., "Open-vocabulary Semantic Segmentation with Frozen Vision-Language Models", BMVC 2022, arXiv 2210.15138.
Parameters have the names of the official code (https://github.com/chaofanma/Fusioner). One exception: the official
`transformer.resblocks` of the image tower is `resblocks` here.

Dimensions: H W pixels of a photograph, V windows of a photograph, n × n pixels of a window; B windows of a batch, N
patch tokens of a window; D features of CLIP, C channels of the fusion, k classes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ovss_ray.errors import OvssError, UnknownName, in_parts
from ovss_ray.models import checkpoint, photograph, runtime, text
from ovss_ray.models.clip import TextTower, WholeImageTower, text_sizes
from ovss_ray.models.fusioner.fusion import Decoder, Fusion, logits
from ovss_ray.models.fusioner.variants import VARIANTS, DataSet, Resolution, Variant
from ovss_ray.models.fusioner.windows import Layout
from ovss_ray.models.runtime import int8
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.recent import Recent
from ovss_ray.structures.vocabulary import Vocabulary

COLOURS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "pascal": ((0.4554, 0.4298, 0.3955), (0.1181, 0.1189, 0.1338)),
    "coco": ((0.4650, 0.4357, 0.3973), (0.1152, 0.1153, 0.1352)),
    "clip": (photograph.CLIP_MEAN, photograph.CLIP_STD),
}
"""Training set → mean and standard deviation of RGB in 0..1, from Fusioner's code. "clip" has CLIP's values."""
BACKGROUND = "background"
"""Name of the background class. This class has no logit, and gets the pixels where no logit is above 0."""
IMAGE, TEXT, FUSION, DECODER = "img_model.", "text_model.", "fusion.", "decoder."
"""Prefixes of names in an official checkpoint: CLIP's image tower, its text tower, and the two trained parts"""
TOWERS = ("img_model",)
"""Submodules that are image transformers. With precision int8, their linear layers compute with 8-bit integers."""
BATCH = 4
"""Default maximum number of windows in one forward pass"""


@dataclass(frozen=True)
class Inputs:
    """One photograph, prepared for the network."""

    windows: Tensor
    """(V, 3, n, n) float32, normalised, on the CPU"""
    layout: Layout


class Prediction(Mapping[str, Any]):
    """Mapping with the prediction for one photograph and k classes. `Fusioner.predict` describes the keys."""

    def __init__(self, label_map: np.ndarray, arrays: Mapping[str, Any]) -> None:
        self.label_map = label_map
        """(H, W) uint16, or (n, n) for a prediction of n × n pixels: index of each pixel's class, or NONE"""
        self._arrays = dict(arrays)

    def __getitem__(self, name: str) -> Any:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class Fusioner(nn.Module):
    """Fusioner: the two frozen towers of a CLIP, the fusion, and the decoder."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.precision = "fp32"
        self.img_model = WholeImageTower.of(variant.clip)
        self.text_model = TextTower(**text_sizes(variant.clip))
        self.fusion = Fusion(variant)
        self.decoder = Decoder(variant)
        self.classifiers = Recent[Tensor](text.KEPT, lambda rows: rows.nbytes)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.fusion.cls_emb.device

    def layout(self, image: np.ndarray, resolution: Resolution = "original") -> Layout:
        """Return the windows of a photograph (H, W, 3). If `resolution` is square_224, the photograph is one window."""
        side, stride = self.variant.side, self.variant.stride
        if resolution != "original":
            return Layout(side, side, side, stride)
        height, width = image.shape[:2]
        if not self.variant.short_side:
            return Layout(height, width, side, stride)
        return Layout(*photograph.resized_size(height, width, self.variant), side, stride, (height, width))

    def preprocess(
        self, image: np.ndarray, data_set: DataSet = "pascal", resolution: Resolution = "original"
    ) -> Inputs:
        """Return the network's input for a photograph: uint8 RGB (H, W, 3), grey (H, W) or RGBA (H, W, 4).

        `resolution`: with square_224, the photograph is resized to CLIP's square input. With original, only a variant
        with a nonzero `short_side` resizes the photograph. Raises ValueError for other arrays (see photograph.rgb).
        """
        image, layout = photograph.rgb(image), self.layout(image, resolution)
        if resolution != "original":
            image = cv2.resize(image, (layout.side, layout.side), interpolation=cv2.INTER_AREA)
        elif layout.original:
            image = photograph.resized(image, (layout.height, layout.width)).permute(1, 2, 0).numpy()
        return Inputs(layout.cut(self.normalised(image, data_set)), layout)

    def normalised(self, image: np.ndarray, data_set: DataSet = "pascal") -> Tensor:
        """Return the normalised pixels (3, h, w) float32 of an image (h, w, 3) uint8 RGB, at its own size."""
        mean, std = (
            np.array(values, np.float32) * np.float32(255) for values in COLOURS[self.variant.colours or data_set]
        )
        # The float32 operations have the order of the official code.
        return torch.from_numpy((image.astype(np.float32) - mean) * np.reciprocal(std)).permute(2, 0, 1)

    @runtime.in_full_precision
    def encode(self, windows: Tensor) -> Tensor:
        """Return CLIP's patch tokens (B, N, D), not normalised, of windows (B, 3, n, n)."""
        with runtime.autocast(self.device, self.precision):
            _, tokens = self.img_model(windows.to(self.device), ())
            return self.img_model.project(tokens[:, 1:])

    @runtime.in_full_precision
    def visual(self, windows: Tensor, batch: int = BATCH) -> Tensor:
        """Return the fusion's patch tokens (B, N, C) of windows (B, 3, n, n).

        The patch tokens do not depend on the classes. A forward pass has at most `batch` windows.
        """
        return torch.cat([self.fusion.visual(self.encode(part).float()) for part in in_parts(windows.split(batch))])

    def logits(self, visual: Tensor, rows: Tensor, batch: int = BATCH) -> Iterator[Tensor]:
        """Yield logits (k, n, n) of each window. `visual` (B, N, C) is the result of the method `visual`.

        `rows` (B, k, D) are text embeddings, float32. Logits of at most `batch` windows are in memory at a time.
        """
        for part in in_parts(zip(visual.split(batch), rows.split(batch), strict=True)):
            with runtime.full_precision(self.device):
                windows = logits(*self._decoded(*part))
            yield from windows

    def _decoded(self, visual: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixel features (B, C, n, n) and classes (B, k, C), float32."""
        with runtime.autocast(self.device, self.precision):
            patches, classes = self.fusion(visual, rows)
            return self.decoder(patches).float(), classes.float()

    def classifier(self, vocabulary: Vocabulary) -> Tensor:
        """Return unit-norm embeddings (k, D) of all classes but the background. The embeddings are cached."""

        def make() -> Tensor:
            return embed(self.text_model, [vocabulary], self.variant, text.embed_cached)[0]

        return self.classifiers.get(vocabulary.digest, make)

    @torch.inference_mode()
    @runtime.in_full_precision
    def predict(
        self, image: np.ndarray, names: Vocabulary | Iterable[str], data_set: DataSet = "pascal",
        resolution: Resolution = "original",
    ) -> Prediction:  # fmt: skip
        """Return the prediction for a photograph: uint8 RGB (H, W, 3), grey (H, W) or RGBA (H, W, 4).

        The k classes are all `names` but the background. The classes of one call influence each other's logits; the
        paper has one class per call. Raises ValueError if `image` has another shape or dtype. Raises OvssError if k is
        0, and for an unknown `data_set` or `resolution`. Raises OvssError for too large logits (see Layout.check).

        If `resolution` is original, the keys are text_embedding (k, D), logits (k, H, W) and pred (k, H, W) uint8.
        pred[c] is 1 at pixels where class c has the highest logit and this logit is positive, else 0. If `resolution`
        is square_224, `logits` and `pred` are (k, n, n). The result then has four more keys: img_tokens (N, D),
        fusion_patches (N, C), fusion_text (k, C) and decoder (C, n, n).
        """
        _check(data_set=data_set, resolution=resolution)
        vocabulary = Vocabulary.of(names)
        self.layout(photograph.rgb(image), resolution).check(len(requested(vocabulary)))
        inputs, rows = self.preprocess(image, data_set, resolution), self.classifier(vocabulary)
        arrays: dict[str, Any] = {"text_embedding": rows}
        if resolution == "original":
            every = rows.expand(len(inputs.windows), -1, -1)
            scores = inputs.layout.mean(self.logits(self.visual(inputs.windows), every))
        else:
            tokens = self.encode(inputs.windows).float()
            patches, classes = self.fusion(self.fusion.visual(tokens), rows[None])
            pixels = self.decoder(patches)
            scores = logits(pixels, classes)[0]
            arrays |= {"img_tokens": tokens[0], "fusion_patches": patches[0], "fusion_text": classes[0]}
            arrays |= {"decoder": pixels[0]}
        best = _best(scores)
        arrays |= {"logits": scores, "pred": np.stack([best == number for number in range(len(rows))]).astype(np.uint8)}
        return Prediction(labels(best, vocabulary), arrays)

    def segment(self, image: np.ndarray, vocabulary: Vocabulary | Iterable[str], **options: Any) -> np.ndarray:
        """Return only the label map of `predict`, (H, W) uint16; (n, n) for the option resolution="square_224"."""
        return self.predict(image, vocabulary, **options).label_map


def _check(**options: str) -> None:
    """Raise UnknownName for an unknown data set or resolution."""
    known = {"data_set": get_args(DataSet), "resolution": get_args(Resolution)}
    for option, value in options.items():
        if value not in known[option]:
            raise UnknownName(option.replace("_", " "), value, list(known[option]))


def requested(vocabulary: Vocabulary) -> list[int]:
    """Return the indices of the k requested classes: all but the background. Raises OvssError if none is left."""
    indices = [index for index, name in enumerate(vocabulary.names) if name != BACKGROUND]
    if not indices:
        raise OvssError(f"the only class is {BACKGROUND!r}: name at least one class to segment")
    return indices


@torch.inference_mode()
def embed(
    tower: TextTower, vocabularies: Sequence[Vocabulary], variant: Variant, embedding: text.Embed | None = None
) -> list[Tensor]:
    """Return unit-norm text embeddings (k, D) float32 of each vocabulary's requested classes.

    An embedding is the normalised mean over the vocabulary's templates. If a vocabulary has no templates, the
    variant's templates are used. The function `embedding` embeds texts. If `embedding` is None, text.embed is used.
    """
    sets = [text.templates(words, variant.templates) for words in vocabularies]
    names = [[text.whole_names(words)[index] for index in requested(words)] for words in vocabularies]
    rows: dict[int, Tensor] = {}
    with runtime.full_precision(tower.text_projection.device):
        for templates in dict.fromkeys(sets):  # a name in several vocabularies with these templates is embedded once
            alike = [i for i, other in enumerate(sets) if other == templates]
            together = (embedding or text.embed)(tower, [name for i in alike for name in names[i]], templates)
            rows |= zip(alike, together.split([len(names[i]) for i in alike]), strict=True)
    return [rows[i] for i in range(len(names))]


def _best(scores: Tensor) -> np.ndarray:
    """Return the class (H, W) of the highest logit (k, H, W), or −1 where no logit is above 0."""
    highest, best = scores.max(0)
    return torch.where(highest > 0, best, -1).cpu().numpy()


def label_map(scores: Tensor, vocabulary: Vocabulary) -> np.ndarray:
    """Return the label map (H, W) uint16 of logits (k, H, W): class indices in the vocabulary, or NONE."""
    return labels(_best(scores), vocabulary)


def labels(best: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """Convert `_best`'s result to a label map (H, W) uint16. −1 becomes NONE, or the background class if one exists."""
    background = vocabulary.names.index(BACKGROUND) if BACKGROUND in vocabulary.names else NONE
    return np.array([*requested(vocabulary), background], np.uint16)[best]


def load(
    name: str, files: Sequence[Path], device: str = "cpu", precision: str = "fp32", variant: Variant | None = None
) -> Fusioner:
    """Load a Fusioner for inference.

    The first of `files` contains the trained fusion and decoder. If this file lacks CLIP, the second file is CLIP's
    checkpoint. If `variant` is None, the sizes are VARIANTS[name]. Raises OvssError for files of another network.
    """
    precision = runtime.checked_precision(precision)
    variant = variant or VARIANTS[name]
    with torch.device("meta"):
        model = Fusioner(variant)
    checkpoint.fill(model, state_of(files, name), files[0], name, {})
    model.precision = precision
    return int8.placed(model, device, precision, TOWERS)


def load_text(name: str, files: Sequence[Path], device: str = "cpu", variant: Variant | None = None) -> TextTower:
    """Load only the text tower, to embed vocabularies."""
    with torch.device("meta"):
        tower = TextTower(**text_sizes((variant or VARIANTS[name]).clip))
    state = {key.removeprefix(TEXT): value for key, value in state_of(files, name).items() if key.startswith(TEXT)}
    return checkpoint.fill(tower, state, files[0], name, {}).to(device)


def state_of(files: Sequence[Path], name: str) -> checkpoint.State:
    """Return the state dict of a Fusioner with our entry names. Raises OvssError if a file lacks the trained part."""
    first, *base = files
    state = checkpoint.read(first)
    if not any(key.startswith((FUSION, DECODER)) for key in state):
        raise OvssError(
            f"{first} has no trained fusion and decoder, so the predictions of {name} would be random. Set "
            "`weights` to a checkpoint that contains the trained fusion and decoder"
        )
    state = {key.replace(f"{IMAGE}transformer.", IMAGE): value for key, value in state.items()}
    for file in base:
        words, visual = checkpoint.read_clip(file)
        state |= {TEXT + key: value for key, value in words.items()} | {IMAGE + key: v for key, v in visual.items()}
    return state
