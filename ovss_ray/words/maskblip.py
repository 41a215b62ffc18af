"""MaskBLIP: the loop that drops words with too many or too few pixels, and the best IoU of an image.

Source: the code of MaskBLIP, also called Self-Seg, the precursor of AutoSeg. The loop calls a segmenter again after
each removal, so it is a function and no stage.
"""

from collections.abc import Callable, Sequence

import numpy as np

MOST, LEAST = 0.95, 0.01
"""Shares of the pixels above and below which a word is dropped."""
FEWEST = 3
"""Number of words from which on words are dropped."""


def settle(words: Sequence[str], segment: Callable[[Sequence[str]], np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Return the words that remain, and the label map (H, W) over them. `segment` returns a label map over words.

    While there are three words or more, those with more than 95 % of the pixels are dropped. If there are none, those
    with less than 1 % are. Words after the last one with pixels are kept, as in the official code.
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
    """Return the mean over classes of the IoU with their best segment, 0 to 1; NaN if there is only class 0.

    Both are label maps (H, W). Class 0, the background, is left out. A segment may serve several classes.
    """
    classes = [g for g in np.unique(truth) if g != 0]
    segments = [prediction == index for index in np.unique(prediction)]
    best = [
        max(np.count_nonzero(mask & segment) / np.count_nonzero(mask | segment) for segment in segments)
        for mask in (truth == g for g in classes)
    ]
    return float(np.mean(best)) if best else float("nan")
