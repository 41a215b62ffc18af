"""Tables of any length in bounded memory. A long table is stored in a temporary file, which is memory-mapped."""

import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray.errors import OvssError

CHUNK = 4096
"""Approximate number of rows of a record batch in the file."""
FEW = 1
"""Maximum number of record batches in memory. A table with more record batches is stored in a file."""
BLOCK = 2**16
"""Number of rows of a block (see `blocks`)."""


def mapped(schema: pa.Schema, parts: Iterable[pa.Table]) -> pa.Table:
    """Return the rows of all `parts` as one table. All parts have the schema `schema`.

    A table of more than about FEW · CHUNK rows is memory-mapped from a temporary file. Raises OvssError if this file
    cannot be written. If `parts` raises an exception for a damaged part, `mapped` raises the same exception.
    """
    stream = _joined(parts)
    first = list(islice(stream, FEW + 1))
    if len(first) <= FEW:
        return pa.concat_tables([schema.empty_table(), *first])
    try:
        with tempfile.NamedTemporaryFile(prefix="ovss_table_") as file:
            with pa.OSFile(file.name, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                while first:
                    writer.write_table(first.pop(0))
                for table in stream:
                    writer.write_table(table)
            with pa.memory_map(file.name) as source:
                return pa.ipc.open_file(source).read_all()
    except OSError as failure:
        if failure.errno is None:  # a part cannot be read, such as for a wrong checksum
            raise
        raise no_space(failure) from failure


def no_space(failure: OSError) -> OvssError:
    """Return the error for a temporary file that cannot be written."""
    return OvssError(
        f"cannot write a temporary file: {failure.strerror or failure}. Free some space in the folder for "
        "temporary files, or set the environment variable TMPDIR to another folder"
    )


def _joined(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield tables of at least CHUNK rows, each joined from consecutive parts. The last table may have fewer rows."""
    waiting: list[pa.Table] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= CHUNK:
            whole, waiting = pa.concat_tables(waiting).combine_chunks(), []
            yield whole
    if any(map(len, waiting)):
        yield pa.concat_tables(waiting).combine_chunks()


def blocks(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Yield (row number, block) for consecutive blocks of BLOCK rows of a table. The last block may have fewer rows.

    The row number is the position of the block's first row in the table, counted from 0.
    """
    return ((begin, table.slice(begin, BLOCK)) for begin in range(0, len(table), BLOCK))


def texts(table: pa.Table, name: str, place: np.ndarray | None = None) -> np.ndarray:
    """Return the texts of the column `name` in the rows `place`, as an array (n,) of str.

    `place` contains row numbers, (n,) int64. By default, the texts of all rows are returned. The text is "" for the row
    number −1, for a missing text and for a missing column.
    """
    if place is None:
        return filled(table, name).to_numpy()
    values = np.full(len(place), "", object)
    # block by block, since pyarrow would otherwise first copy the whole column
    for number in np.unique(place[place >= 0] // BLOCK) if name in table.column_names else ():
        rows = np.flatnonzero(place // BLOCK == number)
        block = filled(table.slice(number * BLOCK, BLOCK), name).combine_chunks()
        values[rows] = block.take(pa.array(place[rows] - number * BLOCK)).to_numpy(zero_copy_only=False)
    return values


def filled(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a text column as a pyarrow array. A missing text is ""; if the column is missing, all texts are ""."""
    if name not in table.column_names:
        return pa.chunked_array([pa.array([""] * len(table), pa.string())])
    return pc.fill_null(table[name], "")


def places(ids: pa.ChunkedArray, among: pa.ChunkedArray) -> np.ndarray:
    """Return the row number in `among` of each of the n `ids`, (n,) int64. An id that `among` lacks gets −1."""
    if ids.equals(among):
        return np.arange(len(ids))
    return pc.fill_null(pc.index_in(ids, among), -1).to_numpy().astype(np.int64)
