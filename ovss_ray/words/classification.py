"""Metrics of vocabulary-free classification. They compare an image's words with the name of the image's class.

Source: Conti et al., "Vocabulary-free Image Classification", NeurIPS 2023, and its code vic.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
from scipy.optimize import linear_sum_assignment


def semantic_iou(word: str, name: str) -> Fraction:
    """Return the IoU, from 0 to 1, of two sets of words. The sets are the words in `word` and the words in `name`.

    `word` may have several words, such as "traffic light". Case is ignored. All characters except a–z, digits and
    blanks are deleted, so "T-shirt" is the word "tshirt".
    """
    first, second = (set(re.sub(r"[^a-z0-9 ]", "", text.lower()).split()) for text in (word, name))
    return Fraction(len(first & second), max(len(first | second), 1))


def cluster_accuracy(pairs: Iterable[tuple[str, str]]) -> float:
    """Return the share of pairs (word, class) that agree under the best one-to-one assignment of words to classes.

    If there are no pairs, the result is NaN. vicss has two forms of this metric. For the multiclass form, pass one pair
    for each image, with the image's best word. For the multilabel form, pass one pair for each word of each image.
    """
    number = Counter(pairs)
    if not number:
        return float("nan")
    words, names = (sorted({pair[side] for pair in number}) for side in (0, 1))
    table = np.array([[number[word, name] for name in names] for word in words], np.int64)
    matched = int(table[linear_sum_assignment(table, maximize=True)].sum())
    return matched / number.total()


def mean_similarity(cosines: Sequence[float]) -> float:
    """Return the mean of `cosines`, from −1 to 1. If `cosines` is empty, the result is NaN.

    `cosines` has one value for each image. The value is the cosine between the embedding of the image's best word and
    the embedding of the class name.
    """
    return float(np.mean(np.asarray(cosines, np.float64))) if len(cosines) else float("nan")
