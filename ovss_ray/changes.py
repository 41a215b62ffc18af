"""Which files of a run have changed since they were scored: their images are due again.

A record holds the digests of its photograph and label file, and the stamp (size and times) that each had when it was
listed. Stamps are cheap to compare when a run goes on. Only where no record has the stamp of now is the file read, and
its digest put into the manifest: records with another digest do not count from then on (see records.settle). So it is
with records of another machine too, and with a manifest that was deleted.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray import digests, files, records
from ovss_ray import manifest as manifests
from ovss_ray.errors import OvssError
from ovss_ray.records import DIGESTS, STAMPS
from ovss_ray.run_folder import RunFolder

SIDES = tuple(zip(("image_uri", "truth_uri"), STAMPS, DIGESTS, strict=True))
"""The columns of photograph and label file: address, stamp, digest."""
FEW = 200
"""Files that are read without a message."""
AT_ONCE = 256
"""Files that a thread looks at before it hands on their stamps."""


def looked_up(now: pa.Table, before: pa.Table | None, folder: str, say: Callable[[str], None]) -> pa.Table:
    """Add the columns DIGESTS to a manifest that was listed now; "" where a file has not changed.

    `before` is the manifest that an earlier command has saved, `folder` the address of the records, and `say` prints a
    line. A file is read if the stamp of a record is another one or unknown, or if its records disagree.
    """
    before = now if before is None else before
    place = pc.index_in(now["image_id"], before["image_id"])
    known = _good(folder)
    for uri, stamp, digest in SIDES:
        stamps, earlier = records.texts(now, stamp), records.texts(before, stamp, place)
        values = np.where((stamps == earlier) & (stamps != ""), records.texts(before, digest, place), "")
        doubted = _doubted(known, stamp, digest, now["image_id"], stamps)
        doubted |= (stamps != earlier) & (earlier != "") & _undigested(known, now["image_id"])
        rows = np.flatnonzero((values == "") & doubted)
        values[rows] = _read(now[uri].take(rows).to_pylist(), say)
        now = now.append_column(digest, pa.array(values, pa.string()))
    return now


def _good(folder: str) -> pa.Table:
    """Ids, digests and stamps of all good records."""
    columns = ["image_id", *DIGESTS, *STAMPS]
    known = [records.SCHEMA.empty_table().select(columns)]
    for uri in records.parts(folder):
        part = records.read_part(uri, ["error", *columns])
        known.append(part.filter(pc.equal(part["error"], "")).drop_columns("error"))
    return pa.concat_tables(known, promote_options="default")


def _doubted(known: pa.Table, stamp: str, digest: str, ids: pa.ChunkedArray, stamps: np.ndarray) -> np.ndarray:
    """Whether the records of each image are perhaps of another file than the one of now: (n,) bool."""
    place = pc.fill_null(pc.index_in(known["image_id"], ids), -1).to_numpy()
    digests_read = records.texts(known, digest)
    rows = np.flatnonzero((place >= 0) & (digests_read != ""))
    place, digests_read = place[rows], digests_read[rows]
    doubted = np.zeros(len(ids), bool)
    doubted[place[(stamps[place] == "") | (records.texts(known, stamp)[rows] != stamps[place])]] = True
    last = np.full(len(ids), "", object)
    last[place] = digests_read
    doubted[place[last[place] != digests_read]] = True
    return doubted


def _undigested(known: pa.Table, ids: pa.ChunkedArray) -> np.ndarray:
    """Whether each image has a record that does not say which files it is of: (n,) bool."""
    known = known.filter(pa.array(~records.digested(known)))
    return pc.is_in(ids, known["image_id"].combine_chunks()).to_numpy()


def repainted(now: pa.Table, before: pa.Table | None, folder: str) -> list[str]:
    """Name the images whose photograph has changed since `before` was saved: their label maps are of another one."""
    known, (_, _, digest) = _good(folder), SIDES[0]
    before = now.drop_columns(list(DIGESTS)) if before is None else before
    changed = records.texts(now, digest)
    changed[changed == records.texts(before, digest, pc.index_in(now["image_id"], before["image_id"]))] = ""
    latest = records.texts(pa.table({digest: changed}), digest, pc.index_in(known["image_id"], now["image_id"]))
    stale = (latest != "") & (records.texts(known, digest) != latest)
    return known["image_id"].filter(pa.array(stale)).unique().to_pylist()


def restamped(table: pa.Table) -> pa.Table:
    """Return a manifest with the stamps as they are now, without digests; addresses elsewhere keep theirs."""
    for uri, stamp, digest in SIDES:
        stamps = _stamps(table[uri].to_pylist(), table[stamp].to_pylist())
        column = table.schema.get_field_index(stamp)
        table = table.set_column(column, stamp, pa.array(stamps, pa.string())).drop_columns(digest)
    return table


def doubts(folder: RunFolder, benchmarks: Iterable[str]) -> Iterator[str]:
    """Say how many images of a run have files that look changed since they were listed; nothing is read."""
    for name in benchmarks:
        if number := _doubtful(manifests.load(folder.manifest(name))):
            yield (
                f"{folder.uri}: {name}: the photographs or label files of {number} images have another size or time "
                "than when this run listed them. To score what has changed, give the command of the run again"
            )


def _doubtful(table: pa.Table) -> int:
    """How many images of a saved manifest have a file on this machine that has another stamp now."""
    if not set(STAMPS) <= set(table.column_names):
        return 0
    doubted = np.zeros(len(table), bool)
    for uri, stamp, _ in SIDES:
        before = table[stamp].to_pylist()
        now = _stamps(table[uri].to_pylist(), before)
        doubted |= [new not in ("absent", old) for new, old in zip(now, before, strict=True)]
    return int(doubted.sum())


def _stamps(uris: Sequence[str], before: Sequence[str]) -> list[str]:
    """The stamps of files as they are now; addresses elsewhere keep those of `before`."""

    def some(begin: int) -> list[str]:
        pairs = zip(uris[begin : begin + AT_ONCE], before[begin : begin + AT_ONCE], strict=True)
        return [files.stamp(uri) if old and files.is_local(uri) else old for uri, old in pairs]

    with ThreadPoolExecutor(8) as pool:
        return list(chain.from_iterable(pool.map(some, range(0, len(uris), AT_ONCE))))


def _read(uris: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """The digest of each file; a file that stands there twice is read once."""
    unlike = list(dict.fromkeys(uris))
    if len(unlike) > FEW:
        say(f"{len(unlike)} files may have changed since they were scored: comparing their content")
    with ThreadPoolExecutor(4) as pool:
        values = dict(zip(unlike, pool.map(_digest, unlike), strict=True))
    return [values[uri] for uri in uris]


def _digest(uri: str) -> str:
    try:
        return digests.of(files.read(uri))
    except OvssError:
        return digests.UNREADABLE
