"""Make a finished run compact: replace the records of its images by sums (see runs/compact.py).

A record is deleted only after its compact file has been written and verified. If `ovss report RUN --compact` is
interrupted, the scores of the run stay the same. Repeat `ovss report RUN --compact` to replace the remaining records.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa

from ovss_ray import metrics
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.reports import report as reports
from ovss_ray.reports import totals
from ovss_ray.reports.totals import Reading, Total
from ovss_ray.runs import changes, compact, records
from ovss_ray.runs import lease as leases
from ovss_ray.runs.folder import RunFolder
from ovss_ray.runs.records import Part

IMAGES = 4096
"""Minimum number of images in a compact file. The last compact file of a benchmark may have fewer images."""
LOST = (
    "values of single images: --images; histogram, examples and gallery of --html",
    "95 % intervals, photographs per class, and paired differences of `ovss compare`",
    "--merge, --buckets and --mapping",
    "records of earlier versions of changed files",
)
"""Values, options and records that a compact run no longer has. `ovss report --compact` lists them as a warning."""


def pending(readings: Mapping[str, Reading], folder: RunFolder) -> dict[str, int]:
    """Return benchmark → number of images with records, for each benchmark that is not compact yet.

    Raises OvssError if a benchmark is not final, for example because an image has no score (see
    BenchmarkReport.final). Raises OvssError if a metric of a benchmark cannot be computed from sums. Raises OvssError
    if photographs or label files have changed since the run listed them.
    """
    for name, reading in readings.items():
        benchmark = reports.numbers(reading, bounds=False)
        if not benchmark.final:
            images = benchmark.images
            unpaired = f", {benchmark.files.incomplete} files without a partner" if benchmark.files.incomplete else ""
            raise OvssError(
                f"--compact needs a finished run, but {name} in {folder.uri} is not final: {images.scored} of "
                f"{images.expected} images scored, {images.failed} failed{unpaired}. Repeat the command of this run, "
                "until every image is scored"
            )
        if names := [metric for metric in reading.total.partials if metrics.load(metric).sums is None]:
            raise OvssError(
                f"--compact is not possible: {name} has metrics that cannot be computed from sums: {', '.join(names)}. "
                "Nothing was changed"
            )
    for doubt in changes.doubts(folder, {name: reading.listed for name, reading in readings.items()}):
        raise OvssError(f"--compact needs an up-to-date run. {doubt}")
    scored = {name: reading.total.scored - reading.total.compact for name, reading in readings.items()}
    return {name: scored[name] for name in readings if _outdated(readings[name], folder.records(name))}


def run(folder: RunFolder, say: Callable[[str], None]) -> None:
    """Replace the records of a finished run by sums, and rebuild report.json.

    `say`: function that prints a line for the user.

    Raises OvssError in the same cases as `pending`. Raises OvssError if another command works in the folder. Raises
    OvssError if the sums in the compact files differ from the sums of the records. In all of these cases, no record is
    deleted.
    """
    folder.config()  # raises OvssError if this is not the folder of a run, before a lease is written there
    with leases.held(folder, say) as lease:
        readings = totals.read(folder)
        outdated = {name: _outdated(readings[name], folder.records(name)) for name in pending(readings, folder)}
        written = {name: _write(readings[name], folder.records(name), outdated[name]) for name in outdated}
        _check(folder, readings, written)
        lease.check()
        for name, uris in outdated.items():
            for uri in uris:
                files.delete(uri)
            say(
                f"{name}: compact: {len(written[name])} files with the sums of {readings[name].total.scored} images "
                f"replace {len(uris)} files of records"
            )
        if outdated:
            reports.assemble(folder, totals.read(folder, cells=True))


def _outdated(reading: Reading, folder: str) -> list[str]:
    """Return the addresses of all Parquet files in a folder of records, except those of valid compact files."""
    return [uri for uri in records.parts(folder) if uri not in reading.settled.compact]


def _write(reading: Reading, folder: str, outdated: Collection[str]) -> list[str]:
    """Write compact files that replace the record files `outdated`. Return the addresses of the compact files."""
    left = [part for part in reading.settled.parts if part[0] in outdated]
    return [files.join(folder, records.write(folder, _content(group, reading))) for group in _groups(left)]


def _groups(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Yield groups of consecutive record files. Each group except the last has at least IMAGES images."""
    group: list[Part] = []
    for part in parts:
        group.append(part)
        if sum(len(rows) for _, rows in group) >= IMAGES:
            yield group
            group = []
    if group:
        yield group


def _content(group: Sequence[Part], reading: Reading) -> pa.Table:
    """Return the compact table of the record files `group`.

    Raises OvssError if the table's sums differ from the sums of the records.
    """
    labels = len(reading.card["labels"])
    total = records.add(group, partial(Total.of, labels=labels))
    assert total is not None, "a group has at least one record"
    tables = (records.read_part(uri, list(compact.LISTS)).take(rows) for uri, rows in group)
    images = pa.concat_tables(tables, promote_options="default")
    content = compact.table(images, labels, total.spent, total.measured, total.partials)
    _compare(reading, total, Total.of(content, labels))
    return content


def _check(folder: RunFolder, before: Mapping[str, Reading], written: Mapping[str, Sequence[str]]) -> None:
    """Raise OvssError if a new compact file is not valid, or if the sums of a benchmark differ from `before`.

    `before`: benchmark → Reading before the compact files were written. `written`: benchmark → addresses of the new
    compact files.
    """
    after = totals.read(folder) if written else {}
    for name, uris in written.items():
        if {*after[name].settled.compact} != {*before[name].settled.compact, *uris}:
            raise OvssError(f"{name}: the new compact files are not valid. No record was deleted; please report this")
        _compare(before[name], before[name].total, after[name].total)


def _compare(reading: Reading, first: Total, second: Total) -> None:
    """Raise OvssError if two sums over the same images give different reports or compact tables."""
    # Reports without confidence intervals, since compact files have no values of single images.
    (one_report, one_sums), (two_report, two_sums) = (
        (
            reports.numbers(replace(reading, total=replace(total, compact=0)), bounds=False),
            compact.table(reading.listed[:0], 0, total.spent, total.measured, total.partials),
        )
        for total in (first, second)
    )
    if one_report != two_report or not one_sums.equals(two_sums):
        raise OvssError(
            "--compact: the sums in a compact file differ from the sums of the records that it replaces. No record was "
            "deleted. The usual cause is a fault in the module of a metric. Check the modules of your own metrics. If "
            "the run has only built-in metrics, please report this"
        )
