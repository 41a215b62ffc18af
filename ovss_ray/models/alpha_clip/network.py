"""AlphaCLIP: a CLIP with an alpha channel for the region to classify.

Sun et al., "Alpha-CLIP: A CLIP Model Focusing on Wherever You Want", CVPR 2024, arXiv 2312.03818. A second patch
convolution reads the region's mask, and the outputs of both convolutions are added. Without the second convolution,
the network is plain CLIP (arXiv 2103.00020).

Dimensions: R regions of one image; B regions of P images in one forward pass; n side of an image, K classes,
D features.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from ovss_ray.errors import OvssError, in_parts
from ovss_ray.models import checkpoint, runtime, text
from ovss_ray.models.alpha_clip.classifier import Classifier, classifier, embed
from ovss_ray.models.alpha_clip.inputs import View, Viewer, whole_picture
from ovss_ray.models.alpha_clip.variants import VARIANTS, Look, Naming, Variant
from ovss_ray.models.clip import TextTower, WholeImageTower, text_sizes
from ovss_ray.models.photograph import rgb
from ovss_ray.models.runtime import int8
from ovss_ray.structures.masks import regions
from ovss_ray.structures.recent import Recent
from ovss_ray.structures.vocabulary import Vocabulary

TOWERS = ("visual",)
"""Submodules that are image transformers. With precision int8, their linear layers compute with 8-bit integers."""
BATCH = 64
"""Default maximum number of regions in one forward pass"""


class RegionTower(WholeImageTower):
    """CLIP's image tower, applied to regions. In an AlphaCLIP, a second convolution reads the regions' masks."""

    def __init__(self, variant: Variant) -> None:
        super().__init__(
            variant.width, variant.heads, variant.layers, variant.patch, variant.grid, variant.embed, variant.stem
        )
        self.conv1_alpha = (
            nn.Conv2d(1, variant.width, variant.patch, variant.patch, bias=False) if variant.base else None
        )

    def look(self, pictures: Tensor, alphas: Tensor, which: Tensor) -> Tensor:
        """Return the features (B, D) of regions.

        `pictures` (P, 3, n, n) are images. `alphas` (B, 1, n, n) are the regions' masks, which a plain CLIP ignores.
        `which` (B,) int64 has the index in `pictures` of each region's image.
        """
        patches = self.conv1(pictures)[which]
        if self.conv1_alpha is not None:
            patches = patches + self.conv1_alpha(alphas)
        return self.encode(patches)


class AlphaClip(nn.Module):
    """AlphaCLIP or CLIP: image tower and text tower. Regions get logits for the classes of a vocabulary."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.precision = "fp32"
        self.visual = RegionTower(variant)
        self.text = TextTower(**text_sizes(variant))
        self.classifiers = Recent[Classifier](text.KEPT, lambda kept: kept.rows.nbytes + kept.classes.nbytes)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights."""
        return self.visual.proj.device

    def forward(self, pictures: Tensor, alphas: Tensor, which: Tensor) -> Tensor:
        """Return unit-norm embeddings (B, D) float32 of regions.

        `pictures` (P, 3, n, n) are normalised images. `alphas` (B, 1, n, n) are the normalised masks of the regions.
        `which` (B,) int64 has the index in `pictures` of each region's image.
        """
        half = runtime.autocast(pictures.device, "bf16") if self.precision == "bf16" else nullcontext()
        with half:  # a training computes this under an autocast of its own
            embeddings = self.visual.look(pictures, alphas, which)
        return F.normalize(embeddings.float(), dim=-1)

    def viewer(self, image: np.ndarray, look: Look) -> Viewer:
        """Return a Viewer, which builds the network's inputs for the regions of an image.

        `image` is uint8: RGB (H, W, 3), RGBA (H, W, 4) or grey (H, W). Raises ValueError for an image of another shape
        or dtype (see photograph.rgb).
        """
        return Viewer(rgb(image), look, self.variant.pixels, self.device)

    @runtime.in_full_precision
    def embed(self, views: Iterable[View], batch: int = BATCH) -> Tensor:
        """Return unit-norm embeddings (R, D) float32 of regions, computed `batch` regions at a time.

        A batch may have regions of several images.
        """
        parts = [self(*stacked(views)) for views in in_parts(_batched(views, batch))]
        return torch.cat(parts) if parts else torch.empty(0, self.variant.embed, device=self.device)

    @runtime.in_full_precision
    def embed_pictures(self, pictures: Tensor, batch: int = BATCH) -> Tensor:
        """Return a plain CLIP's unit-norm embeddings (N, D) float32 of whole, normalised images (N, 3, h, w).

        The images may have another size than (n, n), the size of the network's input. The position embedding is
        resized to the images' grid of patches. Raises OvssError for an AlphaCLIP.
        """
        if self.visual.conv1_alpha is not None:
            raise OvssError("an AlphaCLIP cannot embed whole images. Load a plain CLIP, such as clip_vit_l_14")
        parts = [self(part, part[:, :1], torch.arange(len(part), device=part.device)) for part in pictures.split(batch)]
        return torch.cat(parts) if parts else torch.empty(0, self.variant.embed, device=self.device)

    def embed_photographs(self, images: Iterable[np.ndarray], batch: int = BATCH) -> Tensor:
        """Return a plain CLIP's unit-norm embeddings (N, D) float32 of N photographs.

        Each photograph is uint8: RGB (H, W, 3), RGBA (H, W, 4) or grey (H, W). Raises ValueError for a photograph of
        another shape or dtype (see photograph.rgb). Raises OvssError for an AlphaCLIP.
        """
        size = self.variant.pixels
        pictures = [whole_picture(rgb(image), size, self.device) for image in images]
        empty = torch.empty(0, 3, size, size, device=self.device)
        return self.embed_pictures(torch.stack(pictures) if pictures else empty, batch)

    @runtime.in_full_precision
    def classifier(self, vocabulary: Vocabulary, naming: Naming) -> Classifier:
        """Return the classifier of a vocabulary. Classifiers and the embeddings of names are cached."""

        def make() -> Classifier:
            return classifier(embed(self.text, vocabulary, naming, text.embed_cached), vocabulary, naming)

        return self.classifiers.get(f"{vocabulary.digest} {naming!r}", make)

    @torch.inference_mode()
    @runtime.in_full_precision
    def classify(
        self, image: np.ndarray, masks: np.ndarray, vocabulary: Vocabulary | Iterable[str], batch: int = BATCH,
        **options: Any,
    ) -> Tensor:  # fmt: skip
        """Return logits (R, K) float32 of regions for classes: cosine similarity · CLIP's logit scale.

        `image` is uint8: RGB (H, W, 3), RGBA (H, W, 4) or grey (H, W). `masks` (R, H, W) bool are the regions.
        `options` are fields of Look and Naming, such as context="crop".

        Raises OvssError for an invalid option, or for masks of another shape or dtype. Raises ValueError for an image
        of another shape or dtype (see photograph.rgb).
        """
        image = rgb(image)
        if masks.shape[1:] != image.shape[:2] or masks.dtype != bool:
            raise OvssError(
                f"invalid masks: found dtype {masks.dtype} and shape {masks.shape}. Pass R masks of the image's size: "
                f"dtype bool, shape (R, {image.shape[0]}, {image.shape[1]})"
            )
        look, naming = _options(options)
        boxes, bits = regions.pack(masks)
        embeddings = self.embed(self.viewer(image, look).views(boxes, regions.Masks(boxes, bits)), batch)
        return self.classifier(Vocabulary.of(vocabulary), naming)(embeddings)


def _options(options: dict[str, Any]) -> tuple[Look, Naming]:
    """Split options into a Look and a Naming. Raises OvssError for an unknown or invalid option."""
    naming = {name: value for name, value in options.items() if name in Naming.model_fields}
    try:
        return Look(**{name: value for name, value in options.items() if name not in naming}), Naming(**naming)
    except ValidationError as failure:
        first = failure.errors()[0]
        known = ", ".join([*Look.model_fields, *Naming.model_fields])
        raise OvssError(
            f"invalid option {first['loc'][0]}={first['input']!r}: {first['msg']}. The options are {known}"
        ) from failure


def _batched(views: Iterable[View], batch: int) -> Iterator[list[View]]:
    stream = iter(views)
    return iter(lambda: list(islice(stream, batch)), [])


def stacked(views: Sequence[View]) -> tuple[Tensor, Tensor, Tensor]:
    """Stack views to a batch: distinct images (P, 3, n, n), masks (B, 1, n, n), and each region's image index (B,)."""
    pictures = {id(view.picture): view.picture for view in views}
    order = {key: i for i, key in enumerate(pictures)}
    which = torch.tensor([order[id(view.picture)] for view in views])
    alphas = torch.stack([view.alpha for view in views])
    return torch.stack(list(pictures.values())), alphas, which.to(alphas.device)


