"""Filters from captions to words.

Each filter returns word → number of occurrences, the most frequent word first. Equally frequent words are in the order
of first occurrence.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from ovss_ray.words.cased import UNWANTED, ranked
from ovss_ray.words.tagging import FUNCTION_WORDS, NOUNS, Tagger, by_spacy, by_wordnet, spacy_model
from ovss_ray.words.wordnet import nouns

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
LONGEST = 3
"""Maximum number of words in a noun; "traffic light" has two."""
NO_OBJECTS = frozenset(
    ("background", "foreground", "blurry", "photo", "photograph", "picture", "image", "scene", "something", "view")
) | {"closeup"}
"""Words that AutoSeg drops."""
_COLOURS = """
    red orange yellow green blue indigo violet purple pink brown black white gray grey silver gold golden beige tan
    maroon navy teal turquoise cyan magenta lime olive cream ivory crimson scarlet lavender khaki peach bronze
"""
COLOURS = frozenset(_COLOURS.split())
"""Colours that `by_autoseg` drops. AutoSeg drops 35 colours, but its list is not available, so this list differs."""


def by_nouns(captions: Iterable[str], tagger: Tagger = by_wordnet) -> dict[str, int]:
    """Return noun → number of occurrences. The nouns are lemmas of WordNet in lower case.

    The longest noun is used. For example, "traffic lights" counts as "traffic light", and not as "traffic". No noun
    contains a function word. Nouns in cased.UNWANTED, such as "photo", are dropped. A noun of one
    word needs at least three letters, and `tagger` must tag it as a noun.
    """
    return ranked(word for caption in captions for word in _nouns(caption.lower(), tagger))


def _nouns(caption: str, tagger: Tagger) -> Iterator[str]:
    for run in re.split(r"[^\w\s'’_-]", caption):  # no noun goes across a comma or a full stop
        listed = _WORD.findall(run.replace("_", " "))
        tags = tagger(listed)
        start = 0
        while start < len(listed):
            phrase, length = _longest(listed[start:])
            start += length
            single = length == 1 and (tags[start - 1] not in NOUNS or len(listed[start - 1]) < 3)
            if phrase and not single and phrase not in UNWANTED:
                yield phrase


def _longest(listed: Sequence[str]) -> tuple[str, int]:
    """Return (lemma, number of words) of the longest noun at the start of `listed`, a list of words.

    If there is no noun at the start, the result is ("", 1). The caller then skips one word.
    """
    for length in range(min(LONGEST, len(listed)), 0, -1):
        if not FUNCTION_WORDS & set(listed[:length]) and (lemmas := nouns().lemmas(" ".join(listed[:length]))):
            return min(lemmas, key=len).replace("_", " "), length
    return "", 1


def by_autoseg(tagged: Iterable[Sequence[tuple[str, str]]]) -> dict[str, int]:
    """Return noun → number of occurrences, for the nouns that the filter of AutoSeg's BBoost keeps.

    `tagged` has (word, tag) of each caption's tokens. The nouns are the lemmas that `autoseg_nouns` returns. A lemma is
    kept under three conditions. WordNet contains the lemma, the lemma has at least three letters, and neither
    NO_OBJECTS nor COLOURS contains the lemma.
    """
    # WordNet's lemmas are in lower case, so lemmas with capitals are dropped
    return {
        word: number
        for word, number in autoseg_nouns(tagged).items()
        if nouns().parts_of_speech(word) and len(word) > 2 and word not in NO_OBJECTS | COLOURS
    }


def autoseg_nouns(tagged: Iterable[Sequence[tuple[str, str]]]) -> dict[str, int]:
    """Return lemma → number of tokens with this lemma. Tokens are ignored if their tag is neither NN nor NNS.

    `tagged` has (word, tag) of each caption's tokens.
    """
    return ranked(nouns().lemma(word) for caption in tagged for word, tag in caption if tag in NOUNS)


def without_repetitions(caption: str) -> str:
    """Return a caption without words that equal the word before them, as AutoSeg cleans captions."""
    listed = caption.split()
    return " ".join(word for i, word in enumerate(listed) if i == 0 or word != listed[i - 1])


def by_spacy_nouns(captions: Iterable[str], model: str) -> dict[str, int]:
    """Return noun → number of occurrences. A spaCy model tags the words, and `by_autoseg` selects the nouns.

    The captions are first converted to lower case, and cleaned by `without_repetitions`.
    """
    return by_autoseg(by_spacy((without_repetitions(caption.lower()) for caption in captions), model))


def by_phrases(captions: Iterable[str], model: str) -> dict[str, int]:
    """Return noun phrase → number of occurrences, such as {"golden retriever": 2}. A spaCy model finds the phrases.

    Captions are first converted to lower case. Determiners, pronouns, numbers and punctuation are removed from each
    phrase. If the last word is a noun, the word is replaced by its lemma. If the last word is no noun, the phrase is
    dropped. Phrases in cased.UNWANTED, such as "photo", are also dropped.
    """
    phrases = []
    for doc in spacy_model(model).pipe(caption.lower() for caption in captions):
        for chunk in doc.noun_chunks:
            tokens = [token for token in chunk if token.pos_ not in ("DET", "PRON", "NUM", "PUNCT", "SPACE")]
            if tokens and tokens[-1].pos_ in ("NOUN", "PROPN"):
                phrases.append(" ".join([*(token.text for token in tokens[:-1]), tokens[-1].lemma_]))
    return ranked(phrase for phrase in phrases if phrase not in UNWANTED)


def by_commas(captions: Iterable[str]) -> dict[str, int]:
    """Return name → number of occurrences. The names are the parts of captions between commas, in lower case.

    Outer blanks and final full stops of each name are removed. vicss parses the replies of chat models in this way.
    """
    parts = (part.strip().rstrip(".").rstrip().lower() for caption in captions for part in caption.split(","))
    return ranked(filter(None, parts))
