"""Records: the measurements of each image. They are a set keyed by image_id: writing a record twice changes nothing."""

import hashlib
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ovss_ray import metrics
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.arrays import mapped_tables
from ovss_ray.io.arrays.mapped_tables import CHUNK
from ovss_ray.runs import compact, versions
from ovss_ray.runs.versions import DIGESTS, STAMPS
from ovss_ray.structures.columns import Batch

VERSION = "1"
"""Version of the schema, written into every part file and checked when the file is read."""

DECISIVE = ["image_id", "error", *DIGESTS]
"""Columns that decide which of the records of an image is valid (see `settle`)."""
ROOM = 32_000_000
"""Approximate limit in bytes. `fold` reads the part files twice if the size of the records exceeds this limit."""

P = TypeVar("P")
Part = tuple[str, np.ndarray]
"""Address of a part file (a file of records), and indices (n,) int64 of the valid rows (see `settle`)."""
Read = Callable[[str, list[str] | None], pa.Table]
"""Function that returns a part file as a table. Arguments: address of the file, names of columns or None for all."""

METRICS = {metric.name: metric.schema for metric in metrics.regular()}
"""Name of a metric → Arrow type of the metric's column in the records, for the metrics in metrics.regular."""
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("error", pa.string()),
        ("seconds", pa.map_(pa.string(), pa.float32())),
        *METRICS.items(),
        *((name, pa.string()) for name in (*DIGESTS, *STAMPS)),
    ],
    metadata={"ovss_ray.records": VERSION},
)
"""Columns of a record. Each additional metric of a config adds a column of the same name.

A part file omits the column of a metric if no row has a value. The column `confusion` is never omitted."""


def table(batch: Batch) -> pa.Table:
    """Return the records of a batch after all stages. Add a column `benchmark`, the benchmark of each record."""
    schema = _with_own(frozenset(batch)).append(pa.field("benchmark", pa.string()))
    return pa.Table.from_arrays([_column(batch, field) for field in schema], schema=schema)


@lru_cache(maxsize=16)
def _with_own(columns: frozenset[str]) -> pa.Schema:
    """Return SCHEMA with a further field for each metric in `columns` that SCHEMA lacks."""
    listed = set(metrics.columns(columns)) - METRICS.keys()
    fields = [pa.field(name, metrics.load(name).schema) for name in sorted(listed)]
    return pa.schema([*SCHEMA, *fields], SCHEMA.metadata)


def _column(batch: Batch, field: pa.Field) -> pa.Array:
    """Return one column of the records. A missing text is "". An image with an error has no metric values."""
    values: Iterable[Any] = batch.get(field.name, [None] * len(batch["error"]))
    if field.type == pa.string():
        return pa.array([str(value or "") for value in values], field.type)
    if field.name == "seconds":
        return pa.array([list(value.items()) for value in values], field.type)
    pairs = zip(values, batch["error"], strict=True)
    return pa.array([None if error else value or None for value, error in pairs], field.type)


def append(folder: str, records: pa.Table) -> str:
    """Write the records atomically as one part file. Return the file's name, a hash of its content.

    Raises OvssError if the folder cannot be written.
    """
    schema = _with_own(frozenset(records.column_names))
    part = records.select(schema.names).cast(schema)
    further = set(metrics.columns(schema.names)) - {metrics.MAIN}
    return write(folder, part.drop_columns([name for name in further if part[name].null_count == len(part) > 0]))


def write(folder: str, part: pa.Table) -> str:
    """Write a table atomically as one part file, and return the file's name (see `append`).

    The table has records, or the content of a compact file (see compact.py).
    """
    sink = io.BytesIO()
    pq.write_table(part, sink, compression="zstd")
    name = _name(sink.getvalue())
    files.write(files.join(folder, name), sink.getvalue())
    return name


def _name(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()[:20]}.parquet"


def parts(folder: str) -> list[str]:
    """Return the addresses of the part files in a folder, sorted."""
    return [files.join(folder, name) for name in files.names(folder, ".parquet")]


