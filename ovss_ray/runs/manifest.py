"""Manifest: the table of a run's images, fixed before the first image is read.

A report states how many of these images each metric covers.
"""

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Item, LeftOut, gathered, left_out, logged
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.arrays import mapped_tables
from ovss_ray.io.arrays.mapped_tables import CHUNK
from ovss_ray.io.files import addresses
from ovss_ray.io.sorted_rows import Rows, row
from ovss_ray.runs import records
from ovss_ray.runs.records import STAMPS

SCHEMA = pa.schema(
    [
        *(
            (name, pa.string())
            for name in ("image_id", "benchmark", "vocabulary", "image_uri", "truth_uri", "part", "error")
        ),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)

WORDS = ("benchmark", "vocabulary", "part", "error")
"""Columns in which most rows have the same value"""
_PER_IMAGE = pa.schema([*(col for col in SCHEMA if col.name not in WORDS), *((name, pa.string()) for name in STAMPS)])
WHOLE = pa.schema([*SCHEMA, *((name, pa.string()) for name in (*STAMPS, *records.DIGESTS))])
"""Schema of a manifest: SCHEMA, then the columns STAMPS and DIGESTS (see changes.py). An unknown digest is ""."""
FORMS = (SCHEMA, pa.schema(list(WHOLE)[: len(SCHEMA) + len(STAMPS)]), WHOLE)
"""Schemas that a manifest may have, oldest first: SCHEMA, SCHEMA with stamps, SCHEMA with stamps and digests"""

DRAWN = "drawn"
"""Stamp of an image that has no file, since the benchmark `scenes` draws its images"""
REMOTE = 32
"""Number of threads that read headers of remote images; most of the time, they wait for the server"""
AT_ONCE = 256
"""Number of images whose headers the thread pool reads in one batch"""
PIECE = 2**22
"""Bytes of a manifest's file that are copied at a time"""


@dataclass(frozen=True)
class Listed:
    """The selected images, and the files of the data set that belong to no image."""

    items: Rows[Item]
    left_out: tuple[LeftOut, ...] = ()


def build(name: str, benchmark: Benchmark, root: str, selection: Selection) -> pa.Table:
    """Return the table of the selected images. Raises OvssError if images are missing."""
    return table(name, benchmark, listed(name, benchmark, root, selection))


def listed(name: str, benchmark: Benchmark, root: str, selection: Selection) -> Listed:
    """Return the selected images of a benchmark, and the files of the data set that belong to no image.

    `selection` selects a whole split, or a part of a split by ids or a limit. `benchmark.counts` has the expected
    number of images of some splits.

    - Whole split, expected number known: Raises OvssError if the split has another number of images.
    - Whole split, expected number unknown: Listed.left_out has the files that belong to no image.

    In all other cases, Listed.left_out is empty. Raises OvssError if no image is found, or if an id in `selection` is
    unknown. Also raises OvssError if an id occurs more than once in the data set.
    """
    if selection.ids is not None and benchmark.listed:
        items = logged(benchmark.listed(root, selection.split, selection.ids))
    else:
        items = logged(benchmark.items(root, selection.split))
    alone, items = left_out(items), gathered(items)
    whole = selection.ids is None and selection.limit is None
    expected = benchmark.counts.get(selection.split)
    if whole and expected is not None and len(items) != expected:
        more = f" (`ovss prepare {name}` completes a prepared form)" if benchmark.prepare else ""
        advice = "Remove other images" if len(items) > expected else f"Complete the data{more}"
        raise OvssError(
            f"{name}, split {selection.split}: expected {expected} images, found {len(items)} in {root}. {advice}, "
            f"or evaluate a part with --limit or --ids (the report will say so)"
        )
    rows = selection.take(items, name)
    if not len(rows):
        raise OvssError(
            f"{name}, split {selection.split}: no labelled images found in {root}. Check the folder and the split"
        )
    return Listed(rows, alone if whole and expected is None else ())


def table(name: str, benchmark: Benchmark, images: Listed) -> pa.Table:
    """Return the manifest of the images, sorted by aspect ratio, then by decreasing height.

    Most columns are memory-mapped from a temporary file.
    """
    columns = f"image_id, image, truth, part, height, width, {', '.join(STAMPS)}, ratio"
    sized = Rows(row, columns, _sized(benchmark, images.items))
    # images of one aspect ratio get the same shape if their short sides are scaled to one length
    return _table(name, benchmark, sized.in_order("ratio, height DESC, image_id"))


def _sized(benchmark: Benchmark, items: Rows[Item]) -> Iterator[tuple[Any, ...]]:
    """Yield a row per item, with the following values.

    - image id, addresses of the photograph and of the label file, and Item.part
    - height and width of the photograph in pixels
    - stamp of the photograph, and stamp of the label file
    - aspect ratio, width / height
    """
    stream = iter(items)
    batch = list(islice(stream, AT_ONCE))
    local = all(files.is_local(item.image) for item in batch)
    with ThreadPoolExecutor(8 if local else REMOTE) as pool:
        while batch:
            batch = [replace(item, image=files.pinned(item.image), truth=files.pinned(item.truth)) for item in batch]
            looks = pool.map(partial(_look, benchmark), batch)
            for item, (height, width, *stamps) in zip(batch, looks, strict=True):
                ratio = width / max(1, height)
                yield item.image_id, item.image, item.truth, item.part, height, width, *stamps, ratio
            batch = list(islice(stream, AT_ONCE))


def _look(benchmark: Benchmark, item: Item) -> tuple[int, int, str, str]:
    """Return H and W of an item's photograph, then the stamps of the photograph and the label file."""
    stamps = (DRAWN, DRAWN) if benchmark.drawn else (files.stamp(item.image), files.stamp(item.truth))
    return *_size(benchmark, item), *stamps


def _size(benchmark: Benchmark, item: Item) -> tuple[int, int]:
    """Return H and W from the header of a photograph, or 0, 0 if the photograph is unreadable."""
    try:
        return benchmark.size(item.image)
    except OvssError:
        return 0, 0  # the image is the first in the manifest, since its aspect ratio is 0, and the run fails on it


def _table(name: str, benchmark: Benchmark, rows: Iterator[tuple[Any, ...]]) -> pa.Table:
    """Return the rows as a manifest. Columns in the list WORDS are in memory, others in a memory-mapped file."""
    words: dict[str, list[pa.Array]] = {column: [] for column in WORDS}
    table = mapped_tables.mapped(_PER_IMAGE, _parts(name, benchmark, rows, words))
    for column, chunks in words.items():
        table = table.append_column(column, pa.chunked_array(chunks, pa.string()))
    return table.select([*SCHEMA.names, *STAMPS])


def _parts(
    name: str, benchmark: Benchmark, rows: Iterator[tuple[Any, ...]], words: Mapping[str, list[pa.Array]]
) -> Iterator[pa.Table]:
    """Yield tables of up to CHUNK images with the columns _PER_IMAGE, and append the columns WORDS to `words`."""
    while batch := list(islice(rows, CHUNK)):
        ids, images, truths, parts, heights, widths, *stamps, _ = zip(*batch, strict=True)
        columns = zip((ids, images, truths, heights, widths, *stamps), _PER_IMAGE, strict=True)
        vocabularies = tuple(benchmark.question(part)[0].digest for part in parts)
        repeated = (name,) * len(batch), vocabularies, parts, ("",) * len(batch)
        for column, texts in zip(WORDS, repeated, strict=True):
            words[column].append(_alike(texts))
        yield pa.table([pa.array(values, field.type) for values, field in columns], _PER_IMAGE)


@lru_cache(16)
def _repeated(value: str, times: int) -> pa.Array:
    return pa.array([value] * times, pa.string())


def _alike(values: tuple[str, ...]) -> pa.Array:
    """Return values as an Arrow array. If all values are equal, return a cached array, to save memory."""
    return _repeated(values[0], len(values)) if len(set(values)) == 1 else pa.array(values, pa.string())


def save(table: pa.Table, uri: str) -> None:
    """Write the manifest. Raises OvssError if the file already holds a manifest with different images."""
    if files.exists(uri):
        _compare(load(uri, ["image_id"]), table, uri)
    try:
        with tempfile.TemporaryFile(prefix="ovss_manifest_") as aside:
            with pq.ParquetWriter(aside, table.schema, compression="zstd", write_page_checksum=True) as writer:
                for batch in table.to_batches():
                    writer.write_batch(batch)
            aside.seek(0)
            files.write(uri, iter(partial(aside.read, PIECE), b""))
    except OSError as failure:
        raise mapped_tables.no_space(failure) from failure


def _compare(before: pa.Table, now: pa.Table, uri: str) -> None:
    """Raise OvssError unless two manifests have the same images."""
    if before["image_id"].equals(now["image_id"]):
        return
    ids = ((value.as_py(),) for table in (before, now) for value in chain(*table["image_id"].chunks))
    alone = next((value for value, times in Rows(str, "image_id", ids).counted("image_id") if times == 1), None)
    if alone is not None:
        raise OvssError(
            f"{uri}: the data have changed. The run started with {len(before)} images, now there are {len(now)}; "
            f"{alone!r} is in only one of the two lists. Restore the data, or choose another --out"
        )


def load(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Return a manifest that `save` wrote, or some of its columns. Raises OvssError if it cannot be read.

    A long manifest is memory-mapped from a temporary file.
    """
    source = addresses.local(uri) or pa.BufferReader(files.read(uri))
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            if not any(map(schema.equals, FORMS)):
                raise pa.ArrowInvalid(f"unexpected columns {schema.names}")
            batches = file.iter_batches(CHUNK, columns=columns, use_threads=False)
            selected = pa.schema([field for field in schema if columns is None or field.name in columns])
            return mapped_tables.mapped(selected, (pa.Table.from_batches([batch], selected) for batch in batches))
    except (FileNotFoundError, PermissionError) as failure:
        raise OvssError(f"{uri}: cannot be read: {failure.strerror or failure}") from failure
    except (pa.ArrowException, ValueError, OSError) as failure:
        raise OvssError(
            f"{uri}: the manifest is damaged ({failure}). Delete it and run the same command again"
        ) from failure
