"""Comparison of records with the current files of their images, and ranks of the records of one image."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray.io.arrays import mapped_tables

DIGESTS = ("image_digest", "truth_digest")
"""Columns for the digests of the photograph and the label file that a worker read; empty for a file not read."""

STAMPS = ("image_stamp", "truth_stamp")
"""Columns for the stamps of photograph and label file when the run lists its images (see files.stamp)."""


MATCHED, UNKNOWN, FAILED, STALE = range(4)
"""Ranks of the records of one image, best first. Only the best record counts, unless its rank is STALE.

MATCHED: a record with digests of its files, which are not known to have changed.
UNKNOWN: a record without digests, from an earlier version.
FAILED: a record with an error.
STALE: a record without an error, whose files have changed since."""
RANK, PART = 61, 32
"""Lowest bits of the rank and of the part file's number in a record's key (see `keys`)."""
NO_RECORD = np.iinfo(np.int64).max


def digested(known: pa.Table) -> np.ndarray:
    """Return (n,) bool: True for a record with digests of its files."""
    return np.any([pc.not_equal(mapped_tables.filled(known, name), "").to_numpy() for name in DIGESTS], axis=0)


def stale(known: pa.Table, manifest: pa.Table | None, place: np.ndarray) -> np.ndarray:
    """Return (n,) bool: True for a record without an error, whose photograph or label file has changed since.

    `place` (n,): row of the record's image in the manifest, or −1. If the manifest has a digest of a file, a record
    with another digest of this file is stale. A record without any digest is then also stale.
    """
    stale = np.zeros(len(known), bool)
    for name in changed(manifest):
        listed = np.append(pc.not_equal(mapped_tables.filled(manifest, name), "").to_numpy(), False)
        for begin, part in mapped_tables.blocks(known):
            of_part = place[begin : begin + len(part)]
            rows = np.flatnonzero(listed[of_part])
            now, digest = mapped_tables.texts(manifest, name, of_part[rows]), mapped_tables.texts(part, name)[rows]
            with_digests = part["digested"].to_numpy()[rows]
            stale[begin + rows] |= np.where(digest == "", ~with_digests, now != digest)
    return stale & known["good"].to_numpy()


def changed(manifest: pa.Table | None) -> list[str]:
    """Return the names of the manifest's columns that have a digest. If `manifest` is None, return no names.

    A missing digest is "". Most manifests have no digests at all.
    """
    if manifest is None:
        return []
    filled = {name: mapped_tables.filled(manifest, name) for name in DIGESTS if name in manifest.column_names}
    return [name for name, values in filled.items() if pc.any(pc.not_equal(values, "")).as_py()]


def keys(known: pa.Table, stale: np.ndarray) -> np.ndarray:
    """Return the key of each record, (n,) int64: rank · 2⁶¹ + part · 2³² + row. The smallest key of an image counts."""
    good, with_digests = known["good"].to_numpy(), known["digested"].to_numpy()
    rank = np.where(with_digests, MATCHED, UNKNOWN).astype(np.int8)
    rank[~good] = FAILED
    rank[stale] = STALE
    return rank.astype(np.int64) << RANK | known["place"].to_numpy()
