"""Which files of a run have changed since they were scored: their images are due again.

A record holds the digests of its photograph and label file. The manifest holds a stamp of each (size and times), which
is cheap to compare when a run goes on. Only where a stamp differs is the file read, and its digest put into the
manifest: records with another digest do not count from then on (see records.settle).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray import digests, files, records
from ovss_ray import manifest as manifests
from ovss_ray.errors import OvssError
from ovss_ray.manifest import STAMPS
from ovss_ray.records import DIGESTS
from ovss_ray.run_folder import RunFolder

SIDES = tuple(zip(("image_uri", "truth_uri"), STAMPS, DIGESTS, strict=True))
"""The columns of photograph and label file: address, stamp, digest."""
FEW = 200
"""Files that are read without a message."""


def looked_up(now: pa.Table, before: pa.Table | None, folder: str, say: Callable[[str], None]) -> pa.Table:
    """Add the columns DIGESTS to a manifest that was listed now; "" where a file has not changed.

    `before` is the manifest that an earlier command has saved, `folder` the address of the records, and `say` prints a
    line. A file is read if its stamp differs and a record has a digest to compare with, or if its records disagree.
    """
    before = now if before is None else before
    place = pc.index_in(now["image_id"], before["image_id"])
    for uri, stamp, digest in SIDES:
        stamps, earlier = _texts(now, stamp), _texts(before, stamp, place)
        same = (stamps == earlier) | (stamps == "") | (stamp not in before.column_names)
        values = np.where(same, _texts(before, digest, place), "")
        known = _digests(folder, digest, now["image_id"])
        rows = np.flatnonzero((~same & (known > 0)) | ((values == "") & (known > 1)))
        values[rows] = _read(now[uri].take(rows).to_pylist(), say)
        now = now.append_column(digest, pa.array(values, pa.string()))
    return now


def restamped(table: pa.Table) -> pa.Table:
    """Return a manifest with the stamps as they are now, without digests; addresses elsewhere keep theirs."""
    for uri, stamp, digest in SIDES:
        with ThreadPoolExecutor(8) as pool:
            stamps = list(pool.map(_local_stamp, table[uri].to_pylist(), table[stamp].to_pylist()))
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
        with ThreadPoolExecutor(8) as pool:
            now = pool.map(_local_stamp, table[uri].to_pylist(), before)
            doubted |= [new not in ("absent", old) for new, old in zip(now, before, strict=True)]
    return int(doubted.sum())


def _local_stamp(uri: str, before: str) -> str:
    return before if "://" in uri or not before else files.stamp(uri)


def _texts(table: pa.Table, name: str, place: pa.Array | None = None) -> np.ndarray:
    """A column of texts in the order of the rows `place`, (n,) object; "" where there is none."""
    if name not in table.column_names:
        return np.full(len(table) if place is None else len(place), "", object)
    values = table[name] if place is None else table[name].take(place)
    return pc.fill_null(values, "").to_numpy()


def _digests(folder: str, digest: str, ids: pa.ChunkedArray) -> np.ndarray:
    """How many unlike digests the good records of each image have, (n,) int64."""
    known = [pa.table({"image_id": pa.array([], pa.string()), digest: pa.array([], pa.string())})]
    for uri in records.parts(folder):
        part = records.read_part(uri, ["image_id", "error", digest])
        if digest in part.column_names:
            good = pc.and_(pc.equal(part["error"], ""), pc.not_equal(part[digest], ""))
            known.append(part.filter(good).select(["image_id", digest]))
    counts = pa.concat_tables(known).group_by("image_id").aggregate([(digest, "count_distinct")])
    place = pc.index_in(ids, counts["image_id"])
    return pc.fill_null(counts[f"{digest}_count_distinct"].take(place), 0).to_numpy()


def _read(uris: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """The digest of each file; a file that stands there twice is read once."""
    unlike = list(dict.fromkeys(uris))
    if len(unlike) > FEW:
        say(f"{len(unlike)} files have another size or time than when they were scored: comparing their content")
    with ThreadPoolExecutor(4) as pool:
        values = dict(zip(unlike, pool.map(_digest, unlike), strict=True))
    return [values[uri] for uri in uris]


def _digest(uri: str) -> str:
    try:
        return digests.of(files.read(uri))
    except OvssError:
        return digests.UNREADABLE
