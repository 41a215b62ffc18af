"""Score regions for every class of a vocabulary, with AlphaCLIP or CLIP.

Sun et al., "Alpha-CLIP: A CLIP Model Focusing on Wherever You Want", CVPR 2024, arXiv 2312.03818.

An earlier stage proposes the regions. A later stage, `paint`, makes a label map from the regions and their scores.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, field_validator

from ovss_ray.io import digests, files
from ovss_ray.models.alpha_clip.variants import Look, Naming
from ovss_ray.models.network_config import NetworkConfig
from ovss_ray.pipeline import stage
from ovss_ray.pipeline.stage import Prepared
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.masks.regions import Masks
from ovss_ray.structures.vocabulary import Vocabularies, Vocabulary

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from torch import Tensor

    from ovss_ray.models.alpha_clip.classifier import Classifier
    from ovss_ray.models.alpha_clip.inputs import View


class Stage(stage.Stage):
    """Compute the scores (R, K) float32 of R regions of an image (H, W, 3) uint8 RGB for K classes.

    A score is the product of a cosine similarity and CLIP's logit scale, which is 100 in released checkpoints. The
    cosine similarity compares the embedding of the region with the embedding of the class.
    """

    reads = ("image", "vocabulary", "boxes", "bits")
    writes = ("scores",)
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("base", "weights", "device", "batch")

    class Config(NetworkConfig, Look, Naming):
        """Options of the network, of the input image for each region, and of the prompts for class names."""

        family: ClassVar[str] = "ovss_ray.models.alpha_clip"
        variant: str = "alpha_clip_vit_l_14"
        """alpha_clip_vit_b_16, alpha_clip_vit_l_14, alpha_clip_vit_l_14_336 or alpha_clip_tiny; or plain CLIP, such as
        clip_vit_b_16"""
        base: str | None = None
        """path of CLIP's checkpoint

        The default for alpha_clip_tiny and clip_tiny is the shipped file. The default for all other variants is the
        file that `ovss weights fetch` downloads.
        """
        weights: str | None = None
        """path of the checkpoint of AlphaCLIP's image tower

        The default for alpha_clip_tiny is the shipped file. The default for all other AlphaCLIPs is the file that
        `ovss weights fetch` downloads. If `variant` is a plain CLIP, such as clip_vit_b_16, do not set `weights`.
        """
        batch: int = Field(default=64, ge=1)
        """maximum number of regions in one forward pass"""

        @field_validator("base")
        @classmethod
        def _absolute_base(cls, path: str | None) -> str | None:
            return path and files.absolute(path)

        def paths(self) -> tuple[str | None, ...]:
            """Return the paths (`base`, `weights`). If `weights` is not set, return only (`base`,).

            The method `files` uses the default checkpoint in place of each path that is missing or None.
            """
            return (self.base, self.weights) if self.weights else (self.base,)

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """Return the paths of the checkpoints. Raises OvssError if one is missing and cannot be downloaded."""
        return config.files()

    @classmethod
    def key(cls, config: Config, vocabulary: Vocabulary) -> str:
        """Return the cache key of the embeddings that `prepare` computes for a vocabulary.

        The key depends on the text tower's checkpoint, the vocabulary, and the options `templates`, `synonyms` and
        `exact`.
        """
        return _key(digests.sha256(cls.files(config)[0]), config, vocabulary)

    @classmethod
    def prepare(cls, config: Config, vocabularies: Sequence[Vocabulary]) -> list[np.ndarray]:
        """Return the embeddings of each vocabulary's prompts. Only the text tower is loaded.

        The embeddings of N prompts are an array (N, D) float32. D is the number of CLIP's features.
        """
        from ovss_ray.models.alpha_clip import network

        with config.computing():
            tower = network.load_text(config.variant, cls.files(config), config.resolved_device())
            return [network.embed(tower, words, _naming(config)).cpu().numpy() for words in vocabularies]

    def __init__(self, config: Config, prepared: Prepared | None = None) -> None:
        super().__init__(config, prepared)
        from ovss_ray.models.alpha_clip import network

        self.model = network.load(config.variant, self.files(config), config.resolved_device(), config.precision)

    @cached_property
    def _checkpoint(self) -> str:
        """SHA-256 of the text tower's checkpoint, computed once per worker."""
        return digests.sha256(self.files(self.config)[0])

    def kept(self) -> Mapping[str, int]:
        """Return {"text": n}, where n is the size of two caches in bytes.

        One cache has the classifiers of vocabularies. The other cache has the text embeddings of single class names.
        """
        from ovss_ray.models import text

        return {"text": self.model.classifiers.held + text.WORDS.held}

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Score the regions of every image. Regions of several images share forward passes.

        If the option `exact` is True, the regions of each image have separate forward passes. Repeated runs on the same
        hardware then give bit-identical scores.
        """
        import torch

        # A forward pass may have regions of several images: only the classifier uses the vocabulary of an image.
        shown = list(map(self._views, batch["image"], batch["boxes"], batch["bits"]))
        with self.config.computing(), torch.inference_mode():
            if self.config.exact:
                embeddings = [self.model.embed(views, self.config.batch) for views in shown]
            else:
                together = self.model.embed(chain.from_iterable(shown), self.config.batch)
                embeddings = list(together.split([len(boxes) for boxes in batch["boxes"]]))
            words = [vocabularies[digest] for digest in batch["vocabulary"]]
            scores = [
                self._classifier(vocabulary)(regions) for vocabulary, regions in zip(words, embeddings, strict=True)
            ]
            return {"scores": column(values.float().cpu().numpy() for values in scores)}

    def _views(self, image: np.ndarray, boxes: np.ndarray, bits: np.ndarray) -> "Iterator[View]":
        """Yield the network's input for each region of an image.

        The image becomes a tensor only when the caller requests the first input. So the tensors of all images in a
        batch are not in memory at the same time.
        """
        if len(boxes):
            yield from self.model.viewer(image, self.config).views(boxes, Masks(boxes, bits))

    def _classifier(self, vocabulary: Vocabulary) -> "Classifier":
        """Return the classifier of a vocabulary. Classifiers are cached.

        A classifier that is not cached is built from the vocabulary's prepared embeddings. If the vocabulary has no
        prepared embeddings, the network computes the embeddings.
        """
        import torch

        from ovss_ray.models.alpha_clip.classifier import classifier

        naming = _naming(self.config)
        prepared = self.prepared.get(_key(self._checkpoint, self.config, vocabulary)) if self.prepared else None
        if prepared is None:
            return self.model.classifier(vocabulary, naming)

        def put() -> "Classifier":
            rows: Tensor = torch.tensor(prepared, device=self.model.device)
            return classifier(rows, vocabulary, naming)

        return self.model.classifiers.get(vocabulary.digest, put)


def _naming(config: Stage.Config) -> Naming:
    return Naming(templates=config.templates, synonyms=config.synonyms)


def _key(checkpoint: str, config: Stage.Config, vocabulary: Vocabulary) -> str:
    naming = hashlib.sha256(_naming(config).model_dump_json().encode()).hexdigest()[:12]
    mode = "exact" if config.exact else "fp32"
    return f"alpha_clip-{checkpoint[:24]}-{vocabulary.digest}-{naming}-{mode}"