def read_part(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Return the table in one part file. Raises OvssError if the file is damaged, or of another version.

    The table has records, or the single row of a compact file (see compact.py).
    """
    content = files.read(uri)
    if not uri.endswith(f"/{_name(content)}"):  # Parquet itself would read most damage as other numbers
        raise OvssError(
            f"{uri}: damaged file of records (its name is not the hash of its content). Delete the file and run the "
            "same command again to score its images again"
        )
    part = files.read_parquet(content, columns)
    version = (part.schema.metadata or {}).get(b"ovss_ray.records", b"none").decode()
    if version not in (VERSION, compact.VERSION):
        raise OvssError(f"{uri}: records of version {version}; this program reads version {VERSION}. Use a new --out")
    return part


@dataclass(frozen=True)
class Settled:
    """Result of `settle`: the valid records, and numbers of images by the state of their records."""

    parts: list[Part]
    changed: int = 0
    """number of images with a successful record that is older than a change of the photograph or label file"""
    due: int = 0
    """number of images that were scored without an error, but must be scored again, since no record is usable"""
    undigested: int = 0
    """number of valid records without errors and without file digests. An earlier version of ovss_ray wrote them"""
    together: int = 0
    """number of images in `due` whose photograph and label file are unchanged, but whose compact file is unusable"""
    compact: tuple[str, ...] = ()
    """addresses of those files in `parts` that are compact files (see compact.py)"""


def settle(folder: str, among: pa.Table | None = None, read: Read = read_part) -> Settled:
    """Return the valid records of a folder, at most one per image.

    Each record of an image has a rank (see versions.MATCHED). The record with the best rank is valid, unless this rank
    is STALE. A record with an error has the rank FAILED, which is better than STALE, so this record may be valid. If a
    usable compact file contains an image, the compact file replaces the image's records.

    `among` is the manifest. Records of images outside the manifest are not valid. The digests in the manifest decide
    which records are STALE (see versions.stale). If `among` is None, no image is excluded, and no file has changed.
    """
    uris = parts(folder)
    known = _all(uris, among, read)
    names = pa.chunked_array([known["image_id"].unique()]) if among is None else among["image_id"]
    image = mapped_tables.places(known["image_id"], names)
    part_of, whole = known["place"].to_numpy() >> versions.PART, known["whole"].to_numpy()
    changed_records = versions.stale(known, among, image)
    stale_records, covered = compact.resolved(whole, part_of, image, changed_records)
    listed = (image >= 0) & ~covered
    keys, stale, changed = np.full(len(names), versions.NO_RECORD), *np.zeros((2, len(names)), bool)
    np.minimum.at(keys, image[listed], versions.keys(known, stale_records)[listed])
    stale[image[listed & stale_records]] = True
    changed[image[listed & changed_records]] = True
    keys, stale, changed = (of[keys != versions.NO_RECORD] for of in (keys, stale, changed))
    rank = keys >> versions.RANK
    counted = np.sort(keys[rank != versions.STALE] & ((1 << versions.RANK) - 1))  # by part and row, whatever the rank
    part, row = counted >> versions.PART, counted & ((1 << versions.PART) - 1)
    ends = np.searchsorted(part, np.arange(len(uris) + 1))
    compacts = {uris[i] for i in np.unique(part_of[whole])}
    rows = [(uri, row[ends[i] : ends[i + 1]]) for i, uri in enumerate(uris) if ends[i] < ends[i + 1]]
    due = stale & (rank >= versions.FAILED)
    return Settled(
        [(uri, np.zeros(1, np.int64) if uri in compacts else of_part) for uri, of_part in rows],
        int(changed.sum()),
        int(due.sum()),
        int((rank == versions.UNKNOWN).sum()),
        int((due & ~changed).sum()),
        tuple(uri for uri, _ in rows if uri in compacts),
    )


def _all(uris: Sequence[str], manifest: pa.Table | None, read: Read = read_part) -> pa.Table:
    """Return a table of the part files `uris`: a row per record, and a row per image of a compact file. Columns:

    - `image_id`
    - `image_digest`, only if the manifest's column `image_digest` has at least one digest; likewise `truth_digest`
    - `place`, int64: 2³² · (index of the part file in `uris`) + (number of the row within its part file)
    - `good`, bool: True if the record has no error
    - `digested`, bool: True if the record has at least one digest
    - `whole`, bool: True if the row is an image of a compact file
    """
    facts = {"place": pa.int64(), **dict.fromkeys(("good", "digested", "whole"), pa.bool_())}
    schema = pa.schema({**dict.fromkeys(("image_id", *versions.changed(manifest)), pa.string()), **facts})
    tables = _together(_placed(number, read(uri, DECISIVE)) for number, uri in enumerate(uris))
    return mapped_tables.mapped(schema, (_facts(table, schema) for table in tables))


def _placed(number: int, content: pa.Table) -> pa.Table:
    """Return the rows of part file `number` with the columns `place` and `whole`. `_all` describes rows and columns."""
    part, whole = compact.per_image(content), np.full(1, compact.is_compact(content))
    place = number << versions.PART | np.arange(len(part))
    return part.append_column("place", pa.array(place)).append_column("whole", pa.array(whole.repeat(len(part))))


def _facts(part: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the columns that `_all` describes, as a table with `schema`. `part`: one or more tables from `_placed`."""
    columns = {name: mapped_tables.filled(part, name) for name in ("image_id", *DIGESTS) if name in schema.names}
    columns |= {"place": part["place"], "good": pc.equal(part["error"], "")}
    columns |= {"digested": versions.digested(part), "whole": part["whole"]}
    return pa.table(columns, schema)


class _Held:
    """Reader of part files. If all records take at most about `room` bytes, the reader keeps the records in memory."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tables: dict[str, pa.Table] = {}

    def __call__(self, uri: str, columns: list[str] | None = None) -> pa.Table:
        if uri not in self.tables and self.room > 0:
            self.tables[uri] = read_part(uri)
            self.room -= self.tables[uri].nbytes
        if uri not in self.tables:
            self.tables.clear()  # a second reading of a part of the files would save little time
            return read_part(uri, columns)
        part = self.tables[uri]
        return part if columns is None else part.select([name for name in columns if name in part.column_names])


def fold(
    folder: str, among: pa.Table | None, of: Callable[[pa.Table], P], room: int = ROOM
) -> tuple[Settled, P | None]:
    """Return the result of `settle`, and the sum of `of(table)` over tables of the valid records.

    If no record is valid, the sum is None. If the records take more than about `room` bytes, part files are read twice.
    """
    read = _Held(room)
    settled = settle(folder, among, read)
    return settled, add(settled.parts, of, read)


def add(parts: Iterable[Part], of: Callable[[pa.Table], P], read: Read = read_part) -> P | None:
    """Read the rows in `parts` into tables, and return the sum of `of(table)`. If `parts` is empty, return None."""
    total: Any = None
    tables = ((read(uri, None), rows) for uri, rows in parts)
    for table in _together(part if len(rows) == len(part) else part.take(rows) for part, rows in tables):
        summand = of(table)
        total = summand if total is None else total + summand
    return total


def _together(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join consecutive tables of the same schema into fewer tables of about CHUNK rows, to save time."""
    waiting: list[pa.Table] = []
    for table in tables:
        alone = compact.is_compact(table) or sum(map(len, waiting)) >= CHUNK
        if waiting and (alone or table.schema != waiting[0].schema):
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
        waiting.append(table)
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def read(folder: str, among: pa.Table | None = None) -> Iterator[pa.Table]:
    """Yield the valid records in a folder (see `settle`). Each table has the valid records of one part file.

    The table of a compact file has a single row (see compact.py).
    """
    for uri, rows in settle(folder, among).parts:
        yield read_part(uri).take(rows)


def missing(manifest: pa.Table, folder: str, before: Collection[str] | None = None) -> pa.Table:
    """Return the rows of the manifest whose images still need scoring.

    An image needs no scoring if it has a usable record without an error (see compact.resolved). Images with a record in
    a new part file need no scoring either, even if the record has an error. `before`: addresses of the part files that
    are not new, because they existed before the running command. If `before` is None, no part file is new.
    """
    uris = parts(folder)
    known = _all(uris, manifest)
    image = mapped_tables.places(known["image_id"], manifest["image_id"])
    part = known["place"].to_numpy() >> versions.PART
    stale, _ = compact.resolved(known["whole"].to_numpy(), part, image, versions.stale(known, manifest, image))
    good = known["good"].to_numpy() & ~stale
    fresh = np.array([before is not None and uri not in before for uri in uris], bool)
    due = np.ones(len(manifest) + 1, bool)  # the last entry is that of -1
    due[image[good | fresh[part]]] = False
    if due[:-1].all():
        return manifest
    left = (rows.filter(pa.array(due[begin : begin + len(rows)])) for begin, rows in mapped_tables.blocks(manifest))
    return mapped_tables.mapped(manifest.schema, left)
