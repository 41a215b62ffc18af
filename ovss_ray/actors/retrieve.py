"""Retrieve from a list the captions whose CLIP embeddings are most similar to the embedding of an image.

This is the first step of CaSED: Conti et al., "Vocabulary-free Image Classification", NeurIPS 2023, arXiv 2306.00917,
§3. Near duplicates are removed, so an image may have fewer captions than `count`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ovss_ray.io.arrays.caption_index import Hit
from ovss_ray.models.alpha_clip.clip_config import ClipConfig, Retrieval, build_index
from ovss_ray.pipeline import stage
from ovss_ray.pipeline.stage import Prepared
from ovss_ray.structures.columns import Batch, column
from ovss_ray.structures.vocabulary import Vocabularies


class Stage(stage.Stage):
    """Retrieve captions for an image (H, W, 3) uint8 RGB, best first. A score is the inner product of embeddings."""

    reads = ("image",)
    writes = ("captions",)
    gpu: ClassVar[bool] = True
    where: ClassVar[tuple[str, ...]] = ("captions", "vectors", "faiss", "weights", "device", "batch")

    class Config(ClipConfig, Retrieval):
        """The CLIP model that embeds images and captions, and the list of captions to search (the base)."""

    @classmethod
    def files(cls, config: Config) -> tuple[Path, ...]:
        """Return the files of CLIP's checkpoint and of the captions. Raises OvssError if a file is missing."""
        return (*config.files(), *config.base_files("retrieve"))

    def __init__(self, config: Config, prepared: Prepared | None = None) -> None:
        super().__init__(config, prepared)
        self.model = config.load()
        self.index = build_index(config, config, self.model)

    def __call__(self, batch: Batch, vocabularies: Vocabularies) -> Batch:
        """Retrieve the captions of every image."""
        import torch

        size = 1 if self.config.exact else self.config.batch
        with self.config.computing(), torch.inference_mode():
            queries = self.model.embed_photographs(batch["image"], size).cpu().numpy()
        every = self.index.retrieve(queries, self.config.count, self.config.duplicates)
        return {"captions": column(self._captions(hits) for hits in every)}

    def _captions(self, hits: Sequence[Hit]) -> dict[str, list[str] | list[float]]:
        """Return the captions of one image as a value of the column `captions`.

        The score of a caption is the inner product of the caption's embedding and the image's embedding.
        """
        return {
            "texts": [self.index.texts[hit.row] for hit in hits],
            "scores": [hit.similarity for hit in hits],
        }
