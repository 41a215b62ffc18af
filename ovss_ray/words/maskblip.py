"""MaskBLIP: the loop that drops words with too many or too few pixels, and the best IoU of true classes.

The best IoU of a true class is the highest IoU of the class with a predicted label.

Source: the code of MaskBLIP, also called Self-Seg, the precursor of AutoSeg.
"""

from collections.abc import Callable, Sequence

import numpy as np

MOST, LEAST = 0.95, 0.01
"""Fractions of the pixels: a word with more than MOST or less than LEAST is dropped."""
FEWEST = 3
"""Minimum number of words for a round of the loop. With fewer words, the loop ends."""


def settle(words: Sequence[str], segment: Callable[[Sequence[str]], np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Drop words with too many or too few pixels. Return the remaining words, and their label map (H, W).

    The values of the label map are indices into the remaining words. `segment` returns the label map of a list of
    words. If a word has more than 95 % of the pixels, a round of the loop drops this word only. Otherwise, the round
    drops all words with less than 1 % of the pixels. As in the official code, there is one exception. A word without
    pixels is kept if no later word in the list has pixels.

    The loop ends if fewer than three words remain. The loop also ends if a round would drop no word or all words.
    """
    kept = list(words)
    labels = segment(kept)
    while len(kept) >= FEWEST:
        shares = np.bincount(labels.ravel()) / labels.size  # ends at the last word with pixels
        dropped = np.flatnonzero(shares > MOST)
        if not len(dropped):
            dropped = np.flatnonzero(shares < LEAST)
        if not len(dropped) or len(dropped) == len(kept):
            break
        kept = [word for i, word in enumerate(kept) if i not in dropped]
        labels = segment(kept)
    return kept, labels


def best_iou(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Return the mean of the best IoUs of all true classes, from 0 to 1. Truth and prediction are label maps (H, W).

    The best IoU of a class is the highest IoU of its pixels with the pixels of one predicted label. Class 0, the
    background, is left out. If the truth has only class 0, the result is NaN.
    """
    classes = [g for g in np.unique(truth) if g != 0]
    segments = [prediction == index for index in np.unique(prediction)]
    best = [
        max(np.count_nonzero(mask & segment) / np.count_nonzero(mask | segment) for segment in segments)
        for mask in (truth == g for g in classes)
    ]
    return float(np.mean(best)) if best else float("nan")
