"""Nouns of WordNet 3.0: lemmas, synsets (senses), hypernyms (more general senses), and Wu-Palmer similarity.

build.py writes the file nouns.txt.xz, an extract of WordNet. Form feeds separate the sections of the file:

    licence          a heading, then the notice of WordNet, as in LICENSE.wordnet
    lemmas           lines "lemma synset synset …", with the most frequent sense of the lemma first
    hypernyms        line i, counted from 0, has the direct hypernyms of synset i
    exceptions       lines "plural lemma …", for irregular plurals
    parts of speech  lines "lemma letters", such as "run vn", for lemmas that are not only nouns

Lemmas are in lower case, with "_" in place of blanks. The letters n, v, a, r stand for noun, verb, adjective, adverb.
The letter of the lemma's most frequent part of speech is first. Synsets are numbered from 0, in the order of WordNet's
data.noun. Synset 0 is "entity", above all other synsets.
"""

import lzma
from collections import deque
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cache, cached_property, lru_cache
from pathlib import Path

from ovss_ray.errors import OvssError

FILE = Path(__file__).with_name("nouns.txt.xz")
HEADER = "Nouns of WordNet 3.0, extracted for ovss_ray. Notice of WordNet:"
ENTITY = 0
"""Number of the synset above all others."""
SUFFIXES = (
    *(("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z")),
    *(("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")),
)
"""Ending of a plural → ending of its lemma: the rules of WordNet's morphy for nouns, in their order."""


class Nouns:
    """Nouns of WordNet, from nouns.txt.xz. The file is read on creation. Some sections are parsed on first use."""

    def __init__(self, file: Path = FILE) -> None:
        try:
            text = lzma.decompress(file.read_bytes()).decode()
        except (OSError, lzma.LZMAError, EOFError) as failure:
            raise OvssError(f"{file}: cannot be read: {failure}. Install ovss_ray again") from failure
        self.notice, lemmas, hypernyms, exceptions, parts = text.split("\n\f\n")
        self._lemmas = dict(line.split(" ", 1) for line in lemmas.split("\n"))
        self._hypernyms = hypernyms.split("\n")
        self._exceptions_text, self._parts_text = exceptions, parts
        self._above = lru_cache(maxsize=4096)(self._steps)

    def __len__(self) -> int:
        return len(self._lemmas)

    def is_lemma(self, form: str) -> bool:
        """Return whether a form is the lemma of a noun. Lemmas are in lower case, with "_" in place of blanks."""
        return form in self._lemmas

    def is_noun(self, word: str) -> bool:
        """Return whether a word is a noun. The word may be singular or plural, in upper or lower case."""
        return bool(self.lemmas(word))

    def parts_of_speech(self, form: str) -> str:
        """Return the parts of speech of a lemma as letters, the most frequent first; "" if WordNet lacks the lemma.

        "n" is a noun, "v" a verb, "a" an adjective, "r" an adverb.
        """
        return self._parts.get(form) or ("n" if form in self._lemmas else "")

    def morphy(self, form: str) -> list[str]:
        """Return the lemmas of `form`, such as "leaf" and "leave" for "leaves". Without a lemma, the result is [].

        Lemmas are in lower case, with "_" in place of blanks. A form with capitals or blanks has no lemma. If `form`
        itself is a lemma, the result includes `form`. Source: `morphy` of NLTK.
        """
        if form in self._exceptions:
            return self._known([form, *self._exceptions[form]])
        forms = _shortened([form])
        results = self._known([form, *forms])
        # as in NLTK, endings are replaced again until a lemma results
        while forms and not results:
            forms = _shortened(forms)
            results = self._known(forms)
        return results

    def lemmas(self, word: str) -> list[str]:
        """Return the lemmas of a word or phrase. If the word or phrase is no noun, return []. Case is ignored."""
        return self.morphy(key(word))

    def lemma(self, word: str) -> str:
        """Return the shortest lemma of `word`. If `word` has no lemma, return `word` itself.

        Lemmas are in lower case. A word with capitals has no lemma, so "Pots" is returned unchanged. Source: NLTK's
        WordNetLemmatizer.
        """
        return min(self.morphy(word), key=len, default=word)

    def synsets(self, lemma: str) -> list[int]:
        """Return the synsets of a lemma, the most frequent sense first."""
        return [int(number) for number in self._lemmas.get(lemma, "").split()]

    def above(self, synset: int) -> Mapping[int, int]:
        """Return hypernym → number of steps up from `synset`. The result includes `synset` itself, with 0 steps."""
        return self._above(synset)

    def depth(self, synset: int) -> int:
        """Return the number of synsets on the shortest way from a synset up to "entity", both included."""
        return self.above(synset).get(ENTITY, 0) + 1

    def wu_palmer(self, first: int, second: int) -> Fraction:
        """Return the similarity of two synsets, from 0 to 1: the largest 2d / (2d + a + b) over common hypernyms.

        d is the depth of a common hypernym. a is the number of steps from `first` up to the hypernym. b is the number
        of steps from `second` up to the hypernym. If there is no common hypernym, the similarity is 0.
        Source: Wu and Palmer, "Verbs Semantics and Lexical Selection", ACL 1994.
        """
        first_up, second_up = self.above(first), self.above(second)
        common = (
            (2 * self.depth(synset), first_up[synset] + second_up[synset]) for synset in first_up.keys() & second_up
        )
        return max((Fraction(deep, deep + steps) for deep, steps in common), default=Fraction(0))

    def _steps(self, synset: int) -> dict[int, int]:
        steps, waiting = {synset: 0}, deque([synset])
        while waiting:
            below = waiting.popleft()
            for number in map(int, self._hypernyms[below].split()):
                if number not in steps:
                    steps[number] = steps[below] + 1
                    waiting.append(number)
        return steps

    def _known(self, forms: Iterable[str]) -> list[str]:
        return [form for form in dict.fromkeys(forms) if form in self._lemmas]

    @cached_property
    def _exceptions(self) -> dict[str, list[str]]:
        return {
            form: lemmas.split() for form, lemmas in (line.split(" ", 1) for line in self._exceptions_text.split("\n"))
        }

    @cached_property
    def _parts(self) -> dict[str, str]:
        return dict(line.split(" ") for line in self._parts_text.split("\n"))


@cache
def nouns() -> Nouns:
    """Return the nouns of the shipped file nouns.txt.xz. The file is read once per process."""
    return Nouns()


def key(word: str) -> str:
    """Return a word or phrase in the form of lemmas, such as "traffic_light" for "Traffic light".

    The result is in lower case, with "_" in place of blanks.
    """
    return "_".join(word.lower().split())


def _shortened(forms: Iterable[str]) -> list[str]:
    return [form.removesuffix(end) + other for form in forms for end, other in SUFFIXES if form.endswith(end)]
