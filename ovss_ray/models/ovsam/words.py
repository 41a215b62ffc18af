"""Class names for Open-Vocabulary SAM. Names are split into synonyms as in `gen_cls`, a part of the official code.

Dimensions: K classes, N names, D features, S names per class.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ovss_ray.errors import OvssError
from ovss_ray.models.text import Classifier
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.vocabulary import Vocabulary

Classes = Iterable[int | str]
"""Classes of a vocabulary. An element is the index of a class, or the first of the class's names"""


def synonyms(names: Sequence[str]) -> list[str]:
    """Return the synonyms in the names of a class. For example, "wine_or_port" has the synonyms "wine" and "port".

    Separators are "_or_", " or ", "/" and ",". Synonyms are in lower case, with spaces instead of underscores. Raises
    OvssError if all names are empty.
    """
    # unlike in `gen_cls`, " or " is a separator, since our class lists have spaces instead of underscores
    joined = ",".join(names).replace("_", " ").replace(" or ", ",").replace("/", ",").lower()
    parts = [part.strip() for part in joined.split(",")]
    if not any(parts):
        raise OvssError(f"a class without a name: {list(names)!r}. Give it a name of letters or digits")
    return [part for part in parts if part]


def grouped(rows: Tensor, vocabulary: Vocabulary) -> Classifier:
    """Return a classifier that groups synonym embeddings by class.

    `rows` (N, D) are the embeddings of all synonyms, class by class.
    """
    return Classifier.of(rows, [len(synonyms(names)) for names in vocabulary.classes])


def of_embeddings(embeddings: Tensor) -> Classifier:
    """Return a classifier of K classes from S name embeddings per class.

    `embeddings` (K, S, D) is the tensor that `gen_cls` stores. Each embedding (D,) has unit norm.
    """
    count, most, width = embeddings.shape
    return Classifier(embeddings.reshape(-1, width).float(), torch.arange(count * most).view(count, most))


def mask(classes: Classes, names: Sequence[str], count: int) -> Tensor:
    """Return a mask (K,) bool that is True for the classes in `classes`.

    `names` has the first name of each class of the vocabulary, and `count` is K. If `names` is empty, `classes` must
    contain only indices. Raises OvssError for a class that does not exist.
    """
    listed = np.zeros(count, bool)
    index = {name: number for number, name in reversed(list(enumerate(names)))}
    for entry in classes:
        number = index.get(entry, -1) if isinstance(entry, str) else int(entry)
        if not 0 <= number < count:
            raise OvssError(f"unknown class {entry!r}: pass names of the vocabulary, or indices below {count}")
        listed[number] = True
    return torch.from_numpy(listed)


def grouping(groups: Mapping[str, Sequence[int]], index: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
    """Return two masks of the K classes, (K,) bool each: base classes, and novel classes.

    `count` is K. A label index is a value in the benchmark's ground truth. `index` (K,) has the label index of each
    class, or NONE for a class without a label. `groups` maps the name of a group to the label indices of the group.

    - If `groups` lacks "base" or "novel", all classes are novel, as in the official code. `index` is then not used.
    - Otherwise, the base classes are the classes with a label index in the group "base". The novel classes are the
      classes with a label index in the group "novel", and the classes without a label. All other classes are neither
      base nor novel.
    """
    if not {"base", "novel"} <= groups.keys():
        return torch.zeros(count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)
    base, novel = {*groups["base"]}, {*groups["novel"], NONE}
    return torch.tensor([label in base for label in index]), torch.tensor([label in novel for label in index])


def trained(base: Iterable[str], vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Return two masks of the K classes, (K,) bool each: base classes, and all other classes.

    `base` has the names of classes seen in training. A class is a base class if it shares a synonym with a name in
    `base`. Names outside the vocabulary have no effect.
    """
    known = {name for text in base for name in synonyms([text])}
    is_base = torch.zeros(len(vocabulary), dtype=torch.bool)
    if known:  # else 20,000 names would be split for nothing, at every click
        is_base = torch.tensor([not known.isdisjoint(synonyms(names)) for names in vocabulary.classes])
    return is_base, ~is_base
