"""Tables and figures of one benchmark, as plain data for the templates of pages."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ovss_ray.metrics.confusion import Partial
from ovss_ray.reports import terminal
from ovss_ray.reports.documents import confusions as confusing
from ovss_ray.reports.documents import values
from ovss_ray.reports.documents.confusions import NO_CLASS, Confusion
from ovss_ray.reports.documents.pictures import UNLABELLED, colour
from ovss_ray.reports.schema import BenchmarkReport, ImageError, Report

BINS = 20
"""Number of bins of a histogram of the images' mIoU."""
IDS = 50
"""Maximum number of image ids that are listed per cause of errors."""


def of(number: int, name: str, benchmark: BenchmarkReport) -> dict[str, Any]:
    """Return the data from a benchmark's report that a page shows in the section of the benchmark.

    If `number` is 1, the HTML id of the section is "benchmark-1".
    """
    headings = values.class_headings(benchmark)
    return {
        "number": number,
        "id": f"benchmark-{number}",
        "name": name,
        "notes": notes(name, benchmark),
        "published": benchmark.published,
        "published_rows": _published(benchmark),
        "groups": [(*row[:2], values.percent(row[2]), values.interval(row[3])) for row in values.groups(benchmark)],
        "class_headings": _headings(headings, benchmark),
        "class_rows": class_rows(headings, benchmark),
        "errors": errors(benchmark.errors),
    }


def notes(name: str, benchmark: BenchmarkReport) -> list[str]:
    """Return sentences that help to interpret the values of a benchmark. Each sentence has the prefix "NAME: "."""
    files = benchmark.files
    sentences = [terminal.own_words(benchmark.words)] if benchmark.words else []
    sentences += [terminal.counted(benchmark.counts)] if benchmark.counts else []
    sentences += [*filter(None, [benchmark.asks]), *benchmark.notes]
    if files.changed:
        sentences.append(f"the files of {files.changed} images have changed since they were first scored")
    if files.undigested:
        sentences.append(f"{files.undigested} records are of an earlier version and hold no digests of their files")
    sentences += filter(None, [files.compact_words])
    for left_out in files.left_out:
        sentences.append(f"{left_out.number} {left_out.what}, such as {left_out.example}: in no number")
    return [f"{name}: {sentence}" for sentence in sentences]


def _published(benchmark: BenchmarkReport) -> list[tuple[str, ...]]:
    figures = benchmark.published.figures if benchmark.published else ()
    return [
        (
            figure.convention,
            f"{figure.kind}: {figure.where}",
            str(figure.miou),
            values.percent(figure.measured),
            values.NOT_MEASURED if figure.difference is None else f"{figure.difference:+.2f}",
        )
        for figure in figures
    ]


def _headings(headings: Mapping[str, str], benchmark: BenchmarkReport) -> list[str]:
    bounds = ["95 % interval of IoU", "photographs"] if benchmark.bootstrap else []
    return ["class", *headings.values(), *bounds]


def class_rows(headings: Mapping[str, str], benchmark: BenchmarkReport) -> list[list[dict[str, Any]]]:
    """Return a row of cells per class: the class's name with colour, and the class's value for each key of `headings`.

    If the benchmark has a bootstrap, two cells follow. The first has the interval of the class's IoU. The second has
    the number of photographs with the class in the ground truth.
    """
    rows = []
    for label, score in enumerate(benchmark.classes):
        content = score.model_dump()
        row: list[dict[str, Any]] = [{"text": score.name, "colour": hexadecimal(colour(label))}]
        row += [_cell(key, content[key]) for key in headings]
        if bounds := benchmark.bootstrap:
            ends = bounds.of_class(label)
            row.append({"text": values.interval(ends) or values.NOT_MEASURED, "value": ends and ends[0]})
            seen = bounds.photographs[label] if label < len(bounds.photographs) else None
            row.append({"text": values.NOT_MEASURED if seen is None else f"{seen:,}", "value": seen})
        rows.append(row)
    return rows


def _cell(key: str, value: Any) -> dict[str, Any]:
    if isinstance(value, int):
        return {"text": f"{value:,}", "value": value}
    return {"text": values.percent(value), "value": value, "bar": value if key == "iou" else None}


def errors(failed: Sequence[ImageError]) -> list[dict[str, Any]]:
    """Return a row per stage and cause of errors, most frequent first.

    A cause is the text of an error without ids, paths and numbers.
    """
    kinds: dict[tuple[str, str], list[ImageError]] = defaultdict(list)
    for image in failed:
        stage = image.error.partition(":")[0]
        kinds[stage, re.sub(r"\S*[/\\]\S*|\d+", "…", image.error.replace(image.image_id, "…"))].append(image)
    return [
        {
            "stage": stage,
            "count": len(images),
            "example": f"{images[0].image_id}: {images[0].error}",
            "ids": [image.image_id for image in images[:IDS]],
        }
        for (stage, _), images in sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0]))
    ]


