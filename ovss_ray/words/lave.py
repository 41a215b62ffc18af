"""Parser of a language model's replies in LAVE, the evaluator of AutoSeg that maps words to classes.

Source: Ülger et al., "Auto-Vocabulary Semantic Segmentation" (AutoSeg). LAVE queries Llama 2 once per word for the most
similar class, and requests the answer in single quotes. A word that is the name of a class is mapped to this class. A
word whose reply has no usable answer is mapped to `background`.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

BACKGROUND = "background"


def mapping(replies: Mapping[str, str], classes: Collection[str], max_parse_len: int = 3) -> dict[str, str]:
    """Return the class of each word. `replies` has the reply of the language model to each word.

    An answer is a quoted part of the reply that is a class or "background". The rules, the first that applies:

    - A word that is a class is mapped to itself, whatever the reply.
    - Without an answer, the word "woman" is mapped to "person", as in the official code.
    - Any other word without an answer is mapped to "background".
    - A word with more than `max_parse_len` different answers is mapped to "background"; 0: no limit.
    - Any other word is mapped to the first answer. In the official code, the order of a hash table decides.
    """
    return {word: _class(word, reply, classes, max_parse_len) for word, reply in replies.items()}


def _class(word: str, reply: str, classes: Collection[str], most: int) -> str:
    if word in classes:
        return word
    quote = "'" if "'" in reply else '"'
    answers = [part for part in dict.fromkeys(reply.split(quote)[1:]) if part in classes or part == BACKGROUND]
    if not answers:
        return "person" if word == "woman" else BACKGROUND  # the official code has this exception
    return answers[0] if not most or len(answers) <= most else BACKGROUND


def updated(
    prediction: np.ndarray, words: Sequence[str], mapped: Mapping[str, str], classes: Sequence[str]
) -> np.ndarray:
    """Return a label map (H, W) of class indices, from a label map (H, W) of word indices.

    Word indices are positions in `words`, class indices are positions in `classes`. `mapped`: word → class. A word
    without an entry in `mapped` is mapped to `background`, which must be one of the classes.
    """
    table = np.array([classes.index(mapped.get(word, BACKGROUND)) for word in words], np.int64)
    return table[prediction]
