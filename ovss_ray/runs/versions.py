"""Versions of files: whether a record belongs to the current photograph and label file of its image."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DIGESTS = ("image_digest", "truth_digest")
"""Columns for the digests of the photograph and the label file that a worker read; empty for a file not read."""

STAMPS = ("image_stamp", "truth_stamp")
"""Columns for the stamps of both files when they were listed, before they were read (see files.stamp)."""


def digested(known: pa.Table) -> np.ndarray:
    """Return (n,) bool: True for a record with digests of its files."""
    return np.any([pc.not_equal(filled(known, name), "").to_numpy() for name in DIGESTS], axis=0)


def stale(known: pa.Table, manifest: pa.Table | None) -> np.ndarray:
    """Return (n,) bool: True for a good record with another digest of the photograph or label file than the manifest.

    Unknown digests ("") are not compared. A digest in the manifest means that the file may have changed (see
    changes.py). Then a record without any digest is stale, too.
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


def filled(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a text column; "" for a missing text, or if the column is missing."""
    if name not in table.column_names:
        return pa.chunked_array([pa.array([""] * len(table), pa.string())])
    return pc.fill_null(table[name], "")


def texts(table: pa.Table, name: str, place: pa.Array | None = None) -> np.ndarray:
    """Return a text column, (n,) object. `place`: row numbers, in the order of the result. A missing text is ""."""
    values = filled(table, name)
    return pc.fill_null(values if place is None else values.take(place), "").to_numpy()
