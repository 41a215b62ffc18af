"""CaSED's filter from the captions of an image to words, in thirteen steps.

Source: Conti et al., "Vocabulary-free Image Classification", NeurIPS 2023. The steps are those of vicss, the code of a
later paper (see vicss.py). Step 12 needs a part-of-speech tagger. The official tagger, flair's pos-english-fast, is not
part of this project.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from typing import Any

from ovss_ray.errors import OvssError
from ovss_ray.words.tagging import Tagger, by_wordnet

Step = Callable[[str], str]

UNWANTED = (
    *("image", "photo", "picture", "thumbnail", "logo", "symbol"),
    *("clipart", "portrait", "painting", "illustration", "icon", "profile"),
)
"""Words about pictures, which step 10 deletes."""
TAGS = ("NN", "NNS", "NNP", "NNPS", "JJ", "JJR", "JJS", "VBG", "VBN")
"""Tags of the Penn Treebank that step 12 keeps: nouns, adjectives and participles."""
SHORTEST, FEWEST = 3, 2
"""Minimum number of characters of a word (step 6), and minimum number of occurrences of a word (step 11)."""
_UNCHANGED = ("ss", "us", "is", "ies", "oes")
"""Endings of words that step 9 leaves as they are."""


def words(captions: Iterable[str], tagger: Tagger = by_wordnet) -> dict[str, int]:
    """Return the number of occurrences of each word that is left after all steps, the most frequent word first.

    Equally frequent words are in the order of first occurrence.
    """
    text = " ".join(captions)
    for step in steps(tagger).values():
        text = step(text)
    return ranked(text.split())


def ranked(listed: Iterable[str]) -> dict[str, int]:
    """Return word → number of occurrences in `listed`, the most frequent word first.

    Equally frequent words are in the order of first occurrence.
    """
    return dict(Counter(listed).most_common())


def steps(tagger: Tagger = by_wordnet) -> Mapping[str, Step]:
    """Return name → function for steps 1 to 12, in order. Each function maps a text to the text after the step.

    Step 13, which removes duplicates, is done by the function `words`.
    """
    return {
        "DropTokens": lambda text: re.sub(r"<[^>]*>", "", text),
        "DropURLs": lambda text: re.sub(r"http\S+", "", text),
        "DropSpecialCharacters": lambda text: re.sub(r"[^\w\s\-.'&]", "", text),
        "DropFileExtensions": lambda text: re.sub(r"\.\w+", "", text),
        "ReplaceSeparators": lambda text: re.sub(r"[_\-]", " ", text),
        "DropShortWords": lambda text: " ".join(word for word in text.split() if len(word) >= SHORTEST),
        "DropNonAlpha": lambda text: re.sub(r"[^a-zA-Z ]", "", text),
        "ToLowercase": str.lower,
        "ToSingular": lambda text: " ".join(map(singular, text.split())),
        "DropWords": lambda text: re.sub(rf"\b(?:{'|'.join(UNWANTED)})\b", "", text),
        "FrequencyMinWordCount": frequent,
        "FilterPOS": lambda text: tagged(text, tagger),
    }


def singular(word: str) -> str:
    """Return the singular of a plural that ends in "s", such as "cat" for "cats". This function is step 9.

    Other words are returned unchanged. Exception: a plural with an ending in _UNCHANGED, such as "cities", is also
    returned unchanged. Raises OvssError if the library inflect is missing.
    """
    if not word.endswith("s") or word.endswith(_UNCHANGED):
        return word
    return str(_singular_of(word))


@lru_cache(maxsize=10_000)
def _singular_of(word: str) -> str:
    return _engine().singular_noun(word) or word


@cache
def _engine() -> Any:
    try:
        import inflect  # an extra: the steps are defined by what this library does
    except ImportError as failure:
        raise OvssError(
            f"the filter `cased` needs a library: {failure}. To install it, run `pip install 'ovss_ray[words]'`"
        ) from failure
    return inflect.engine()


def frequent(text: str, fewest: int = FEWEST) -> str:
    """Return a text without the words that occur fewer than `fewest` times.

    If all words occur fewer than `fewest` times, the most frequent words are kept.
    """
    listed = text.split()
    if fewest <= 1 or not listed:
        return text
    number = Counter(listed)
    least = min(fewest, max(number.values()))
    return " ".join(word for word in listed if number[word] >= least)


def top_k(text: str, k: int) -> str:
    """Return `text` with the k-th most frequent word only. If k is 0, return the whole text.

    If the text has fewer than k different words, keep only the least frequent word. The filter FrequencyTopK of vicss
    does the same, although it should keep all k most frequent words. This function repeats that fault on purpose, so
    that results are comparable with those of vicss.
    """
    return text if k == 0 else " ".join(word for word in text.split() if word == [*ranked(text.split())][:k][-1])


def tagged(text: str, tagger: Tagger, kept: Iterable[str] = TAGS, compounds: bool = False) -> str:
    """Return the words of `text` whose tag is in `kept`, as a text.

    If `compounds` is True, compounds such as "traffic_light" are added at the end of the result. A compound joins two
    adjacent words of `text`, if the two words are different and both are tagged NN.
    """
    listed = text.split()
    tags = tagger(listed)
    words = " ".join(word for word, tag in zip(listed, tags, strict=True) if tag in set(kept))
    if not compounds:
        return words
    pairs = zip(listed, listed[1:], tags, tags[1:], strict=False)
    return f"{words} {' '.join(f'{a}_{b}' for a, b, *both in pairs if both == ['NN', 'NN'] and a != b)}"
