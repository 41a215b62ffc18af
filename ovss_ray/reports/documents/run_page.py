"""The page of a run: report.html, a single file with tables, confusions, a gallery, errors, times and provenance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ovss_ray import metrics
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.metrics.confusion import Partial
from ovss_ray.reports import intervals
from ovss_ray.reports.documents import benchmark_view, citations, provenance, rendering, selection, values
from ovss_ray.reports.documents import confusions as confusing
from ovss_ray.reports.documents import gallery as galleries
from ovss_ray.reports.documents.gallery import Gallery
from ovss_ray.reports.documents.pictures import Album
from ovss_ray.reports.resampling import Cells
from ovss_ray.reports.schema import Report
from ovss_ray.reports.totals import CELLS_UP_TO, COMPACT, Reading
from ovss_ray.runs.folder import RunFolder

FILE = "report.html"
"""Name of the page in the folder of a run."""
CONFUSIONS = 20
"""Maximum number of confusions that are listed."""
MATRIX = 12
"""Maximum number of classes in the confusion matrix."""
IMAGES = 101
"""Default number of images in the galleries of a page."""


def write(folder: RunFolder, report: Report, readings: Mapping[str, Reading], images: int = IMAGES) -> str:
    """Write the page into the folder of a run, and return the address of the page.

    `readings`: benchmark → Reading from `totals.read` with `cells=True`. `images`: total number of images in all
    galleries.
    """
    uri = folder.file(FILE)
    files.write(uri, render(folder, report, readings, images).encode())
    return uri


def render(folder: RunFolder, report: Report, readings: Mapping[str, Reading], images: int = IMAGES) -> str:
    """Return the HTML of the page of a run (see `write`)."""
    share, room = galleries.share(images, len(readings)), galleries.ROOM // len(readings)
    views = [_view(number, name, folder, report, readings[name], share, room) for number, name in enumerate(readings)]
    title = files.absolute(folder.uri).rstrip("/").rpartition("/")[2]
    return rendering.page(
        "run.html.j2",
        title=f"{title}: {', '.join(readings)}",
        report=report,
        total=sum(benchmark.images.expected for benchmark in report.benchmarks.values()),
        stages=" → ".join(stage.use for stage in folder.config().stages()),
        requested=[_requested(name, report, reading) for name, reading in readings.items()],
        headline=headline(report),
        intervals=[f"{name}: {words}" for name, words in provenance.intervals(report).items()],
        folds=_folds(report),
        benchmarks=views,
        times=benchmark_view.times(report),
        pools=provenance.pools(folder.config()),
        history=provenance.history(report),
        provenance=provenance.facts(report, folder.config()),
        command=provenance.command(folder),
        config=files.read(folder.file("config.yaml")).decode(),
        bibtex=citations.bibtex((stage.use for stage in folder.config().stages()), readings),
        data={"runs": [title], "benchmarks": [view["data"] for view in views]},
    )


def headline(report: Report) -> list[dict[str, Any]]:
    """Return a table per metric: the values of each benchmark with their intervals."""
    tables = []
    for metric in values.with_values(report.benchmarks.values()):
        rows = [
            {
                "name": name,
                "selection": values.selection(benchmark),
                "covered": values.covered(benchmark, metric),
                "values": [
                    (benchmark.metrics.get(key), benchmark.bootstrap and benchmark.bootstrap.metrics.get(key))
                    for key in metric.headings
                ],
            }
            for name, benchmark in report.benchmarks.items()
            if metric.headings.keys() & benchmark.metrics.keys()
        ]
        tables.append({"title": metric.title or metric.name, "headings": list(metric.headings.values()), "rows": rows})
    return tables


def _requested(name: str, report: Report, reading: Reading) -> tuple[str, ...]:
    benchmark = report.benchmarks[name]
    counts = benchmark.images
    state = "complete" if benchmark.final else "not final"
    numbers = (f"{count:,}" for count in (counts.expected, counts.scored, counts.failed))
    return name, str(reading.card.get("title", "")), values.selection(benchmark), *numbers, state


def _folds(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    headings = {key: words for metric in metrics.derived() for key, words in metric.headings.items()}
    return [
        (family, [(headings.get(key, key), values.percent(mean)) for key, mean in means.items()])
        for family, means in report.folds.items()
    ]


def _view(
    number: int, name: str, folder: RunFolder, report: Report, reading: Reading, images: int, room: int
) -> dict[str, Any]:
    """Return the section of a benchmark. `images` and `room` (bytes) limit its gallery."""
    cells = intervals.cells_of(reading)
    partial = reading.total.partials.get(metrics.MAIN)
    listed = confusing.costliest(partial, cells, CONFUSIONS) if partial else []
    gallery = _gallery(name, folder, reading, partial, cells, listed, images, room)
    view = benchmark_view.of(number, name, report.benchmarks[name])
    labels = reading.card["labels"]
    return view | {
        "confusions": benchmark_view.confusion_rows(listed, labels),
        "matrix": benchmark_view.matrix(partial, listed, labels, MATRIX),
        "histogram": benchmark_view.histogram(cells.image_miou) if cells else None,
        "gallery": gallery,
        "shown": {image["id"] for image in gallery.images},
        "data": benchmark_view.script_data(report.benchmarks[name].images.scored, labels, listed, gallery.images),
    }


def _gallery(
    name: str,
    folder: RunFolder,
    reading: Reading,
    partial: Partial | None,
    cells: Cells | None,
    listed: Sequence[confusing.Confusion],
    images: int,
    room: int,
) -> Gallery:
    """Return the gallery of a benchmark. If the gallery has no images, a note states the reason."""
    if not images:
        return Gallery(notes=("The page was requested without images.",))
    if cells is None or partial is None or not cells.ids:
        return Gallery(notes=(_without_cells(reading, partial),))
    album = Album(name, [(folder, reading)])
    iou = np.where(partial.truth_pixels > 0, partial.iou, np.nan)
    reasons = selection.selected(cells, iou, listed, album.saved(), images)
    return galleries.build(album, [cells], reasons, room)


def _without_cells(reading: Reading, partial: Partial | None) -> str:
    if partial is None:
        return "The run predicts no label maps to compare, such as a run of prompted instances."
    if reading.total.compact:
        return f"No values of single images: {COMPACT}."
    if len(reading.listed) > CELLS_UP_TO:
        return f"The run has more than {CELLS_UP_TO:,} images: values of single images were not kept."
    return "No image has a result yet."


def check_local(uri: str) -> None:
    """Raise OvssError if the folder `uri` of a run is not on this machine.

    A browser can open the page of the run only if the page is on this machine.
    """
    if not files.is_local(uri):
        raise OvssError(
            f"--open: the folder {uri} is not on this machine, so a browser cannot open the page. Use --html "
            "instead of --open, copy report.html to this machine, and open the copy in a browser"
        )
