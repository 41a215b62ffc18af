"""The field `map` of a request: a many-to-one mapping from the requested classes to the classes of the answer."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from fastapi import HTTPException
from pydantic import TypeAdapter, ValidationError

from ovss_ray.config import word_list
from ovss_ray.config.limits import Limits
from ovss_ray.errors import OvssError, nearest
from ovss_ray.serve.row import Row
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.vocabulary import Vocabulary, folded, synonyms

MAP = TypeAdapter(dict[str, str | None])
"""Validator for JSON: class of the request → class of the answer, or null for none."""
EXAMPLE = '{"sedan": "car", "suv": "car", "unicorn": null}'


@dataclass(frozen=True)
class Merged:
    """Classes of an answer, and a table from the classes of the request to the classes of the answer."""

    words: Vocabulary
    """classes of the answer: targets of the mapping, and requested classes that the mapping does not mention"""
    table: np.ndarray
    """(65535,) uint16: class index of the request → class index of the answer; 65534 (NONE): no class"""

    def applied(self, row: Row) -> Row:
        """Return a copy of the row with the classes of the answer in the label map `prediction`.

        The copy also has `table` as the column `merged`.
        """
        return {**row, "prediction": self.table[row["prediction"]], "merged": self.table}


def read(text: str | None, words: Vocabulary | None, limits: Limits) -> Merged | None:
    """Return the mapping in `text`, the value of a request's field `map`. If `text` is None, return None.

    `words`: the requested classes. If the model finds the class names in the image, `words` is None. The request must
    not contain a mapping then.

    Raises HTTPException 422 if the mapping is invalid, or if the request must not contain a mapping.
    """
    if text is None:
        return None
    if words is None:
        raise HTTPException(
            422,
            "the field `map` needs requested classes, but in this request the model finds the words itself. Omit "
            "`map`, or send classes without the field `add`",
        )
    if len(text) > (most := 2 * limits.letters * limits.classes):
        raise HTTPException(422, f"map is too long: {len(text):,} characters; the limit is {most:,}")
    try:
        mapping = MAP.validate_json(text)
        return _merged(mapping, words, limits)
    except ValidationError as failure:
        raise HTTPException(422, f"map: invalid value; pass JSON such as {EXAMPLE}") from failure
    except OvssError as failure:
        raise HTTPException(422, f"map: {failure}") from failure


def _merged(mapping: Mapping[str, str | None], words: Vocabulary, limits: Limits) -> Merged:
    """Return the classes and the table of a mapping. Raises OvssError for unknown classes and invalid names."""
    named = _named(words)
    targets: list[str | None] = list(words.names)
    for word, target in mapping.items():
        if _folded(word) not in named:
            hint = nearest(word, [name for names in words.classes for name in names])
            raise OvssError(f"{word[:40]!r} is none of the {len(words)} requested classes.{hint}")
        for position in named[_folded(word)]:
            targets[position] = target
    kept = [name for name in targets if name is not None]
    names = {_folded(name): name for name in reversed(kept)}
    if (longest := max(map(len, names.values()), default=0)) > limits.letters:
        raise OvssError(
            f"a class of the answer has a name with {longest:,} characters; the limit is {limits.letters:,}. Shorten "
            "the name"
        )
    places = {key: place for place, key in enumerate(dict.fromkeys(map(_folded, kept)))}
    table = np.full(NONE + 1, NONE, np.uint16)
    table[: len(targets)] = [NONE if name is None else places[_folded(name)] for name in targets]
    return Merged(Vocabulary.of(names[key] for key in places), table)


def _named(words: Vocabulary) -> dict[str, list[int]]:
    """Return a dict: name → indices of the classes with this name. The names have the form that `_folded` returns.

    The class ("road, route", "way") has the names "road, route", "way", "road" and "route".

    The displayed name of a class is the first name in its tuple. If a name is the displayed name of some classes, the
    list for this name has only these classes. Example: class 0 is ("car",), and class 1 is ("vehicle", "car"). The list
    for the name "car" is [0].
    """
    first: dict[str, list[int]] = {}
    others: dict[str, list[int]] = {}
    for position, names in enumerate(words.classes):
        first.setdefault(_folded(names[0]), []).append(position)
        for name in (*names, *synonyms(names)):
            others.setdefault(_folded(name), []).append(position)
    return {**others, **first}


def _folded(name: str) -> str:
    """Return a name in the form in which names are compared: composed accents, single spaces, without case."""
    return folded(word_list.tidy(name))
