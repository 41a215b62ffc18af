"""Comparison of records with the current files of their images, and ranks of the records of one image."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray.io.arrays import mapped_tables

DIGESTS = ("image_digest", "truth_digest")
"""Columns for the digest of the photograph and the digest of the label file.

The worker computes a digest when it reads the file. If the worker does not read a file, the digest is ""."""

STAMPS = ("image_stamp", "truth_stamp")
"""Columns for the stamps (see files.stamp) that the photograph and the label file had when images were listed."""


MATCHED, UNKNOWN, FAILED, STALE = range(4)
"""Ranks of the records of one image, best first. Only the best record is valid. A STALE record is never valid.

MATCHED: a record without an error, with a digest of the photograph or the label file. The record is not STALE.
UNKNOWN: a record without an error and without digests. The record is not STALE. An earlier version of ovss_ray wrote
the record.
FAILED: a record with an error.
STALE: a record without an error. The photograph or the label file counts as changed since the record was written (see
`stale`).

A compact file has no records, but each of its images is ranked like a record. If a compact file is unusable, the rank
of all its images is STALE (see compact.resolved)."""
RANK, PART = 61, 32
"""Bit positions in a key (see `keys`) at which the rank begins, and at which the part file's number begins."""
NO_RECORD = np.iinfo(np.int64).max


def digested(known: pa.Table) -> np.ndarray:
    """Return (n,) bool: True for a record with digests of its files."""
    return np.any([pc.not_equal(mapped_tables.filled(known, name), "").to_numpy() for name in DIGESTS], axis=0)


def stale(known: pa.Table, manifest: pa.Table | None, place: np.ndarray) -> np.ndarray:
    """Return (n,) bool: True if a record has no error, but its image's photograph or label file has changed.

    `known`: table of the records (see records._all). `place` (n,): row of the record's image in the manifest, or −1.

    If the manifest has no digest of a file, the file counts as unchanged. If the manifest has a digest of the file, the
    file counts as changed in two cases:

    - The record has a digest of the file, and this digest differs from the digest in the manifest.
    - The record has no digest at all, neither of the photograph nor of the label file.
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
    """Return the names of the columns in DIGESTS in which the manifest has at least one digest.

    If `manifest` is None, return []. A missing digest is "". The manifest has digests only of files that may have
    changed since a record was written (see changes.py). So the result is [] for most manifests.
    """
    if manifest is None:
        return []
    filled = {name: mapped_tables.filled(manifest, name) for name in DIGESTS if name in manifest.column_names}
    return [name for name, values in filled.items() if pc.any(pc.not_equal(values, "")).as_py()]


def keys(known: pa.Table, stale: np.ndarray) -> np.ndarray:
    """Return the key of each record, (n,) int64. The best record of an image is the record with the smallest key.

    A key is rank · 2⁶¹ + `place`. Here, `place` is 2³² · (index of the part file) + (row within the part file).
    `known`: table of the records (see records._all). `stale` (n,) bool: True for a record with the rank STALE.
    """
    good, with_digests = known["good"].to_numpy(), known["digested"].to_numpy()
    rank = np.where(with_digests, MATCHED, UNKNOWN).astype(np.int8)
    rank[~good] = FAILED
    rank[stale] = STALE
    return rank.astype(np.int64) << RANK | known["place"].to_numpy()
