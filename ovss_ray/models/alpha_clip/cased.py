"""CaSED: scores of candidate words for an image, from embeddings of the image, of captions and of the words.

Source: Conti et al., "Vocabulary-free Image Classification", NeurIPS 2023, arXiv 2306.00917, §3. The captions are
retrieved for the image. Dimensions: W words, C captions, D features, n texts.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models import text
from ovss_ray.models.alpha_clip.clip_config import Scoring, spoken
from ovss_ray.models.clip import TextTower


def scores(image: Tensor, captions: Tensor, words: Tensor, scale: float, scoring: Scoring) -> Tensor:
    """Return the probabilities (W,) of words: α · p(word | image) + (1 − α) · p(word | captions).

    α is `scoring.alpha`. `image` (D,), `captions` (C, D) and `words` (W, D) are embeddings; only `words` must have unit
    norm. `scale` is CLIP's logit scale. If there are no captions, the result is p(word | image).
    """
    visual = _probabilities(F.normalize(image, dim=-1), words, scale, scoring)
    if not len(captions):
        return visual
    mean = F.normalize(F.normalize(captions, dim=-1).mean(0), dim=-1)
    return scoring.alpha * visual + (1 - scoring.alpha) * _probabilities(mean, words, scale, scoring)


def _probabilities(embedding: Tensor, words: Tensor, scale: float, scoring: Scoring) -> Tensor:
    logits = (scale * (words @ embedding) + scoring.bias) / scoring.temperature
    return logits.sigmoid() if scoring.probability == "sigmoid" else logits.softmax(-1)


def embed(tower: TextTower, texts: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
    """Return unit-norm embeddings (n, D) float32 of texts; an embedding is the mean over the templates.

    Embeddings are cached in the process (see text.embed_cached). Underscores become blanks, as in CaSED.
    """
    if not texts:
        return tower.text_projection.new_empty(0, 0)
    return text.embed_cached(tower, [spoken(name) for name in texts], templates)
