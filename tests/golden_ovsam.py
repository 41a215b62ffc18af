"""Open-Vocabulary SAM as a stage with the class embeddings of the recorded evaluation, which were drawn at random."""

from typing import TYPE_CHECKING

import numpy as np

from ovss_ray.actors import ovsam
from ovss_ray.structures.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ovss_ray.models.text import Classifier


class Stage(ovsam.Stage):
    """`ovsam` that reads its class embeddings from a file."""

    class Config(ovsam.Stage.Config):
        embeddings: str
        """path of a .npy file, (K, S, D) float32"""

    @classmethod
    def key(cls, config: ovsam.Stage.Config, vocabulary: Vocabulary) -> None:  # type: ignore[override]
        """Nothing is prepared."""

    def _classes(self, vocabulary: Vocabulary) -> "Classifier":
        import torch

        from ovss_ray.models.ovsam import words

        return words.of_embeddings(torch.from_numpy(np.load(self.config.embeddings)))
