"""CaSED: scores of candidate words for an image, from embeddings of the image, of captions and of the words.

Conti et al., "Vocabulary-free Image Classification", NeurIPS 2023, arXiv 2306.00917, §3. Captions that were retrieved
for the image vote together with the image. Letters: W words, C captions, D features, n texts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models import text
from ovss_ray.models.alpha_clip.clip_config import Scoring, spoken
from ovss_ray.models.clip import TextTower
from ovss_ray.structures.recent import Recent


def scores(image: Tensor, captions: Tensor, words: Tensor, scale: float, scoring: Scoring) -> Tensor:
    """Return the probabilities (W,) of words: α · from the image + (1 − α) · from the captions.

    `image` (D,) and `captions` (C, D) need not be of unit norm; `words` (W, D) is. `scale` is CLIP's temperature.
    Without captions, the image counts alone.
    """
    visual = _probabilities(F.normalize(image, dim=-1), words, scale, scoring)
    if not len(captions):
        return visual
    mean = F.normalize(F.normalize(captions, dim=-1).mean(0), dim=-1)
    return scoring.alpha * visual + (1 - scoring.alpha) * _probabilities(mean, words, scale, scoring)


def _probabilities(embedding: Tensor, words: Tensor, scale: float, scoring: Scoring) -> Tensor:
    logits = (scale * (words @ embedding) + scoring.bias) / scoring.temperature
    return logits.sigmoid() if scoring.probability == "sigmoid" else logits.softmax(-1)


class Texts:
    """Embeddings of texts, each computed once and kept; the least recently used ones are evicted.

    CaSED reads underscores as blanks. With `exact`, each text has a forward pass of its own, so that results do not
    depend on other texts.
    """

    def __init__(self, tower: TextTower, templates: Sequence[str] = ("{}",), exact: bool = False) -> None:
        self._tower, self._templates, self._exact = tower, templates, exact
        self._rows = Recent[Tensor](text.KEPT, lambda row: row.nbytes)

    @property
    def held(self) -> int:
        """Bytes of the cache."""
        return self._rows.held

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return unit-norm embeddings (n, D) float32 of texts; an embedding is the mean over the templates."""
        rows = {name: row for name in dict.fromkeys(texts) if (row := self._rows.kept(name)) is not None}
        new = [name for name in dict.fromkeys(texts) if name not in rows]
        for names in [[name] for name in new] if self._exact else [new] * bool(new):
            rows |= zip(names, text.embed(self._tower, [spoken(name) for name in names], self._templates), strict=True)
        for name, row in rows.items():
            self._rows.get(name, row.clone)
        return torch.stack([rows[name] for name in texts]) if texts else self._tower.text_projection.new_empty(0, 0)
