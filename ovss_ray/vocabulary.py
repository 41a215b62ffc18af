"""The open vocabulary: the ordered classes that may be named in an image."""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ovss_ray.errors import OvssError

_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffd]")
"""Control characters, ends of lines, halves of characters, the mark at the beginning of a file, and that of a loss."""


@dataclass(frozen=True)
class Vocabulary:
    """An ordered tuple of K classes, each a tuple of one or more names, the first being the one shown.

    Order is part of the meaning: predictions are indices into `classes`. How names become prompts (templates, the
    use of synonyms) belongs to the method, not to the vocabulary.

    Raises OvssError for no class at all, a class without a name, an empty name, or one with a tab or the like.
    """

    classes: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if not self.classes:
            raise OvssError("a vocabulary needs at least one class, and this one has none")
        for index, names in enumerate(self.classes):
            if not names or not all(isinstance(name, str) and name.strip() for name in names):
                raise OvssError(
                    f"class {index} of the vocabulary has an empty name: {list(names)!r}. Give every class one"
                )
            if odd := [name for name in names if _NO_TEXT.search(name)]:
                raise OvssError(
                    f"class {index} of the vocabulary has a name with a character that is no text: {odd[0]!r}. Write "
                    "it in plain words"
                )

    @classmethod
    def of(cls, names: "Vocabulary | Iterable[str | Iterable[str]]") -> "Vocabulary":
        """Make one of plain names, or of a list of names per class; a Vocabulary is returned as it is."""
        if isinstance(names, Vocabulary):
            return names
        if isinstance(names, str):
            raise OvssError(f"a vocabulary is a list of names, and this is one string: {names!r}. Write [{names!r}]")
        if not isinstance(names, Iterable):
            raise OvssError(f"a vocabulary is a list of names, such as ['road', 'sky'], and this is {names!r}")
        classes = list(names)
        if odd := [name for name in classes if not isinstance(name, str | Iterable)]:
            raise OvssError(f"the classes of a vocabulary are names, and one is {odd[0]!r}. Write it in quotes")
        return cls(tuple((name,) if isinstance(name, str) else tuple(name) for name in classes))

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """The first name of each class."""
        return tuple(names[0] for names in self.classes)

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits that name this vocabulary in rows, caches and run folders."""
        return hashlib.sha256(json.dumps(self.classes).encode()).hexdigest()[:12]

    def repeated(self) -> dict[str, list[int]]:
        """Names that stand for more than one class → the indices of those classes; the lowest wins ties."""
        seen: dict[str, list[int]] = {}
        for index, names in enumerate(self.classes):
            for name in dict.fromkeys(name.strip().lower() for name in names):
                seen.setdefault(name, []).append(index)
        return {name: indices for name, indices in seen.items() if len(indices) > 1}

    def warn_of_repeated(self, source: str) -> None:
        """Log a warning for the names that stand for more than one class; `source` is what the vocabulary is of."""
        for name, indices in self.repeated().items():
            others = ", ".join(map(str, indices[1:]))
            logging.getLogger(__name__).warning(
                "%s: the name %r stands for the classes %s and %s (counted from 0). Where they score alike, class %s "
                "wins; give the others a name of their own",
                *(source, name, indices[0], others, indices[0]),
                extra={"sure": False},
            )


Vocabularies = Mapping[str, Vocabulary]
"""Digest → vocabulary: every vocabulary that the rows of a batch may name."""
