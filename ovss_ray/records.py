"""What is known of each image. Records are a set keyed by image_id: writing one twice changes nothing."""

import hashlib
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

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

MATCHED, UNKNOWN, FAILED, STALE = range(4)
"""Rank of a record among those of one image, the best first.

A good record whose digests may be those of the files now; a good one without digests, of an earlier version; a failed
one; a good one of files that have changed since, which counts for nothing."""
_RANK, _PART = 61, 32
"""Lowest bits of rank and part number in the key of a record; its row stands below (see `settle`)."""
DIGESTS = ("image_digest", "truth_digest")
"""Columns for the digests of the photograph and the label file that a worker read; empty if it read none."""

STAMPS = ("image_stamp", "truth_stamp")
"""Columns for the state of both files when they were listed, before they were read (see files.stamp)."""
DECISIVE = ["image_id", "error", *DIGESTS]
"""Columns that decide which record of an image counts."""

METRICS = {"confusion": confusion.schema, "proposal_recall": proposal_recall.schema}
"""Column → what one metric notes of an image. A run has those that its stages write; the others are null."""
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


def table(batch: Batch) -> pa.Table:
    """Make the records of a batch that has gone through its pipeline, with the name of each row's benchmark."""
    arrays = [
        _words(batch, "image_id"),
        _words(batch, "error"),
        pa.array([list(value.items()) for value in batch["seconds"]], SCHEMA.field("seconds").type),
        *(_measured(batch, name) for name in METRICS),
        *(_words(batch, name) for name in (*DIGESTS, *STAMPS)),
    ]
    made = pa.Table.from_arrays(arrays, schema=SCHEMA)
    return made.append_column("benchmark", _words(batch, "benchmark"))


def _words(batch: Batch, name: str) -> pa.Array:
    """A column of texts; "" where no stage has written it."""
    return pa.array([str(value) for value in batch.get(name, [""] * len(batch["error"]))], pa.string())


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


@dataclass(frozen=True)
class Settled:
    """The set of records: which of them count, and what became of the others."""

    parts: list[tuple[str, np.ndarray]]
    """part files, and the rows of each that count, (n,) int64"""
    changed: int = 0
    """images with a good record of files that have changed since"""
    due: int = 0
    """images among those that have no record of the files as they are now"""
    undigested: int = 0
    """good records that count although nothing says which files they are of: an earlier version wrote them"""


def settle(folder: str, among: pa.Table | pa.ChunkedArray | None = None) -> Settled:
    """Decide which records of a folder count: one for every image, whatever the order of the part files.

    `among` is the manifest, or its column image_id. What is not in it is nobody's record. Where it has digests, they
    are those of the files now, "" if not known (see changes.py). For the ranks see MATCHED.
    """
    uris = parts(folder)
    known = _ranked(_all(uris), _now(among))
    best = known.group_by("image_id").aggregate([("key", "min"), ("stale", "max")])
    keys, stale = best["key_min"].to_numpy(), best["stale_max"].to_numpy()
    rank = keys >> _RANK
    counted = np.sort(keys[rank != STALE] & ((1 << _RANK) - 1))  # by part and row, whatever the rank
    part, row = counted >> _PART, counted & ((1 << _PART) - 1)
    ends = np.searchsorted(part, np.arange(len(uris) + 1))
    rows = [(uri, row[ends[i] : ends[i + 1]]) for i, uri in enumerate(uris) if ends[i] < ends[i + 1]]
    due = stale & (rank >= FAILED)
    return Settled(rows, int(stale.sum()), int(due.sum()), int((rank == UNKNOWN).sum()))


def chosen(folder: str, among: pa.Table | pa.ChunkedArray | None = None) -> list[tuple[str, np.ndarray]]:
    """Say where the set is to be read: part files, and the rows of each that count, (n,) int64 (see `settle`)."""
    return settle(folder, among).parts


def _now(among: pa.Table | pa.ChunkedArray | None) -> pa.Table | None:
    return pa.table({"image_id": among}) if isinstance(among, pa.ChunkedArray) else among


def _all(uris: Sequence[str]) -> pa.Table:
    """Read the columns DECISIVE of all part files; `place` (int64) is a record's part and row.

    Together, as a manifest is looked up once then, and not for each part.
    """
    known = [SCHEMA.empty_table().select(DECISIVE).append_column("place", pa.array([], pa.int64()))]
    for number, uri in enumerate(uris):
        part = read_part(uri, DECISIVE)
        known.append(part.append_column("place", pa.array(number << _PART | np.arange(len(part)))))
    return pa.concat_tables(known, promote_options="default")  # earlier versions lack columns


def _ranked(known: pa.Table, manifest: pa.Table | None) -> pa.Table:
    """One number per record, smaller = better: rank, then the part, then the row; and whether it is stale."""
    good = pc.equal(known["error"], "").to_numpy()
    stale = good & _stale(known, manifest)
    rank = np.where(stale, STALE, np.where(~good, FAILED, np.where(digested(known), MATCHED, UNKNOWN)))
    keys = rank.astype(np.int64) << _RANK | known["place"].to_numpy()
    table = pa.table({"image_id": known["image_id"], "key": keys, "stale": stale})
    return table if manifest is None else table.filter(pc.is_in(table["image_id"], manifest["image_id"]))


def digested(known: pa.Table) -> np.ndarray:
    """Whether a record says which files it is of: (n,) bool."""
    return np.any([texts(known, name) != "" for name in DIGESTS], axis=0)


def _stale(known: pa.Table, manifest: pa.Table | None) -> np.ndarray:
    """Whether a record is of another photograph or label file than the manifest knows to be there now: (n,) bool.

    A record without digests is, where the manifest has one: that means that its file has changed (see changes.py).
    """
    stale = np.zeros(len(known), bool)
    if manifest is None:
        return stale
    place = pc.index_in(known["image_id"], manifest["image_id"])
    for name in DIGESTS:
        if name in manifest.column_names:
            now = texts(manifest, name, place)
            then = texts(known, name)
            stale |= (now != "") & np.where(then == "", ~digested(known), now != then)
    return stale


def texts(table: pa.Table, name: str, place: pa.Array | None = None) -> np.ndarray:
    """A column of texts in the order of the rows `place`, (n,) object; "" where there is none."""
    if name not in table.column_names:
        return np.full(len(table) if place is None else len(place), "", object)
    values = table[name] if place is None else table[name].take(place)
    return pc.fill_null(values, "").to_numpy()


def read(folder: str, among: pa.Table | pa.ChunkedArray | None = None) -> Iterator[pa.Table]:
    """Read the set as tables in which every image stands once (see `settle`)."""
    for uri, rows in chosen(folder, among):
        yield read_part(uri).take(rows)


def missing(manifest: pa.Table, folder: str, before: Collection[str] | None = None) -> pa.Table:
    """The rows of the manifest without a good record of their files: an anti-join, the whole of resuming.

    If `before` names the part files that a run has found at its start, rows that have failed since are not missing.
    """
    uris = parts(folder)
    known = _all(uris)
    good = pc.equal(known["error"], "").to_numpy() & ~_stale(known, manifest)
    fresh = np.array([before is not None and uri not in before for uri in uris], bool)
    done = known["image_id"].filter(pa.array(good | fresh[known["place"].to_numpy() >> _PART]))
    return manifest.filter(pc.invert(pc.is_in(manifest["image_id"], value_set=done.combine_chunks())))
