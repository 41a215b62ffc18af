"""Parser of a language model's replies in LAVE, the evaluator of AutoSeg that maps words to classes.

Source: Ülger et al., "Auto-Vocabulary Semantic Segmentation" (AutoSeg). LAVE sends one query per word to Llama 2. The
query asks which class is most similar to the word. The reply should give this class in single quotes.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

BACKGROUND = "background"


def mapping(replies: Mapping[str, str], classes: Collection[str], max_parse_len: int = 3) -> dict[str, str]:
    """Return word → class. `replies` is word → reply of the language model.

    An answer is a quoted part of the reply that is a class or "background". The first rule that applies decides:

    - If the word is a class, the word is mapped to itself.
    - If the reply has no answer, "woman" is mapped to "person", and any other word is mapped to "background".
    - If the reply has more than `max_parse_len` different answers, the word is mapped to "background".
    - Otherwise, the word is mapped to the first answer.

    If `max_parse_len` is 0, the third rule never applies.
    """
    return {word: _class(word, reply, classes, max_parse_len) for word, reply in replies.items()}


def _class(word: str, reply: str, classes: Collection[str], most: int) -> str:
    if word in classes:
        return word
    quote = "'" if "'" in reply else '"'
    answers = [part for part in dict.fromkeys(reply.split(quote)[1:]) if part in classes or part == BACKGROUND]
    if not answers:
        return "person" if word == "woman" else BACKGROUND  # the official code has this exception
    # the official code takes the answer that comes first in a hash table
    return answers[0] if not most or len(answers) <= most else BACKGROUND


def updated(
    prediction: np.ndarray, words: Sequence[str], mapped: Mapping[str, str], classes: Sequence[str]
) -> np.ndarray:
    """Return a label map (H, W) int64 of indices into `classes`. `prediction` (H, W) has indices into `words`.

    `mapped` is word → class. A word without an entry is mapped to "background", which must be in `classes`.
    """
    table = np.array([classes.index(mapped.get(word, BACKGROUND)) for word in words], np.int64)
    return table[prediction]
