"""AlphaCLIP or CLIP: regions without names get scores for every class of a vocabulary.

Sun et al., "Alpha-CLIP: A CLIP Model Focusing on Wherever You Want", CVPR 2024, arXiv 2312.03818.

The second half of a two-stage method: another stage proposes regions, this one names them, `paint` makes the map. Every
region is one small picture for CLIP's image tower (see models.alpha_clip_inputs for what is in it). Regions of all the
images of a batch share forward passes, which are full but for the last; a vocabulary enters in the last product alone.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from ovss_ray import files, stage, weights
from ovss_ray.actors.san import computing, device
from ovss_ray.columns import Batch, column
from ovss_ray.errors import UnknownName
from ovss_ray.models import alpha_clip_variants
from ovss_ray.models.alpha_clip_variants import VARIANTS, Look, Naming
from ovss_ray.regions import Masks
from ovss_ray.stage import Prepared
from ovss_ray.vocabulary import Vocabularies, Vocabulary

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from torch import Tensor

    from ovss_ray.models.alpha_clip_inputs import View
    from ovss_ray.models.alpha_clip_words import Classifier


class Stage(stage.Stage):
    """image (H, W, 3) uint8 RGB, regions and vocabulary → scores (R, K) float32: 100 · cosine."""

    reads = ("image", "vocabulary", "boxes", "bits")
    writes = ("scores",)
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("base", "weights", "device", "batch")

    class Config(stage.Config, Look, Naming):
        """Which network, what it is shown of a region (Look), and how classes are put into words (Naming)."""

        variant: str = "alpha_clip_vit_l_14"
        """alpha_clip_vit_b_16, alpha_clip_vit_l_14, alpha_clip_vit_l_14_336 or alpha_clip_tiny, or plain CLIP:
        clip_vit_b_16, …"""
        base: str | None = None
        """the checkpoint of the CLIP; without it the one that `ovss weights fetch` has got or gets"""
        weights: str | None = None
        """the checkpoint of AlphaCLIP's image tower, likewise; plain CLIP has none"""
        device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
        """auto (a GPU if there is one), cpu, cuda or cuda:N"""
        precision: Literal["fp32", "bf16"] = "fp32"
        """bf16 is faster on a GPU and changes near-ties"""
        exact: bool = False
        """bit-identical answers on one kind of hardware: no image shares a forward pass with another, one thread"""
        batch: int = Field(default=64, ge=1)
        """regions in one forward pass, at most"""

        @field_validator("base", "weights")
        @classmethod
        def _absolute(cls, path: str | None) -> str | None:
            return path and files.absolute(path)

        @field_validator("variant")
        @classmethod
        def _known(cls, name: str) -> str:
            if name not in VARIANTS:
                raise ValueError(str(UnknownName("variant", name, VARIANTS)))
            return name

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """The checkpoints. Raises OvssError if one is not here and cannot be downloaded."""
        given = [config.base, config.weights] if config.weights else [config.base]
        return alpha_clip_variants.files(config.variant, given)

    @classmethod
    def key(cls, config: Config, vocabulary: Vocabulary) -> str:
        """Name a vocabulary's rows: by the checkpoint with the text tower, the prompts, and who may have made them."""
        naming = hashlib.sha256(_naming(config).model_dump_json().encode()).hexdigest()[:12]
        mode = "exact" if config.exact else "fp32"
        return f"alpha_clip-{weights.sha256(cls.files(config)[0])[:24]}-{vocabulary.digest}-{naming}-{mode}"

    @classmethod
    def prepare(cls, config: Config, vocabularies: Sequence[Vocabulary]) -> list[np.ndarray]:
        """Embed vocabularies with the text tower alone: rows (N, D) float32 each."""
        from ovss_ray.models import alpha_clip

        with computing(config):
            tower = alpha_clip.load_text(config.variant, cls.files(config), device(config))
            return [alpha_clip.embed(tower, one, _naming(config)).cpu().numpy() for one in vocabularies]

    def __init__(self, config: Config, prepared: Prepared | None = None) -> None:
        super().__init__(config, prepared)
        from ovss_ray.models import alpha_clip

        self.model = alpha_clip.load(config.variant, self.files(config), device(config), config.precision)

    def kept(self) -> Mapping[str, int]:
        """Classifiers of vocabularies."""
        return {"text": self.model.classifiers.held}

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Score the regions of a batch of images, those of all images together unless it has to be exact."""
        import torch

        shown = list(map(self._views, batch["image"], batch["boxes"], batch["bits"]))
        with computing(self.config), torch.inference_mode():
            if self.config.exact:
                embeddings = [self.model.embed(views, self.config.batch) for views in shown]
            else:
                together = self.model.embed(chain.from_iterable(shown), self.config.batch)
                embeddings = list(together.split([len(boxes) for boxes in batch["boxes"]]))
            asked = [vocabularies[digest] for digest in batch["vocabulary"]]
            scores = [self._classifier(one)(regions) for one, regions in zip(asked, embeddings, strict=True)]
            return {"scores": column(one.float().cpu().numpy() for one in scores)}

    def _views(self, image: np.ndarray, boxes: np.ndarray, bits: np.ndarray) -> "Iterator[View]":
        """What is shown of an image's regions, made when it is asked for: one image at a time lies in memory."""
        if len(boxes):
            yield from self.model.viewer(image, self.config).views(boxes, Masks(boxes, bits))

    def _classifier(self, vocabulary: Vocabulary) -> "Classifier":
        """What was prepared, or for a vocabulary that came later made now; kept for those used last."""
        import torch

        from ovss_ray.models.alpha_clip_words import classifier

        naming = _naming(self.config)
        made = self.prepared.get(self.key(self.config, vocabulary)) if self.prepared else None
        if made is None:
            return self.model.classifier(vocabulary, naming)

        def put() -> "Classifier":
            rows: Tensor = torch.tensor(made, device=self.model.device)
            return classifier(rows, vocabulary, naming)

        return self.model.classifiers.get(vocabulary.digest, put)


def _naming(config: Stage.Config) -> Naming:
    return Naming(templates=config.templates, synonyms=config.synonyms)
