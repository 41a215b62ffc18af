"""SAN: masks from a small side network, classes from a frozen CLIP, in one pass over the image.

Xu et al., "Side Adapter Network for Open-Vocabulary Semantic Segmentation", CVPR 2023, arXiv 2302.12242.
The side network reads features of CLIP, and predicts masks. For each mask, the side network also predicts an attention
bias, with which CLIP computes an embedding of the mask. The score of a class at a pixel is a sum over all masks: class
probability of the mask times mask probability at the pixel.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from ovss_ray.models.network_config import NetworkConfig, WithClassifiers
from ovss_ray.pipeline import stage
from ovss_ray.pipeline.stage import Prepared
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from torch import Tensor

    from ovss_ray.models.san.features import Features
    from ovss_ray.models.san.network import San


class Stage(WithClassifiers, stage.Stage):
    """Segment an image (H, W, 3) uint8 RGB into the classes of its vocabulary: prediction (H, W) uint16."""

    reads = ("image", "vocabulary")
    writes = ("prediction",)
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("weights", "device", "batch")

    class Config(NetworkConfig):
        """The SAN network, and the options of its computation."""

        family: ClassVar[str] = "ovss_ray.models.san"
        variant: str = "san_vit_b_16"
        """san_tiny, san_vit_b_16 or san_vit_large_14"""
        batch: int = Field(default=8, ge=1)
        """maximum number of images in one forward pass. Only images with the same padded size share a forward pass"""

    @classmethod
    def prepare(cls, config: Config, vocabularies: Sequence[Vocabulary]) -> list[np.ndarray]:
        """Return the classifier (K + 1, D) float32 of each vocabulary, whose last row is for "no object"."""
        from ovss_ray.models.san import network

        with config.computing():
            tower = network.load_text(config.variant, cls.files(config), config.resolved_device())
            return [network.classifier(tower, vocabulary).cpu().numpy() for vocabulary in vocabularies]

    @classmethod
    def network_key(cls, config: Config) -> str:
        """Return a key of the loaded network. In a worker, stages `san` and `tags` with equal keys share a network."""
        return config.network_key()

    def __init__(self, config: Config, prepared: Prepared | None = None, network: "San | None" = None) -> None:
        super().__init__(config, prepared)
        from ovss_ray.models.san import network as networks

        self.model = self.network = network or networks.load(
            config.variant, self.files(config), config.resolved_device(), config.precision
        )
        if network:
            self.model.share()

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Segment the images of a batch. Images of the same padded size share forward passes."""
        import torch

        from ovss_ray.models import photograph

        images, words = list(batch["image"]), [vocabularies[digest] for digest in batch["vocabulary"]]
        predictions: list[np.ndarray | None] = [None] * len(images)
        with self.config.computing(), torch.inference_mode():
            sizes = [self.model.geometry(image).padded for image in images]
            for rows in photograph.alike(sizes, 1 if self.config.exact else self.config.batch):
                labels = self._segment([images[i] for i in rows], [words[i] for i in rows])
                for row, prediction in zip(rows, labels, strict=True):
                    predictions[row] = prediction
        return {"prediction": column(predictions)}

    def kept(self) -> Mapping[str, int]:
        """Return cache name → size in bytes. The cache "features" exists only if another stage shares the network."""
        features = {"features": self.model.recent.held} if self.model.recent else {}
        return {**super().kept(), **features}

    def _segment(self, images: Sequence[np.ndarray], vocabularies: Sequence[Vocabulary]) -> Iterator[np.ndarray]:
        """Yield the label maps (H, W) uint16 of images with the same padded size."""
        features = self.model.features(images)
        logits = self._class_logits(features, vocabularies)
        for i, image in enumerate(images):
            yield self.model.labels(features.mask_logits[i], logits[i], image, vocabularies[i])

    def _class_logits(self, features: "Features", vocabularies: Sequence[Vocabulary]) -> "dict[int, Tensor]":
        """Return image index → class logits (Q, K + 1), for Q masks, K classes and "no object"."""
        logits: dict[int, Tensor] = {}
        for vocabulary in dict.fromkeys(vocabularies):
            rows = [i for i, other in enumerate(vocabularies) if other == vocabulary]
            product = features.mask_embeddings[rows] @ self.classifier(vocabulary).T
            logits |= dict(zip(rows, product, strict=True))
        return logits
