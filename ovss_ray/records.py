"""What is known of each image. Records are a set keyed by image_id: writing one twice changes nothing."""

import hashlib
import io
from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ovss_ray import files
from ovss_ray.columns import Batch
from ovss_ray.errors import OvssError
from ovss_ray.metrics import confusion, proposal_recall

VERSION = "1"
"""Version of the schema, written into every part file and checked when one is read."""

FAILED = 1 << 62
"""The bit that makes the key of a failed record larger than that of any good one (see `chosen`)."""

METRICS = {"confusion": confusion.schema, "proposal_recall": proposal_recall.schema}
"""Column → what one metric notes of an image. A run has those that its stages write; the others are null."""
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("error", pa.string()),
        ("seconds", pa.map_(pa.string(), pa.float32())),
        *METRICS.items(),
    ],
    metadata={"ovss_ray.records": VERSION},
)


def table(batch: Batch) -> pa.Table:
    """Make the records of a batch that has gone through its pipeline, with the name of each row's benchmark."""
    arrays = [
        pa.array([str(value) for value in batch["image_id"]], pa.string()),
        pa.array([str(value) for value in batch["error"]], pa.string()),
        pa.array([list(value.items()) for value in batch["seconds"]], SCHEMA.field("seconds").type),
        *(_measured(batch, name) for name in METRICS),
    ]
    made = pa.Table.from_arrays(arrays, schema=SCHEMA)
    return made.append_column("benchmark", pa.array([str(value) for value in batch["benchmark"]], pa.string()))


def _measured(batch: Batch, name: str) -> pa.Array:
    """What was measured; what failed after that, such as in saving, is not scored either."""
    values = batch.get(name, [None] * len(batch["error"]))
    return pa.array(
        [None if error else value or None for value, error in zip(values, batch["error"], strict=True)], METRICS[name]
    )


def append(folder: str, records: pa.Table) -> str:
    """Write the records as one part file, all of them or none, and return its name.

    The name is hashed from the content, so that a second try of the same work writes the same file, and a failed try
    never takes the place of a good one. Raises OvssError if the folder cannot be written.
    """
    sink = io.BytesIO()
    pq.write_table(records.select(SCHEMA.names).cast(SCHEMA), sink, compression="zstd")
    name = _name(sink.getvalue())
    files.write(files.join(folder, name), sink.getvalue())
    return name


def _name(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()[:20]}.parquet"


def parts(folder: str) -> list[str]:
    """The addresses of the part files in a folder, sorted."""
    return [files.join(folder, name) for name in files.names(folder, ".parquet")]


def read_part(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Read one part file. Raises OvssError if a bit of it is not as it was written, or if it is of another version."""
    content = files.read(uri)
    if not uri.endswith(f"/{_name(content)}"):  # Parquet itself would read most damage as other numbers
        raise OvssError(
            f"{uri}: this part of the records is damaged: its name is not the hash of its content. Delete it and give "
            "the same command again: its images will be done anew"
        )
    part = files.read_parquet(content, columns)
    found = (part.schema.metadata or {}).get(b"ovss_ray.records", b"none").decode()
    if found != VERSION:
        raise OvssError(f"{uri}: records of version {found}, and this program reads version {VERSION}. Use a new --out")
    return part


def chosen(folder: str, among: pa.ChunkedArray | None = None) -> list[tuple[str, np.ndarray]]:
    """Say where the set is to be read: part files, and the rows of each that count, (n,) int64.

    Every image counts once: a good record before a failed one, else the first. Only the ids in `among`, if given,
    count: what lies in the folder but is not in the manifest is nobody's record.
    """
    uris = parts(folder)
    keyed = [_keyed(read_part(uri, ["image_id", "error"]), number) for number, uri in enumerate(uris)]
    known = pa.concat_tables(
        [pa.table({"image_id": pa.array([], pa.string()), "key": pa.array([], pa.int64())}), *keyed]
    )
    if among is not None:
        known = known.filter(pc.is_in(known["image_id"], value_set=among.combine_chunks()))
    keys = np.sort(known.group_by("image_id").aggregate([("key", "min")])["key_min"].to_numpy())
    part, row = (keys & ~FAILED) >> 32, keys & 0xFFFFFFFF
    return [(uri, np.sort(row[part == number])) for number, uri in enumerate(uris) if (part == number).any()]


def _keyed(part: pa.Table, number: int) -> pa.Table:
    """One number per record, smaller = better: failed or not, then the part, then the row."""
    failed = pc.not_equal(part["error"], "").to_numpy()
    keys = np.where(failed, FAILED, 0) | number << 32 | np.arange(len(part))
    return pa.table({"image_id": part["image_id"], "key": keys})


def read(folder: str, among: pa.ChunkedArray | None = None) -> Iterator[pa.Table]:
    """Read the set as tables in which every image stands once (see `chosen`)."""
    for uri, rows in chosen(folder, among):
        yield read_part(uri).take(rows)


def missing(manifest: pa.Table, folder: str, before: Collection[str] | None = None) -> pa.Table:
    """The rows of the manifest that have no good record: an anti-join, the whole of resuming.

    If `before` names the part files that a run has found at its start, rows that have failed since are not missing.
    """
    done = [pa.array([], pa.string())]
    for uri in parts(folder):
        part = read_part(uri, ["image_id", "error"])
        fresh = before is not None and uri not in before
        done.append((part if fresh else part.filter(pc.equal(part["error"], "")))["image_id"].combine_chunks())
    known = pa.chunked_array(done, pa.string()).combine_chunks()
    return manifest.filter(pc.invert(pc.is_in(manifest["image_id"], value_set=known)))
