"""Detection of files that have changed since they were scored, so that their images are scored again.

A record holds the digests of its photograph and label file, and their stamps (size and times) from the listing.
Stamps are cheap to compare when a run resumes. A file is read only if its stamp differs from that in a record. Its
digest then goes into the manifest, and records with another digest no longer count (see records.settle). This also
works for records that another machine wrote, and after the manifest was deleted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray.errors import OvssError
from ovss_ray.io import digests, files
from ovss_ray.runs import compact, records, versions
from ovss_ray.runs.folder import RunFolder
from ovss_ray.runs.versions import DIGESTS, STAMPS

SIDES = tuple(zip(("image_uri", "truth_uri"), STAMPS, DIGESTS, strict=True))
"""Columns of a manifest for the photograph, then for the label file: path, stamp, digest"""
FEW = 200
"""Maximum number of files that are read without a message"""
AT_ONCE = 256
"""Number of files whose stamps a thread reads in one task"""


def looked_up(now: pa.Table, before: pa.Table | None, folder: str, say: Callable[[str], None]) -> pa.Table:
    """Return the current manifest `now` with the columns DIGESTS added; "" for a file that has not changed.

    `before` is the manifest of an earlier command, `folder` the path of the records, and `say` prints a line. A file is
    read if a record of its image has another stamp, or none. It is also read if two of these records have different
    digests.
    """
    before = now if before is None else before
    place = pc.index_in(now["image_id"], before["image_id"])
    scored = _good(folder)
    for uri, stamp, digest in SIDES:
        stamps, earlier = versions.texts(now, stamp), versions.texts(before, stamp, place)
        values = np.where((stamps == earlier) & (stamps != ""), versions.texts(before, digest, place), "")
        doubted = _doubted(scored, stamp, digest, now["image_id"], stamps)
        doubted |= (stamps != earlier) & (earlier != "") & _undigested(scored, now["image_id"])
        rows = np.flatnonzero((values == "") & doubted)
        values[rows] = _read(now[uri].take(rows).to_pylist(), say)
        now = now.append_column(digest, pa.array(values, pa.string()))
    return now


def _good(folder: str) -> pa.Table:
    """Return ids, digests and stamps of all records without an error."""
    columns = ["image_id", *DIGESTS, *STAMPS]
    tables = [records.SCHEMA.empty_table().select(columns)]
    for uri in records.parts(folder):
        part = compact.per_image(records.read_part(uri, ["error", *columns]))
        tables.append(part.filter(pc.equal(part["error"], "")).drop_columns("error"))
    return pa.concat_tables(tables, promote_options="default")


def _doubted(scored: pa.Table, stamp: str, digest: str, ids: pa.ChunkedArray, stamps: np.ndarray) -> np.ndarray:
    """Return (n,) bool: True for an image whose records may belong to an earlier version of its file."""
    place = pc.fill_null(pc.index_in(scored["image_id"], ids), -1).to_numpy()
    digests_read = versions.texts(scored, digest)
    rows = np.flatnonzero((place >= 0) & (digests_read != ""))
    place, digests_read = place[rows], digests_read[rows]
    doubted = np.zeros(len(ids), bool)
    doubted[place[(stamps[place] == "") | (versions.texts(scored, stamp)[rows] != stamps[place])]] = True
    last = np.full(len(ids), "", object)
    last[place] = digests_read
    doubted[place[last[place] != digests_read]] = True
    return doubted


def _undigested(scored: pa.Table, ids: pa.ChunkedArray) -> np.ndarray:
    """Return (n,) bool: True for an image that has a record without digests of its files."""
    scored = scored.filter(pa.array(~versions.digested(scored)))
    return pc.is_in(ids, scored["image_id"].combine_chunks()).to_numpy()


def repainted(now: pa.Table, before: pa.Table | None, folder: str) -> list[str]:
    """Return the ids of images whose photograph has changed since `before`. Their saved label maps are stale."""
    _, _, digest = SIDES[0]
    before = now.drop_columns(list(DIGESTS)) if before is None else before
    changed = versions.texts(now, digest)
    changed[changed == versions.texts(before, digest, pc.index_in(now["image_id"], before["image_id"]))] = ""
    if not np.any(changed != ""):  # as in most commands: the records need not be read
        return []
    scored = _good(folder)
    latest = versions.texts(pa.table({digest: changed}), digest, pc.index_in(scored["image_id"], now["image_id"]))
    stale = (latest != "") & (versions.texts(scored, digest) != latest)
    return scored["image_id"].filter(pa.array(stale)).unique().to_pylist()


def restamped(table: pa.Table) -> pa.Table:
    """Return a manifest with current stamps and without digests. Remote files keep their stamps."""
    for uri, stamp, digest in SIDES:
        stamps = _stamps(table[uri].to_pylist(), table[stamp].to_pylist())
        column = table.schema.get_field_index(stamp)
        table = table.set_column(column, stamp, pa.array(stamps, pa.string())).drop_columns(digest)
    return table


def doubts(folder: RunFolder, listed: Mapping[str, pa.Table]) -> Iterator[str]:
    """Yield a message per benchmark with the number of images whose files may have changed. No file is opened.

    `listed`: benchmark → manifest.
    """
    for name, table in listed.items():
        if number := _doubtful(table):
            yield (
                f"{folder.uri}: {name}: the photographs or label files of {number} images have changed in size or time "
                "since this run listed them. Run the same command again to score these images again"
            )


def _doubtful(table: pa.Table) -> int:
    """Return the number of images of a saved manifest whose files on this machine have a different stamp now."""
    if not set(STAMPS) <= set(table.column_names):
        return 0
    doubted = np.zeros(len(table), bool)
    for uri, stamp, _ in SIDES:
        before = table[stamp].to_pylist()
        now = _stamps(table[uri].to_pylist(), before)
        doubted |= [new not in ("absent", old) for new, old in zip(now, before, strict=True)]
    return int(doubted.sum())


def _stamps(uris: Sequence[str], before: Sequence[str]) -> list[str]:
    """Return the current stamps of local files. For remote files, return the stamps in `before`."""

    def batch(begin: int) -> list[str]:
        pairs = zip(uris[begin : begin + AT_ONCE], before[begin : begin + AT_ONCE], strict=True)
        return [files.stamp(uri) if old and files.is_local(uri) else old for uri, old in pairs]

    with ThreadPoolExecutor(8) as pool:
        return list(chain.from_iterable(pool.map(batch, range(0, len(uris), AT_ONCE))))


def _read(uris: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """Return the digest of each file. A file that is listed several times is read once."""
    distinct = list(dict.fromkeys(uris))
    if len(distinct) > FEW:
        say(f"{len(distinct)} files may have changed since they were scored: comparing their content")
    with ThreadPoolExecutor(4) as pool:
        values = dict(zip(distinct, pool.map(_digest, distinct), strict=True))
    return [values[uri] for uri in uris]


def _digest(uri: str) -> str:
    try:
        return digests.of(files.read(uri))
    except OvssError:
        return digests.UNREADABLE
