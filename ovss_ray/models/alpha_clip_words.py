"""From the classes of a vocabulary to the rows that regions are compared with.

Letters: K classes, N prompts, D features, R regions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray import text
from ovss_ray.models.alpha_clip_variants import Naming
from ovss_ray.models.clip import TextTower
from ovss_ray.vocabulary import Vocabulary


@dataclass(frozen=True)
class Classifier:
    """A vocabulary in numbers."""

    rows: Tensor
    """(N, D): embeddings of prompts, times the temperature"""
    classes: Tensor
    """(K, M) int64: the rows of each class, its last one repeated where it has fewer than M"""

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Regions (R, D) of unit norm → logits (R, K): 100 · cosine, of the best of a class's rows."""
        return (embeddings @ self.rows.T)[:, self.classes].amax(-1)


@torch.inference_mode()
def embed(tower: TextTower, vocabulary: Vocabulary, naming: Naming) -> Tensor:
    """Embed a vocabulary: rows (N, D) float32, the temperature included."""
    asked = prompts(vocabulary, naming)
    templates = text.TEMPLATES[naming.templates] if isinstance(naming.templates, str) else naming.templates
    rows = text.embed(tower, [name for names in asked for name in names], templates)
    if naming.synonyms == "mean":
        parts = rows.split([len(names) for names in asked])
        rows = F.normalize(torch.stack([part.mean(0) for part in parts]), dim=-1)
    return rows * tower.logit_scale.exp()


def classifier(rows: Tensor, vocabulary: Vocabulary, naming: Naming) -> Classifier:
    """Make a classifier of what `embed` has made."""
    asked = prompts(vocabulary, naming)
    lengths = np.array([len(names) if naming.synonyms == "max" else 1 for names in asked])
    ends = np.cumsum(lengths)
    at = np.minimum((ends - lengths)[:, None] + np.arange(lengths.max()), ends[:, None] - 1)
    return Classifier(rows, torch.tensor(at, device=rows.device))


def prompts(vocabulary: Vocabulary, naming: Naming) -> list[tuple[str, ...]]:
    """What is put into the templates for each class.

    Classes often share a name (ADE20K-847 has two "bag"), and then may tie wherever that name fits best, so that one of
    them is never predicted. So with "first" and "max" a name belongs to one class only, and each class gets one as long
    as there are enough; with "first" a class that goes without has all its names in one. Classes that still have the
    same prompts tie, and the first of them is predicted.
    """
    classes = [tuple(name.strip() for name in names) for names in vocabulary.classes]
    if naming.synonyms == "whole":
        return [(", ".join(names),) for names in classes]
    if naming.synonyms == "mean":
        return classes
    owners = _owners([[name.lower() for name in names] for names in classes])
    owned = [tuple(name for name in names if owners[name.lower()] == k) for k, names in enumerate(classes)]
    if naming.synonyms == "first":
        return [own[:1] or (", ".join(names),) for own, names in zip(owned, classes, strict=True)]
    return [own or names for own, names in zip(owned, classes, strict=True)]


def _owners(classes: list[list[str]]) -> dict[str, int]:
    """Give every name to one class, so that as many classes as possible get one: a bipartite matching (Kuhn, 1955)."""
    owners: dict[str, int] = {}

    def claim(k: int, tried: set[str]) -> bool:
        if free := next((name for name in classes[k] if name not in owners), None):
            owners[free] = k
            return True
        for name in classes[k]:
            if name not in tried:
                tried.add(name)
                if claim(owners[name], tried):
                    owners[name] = k
                    return True
        return False

    for k in range(len(classes)):
        claim(k, set())
    for k, names in enumerate(classes):
        for name in names:
            owners.setdefault(name, k)
    return owners
