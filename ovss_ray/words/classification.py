"""The metrics of vocabulary-free classification: words of an image against the name of its class, as in vic's code.

Source: Conti et al., "Vocabulary-free Image Classification", NeurIPS 2023. Values are from 0 to 1.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
from scipy.optimize import linear_sum_assignment


def semantic_iou(word: str, name: str) -> Fraction:
    """Return the IoU of the sets of parts of two names: letters, digits and blanks in lower case, split at blanks."""
    first, second = (set(re.sub(r"[^a-z0-9 ]", "", text.lower()).split()) for text in (word, name))
    return Fraction(len(first & second), max(len(first | second), 1))


def cluster_accuracy(pairs: Iterable[tuple[str, str]]) -> float:
    """Return the share of pairs (word, class) that agree if words and classes are assigned one to one, at best.

    For a single answer per image, the pairs are its best word and its class; else all its words, each with its class.
    NaN without pairs.
    """
    number = Counter(pairs)
    if not number:
        return float("nan")
    words, names = (sorted({pair[side] for pair in number}) for side in (0, 1))
    table = np.array([[number[word, name] for name in names] for word in words], np.int64)
    matched = int(table[linear_sum_assignment(table, maximize=True)].sum())
    return matched / number.total()


def mean_similarity(cosines: Sequence[float]) -> float:
    """Return the mean cosine of best words and class names, (n,), not cut off below 0; NaN without images."""
    return float(np.mean(np.asarray(cosines, np.float64))) if len(cosines) else float("nan")
