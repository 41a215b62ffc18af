"""Samples of Fusioner's training: windows, each with one or more classes and their targets."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NOT_COUNTED = 255
"""Value of a target at pixels without a loss"""


class Window(NamedTuple):
    """A window of a photograph or drawn scene, and the samples in it: classes with targets."""

    pixels: Tensor
    """(3, n, n) float32, normalised"""
    samples: list[tuple[str, np.ndarray]]
    """class name and target (n, n) uint8 of each sample

    A target is 1 inside the class, 0 outside the class, and NOT_COUNTED at pixels without a loss.
    """


def stacked(windows: Iterable[Window], rows: Mapping[str, int]) -> dict[str, Tensor]:
    """Return a batch of V windows with S samples in total, as a dict with these keys:

    - `windows` (V, 3, n, n) float32
    - `which` (S,) int64: index of each sample's window
    - `classes` (S,) int64: row of each sample's class in the text embeddings, taken from `rows`
    - `targets` (S, n, n) uint8
    """
    listed = list(windows)
    samples = [(number, name, target) for number, window in enumerate(listed) for name, target in window.samples]
    which, names, targets = zip(*samples, strict=True)
    return {
        "windows": torch.stack([window.pixels for window in listed]),
        "which": torch.tensor(which),
        "classes": torch.tensor([rows[name] for name in names]),
        "targets": torch.from_numpy(np.stack(targets)),
    }