def load(
    name: str, files: Sequence[Path], device: str = "cpu", precision: str = "fp32", variant: Variant | None = None
) -> AlphaClip:
    """Load an AlphaCLIP or CLIP for inference.

    `files` are the paths of the network's checkpoints, in the order of variants.checkpoints. `variant` has the sizes of
    a network that VARIANTS does not list. If `variant` is None, the sizes are VARIANTS[name]. Raises OvssError for a
    missing file, or for the checkpoint of another network.
    """
    precision = runtime.checked_precision(precision)
    variant = variant or VARIANTS[name]
    with torch.device("meta"):
        model = AlphaClip(variant)
    words, visual = checkpoint.read_clip(files[0])
    if variant.base:
        visual = (visual if variant.partial else {}) | checkpoint.image_tower(checkpoint.read_any(files[1]))
    checkpoint.fill(model.text, words, files[0], variant.base or name, {})
    checkpoint.fill(model.visual, visual, files[-1], name, _others(name))
    model.precision = precision
    return int8.placed(model, device, precision, TOWERS)


def load_text(name: str, files: Sequence[Path], device: str = "cpu", variant: Variant | None = None) -> TextTower:
    """Load only the text tower, to embed vocabularies."""
    variant = variant or VARIANTS[name]
    with torch.device("meta"):
        tower = TextTower(**text_sizes(variant))
    words, _ = checkpoint.read_clip(files[0])
    return checkpoint.fill(tower, words, files[0], variant.base or name, {}).to(device)


def _others(name: str) -> dict[str, checkpoint.Shapes]:
    """Return variant → shapes of the image tower's tensors, for all variants except `name`.

    The shapes serve to recognise the checkpoint of another variant.
    """
    with torch.device("meta"):
        return {other: checkpoint.shapes(RegionTower(variant)) for other, variant in VARIANTS.items() if other != name}
