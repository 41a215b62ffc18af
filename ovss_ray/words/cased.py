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
"""Minimum number of characters of a word (step 6), and minimum number of a word's occurrences (step 11)."""
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
    """Return the number of occurrences of each word: the most frequent first, ties in the order of first occurrence."""
    return dict(Counter(listed).most_common())


def steps(tagger: Tagger = by_wordnet) -> Mapping[str, Step]:
    """Return name → step for steps 1 to 12, in order. The function `words` does step 13, which removes duplicates."""
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
    """Return the singular of a plural in "s", by the rules of step 9. Other words are unchanged.

    Words with an ending in _UNCHANGED, such as "cities", are unchanged too. Raises OvssError without the library
    inflect.
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
    """Return only the occurrences of the k-th most frequent word. If k is 0, return the whole text.

    Correct would be all k most frequent words. This fault of vicss' FrequencyTopK is repeated for comparison. If there
    are fewer than k different words, the least frequent word is kept.
    """
    return text if k == 0 else " ".join(word for word in text.split() if word == [*ranked(text.split())][:k][-1])


def tagged(text: str, tagger: Tagger, kept: Iterable[str] = TAGS, compounds: bool = False) -> str:
    """Return the words whose tag is among `kept`.

    With `compounds`, pairs of different adjacent words that are both tagged NN are appended, joined by "_".
    """
    listed = text.split()
    tags = tagger(listed)
    words = " ".join(word for word, tag in zip(listed, tags, strict=True) if tag in set(kept))
    if not compounds:
        return words
    pairs = zip(listed, listed[1:], tags, tags[1:], strict=False)
    return f"{words} {' '.join(f'{a}_{b}' for a, b, *both in pairs if both == ['NN', 'NN'] and a != b)}"
