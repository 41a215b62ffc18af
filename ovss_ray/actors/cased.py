"""Score the candidate words of an image with CaSED, and order the words by score.

Conti et al., "Vocabulary-free Image Classification", NeurIPS 2023, arXiv 2306.00917, §3. The word with the highest
score is the class that CaSED predicts for the image.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from ovss_ray.models.alpha_clip.clip_config import ClipConfig, Scoring
from ovss_ray.pipeline import stage
from ovss_ray.pipeline.stage import Prepared
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.vocabulary import Vocabularies

if TYPE_CHECKING:  # torch takes seconds to import, which checking a config should not cost
    from torch import Tensor

Words = Mapping[str, Any]
"""Value of the column `words` for one image"""


class Stage(stage.Stage):
    """Score the candidate words of an image (H, W, 3) uint8 RGB. Words are ordered by score, the highest first."""

    reads = ("image", "captions", "words")
    writes = ("words",)
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("weights", "device", "batch")

    class Config(ClipConfig, Scoring):
        """The CLIP model, the formula of the scores, and the limits for the words to keep."""

        most: int | None = Field(default=None, ge=1)
        """maximum number of words per image; default: all"""
        threshold: float = 0.0
        """minimum score of a word; the best word is always kept"""

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """Return the checkpoint. Raises OvssError if it is missing and cannot be downloaded."""
        return config.files()

    def __init__(self, config: Config, prepared: Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self.model = config.load()

    def kept(self) -> Mapping[str, int]:
        """Return the size in bytes of this process's cache of text embeddings, as {"text": size}."""
        from ovss_ray.models import text

        return {"text": text.WORDS.held}

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Score and order the words of every image. With `exact`, images are embedded one by one."""
        import torch

        size = 1 if self.config.exact else self.config.batch
        with self.config.computing(), torch.inference_mode():
            embeddings = self.model.embed_photographs(batch["image"], size)
            return {"words": column(map(self._scored, embeddings, batch["captions"], batch["words"]))}

    def _scored(self, image: "Tensor", captions: Mapping[str, Any], words: Words) -> Words:
        """Return the words that the options `most` and `threshold` keep, the highest score first.

        `image` (D,) is the embedding of the image.
        """
        from ovss_ray.models.alpha_clip import cased

        classes = words.get("classes") or ()
        if not len(classes):
            return {**words, "classes": [], "source": "cased", "scores": []}
        names = [str(synonyms[0]) for synonyms in classes]
        tower = self.model.text
        texts = cased.embed(tower, list(map(str, captions["texts"])))
        of_words = cased.embed(tower, names, self.config.templates)
        scores = cased.scores(image, texts, of_words, float(tower.logit_scale.exp()), self.config).cpu().numpy()
        # equal scores keep the order of `words`
        order = np.argsort(-scores, kind="stable")[: self.config.most]
        kept = [at for rank, at in enumerate(order) if rank == 0 or scores[at] >= self.config.threshold]
        return {
            "classes": [list(classes[at]) for at in kept],
            "source": "cased",
            "scores": [float(scores[at]) for at in kept],
        }
