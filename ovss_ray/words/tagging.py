"""Part-of-speech taggers: by WordNet for single words without context, and by spaCy for whole captions.

Tags are those of the Penn Treebank.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from ovss_ray.errors import OvssError
from ovss_ray.words.wordnet import nouns

Tagger = Callable[[Sequence[str]], Sequence[str]]
"""Function from words to their tags, one per word."""
NOUNS = ("NN", "NNS")
_FUNCTION_WORDS = """
    a about above across after again against all along also although among an and another any are around as at away
    back be because been before behind being below beneath beside besides between beyond both but by can cannot could
    did do does doing done down during each either else ever every few for from further get gets getting had has have
    having he her here hers him his how i if in inside into is it its itself just left less like many may me might mine
    more most much must my near neither never next no nobody none nor not now of off on once one ones only onto opposite
    or other others our out outside over own past per quite right same several shall she should since so some such than
    that the their theirs them then there these they this those through to together too toward towards two under
    underneath until up upon us very via was we were what when where which while who whom whose why will with within
    without would you your yours
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Function words. Function words are never tagged as nouns. Some are nouns in WordNet: "in" also stands for inch."""
_TAGS = {"n": "NN", "v": "VB", "a": "JJ", "r": "RB"}


def by_wordnet(words: Sequence[str]) -> list[str]:
    """Return the tag of each word, without its context. The first rule that applies decides:

    - A function word is tagged IN.
    - A lemma of WordNet that is most often a verb, but can also be a noun, is tagged NN.
    - Any other lemma of WordNet has the tag of its most frequent part of speech.
    - A plural of a noun is tagged NNS.
    - Any other word is tagged VBG if it ends in "ing", VBN if it ends in "ed", else NN.
    """
    return [_tag(word) for word in words]


def _tag(word: str) -> str:
    if word in FUNCTION_WORDS:
        return "IN"
    letters = nouns().parts_of_speech(word)
    if letters:
        return "NN" if letters[0] == "v" and "n" in letters else _TAGS[letters[0]]
    if nouns().morphy(word):
        return "NNS"
    return "VBG" if word.endswith("ing") else "VBN" if word.endswith("ed") else "NN"


@lru_cache(maxsize=2)
def spacy_model(name: str) -> Any:
    """Return the spaCy model that `name` identifies.

    If `name` contains "/", `name` is the path of the model's folder. Otherwise, `name` is the model's package, or a
    module whose function `load` returns the model. Raises OvssError if spaCy or the model is missing.
    """
    try:
        import spacy  # an extra, which takes seconds to import

        if spacy.util.is_package(name) or "/" in name:
            return spacy.load(name)
        return __import__(name).load()  # a model that is installed under another name than its own
    except (ImportError, OSError, AttributeError) as failure:
        raise OvssError(
            f"spaCy's model {name!r} cannot be loaded: {failure}. Run `pip install 'ovss_ray[words]'`, or set `model` "
            "to an installed model"
        ) from failure


def by_spacy(captions: Iterable[str], model: str) -> list[list[tuple[str, str]]]:
    """Return (word, tag) of each token of each caption."""
    return [[(token.text, token.tag_) for token in doc] for doc in spacy_model(model).pipe(captions)]
