"""The metrics of vocabulary-free classification: an image's words are compared with the name of its class.

Source: Conti et al., "Vocabulary-free Image Classification", NeurIPS 2023, and its code vic. Values are from 0 to 1.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
from scipy.optimize import linear_sum_assignment


def semantic_iou(word: str, name: str) -> Fraction:
    """Return the IoU of the sets of words in two names. Case, and characters other than a–z and digits, are ignored."""
    first, second = (set(re.sub(r"[^a-z0-9 ]", "", text.lower()).split()) for text in (word, name))
    return Fraction(len(first & second), max(len(first | second), 1))


def cluster_accuracy(pairs: Iterable[tuple[str, str]]) -> float:
    """Return the share of pairs (word, class) that agree under the best one-to-one assignment of words to classes.

    The caller chooses the pairs. The authors' later code, vicss, reports two values. For its multiclass value, each
    image has one pair: its best word and its class. For its multilabel value, each word of an image forms a pair with
    the image's class. Without pairs, the result is NaN.
    """
    number = Counter(pairs)
    if not number:
        return float("nan")
    words, names = (sorted({pair[side] for pair in number}) for side in (0, 1))
    table = np.array([[number[word, name] for name in names] for word in words], np.int64)
    matched = int(table[linear_sum_assignment(table, maximize=True)].sum())
    return matched / number.total()


def mean_similarity(cosines: Sequence[float]) -> float:
    """Return the mean of `cosines`; NaN without images.

    `cosines` has one value per image: the cosine of its best word and the name of its class. Negative values are not
    clipped.
    """
    return float(np.mean(np.asarray(cosines, np.float64))) if len(cosines) else float("nan")
