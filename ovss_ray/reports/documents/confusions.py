"""The confusions that lower mIoU most, over all images of a benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ovss_ray.metrics.confusion import Partial
from ovss_ray.reports.resampling import Cells

NO_CLASS = "no class"
"""Text that reports show as the prediction of pixels without a predicted class."""
EXAMPLES = 3
"""Number of example images of a confusion."""


@dataclass(frozen=True)
class Confusion:
    """Pixels of one label that were predicted as another label, or as no class."""

    truth: int
    """true label"""
    prediction: int
    """predicted label; a value equal to the number of labels means that no class was predicted"""
    pixels: int
    share: float
    """`pixels` in percent of all pixels of the true label"""
    cost: float
    """points of mIoU that the run would gain if exactly these pixels were predicted correctly"""
    images: int = 0
    """number of images with this confusion; 0 if the confusion matrices of single images are not known"""
    examples: tuple[str, ...] = ()
    """ids of the images that have the most pixels of this confusion, at most EXAMPLES, most pixels first"""


def costliest(partial: Partial, cells: Cells | None, most: int) -> list[Confusion]:
    """Return at most `most` confusions, highest cost first.

    `cells` has the confusion matrices of the single images. If `cells` is None, every confusion has 0 `images` and no
    `examples`.
    """
    n = len(partial.counts)
    truth, prediction = np.nonzero(partial.counts)
    wrong = truth != prediction
    truth, prediction = truth[wrong], prediction[wrong]
    pixels, cost = partial.counts[truth, prediction], _costs(partial, truth, prediction)
    order = np.lexsort((prediction, truth, -pixels, -cost))[:most]
    pairs = [(int(truth[k]), int(prediction[k])) for k in order]
    images = _images(cells, set(pairs), n) if cells else {}
    shares = 100.0 * pixels / np.maximum(partial.truth_pixels[truth], 1)
    return [
        Confusion(
            truth=pair[0],
            prediction=pair[1],
            pixels=int(pixels[k]),
            share=float(shares[k]),
            cost=float(cost[k]),
            images=len(images.get(pair, ())),
            examples=tuple(images.get(pair, ())[:EXAMPLES]),
        )
        for k, pair in zip(order, pairs, strict=True)
    ]


def _costs(partial: Partial, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return the cost of each confusion (see Confusion.cost), (m,) float64 points of mIoU, for m confusions."""
    n = len(partial.counts)
    hits, present = partial.hits.astype(float), partial.truth_pixels > 0
    union = (partial.truth_pixels + partial.prediction_pixels - partial.hits).astype(float)
    pixels = partial.counts[truth, prediction].astype(float)
    # if the pixels were correct, they would be hits of the true label, and leave the union of the predicted label
    gain = pixels / union[truth]
    named = np.minimum(prediction, n - 1)
    counted = (prediction < n) & present[named]
    rest = np.where(counted, union[named] - pixels, 1.0)
    before = np.where(counted, hits[named] / np.where(counted, union[named], 1.0), 0.0)
    gain += np.where(counted, hits[named] / rest - before, 0.0)
    return 100.0 * gain / max(int(present.sum()), 1)


def _images(cells: Cells, pairs: set[tuple[int, int]], labels: int) -> dict[tuple[int, int], list[str]]:
    """Return (true label, predicted label) → ids of images with pixels of this confusion, most pixels first."""
    width = labels + 1
    keys = cells.truth * width + cells.prediction
    images = {}
    for truth, prediction in pairs:
        places = np.flatnonzero(keys == truth * width + prediction)
        order = np.lexsort((cells.image[places], -cells.pixels[places]))
        images[truth, prediction] = [cells.ids[cells.image[k]] for k in places[order]]
    return images


def matrix(partial: Partial, confusions: Sequence[Confusion], most: int) -> tuple[list[int], list[int], np.ndarray]:
    """Return a part of the confusion matrix, as (labels of the rows, labels of the columns, values).

    Rows stand for true labels, and columns for predicted labels. The labels of the rows are the true and predicted
    labels of `confusions`, in ascending order. A confusion is skipped if its labels would raise the number of rows
    above `most`. The columns have the same labels as the rows. If no class was predicted for some pixels of the rows,
    a last column counts these pixels. If the benchmark has the labels 0 to L − 1, this column has the label L. Values
    (rows, columns) float64 are percent of all pixels of the row's label.
    """
    n = len(partial.counts)
    labels: dict[int, None] = {}
    for confusion in confusions:
        pair = [label for label in (confusion.truth, confusion.prediction) if label < n]
        if len(labels | dict.fromkeys(pair)) <= most:
            labels |= dict.fromkeys(pair)
    rows = sorted(labels)
    columns = [*rows, n] if len(rows) and partial.counts[rows, n].any() else rows
    part = partial.counts[np.ix_(rows, columns)] if rows else np.zeros((0, 0))
    return rows, columns, 100.0 * part / np.maximum(partial.truth_pixels[rows], 1)[:, None]
