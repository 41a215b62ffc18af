"""Detection of photographs and label files that have changed, so that their images are scored again.

A record holds digests and stamps of the photograph and the label file at the time of the measurement. A stamp is a text
that changes when the file changes, such as size and times. The manifest holds the current stamps. A file is read only
if it may have changed, for example if its stamps in record and manifest differ. The digest of the file's content is
then written to the manifest. A record does not count if the manifest has another digest of the same file (see
records.settle).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovss_ray.errors import OvssError
from ovss_ray.io import digests, files
from ovss_ray.io.arrays import mapped_tables
from ovss_ray.io.arrays.mapped_tables import CHUNK
from ovss_ray.runs import compact, records, versions
from ovss_ray.runs.folder import RunFolder
from ovss_ray.runs.versions import DIGESTS, STAMPS

SIDES = tuple(zip(("image_uri", "truth_uri"), STAMPS, DIGESTS, strict=True))
"""Names of the manifest columns (path, stamp, digest) of the photograph, and of the label file"""
FEW = 200
"""Maximum number of files that are read without a line of output"""
AT_ONCE = 256
"""Number of files whose stamps a thread reads in one task"""


def looked_up(now: pa.Table, before: pa.Table | None, folder: str, say: Callable[[str], None]) -> pa.Table:
    """Return the current manifest `now` with the columns DIGESTS added.

    `before` is the manifest of an earlier command. `folder` is the path of the records. `say` prints a line.

    The first of these rules that applies gives the digest of a file:

    1. If the file has a digest in `before`, and the same stamp in `before` and `now`, this digest is copied.
    2. If the image has a record without an error, but the file may have changed afterwards, its digest is computed.
    3. Otherwise, the digest is "".
    """
    before = now if before is None else before
    place, scored = mapped_tables.places(now["image_id"], before["image_id"]), _good(folder)
    now_rows = mapped_tables.places(scored["image_id"], now["image_id"])
    listed = now
    for side in SIDES:
        doubted, undigested = _doubted(scored, now_rows, now, side), _undigested(scored, now_rows, len(now))
        values: list[pa.Array] = []
        for begin, block in mapped_tables.blocks(now):
            rows = slice(begin, begin + len(block))
            values.append(_digests_of(block, before, place[rows], doubted[rows], undigested[rows], side, say))
        listed = listed.append_column(side[2], pa.chunked_array(values, pa.string()))
    return listed


def _digests_of(
    now: pa.Table, before: pa.Table, place: np.ndarray, doubted: np.ndarray, undigested: np.ndarray,
    side: tuple[str, str, str], say: Callable[[str], None],
) -> pa.Array:  # fmt: skip
    """Return the digests of the photographs or of the label files in `now`, as texts (n,) (see `looked_up`).

    `side` is an element of SIDES; it selects photographs or label files. `place` (n,): row of each image in `before`,
    or −1 if `before` lacks the image. `doubted` and `undigested` (n,) bool are the results of `_doubted` and
    `_undigested`.
    """
    uri, stamp, digest = side
    stamps, earlier = mapped_tables.texts(now, stamp), mapped_tables.texts(before, stamp, place)
    same = (stamps == earlier) & (stamps != "")
    values = np.full(len(now), "", object)
    values[same] = mapped_tables.texts(before, digest, place[same])
    # a record without digests may be of another file if the stamps of the two manifests differ
    doubted = doubted | (stamps != earlier) & (earlier != "") & undigested
    rows = np.flatnonzero((values == "") & doubted)
    values[rows] = _read(now[uri].take(rows).to_pylist(), say)
    return pa.array(values, pa.string())


def _good(folder: str) -> pa.Table:
    """Return ids, digests and stamps of all records without an error. A long table is memory-mapped."""
    columns = ["image_id", *DIGESTS, *STAMPS]
    schema = pa.schema(dict.fromkeys(columns, pa.string()))

    def parts() -> Iterator[pa.Table]:
        for uri in records.parts(folder):
            part = compact.per_image(records.read_part(uri, ["error", *columns]))
            part = part.filter(pc.equal(part["error"], ""))
            yield pa.table({name: mapped_tables.filled(part, name) for name in columns}, schema)

    return mapped_tables.mapped(schema, parts())


def _doubted(scored: pa.Table, now_rows: np.ndarray, now: pa.Table, side: tuple[str, str, str]) -> np.ndarray:
    """Return (n,) bool for the n images of `now`: whether the image's file may be newer than a record of the image.

    `scored` has m records without errors. `now_rows` (m,): row in `now` of each record's image, or −1 if `now` lacks
    the image. `side` is an element of SIDES; it selects photographs or label files.
    """
    _, stamp, digest = side
    doubted, known = np.zeros(len(now), bool), np.zeros(len(scored), bool)
    for begin, part in mapped_tables.blocks(scored):
        place = now_rows[begin : begin + len(part)]
        rows = np.flatnonzero((place >= 0) & (mapped_tables.texts(part, digest) != ""))
        known[begin + rows] = True
        place, stamps = place[rows], mapped_tables.texts(now, stamp, place[rows])
        # the stamp is unknown, or differs from the stamp in the record
        doubted[place[(stamps == "") | (mapped_tables.texts(part, stamp)[rows] != stamps)]] = True
    rows, last = np.flatnonzero(known), np.zeros(len(now), np.int64)
    last[now_rows[rows]] = rows
    # two records of an image have different digests
    earlier = rows[last[now_rows[rows]] != rows]
    for begin in range(0, len(earlier), CHUNK):
        rows = earlier[begin : begin + CHUNK]
        latest = mapped_tables.texts(scored, digest, last[now_rows[rows]])
        doubted[now_rows[rows[mapped_tables.texts(scored, digest, rows) != latest]]] = True
    return doubted


def _undigested(scored: pa.Table, now_rows: np.ndarray, images: int) -> np.ndarray:
    """Return (n,) bool: True for an image that has a record without digests of its files.

    `scored` has m records without errors. `now_rows` (m,): row in the manifest of each record's image, or −1 if the
    manifest lacks the image. `images` is n, the number of images in the manifest.
    """
    without = np.zeros(images + 1, bool)  # the last entry is that of -1
    for begin, part in mapped_tables.blocks(scored):
        without[now_rows[begin : begin + len(part)][~versions.digested(part)]] = True
    return without[:-1]


def repainted(now: pa.Table, before: pa.Table | None, folder: str) -> list[str]:
    """Return the ids of images whose saved prediction is stale, because the photograph has changed since the scoring.

    `now` is the result of `looked_up`. `before` is the manifest of an earlier command. `folder` is the path of the
    records. The caller deletes the predictions of the returned images.

    If `before` already has the new digest of a changed photograph, its image is left out. In this case, an earlier
    command has deleted the stale prediction.
    """
    _, _, digest = SIDES[0]
    if digest not in versions.changed(now):
        return []
    before = now.drop_columns(list(DIGESTS)) if before is None else before
    place, changed = mapped_tables.places(now["image_id"], before["image_id"]), np.zeros(len(now) + 1, bool)
    for begin, part in mapped_tables.blocks(now):
        rows = slice(begin, begin + len(part))
        latest = mapped_tables.texts(part, digest)
        # the command that wrote the same digest to `before` has already deleted the stale label map
        changed[rows] = (latest != "") & (latest != mapped_tables.texts(before, digest, place[rows]))
    return list(dict.fromkeys(_stale(_good(folder), now, changed, digest))) if changed.any() else []


def _stale(scored: pa.Table, now: pa.Table, changed: np.ndarray, digest: str) -> Iterator[str]:
    """Yield the image id of each record in `scored` whose digest differs from the digest in the manifest `now`.

    `digest` is the name of the column to compare. `now` has n rows. `changed` (n + 1,) bool has True for each row to
    compare. An image that `now` lacks has the row number −1, so the last entry of `changed` is False.
    """
    now_rows = mapped_tables.places(scored["image_id"], now["image_id"])
    for begin, part in mapped_tables.blocks(scored):
        place = now_rows[begin : begin + len(part)]
        rows = np.flatnonzero(changed[place])  # `place` is -1 for an image that is not in `now`
        other = mapped_tables.texts(part, digest)[rows] != mapped_tables.texts(now, digest, place[rows])
        yield from part["image_id"].take(rows[other]).to_pylist()


def restamped(table: pa.Table) -> pa.Table:
    """Return a manifest with the current stamps of local files, and without the columns DIGESTS.

    Remote files keep their stamps.
    """
    schema = pa.schema(dict.fromkeys(STAMPS, pa.string()))

    def parts() -> Iterator[pa.Table]:
        for _, block in mapped_tables.blocks(table):
            pairs = ((block[uri].to_pylist(), block[stamp].to_pylist()) for uri, stamp, _ in SIDES)
            yield pa.table([_stamps(*pair) for pair in pairs], schema)

    stamps, table = mapped_tables.mapped(schema, parts()), table.drop_columns(list(DIGESTS))
    for name in STAMPS:
        table = table.set_column(table.schema.get_field_index(name), name, stamps[name])
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
    """Return the number of images whose local files have changed since the manifest `table` was written.

    A file counts as changed if its stamp differs from the stamp in the manifest. Missing files do not count.
    """
    if not set(STAMPS) <= set(table.column_names):
        return 0
    number = 0
    for _, block in mapped_tables.blocks(table):
        doubted = np.zeros(len(block), bool)
        for uri, stamp, _ in SIDES:
            before = block[stamp].to_pylist()
            now = _stamps(block[uri].to_pylist(), before)
            doubted |= [new not in ("absent", old) for new, old in zip(now, before, strict=True)]
        number += int(doubted.sum())
    return number


def _stamps(uris: Sequence[str], before: Sequence[str]) -> list[str]:
    """Return a stamp for each file: the current stamp of a local file, or the earlier stamp of a remote file.

    `before` has the earlier stamps. If the earlier stamp of a file is "", the returned stamp is "" too.
    """

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
