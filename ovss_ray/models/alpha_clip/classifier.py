"""Classifiers of regions. A classifier compares a region's embedding with the prompt embeddings of a vocabulary.

Dimensions: K classes, N prompts, D features, R regions.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ovss_ray.models import text
from ovss_ray.models.alpha_clip.variants import Naming
from ovss_ray.models.clip import TextTower
from ovss_ray.models.text import Classifier
from ovss_ray.structures.vocabulary import Vocabulary


@torch.inference_mode()
def embed(tower: TextTower, vocabulary: Vocabulary, naming: Naming, embedding: text.Embed | None = None) -> Tensor:
    """Return the prompt embeddings (N, D) float32 of a vocabulary: unit vectors times CLIP's logit scale.

    If the vocabulary has templates, they replace the templates of `naming`. `embedding` embeds texts; default:
    text.embed.
    """
    texts = prompts(vocabulary, naming)
    templates = text.TEMPLATES[naming.templates] if isinstance(naming.templates, str) else naming.templates
    every = [name for names in texts for name in names]
    rows = (embedding or text.embed)(tower, every, vocabulary.templates or templates)
    if naming.synonyms == "mean":
        parts = rows.split([len(names) for names in texts])
        rows = F.normalize(torch.stack([part.mean(0) for part in parts]), dim=-1)
    return rows * tower.logit_scale.exp()


def classifier(rows: Tensor, vocabulary: Vocabulary, naming: Naming) -> Classifier:
    """Return the classifier of a vocabulary.

    `rows` (N, D) are the prompt embeddings of the vocabulary, as returned by `embed` for the same `naming`.
    """
    texts = prompts(vocabulary, naming)
    return Classifier.of(rows, [len(names) if naming.synonyms == "max" else 1 for names in texts])


def prompts(vocabulary: Vocabulary, naming: Naming) -> list[tuple[str, ...]]:
    """Return the texts of each class, to be inserted into the templates.

    Every name is assigned to only one class, even if several classes have the name (see `_owners`). The texts of a
    class depend on `naming.synonyms`:

    - "whole": one text with all names of the class
    - "mean": every name of the class
    - "first": the first name that is assigned to the class
    - "max": every name that is assigned to the class

    If no name is assigned to a class, "first" works like "whole" for this class, and "max" works like "mean".
    """
    classes = [tuple(name.strip() for name in names) for names in vocabulary.classes]
    if naming.synonyms == "whole":
        return [(", ".join(names),) for names in classes]
    if naming.synonyms == "mean":
        return classes
    # If two classes have equal texts, their scores tie, and the second class is never predicted.
    owners = _owners([[name.lower() for name in names] for names in classes])
    owned = [tuple(name for name in names if owners[name.lower()] == k) for k, names in enumerate(classes)]
    if naming.synonyms == "first":
        return [unique[:1] or (", ".join(names),) for unique, names in zip(owned, classes, strict=True)]
    return [unique or names for unique, names in zip(owned, classes, strict=True)]


def _owners(classes: list[list[str]]) -> dict[str, int]:
    """Return for each name the index of one class that has the name.

    As many classes as possible get at least one name.
    """
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

    for k in range(len(classes)):  # bipartite matching: at most one name per class
        claim(k, set())
    for k, names in enumerate(classes):
        for name in names:
            owners.setdefault(name, k)  # a remaining name: the first class that has the name
    return owners
