"""Options of stages with an Open-Vocabulary SAM. No torch is imported here, so that configs are validated quickly."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from pydantic import field_validator, model_validator

from ovss_ray.io import files
from ovss_ray.models.network_config import NetworkConfig, WithClassifiers
from ovss_ray.models.ovsam.variants import checkpoints
from ovss_ray.structures.recent import Recent
from ovss_ray.structures.vocabulary import Vocabulary

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from ovss_ray.models.text import Classifier


class OvsamConfig(NetworkConfig):
    """Options of an Open-Vocabulary SAM: the network, the checkpoints of its parts, and the rule for class scores."""

    family: ClassVar[str] = "ovss_ray.models.ovsam"
    variant: str = "ovsam_rn50x16"
    """ovsam_rn50x16, ovsam_rn50x16_lvis, ovsam_rn50x16_demo or ovsam_tiny

    ovsam_rn50x16 was trained on COCO, ovsam_rn50x16_lvis on LVIS, and ovsam_rn50x16_demo on LVIS and V3Det.
    ovsam_tiny was trained on drawn scenes.
    """
    clip: str | None = None
    """path of CLIP's checkpoint; default: the shipped file for ovsam_tiny, the downloaded file for all other variants

    ovsam_tiny needs the checkpoint clip_tiny. All other variants need the checkpoint of OpenAI's RN50x16.
    """
    neck: str | None = None
    """path of the neck's checkpoint (SAM2CLIP); default: the downloaded file"""
    sam: str | None = None
    """path of the checkpoint of SAM ViT-H, whose prompt encoder is used; default: the downloaded file"""
    fpn: str | None = None
    """path of the feature pyramid's checkpoint, for ovsam_rn50x16_demo only; default: the downloaded file"""
    path: Literal["evaluation", "demo"] = "evaluation"
    """mode of the official code: evaluation or demo

    In mode evaluation, the class scores of the head CLIP2SAM and the class scores of CLIP are fused. In mode demo, only
    the class scores of the head CLIP2SAM are used.
    """

    @field_validator("clip", "neck", "sam", "fpn")
    @classmethod
    def _absolute_part(cls, path: str | None) -> str | None:
        return path and files.absolute(path)

    @model_validator(mode="after")
    def _only_its_own_parts(self) -> Self:
        """Refuse checkpoints of parts that the variant does not have."""
        if self.fpn and not self.variant.endswith("_demo"):
            raise ValueError(
                f"the option fpn is for ovsam_rn50x16_demo only, but the variant is {self.variant}. Remove fpn, or set "
                "variant: ovsam_rn50x16_demo"
            )
        if self.variant == "ovsam_tiny" and (self.neck or self.sam):
            raise ValueError(
                "the options neck and sam have no effect with ovsam_tiny: the checkpoint of ovsam_tiny contains the "
                "neck and the prompt encoder. Remove the options neck and sam"
            )
        return self

    def paths(self) -> tuple[str | None, ...]:
        """Return the paths of the checkpoints in the order of models.ovsam.variants.checkpoints."""
        return (self.weights, self.clip, self.neck, self.sam, self.fpn)[: len(checkpoints(self.variant))]


class WithSynonyms(WithClassifiers):
    """Mixin for a stage that classifies objects. A class of the vocabulary may have several synonyms."""

    @cached_property
    def _grouped(self) -> "Recent[Classifier]":
        return Recent(1)

    def _classes(self, vocabulary: Vocabulary) -> "Classifier":
        """Return the classifier of a vocabulary: embeddings (N, D) of all synonyms, grouped by class."""
        from ovss_ray.models.ovsam import words

        rows = self.classifier(vocabulary)
        # the last classifier is cached: splitting 20,000 names into synonyms takes 44 ms
        return self._grouped.get(vocabulary.digest, lambda: words.grouped(rows, vocabulary))


class WithNames(WithSynonyms):
    """Mixin for a stage that classifies a benchmark's objects. Embeddings of class names are prepared once per run."""

    @classmethod
    def prepare(cls, config: OvsamConfig, vocabularies: Sequence[Vocabulary]) -> list[np.ndarray]:
        """Return the embeddings of all synonyms, as one array (N, D) float32 per vocabulary.

        N is the number of synonyms in the vocabulary, and D is the number of features of an embedding. Only the
        text tower is loaded.
        """
        from ovss_ray.models.ovsam import network

        with config.computing():
            tower = network.load_text(config.variant, cls.files(config), config.resolved_device())
            return [network.embed_names(tower, words).cpu().numpy() for words in vocabularies]
