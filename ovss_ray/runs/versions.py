"""Comparison of records with the current photograph and label file of their images.

If an image has several records, the record of the best rank counts. A record of files that have since changed does not
count.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray.io.arrays import mapped_tables

DIGESTS = ("image_digest", "truth_digest")
"""Columns for the digests of the photograph and the label file that a worker read; empty for a file not read."""

STAMPS = ("image_stamp", "truth_stamp")
"""Columns for the stamps of the photograph and the label file (see files.stamp).

The stamps are taken when the run lists its images, before a worker reads the files."""


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
    return np.any([pc.not_equal(mapped_tables.filled(known, name), "").to_numpy() for name in DIGESTS], axis=0)


def stale(known: pa.Table, manifest: pa.Table | None, place: np.ndarray) -> np.ndarray:
    """Return (n,) bool: True for a good record whose photograph or label file has changed since.

    `place` (n,): row of each record in the manifest, or −1. The manifest has the current digest of each file that may
    have changed (see changes.py). Other files have the digest "", and count as unchanged. If a file may have changed,
    a good record of the image is stale in two cases: the record has another digest of this file, or the record has no
    digests at all.
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
    """Return the key of each record, (n,) int64: its rank, part and row. The smallest key of an image counts."""
    good, with_digests = known["good"].to_numpy(), known["digested"].to_numpy()
    rank = np.where(with_digests, MATCHED, UNKNOWN).astype(np.int8)
    rank[~good] = FAILED
    rank[stale] = STALE
    return rank.astype(np.int64) << RANK | known["place"].to_numpy()
