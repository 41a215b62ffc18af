"""Images in the cells of tables. A table is a Parquet file, or an Arrow file that Hugging Face's `save_to_disk` writes.

The address /data/val.parquet@3.17/image means row group 3 of the file, row 17 of this group, column `image`. An Arrow
file has record batches instead of row groups. A cell holds the bytes of an image file, or a struct with these bytes in
the field `bytes`.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from ovss_ray.errors import OvssError, nearest
from ovss_ray.io.files import addresses, archives, cache, remote

ENDINGS = (".parquet", ".arrow")
"""Extensions of tables."""
ROOM = 256 << 20
"""Maximum total size, in bytes, of the columns that a process caches. A larger column is cached alone."""
_CELL = re.compile(r"(?P<table>.+?\.(?:parquet|arrow))@(?P<group>\d+)\.(?P<row>\d+)/(?P<column>[^/]+)", re.I | re.S)


@dataclass(frozen=True)
class Cell:
    """Position of an image in a table."""

    table: str
    group: int
    row: int
    column: str

    @property
    def place(self) -> str:
        """The position as text for an address, such as 3.17/image."""
        return f"{self.group}.{self.row}/{quote(self.column, safe='')}"

    @property
    def uri(self) -> str:
        """The address of the cell."""
        return f"{self.table}@{self.place}"


def parsed(uri: str) -> Cell | None:
    """Return the cell at an address such as data.parquet@3.17/image; None for an address of another form."""
    match = _CELL.fullmatch(uri) if "@" in uri else None
    return match and Cell(match["table"], int(match["group"]), int(match["row"]), unquote(match["column"]))


def content(cell: Cell) -> bytes:
    """Return the bytes in a cell. Raises OvssError if the cell is empty, or if the table is damaged or has changed."""
    values = _GROUPS.get(cell.table, _stamp(cell.table), cell.group, cell.column)
    value = values[cell.row].as_py() if cell.row < len(values) else None
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise OvssError(
            f"{addresses.shown(cell.uri)}: the cell has no bytes of an image. Save the table again, with the bytes of "
            "an image file in this cell"
        )
    return value


def checked(table: str, columns: dict[str, str], ids: str | None) -> None:
    """Raise OvssError if a table lacks a column, or if a column has the wrong type.

    `columns` maps "images" and "labels" to the names of two columns. Each cell of these two columns must hold the bytes
    of an image file. `ids` is the name of the column with ids, or None.
    """
    schema = opened(table, _stamp(table)).schema
    for key, column in {**columns, **({"ids": ids} if ids else {})}.items():
        if schema.get_field_index(column) < 0:
            offer = nearest(column, schema.names)
            raise OvssError(
                f"{addresses.shown(table)}: {key}: no column {column!r}. The columns of this table are {schema.names}."
                f"{offer} Set `{key}` to one of these columns"
            )
        kind = schema.field(column).type
        if key == "ids":
            if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise OvssError(
                    f"{addresses.shown(table)}: ids: column {column!r} is of type {kind}. Expected text or integers"
                )
        elif not _holds_files(kind):
            raise OvssError(
                f"{addresses.shown(table)}: {key}: column {column!r} is of type {kind}. Expected the bytes of image "
                "files, or a struct with a field `bytes`, as Hugging Face stores images. "
                f"Set `{key}` to another column, or save the table again with the bytes of the image files"
            )


def _holds_files(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_files(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def rows(table: str, ids: str | None) -> Iterator[tuple[int, int, str | None]]:
    """Yield (row group, row, id) of each image in a table. Raises OvssError for a damaged table.

    `ids` is the name of the column with ids. If `ids` is None, every id is None.
    """
    reader = opened(table, _stamp(table))
    for group, number in enumerate(reader.lengths):
        with damaged(table):
            values = [str(value) for value in reader.read(group, ids).to_pylist()] if ids else [None] * number
        yield from ((group, row, value) for row, value in enumerate(values))


class Table:
    """Reader of the columns of a Parquet or Arrow file, group by group."""

    def __init__(self, uri: str) -> None:
        path = addresses.local(uri)
        self._lock = threading.Lock()
        if uri.lower().endswith(".arrow"):
            self._batches = _batches(str(cache.local_copy(uri)) if path is None else path)
            self.schema = self._batches[0].schema
            self.lengths = [len(batch) for batch in self._batches]
            return
        self._batches = []
        file = path if path is not None else remote.locate(uri)[0].open(remote.locate(uri)[1], "rb")
        self._parquet = pq.ParquetFile(file, page_checksum_verification=True)
        self.schema = self._parquet.schema_arrow
        self.lengths = [self._parquet.metadata.row_group(k).num_rows for k in range(self._parquet.num_row_groups)]

    def read(self, group: int, column: str) -> pa.ChunkedArray:
        """Return a column of a row group, or of a record batch."""
        if self._batches:
            return pa.chunked_array([self._batches[group].column(column)])
        with self._lock:
            return self._parquet.read_row_group(group, [column], use_threads=False).column(column)


def _batches(path: str) -> list[pa.RecordBatch]:
    """Return the memory-mapped record batches of an Arrow file. Raises ValueError for a file without record batches."""
    source = pa.memory_map(path)
    try:
        batches = pa.ipc.open_stream(source).read_all().to_batches()
    except pa.ArrowInvalid:
        batches = pa.ipc.open_file(source).read_all().to_batches()
    if not batches:
        raise ValueError("no rows")
    return batches


@contextmanager
def damaged(table: str) -> Iterator[None]:
    """Raise OvssError if pyarrow or fsspec fails in the `with` block, for example because the table is damaged."""
    try:
        yield
    except remote.failures(ValueError, pa.ArrowException, LookupError) as failure:
        kind = table.rpartition(".")[2].capitalize()
        raise OvssError(
            f"{addresses.shown(table)}: cannot be read as {kind}; it is missing, truncated or damaged. Check the "
            f"address, or get the table again. Reason: {remote.reason(table, failure)}"
        ) from failure


def _stamp(table: str) -> str:
    with damaged(table):
        return archives.stamp(table)


@lru_cache(64)
def opened(table: str, stamp: str) -> Table:
    """Return the reader of a table. The reader is cached until the table changes.

    `stamp` is a string that changes when the table changes (see `archives.stamp`). Raises OvssError for a damaged
    table.
    """
    with damaged(table):
        return Table(table)


class _Groups:
    """Thread-safe cache of the most recently used columns of row groups, up to ROOM bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[str, str, int, str], pa.ChunkedArray] = OrderedDict()
        self._bytes = 0

    def get(self, table: str, stamp: str, group: int, column: str) -> pa.ChunkedArray:
        """Return a column of a row group, from the cache if possible. Raises OvssError for a damaged table."""
        key = (table, stamp, group, column)
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            reader = opened(table, stamp)
            with damaged(table):
                values = reader.read(group, column)
            self._held[key] = values
            self._bytes += values.nbytes
            while self._bytes > ROOM and len(self._held) > 1:
                self._bytes -= self._held.popitem(last=False)[1].nbytes
            return values


_GROUPS = _Groups()


def read_parquet(content: bytes, columns: list[str] | None = None) -> pa.Table:
    """Read a table from the bytes of a Parquet file, and verify the file's checksums.

    If `columns` is None, all columns are read. Raises ArrowException, ValueError or OSError if the file is damaged.
    """
    # With Arrow's threads, 2 of 100 processes that ended right after a read were aborted.
    with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
        return file.read(columns, use_threads=False)
