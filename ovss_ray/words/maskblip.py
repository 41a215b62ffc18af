"""MaskBLIP: the loop that drops words with too many or too few pixels, and the best IoU of an image.

Source: the code of MaskBLIP, also called Self-Seg, the precursor of AutoSeg. The loop is not a stage, but a function,
because it calls a segmenter again after each removal of words.
"""

from collections.abc import Callable, Sequence

import numpy as np

MOST, LEAST = 0.95, 0.01
"""Fractions of the pixels: a word with more than MOST or less than LEAST is dropped."""
FEWEST = 3
"""Minimum number of words for a round of the loop. With fewer words, the loop ends."""


def settle(words: Sequence[str], segment: Callable[[Sequence[str]], np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Return the words that remain, and a label map (H, W) of indices into them. `segment` returns a label map.

    Each round of the loop drops words, and calls `segment` again. It drops the words with over 95 % of the pixels. If
    there are no such words, it drops the words with less than 1 %. The loop ends if fewer than three words are left. It
    also ends if a round would drop no word, or all words. As in the official code, words at the end of the list that
    have no pixels are not dropped.
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
    """Return the mean over the true classes of each class's highest IoU with a predicted segment, 0 to 1.

    Truth and prediction are label maps (H, W). Class 0, the background, is left out. The result is NaN if there is no
    other class. Several classes may have the same best segment.
    """
    classes = [g for g in np.unique(truth) if g != 0]
    segments = [prediction == index for index in np.unique(prediction)]
    best = [
        max(np.count_nonzero(mask & segment) / np.count_nonzero(mask | segment) for segment in segments)
        for mask in (truth == g for g in classes)
    ]
    return float(np.mean(best)) if best else float("nan")