def confusion_rows(listed: Sequence[Confusion], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row per confusion, with the fields of the Confusion.

    Class names replace the true label and the predicted label. The row also has the colours of both classes.
    """
    return [
        {
            **vars(confusion),
            "truth": labels[confusion.truth],
            "prediction": name_of(confusion.prediction, labels),
            "true_colour": colour_of(confusion.truth, labels),
            "predicted_colour": colour_of(confusion.prediction, labels),
        }
        for confusion in listed
    ]


def matrix(partial: Partial | None, listed: Sequence[Confusion], labels: Sequence[str], most: int) -> dict[str, Any]:
    """Return {"columns": class names, "rows": rows} of a confusion matrix of at most `most` classes.

    The matrix has the classes of the first confusions in `listed` (see `confusions.matrix`). A row is (name of the true
    class, cells). A cell is {"value": percent of the true class's pixels, "right": True if the prediction is correct}.
    If `partial` is None, columns and rows are empty lists.
    """
    if partial is None:
        return {"rows": [], "columns": []}
    rows, columns, shares = confusing.matrix(partial, listed, most)
    return {
        "columns": [name_of(label, labels) for label in columns],
        "rows": [
            (
                labels[row],
                [{"value": float(share), "right": row == at} for at, share in zip(columns, line, strict=True)],
            )
            for row, line in zip(rows, shares, strict=True)
        ],
    }


def histogram(mious: np.ndarray) -> dict[str, Any] | None:
    """Return the bars of a histogram of the images' mIoU; None if no image has an mIoU.

    `mious` (n,) is in percent, and NaN for an image without an mIoU.
    """
    known = mious[~np.isnan(mious)]
    if not len(known):
        return None
    counts = np.bincount(np.minimum(known * BINS / 100, BINS - 1).astype(int), minlength=BINS)
    width = 100 // BINS
    median = float(np.median(known))
    return {
        "bins": [
            {
                "count": int(count),
                # in SVG units: the template has room for 130
                "height": 130.0 * int(count) / int(counts.max()),
                "words": f"{place * width} to {(place + 1) * width} %: {count} images",
            }
            for place, count in enumerate(counts)
        ],
        "words": f"{len(known):,} images: lowest {known.min():.1f}, median {median:.1f}, highest {known.max():.1f}",
    }


def times(report: Report) -> list[dict[str, Any]]:
    """Return a table per benchmark, with a row per stage: mean seconds per image, and total seconds."""
    tables = []
    for number, (name, seconds) in enumerate(report.run.seconds.items()):
        scored, longest = report.benchmarks[name].images.scored, max(seconds.values(), default=0.0) or 1.0
        rows = [
            [
                {"text": stage},
                {"text": f"{mean:.4f}", "value": mean, "bar": 100.0 * mean / longest},
                {"text": f"{mean * scored:,.1f} s", "value": mean * scored},
            ]
            for stage, mean in seconds.items()
        ]
        if rows:
            tables.append({"name": name, "id": f"time-{number}", "rows": rows})
    return tables


def script_data(
    scored: int, labels: Sequence[str], listed: Sequence[Confusion], images: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the data of one benchmark for the page's script, which shows the gallery.

    `scored` is the number of the benchmark's images that the run has scored. If the page compares runs, the script
    ignores `scored`, so the value may be any number.
    """
    return {
        "scored": scored,
        "labels": list(labels),
        "colours": [hexadecimal(colour(label)) for label in range(len(labels))],
        "confusions": [
            {"truth": of.truth, "prediction": of.prediction, "examples": list(of.examples)} for of in listed
        ],
        "images": list(images),
    }


def name_of(label: int, labels: Sequence[str]) -> str:
    """Return the name of a predicted label. The value `len(labels)` means that no class was predicted."""
    return labels[label] if label < len(labels) else NO_CLASS


def colour_of(label: int, labels: Sequence[str]) -> str:
    """Return the colour of a predicted label, such as "#ff0000"."""
    return hexadecimal(colour(label) if label < len(labels) else UNLABELLED)


def hexadecimal(red_green_blue: tuple[int, int, int]) -> str:
    """Return an RGB colour in hexadecimal, such as "#ff0000"."""
    return "#{:02x}{:02x}{:02x}".format(*red_green_blue)
