"""Open vocabulary: the ordered list of the classes that a method may predict."""

import hashlib
import json
import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ovss_ray.errors import OvssError
from ovss_ray.structures.columns import NONE

_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffd]")
"""Pattern of characters that no name may contain: control characters, line separators, unpaired surrogates, byte order
mark, and replacement character."""


@dataclass(frozen=True)
class Vocabulary:
    """Ordered tuple of K classes, each a tuple of one or more names, the displayed name first.

    Predictions are indices into `classes`. Raises OvssError for an empty vocabulary, class or name, for control
    characters, and for a template without exactly one {}.
    """

    classes: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...] = ()
    """prompts with {} in place of a name. The method averages the embeddings of a name's prompts. If `templates` is
    empty, the method uses its own templates"""

    def __post_init__(self) -> None:
        if not self.classes:
            raise OvssError("empty vocabulary: it needs at least one class. Pass one or more names")
        for index, names in enumerate(self.classes):
            if not names or not all(isinstance(name, str) and name.strip() for name in names):
                raise OvssError(
                    f"class {index} of the vocabulary has an empty name: {list(names)!r}. Give every class a name"
                )
            if invalid := [name for name in names if _NO_TEXT.search(name)]:
                raise OvssError(
                    f"class {index} of the vocabulary has a name with an invalid character: {invalid[0]!r}. "
                    "Remove tabs, line breaks and other control characters"
                )
        for template in self.templates:
            _check_template(template)

    @classmethod
    def of(cls, names: "Vocabulary | Iterable[str | Iterable[str]]", templates: Iterable[str] = ()) -> "Vocabulary":
        """Return a vocabulary from a list of classes. Each class is one name, or a list of names.

        If `names` is a Vocabulary, this Vocabulary is returned unchanged, and `templates` are ignored.
        """
        if isinstance(names, Vocabulary):
            return names
        if isinstance(names, str):
            raise OvssError(f"a vocabulary must be a list of names, found a string: {names!r}. Write [{names!r}]")
        if not isinstance(names, Iterable):
            raise OvssError(f"a vocabulary must be a list of names such as ['road', 'sky'], found {names!r}")
        classes = list(names)
        if invalid := [name for name in classes if not isinstance(name, str | Iterable)]:
            raise OvssError(
                f"the classes of a vocabulary must be names, found {invalid[0]!r}. Write the name in quotes"
            )
        return cls(tuple((name,) if isinstance(name, str) else tuple(name) for name in classes), tuple(templates))

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the first name of each class."""
        return tuple(names[0] for names in self.classes)

    @cached_property
    def digest(self) -> str:
        """Return 12 hex digits that identify this vocabulary in rows, caches and run folders."""
        content = [self.classes, self.templates] if self.templates else self.classes
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def repeated(self) -> dict[str, list[int]]:
        """Return name → indices of the classes with this name, for each name that several classes share.

        Names are compared in lower case, without outer blanks.
        """
        seen: dict[str, list[int]] = {}
        for index, names in enumerate(self.classes):
            for name in dict.fromkeys(name.strip().lower() for name in names):
                seen.setdefault(name, []).append(index)
        return {name: indices for name, indices in seen.items() if len(indices) > 1}

    def ambiguities(self, source: str) -> list[str]:
        """Return one sentence for each name that several classes share.

        `source` is the name of the vocabulary. Each sentence begins with `source`.
        """
        return [
            f"{source}: the name {name!r} stands for the classes {indices[0]} and {', '.join(map(str, indices[1:]))} "
            f"(counted from 0). Where their scores are equal, class {indices[0]} wins; give the others a different name"
            for name, indices in self.repeated().items()
        ]

    def warn_of_repeated(self, source: str) -> None:
        """Log one warning for each name that several classes share.

        `source` is the name of the vocabulary. Each warning begins with `source`.
        """
        for sentence in self.ambiguities(source):
            logging.getLogger(__name__).warning("%s", sentence)


def _check_template(template: str) -> None:
    """Raise OvssError unless a template is a sentence with exactly one {}, and no other brace."""
    if template.count("{}") != 1 or template.count("{") + template.count("}") != 2:
        raise OvssError(
            f"the template {template!r} must have one {{}} in place of the name, and no other brace. Write a template "
            "such as 'a photo of a {}.'"
        )
    if _NO_TEXT.search(template):
        raise OvssError(f"the template {template!r} has an invalid character. Remove line breaks and tabs")


Vocabularies = Mapping[str, Vocabulary]
"""Mapping from digest to vocabulary. It contains each vocabulary to which a row of a batch refers."""


def folded(name: str) -> str:
    """Return a name in the form for comparisons: NFC, case-folded, without outer blanks."""
    return unicodedata.normalize("NFC", name).strip().casefold()


def synonyms(names: Iterable[str]) -> tuple[str, ...]:
    """Split names at commas, and return the different parts: ("road, route", "way") gives ("road", "route", "way")."""
    return tuple(dict.fromkeys(part.strip() for name in names for part in name.split(",") if part.strip()))


def names_of_classes(vocabulary: Vocabulary) -> list[tuple[str, int]]:
    """Return (name, class index) for all names, sorted by rank, then by class index. A name may occur several times.

    - rank 0: the displayed name of a class, such as "road, route"
    - rank 1: another name of the class
    - rank 2: the first part of the displayed name, "road"
    - rank 3: any other part of a name, "route"
    """
    ranked = [
        (rank + (i > 0), index, name)
        for index, names in enumerate(vocabulary.classes)
        for rank, listed in ((0, names), (2, synonyms(names)))
        for i, name in enumerate(listed)
    ]
    return [(name, index) for _, index, name in sorted(ranked, key=lambda entry: entry[:2])]


def exact_mapping(words: Iterable[Sequence[str]], vocabulary: Vocabulary) -> npt.NDArray[np.uint16]:
    """Return the class index of each of W words, (W,) uint16. The index is NONE for a word that matches no class.

    A word is a sequence of names. The names of a word are tried in order. The first name that is in `names_of_classes`
    determines the class. If several classes have this name, the first of them in `names_of_classes` is chosen. Names
    are compared in `folded` form.
    """
    classes = {folded(name): index for name, index in reversed(names_of_classes(vocabulary))}
    matches = ([classes[key] for key in map(folded, names) if key in classes] for names in words)
    return np.array([match[0] if match else NONE for match in matches], np.uint16)
