"""Versions of files: whether a record belongs to the current photograph and label file of its image.

Of several records of an image, the one of the best rank counts.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DIGESTS = ("image_digest", "truth_digest")
"""Columns for the digests of the photograph and the label file that a worker read; empty for a file not read."""

STAMPS = ("image_stamp", "truth_stamp")
"""Columns for the stamps of both files when they were listed, before they were read (see files.stamp)."""

MATCHED, UNKNOWN, FAILED, STALE = range(4)
"""Ranks of the records of one image, best first. A good record is one without an error.

MATCHED: a good record whose digests match the current files, as far as known.
UNKNOWN: a good record without digests, from an earlier version.
FAILED: a record with an error.
STALE: a good record of files that have changed since. It does not count."""
RANK, PART = 61, 32
"""Bits of a record's int64 key at which its rank and its part number begin. Its row number begins at bit 0."""
NO_RECORD = np.iinfo(np.int64).max


def digested(known: pa.Table) -> np.ndarray:
    """Return (n,) bool: True for a record with digests of its files."""
    return np.any([pc.not_equal(filled(known, name), "").to_numpy() for name in DIGESTS], axis=0)


def changed(manifest: pa.Table) -> list[str]:
    """Return the names of the manifest's columns of digests in which a file has changed."""
    names = [name for name in DIGESTS if name in manifest.column_names]
    return [name for name in names if pc.any(pc.not_equal(manifest[name], "")).as_py()]


def stale(known: pa.Table, manifest: pa.Table | None) -> np.ndarray:
    """Return (n,) bool: True for a good record whose photograph or label file differs from the manifest's.

    A digest in the manifest means that the file has changed (see changes.py). Then a record without digests is stale.
    """
    stale = np.zeros(len(known), bool)
    if manifest is None or not (names := [name for name in DIGESTS if name in known.column_names]):
        return stale
    place = pc.index_in(known["image_id"], manifest["image_id"])
    for name in names:
        now = pc.fill_null(manifest[name].take(place), "")
        unknown = pc.equal(known[name], "").to_numpy()
        other = np.where(unknown, ~known["digested"].to_numpy(), pc.not_equal(now, known[name]).to_numpy())
        stale |= pc.not_equal(now, "").to_numpy() & other
    return stale & known["good"].to_numpy()


def keys(known: pa.Table, stale: np.ndarray) -> np.ndarray:
    """Return the key of each record, (n,) int64: its rank, part and row. The smallest key of an image counts."""
    good, with_digests = known["good"].to_numpy(), known["digested"].to_numpy()
    rank = np.where(with_digests, MATCHED, UNKNOWN).astype(np.int8)
    rank[~good] = FAILED
    rank[stale] = STALE
    return rank.astype(np.int64) << RANK | known["place"].to_numpy()


def filled(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a text column; "" for a missing text, or if the column is missing."""
    if name not in table.column_names:
        return pa.chunked_array([pa.array([""] * len(table), pa.string())])
    return pc.fill_null(table[name], "")


def texts(table: pa.Table, name: str, place: pa.Array | None = None) -> np.ndarray:
    """Return a text column, (n,) object. `place`: row numbers, in the order of the result. A missing text is ""."""
    values = filled(table, name)
    return pc.fill_null(values if place is None else values.take(place), "").to_numpy()
