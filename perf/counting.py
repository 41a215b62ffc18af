"""Counting one image into confusion cells, against np.bincount over truth · K + prediction; and metrics near contours.

np.bincount answers with a dense table of K × K numbers, of which a record would still have to find the cells that are
not zero; the second comparison adds that. Maps are uint16, as they are in a run, and a new pair comes every round.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import cycle

import numpy as np

from ovss_ray.metrics import boundary_iou, boundary_iou_detectron2, trimap
from ovss_ray.metrics.confusion import Counter
from ovss_ray.structures import label_counts
from ovss_ray.structures.masks import contours
from ovss_ray.structures.question import Question
from ovss_ray.structures.vocabulary import Vocabulary
from perf import pictures
from perf.timing import interleaved, ratio, show, spread, titled

Pair = tuple[np.ndarray, np.ndarray]


def measure(classes: list[int], size: tuple[int, int], rounds: int) -> None:
    """Print the table, for coherent maps and for noise, in which no two neighbours are alike."""
    table = titled(
        "Counting: rate against np.bincount (bar: 2.5)",
        *("maps", "K", "cells", "Counter ms", "np.bincount ms", "times its rate", "with its cells found"),
    )
    for labels in classes:
        source, maps = pictures.label_maps(labels, size)
        table.add_row(source, *_row([(one, np.roll(one, (3, 5), (0, 1))) for one in maps], labels, rounds))
        noise = [np.random.default_rng(seed).integers(0, labels, (2, *size)).astype(np.uint16) for seed in range(4)]
        table.add_row("noise", *_row([(truth, prediction) for truth, prediction in noise], labels, rounds))
    height, width = size
    show(
        table, f"Maps of {height} × {width} pixels; the prediction is the truth moved by a few pixels, or other noise."
    )
    _near_contours(classes, size, max(1, rounds // 4))


def _near_contours(classes: list[int], size: tuple[int, int], rounds: int) -> None:
    """Print the table of metrics near contours, against the official boundary of the mask of each class."""
    table = titled(
        "Metrics near contours, in milliseconds of CPU per image",
        *("maps", "K", "classes per image", "boundary_iou", "each class's mask", "share of it"),
        *("boundary_iou_detectron2", "trimap"),
    )
    for labels in classes:
        source, maps = pictures.label_maps(labels, size)
        pairs = [(one, np.roll(one, (3, 5), (0, 1))) for one in maps]
        names = tuple(map(str, range(labels)))
        question = Question(names, Vocabulary.of(names), tuple(range(labels)))
        sides: dict[str, Callable[[], object]] = {
            metric.__name__: _over(pairs, partial(metric.measure, question))
            for metric in (boundary_iou, boundary_iou_detectron2, trimap)
        }
        sides["masks"] = _over(pairs, masks)
        counts = boundary_iou.measure(question, *pairs[0])
        assert np.array_equal(masks(*pairs[0]), [counts[name] for name in label_counts.FIELDS]), "the counts differ"
        times = list(interleaved(sides, rounds, clock=time.process_time).values())
        ours, others, plain = times[0], times[1:3], times[3]
        seen = np.mean([len(np.unique(pair)) for pair in pairs])
        cells = (spread(1e3 * ours), spread(1e3 * plain), ratio(ours, plain))
        table.add_row(source, str(labels), f"{seen:.0f}", *cells, *(spread(1e3 * of) for of in others))
    show(table, "The form with masks erodes the mask of every class that occurs, twice per image.")


def masks(truth: np.ndarray, prediction: np.ndarray) -> list[np.ndarray]:
    """The plain way: boundary pixels of each class that occurs in the truth, the prediction, and both."""
    import cv2

    width, square = contours.reach(truth.shape), np.ones((3, 3), np.uint8)

    def boundary(mask: np.ndarray) -> np.ndarray:
        padded = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        return mask & (cv2.erode(padded, square, iterations=width)[1:-1, 1:-1] == 0)

    rows = []
    for label in np.union1d(truth, prediction):
        true, called = boundary(truth == label), boundary(prediction == label)
        rows.append([np.count_nonzero(of) for of in (true, called, true & called)])
    return list(np.array(rows).T)


def _row(pairs: list[Pair], labels: int, rounds: int) -> list[str]:
    count = Counter(labels)
    for pair in pairs:
        cells = count(*pair)
        where = cells["truth"].astype(np.int64) * labels + cells["prediction"]
        found, pixels = sparse(*pair, labels)
        assert np.array_equal(where, found), "the cells differ from np.bincount's"
        assert np.array_equal(cells["pixels"], pixels), "the counts differ from np.bincount's"
    times = interleaved(
        {
            "ours": _over(pairs, lambda truth, prediction: count(truth, prediction)),
            "bincount": _over(pairs, lambda truth, prediction: dense(truth, prediction, labels)),
            "sparse": _over(pairs, lambda truth, prediction: sparse(truth, prediction, labels)),
        },
        rounds,
    )
    ours, plain = times["ours"], times["bincount"]
    rates = ratio(plain, ours), ratio(times["sparse"], ours)
    return [str(labels), f"{len(where):,}", spread(1e3 * ours), spread(1e3 * plain), *rates]


def _over(pairs: list[Pair], side: Callable[[np.ndarray, np.ndarray], object]) -> Callable[[], object]:
    """The side over one pair after the other, so that no branch is learnt by heart."""
    turn = cycle(pairs)
    return lambda: side(*next(turn))


def dense(truth: np.ndarray, prediction: np.ndarray, labels: int) -> np.ndarray:
    """The plain way, as detectron2's evaluator: (K · K,) int64 counts."""
    return np.bincount((truth.astype(np.int64) * labels + prediction).reshape(-1), minlength=labels * labels)


def sparse(truth: np.ndarray, prediction: np.ndarray, labels: int) -> Pair:
    """The plain way, and the cells (n,) int64 that are not zero with their counts (n,) int64."""
    counts = dense(truth, prediction, labels)
    cells = np.flatnonzero(counts)
    return cells, counts[cells]
