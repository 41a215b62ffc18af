"""Pixel counts of a run as two CSV files: counts per image and class, and the confusion matrix of each benchmark."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ovss_ray import metrics
from ovss_ray.io import files
from ovss_ray.reports import intervals
from ovss_ray.reports.documents.confusions import NO_CLASS
from ovss_ray.reports.documents.exports.tables import inert
from ovss_ray.reports.documents.gallery import classes_of
from ovss_ray.reports.resampling import Cells
from ovss_ray.reports.totals import CELLS_UP_TO, COMPACT, Reading

IMAGES, CONFUSIONS = "images.csv", "confusions.csv"
"""Names of the two files that `write` writes: pixel counts per image and class, and confusion matrices."""
OF_IMAGES = (
    *("benchmark", "image_id", "error", "image_miou"),
    *("class_index", "class", "iou", "truth_pixels", "predicted_pixels", "correct_pixels"),
)
"""Columns of images.csv, which has a row per image and class, and a row per failed image.

`image_miou` and `iou` are percent. If a class is only in the prediction, `iou` is empty.
"""
OF_CONFUSIONS = ("benchmark", "truth_index", "truth", "prediction_index", "prediction", "pixels")
"""Columns of confusions.csv. If no class was predicted, `prediction_index` is empty."""
_PIECE = 1 << 16
"""Number of characters after which `_lines` yields a piece of the CSV."""

Row = Sequence[str | int | float]


def write(folder: str, readings: Mapping[str, Reading]) -> list[str]:
    """Write both files into a folder, and return sentences that name the files.

    `readings` is benchmark → Reading from `totals.read` with `cells=True`. If a benchmark has no rows in images.csv, a
    further sentence gives the reason.
    """
    kept = {name: cells for name, reading in readings.items() if (cells := intervals.cells_of(reading)) is not None}
    images = (row for name, cells in kept.items() for row in _of_images(name, readings[name], cells))
    confusions = (row for name, reading in readings.items() for row in _of_confusions(name, reading))
    sentences = []
    for file, columns, rows in ((IMAGES, OF_IMAGES, images), (CONFUSIONS, OF_CONFUSIONS, confusions)):
        uri = files.join(files.absolute(folder), file)
        files.write(uri, _lines([columns], rows))
        sentences.append(f"written: {uri}")
    missing = (f"{IMAGES}: no rows of {name}: {_reason(readings[name])}" for name in readings if name not in kept)
    return [*sentences, *missing]


def _reason(reading: Reading) -> str:
    if metrics.MAIN not in reading.total.partials:
        return "the run predicts no label maps"
    if reading.total.compact:
        return COMPACT
    if len(reading.listed) > CELLS_UP_TO:
        return f"values of single images are not kept for more than {CELLS_UP_TO:,} images"
    return "no image has a result yet"


def _of_images(name: str, reading: Reading, cells: Cells) -> Iterator[Row]:
    labels = reading.card["labels"]
    for place, image_id in enumerate(cells.ids):
        miou = cells.image_miou[place]
        image = (name, image_id, "", "" if np.isnan(miou) else float(miou))
        for label, truth, predicted, correct in classes_of(cells, place):
            if label < len(labels):
                iou = 100.0 * correct / (truth + predicted - correct) if truth else ""
                yield *image, label, labels[label], iou, truth, predicted, correct
    for image_id, error in reading.total.errors:
        yield name, image_id, error, *[""] * 7


def _of_confusions(name: str, reading: Reading) -> Iterator[Row]:
    labels, partial = reading.card["labels"], reading.total.partials.get(metrics.MAIN)
    if partial is None:
        return
    for truth, prediction in np.argwhere(partial.counts).tolist():
        named = (prediction, labels[prediction]) if prediction < len(labels) else ("", NO_CLASS)
        yield name, truth, labels[truth], *named, int(partial.counts[truth, prediction])


def _lines(*parts: Iterable[Row]) -> Iterator[bytes]:
    """Yield the bytes of a CSV in pieces. Texts that look like formulas get a leading apostrophe."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    for row in (row for part in parts for row in part):
        writer.writerow(map(inert, row))
        if sink.tell() > _PIECE:
            yield sink.getvalue().encode()
            sink.seek(0)
            sink.truncate()
    yield sink.getvalue().encode()
