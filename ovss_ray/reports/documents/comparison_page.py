"""HTML page that compares runs: values with intervals, paired differences, and the images that differ most in mIoU."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.reports import intervals
from ovss_ray.reports.documents import benchmark_view, rendering, values
from ovss_ray.reports.documents import gallery as galleries
from ovss_ray.reports.documents.exports.leaderboard import short
from ovss_ray.reports.documents.gallery import Gallery
from ovss_ray.reports.documents.pictures import Album
from ovss_ray.reports.paired import Difference, Paired
from ovss_ray.reports.resampling import Cells
from ovss_ray.reports.schema import Report
from ovss_ray.reports.totals import Reading
from ovss_ray.runs.folder import RunFolder

Runs = Mapping[str, tuple[Report, Mapping[str, Reading]]]
"""Folder of a run → (report of the run, {benchmark: Reading from `totals.read` with `cells=True`})."""
Differences = Mapping[tuple[str, str], Paired]
"""(folder of a run other than the first, benchmark) → paired differences of this run to the first run."""


def write(uri: str, runs: Runs, differences: Differences, unlike: bool = False, images: int = 101) -> None:
    """Write the page to a file. `images` is the total number of images in all galleries.

    If a run cannot be paired with the first run, `unlike` decides. If `unlike` is True, the page states the reason in
    place of the differences. If `unlike` is False, raises OvssError.
    """
    reasons = [f"{run}, {name}: {paired.refused}" for (run, name), paired in differences.items() if paired.refused]
    if reasons and not unlike:
        raise OvssError(
            f"--html: {len(reasons)} results cannot be paired with those of {next(iter(runs))}: {'; '.join(reasons)}. "
            "To write a page that states these reasons, add --unlike"
        )
    files.write(files.absolute(uri), render(runs, differences, images).encode())


def render(runs: Runs, differences: Differences, images: int = 101) -> str:
    """Return the HTML of the page (see `write`)."""
    names = [short(run.rstrip("/"), [of.rstrip("/") for of in runs]) for run in runs]
    benchmarks = list(dict.fromkeys(name for report, _ in runs.values() for name in report.benchmarks))
    share, room = galleries.share(images, len(benchmarks)), galleries.ROOM // len(benchmarks)
    views = [_view(number, name, names, runs, differences, share, room) for number, name in enumerate(benchmarks)]
    return rendering.page(
        "comparison.html.j2",
        title=f"{', '.join(names[1:])} compared with {names[0]}",
        final=all(report.final for report, _ in runs.values()),
        benchmarks=views,
        fake=[name for name, (report, _) in zip(names, runs.values(), strict=True) if report.run.fake_weights],
        digests=[(name, report.run.digest) for name, (report, _) in zip(names, runs.values(), strict=True)],
        data={"runs": names, "benchmarks": [view["data"] for view in views]},
    )


def _view(
    number: int, name: str, names: Sequence[str], runs: Runs, differences: Differences, images: int, room: int
) -> dict[str, Any]:
    """Return the data of the page's section on the benchmark `name`. `number` is the section's number, from 0.

    `names` has the short name of each run. The gallery shows at most `images` images, with pictures of at most `room`
    bytes in total.
    """
    of_runs = [report.benchmarks.get(name) for report, _ in runs.values()]
    headings = {
        key: words
        for metric in values.with_values([of for of in of_runs if of])
        for key, words in metric.headings.items()
    }
    rows = [
        {
            "name": run,
            "selection": values.selection(of) if of else "",
            "covered": values.covered(of) if of else "not evaluated",
            "values": [
                (of and of.metrics.get(key), of and of.bootstrap and of.bootstrap.metrics.get(key)) for key in headings
            ],
        }
        for run, of in zip(names, of_runs, strict=True)
    ]
    pairs = [
        _pair(f"pair-{number}-{k}", name, other, run, runs, differences[run, name], headings)
        for k, (run, other) in enumerate(zip(list(runs)[1:], names[1:], strict=True))
    ]
    labels, gallery = _gallery(name, runs, images, room)
    return {
        "number": number,
        "id": f"benchmark-{number}",
        "name": name,
        "headings": list(headings.values()),
        "rows": rows,
        "pairs": pairs,
        "gallery": gallery,
        "data": benchmark_view.script_data(len(gallery.images), labels, [], gallery.images),
    }


def _pair(
    identifier: str, name: str, other: str, run: str, runs: Runs, paired: Paired, headings: Mapping[str, str]
) -> dict[str, Any]:
    """Return the differences of a run to the first run: a row per metric, and a row per class."""
    first = next(iter(runs.values()))[0].benchmarks.get(name)
    second = runs[run][0].benchmarks.get(name)
    rows = [(headings.get(key, key), *_numbers(of)) for key, of in (paired.values or {}).items()]
    return {
        "id": identifier,
        "other": other,
        "refused": paired.refused,
        "words": paired.words,
        "rows": rows,
        "classes": [
            _class(label, score.name, score.iou, second.classes[label].iou, (paired.classes or {}).get(label))
            for label, score in _largest_first(first.classes, second.classes)
        ]
        if first and second and _same_classes(first.classes, second.classes)
        else [],
    }


def _same_classes(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return [score.name for score in first] == [score.name for score in second]


def _largest_first(first: Sequence[Any], second: Sequence[Any]) -> list[tuple[int, Any]]:
    """Return a pair (label, ClassScore of the first run) per class, largest absolute difference of IoU first."""

    def size(label: int) -> float:
        before, after = first[label].iou, second[label].iou
        return -1.0 if before is None or after is None else abs(after - before)

    return [(label, first[label]) for label in sorted(range(len(first)), key=lambda label: (-size(label), label))]


def _class(
    label: int, name: str, before: float | None, after: float | None, difference: Difference | None
) -> list[dict[str, Any]]:
    gain = None if before is None or after is None else after - before
    low, p = (difference.interval[0], difference.p) if difference else (None, None)
    interval, chance = (_signed(difference), _chance(difference.p)) if difference else ("not tested", "–")
    return [
        {"text": name, "colour": benchmark_view.hexadecimal(benchmark_view.colour(label))},
        {"text": values.percent(before), "value": before},
        {"text": values.percent(after), "value": after},
        {"text": values.NOT_MEASURED if gain is None else f"{gain:+.2f}", "value": gain},
        {"text": interval, "value": low},
        {"text": chance, "value": p},
    ]


def _numbers(of: Difference) -> tuple[str, ...]:
    return f"{of.value:+.2f}", _signed(of), _chance(of.p), f"{of.smallest:.2f}", f"{of.photographs:,}"


def _signed(of: Difference) -> str:
    return f"{of.interval[0]:+.2f} to {of.interval[1]:+.2f}"


def _chance(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def _gallery(name: str, runs: Runs, images: int, room: int) -> tuple[list[str], Gallery]:
    """Return the labels of a benchmark, and a gallery of the images with the largest difference of mIoU."""
    readings = [readings.get(name) for _, readings in runs.values()]
    with_benchmark = [reading for reading in readings if reading]
    if len(with_benchmark) < len(readings) or len({tuple(of.card["labels"]) for of in with_benchmark}) > 1:
        return [], Gallery(notes=("No gallery: not all runs have this benchmark with the same classes.",))
    labels, cells = with_benchmark[0].card["labels"], [intervals.cells_of(reading) for reading in with_benchmark]
    known = [of for of in cells if of]
    if not images or len(known) < len(cells):
        return labels, Gallery(notes=("The page has no images: none requested, or no values of single images.",))
    album = Album(name, [(RunFolder(run), of) for run, of in zip(runs, with_benchmark, strict=True)])
    reasons = {image: ["difference"] for image in _most_different(known)[:images]}
    return labels, galleries.build(album, known, reasons, room)


def _most_different(cells: Sequence[Cells]) -> list[str]:
    """Return the ids of images that all runs have scored, largest difference of mIoU first."""
    # difference to the first run; a missing mIoU counts as 0
    mious = [dict(zip(of.ids, np.nan_to_num(of.image_miou).tolist(), strict=True)) for of in cells]
    shared = [image for image in mious[0] if all(image in of for of in mious)]
    return sorted(shared, key=lambda image: (-max(abs(of[image] - mious[0][image]) for of in mious), image))
