"""The manifest: every image that a run is asked for, fixed before the first is read. The denominator of all numbers."""

import hashlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ovss_ray import files, records
from ovss_ray.config import RunConfig
from ovss_ray.datasets.benchmark import Benchmark
from ovss_ray.errors import OvssError
from ovss_ray.listing import Item, Items, LeftOut, gathered, left_out
from ovss_ray.records import STAMPS
from ovss_ray.spill import Rows, row

SCHEMA = pa.schema(
    [
        *(
            (name, pa.string())
            for name in ("image_id", "benchmark", "vocabulary", "image_uri", "truth_uri", "part", "error")
        ),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)

WORDS = ("benchmark", "vocabulary", "part", "error")
"""Columns that mostly say one thing of all images."""
_OWN = pa.schema([*(one for one in SCHEMA if one.name not in WORDS), *((name, pa.string()) for name in STAMPS)])
WHOLE = pa.schema([*SCHEMA, *((name, pa.string()) for name in (*STAMPS, *records.DIGESTS))])
"""SCHEMA, the stamps, and the digests of files that have changed since they were first listed (see changes.py).

The manifests of earlier versions have SCHEMA alone."""
FORMS = (SCHEMA, pa.schema(list(WHOLE)[: len(SCHEMA) + len(STAMPS)]), WHOLE)
"""Schemas of a manifest: of an earlier version, as listed, as saved by a run."""

DRAWN = "drawn"
"""The stamp of what is drawn, and lies in no file."""
AT_ONCE = 256
"""Photographs whose sizes are asked for before the first answers are taken."""
CHUNK = 4096
"""Images that are written to a manifest at once."""


@dataclass(frozen=True)
class Selection:
    """Which images of a benchmark are asked for: stamped into the report, part of the digest of a run."""

    split: str
    ids: tuple[str, ...] | None = None
    limit: int | None = None

    @classmethod
    def of(cls, config: RunConfig, benchmark: Benchmark) -> "Selection":
        """Read it from a config. Raises OvssError if the file of ids cannot be read or is empty."""
        if config.ids is None:
            return cls(config.split or benchmark.split, None, config.limit)
        lines = (line.strip() for line in files.read(config.ids).decode("utf-8-sig", "replace").splitlines())
        ids = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
        if not ids:
            raise OvssError(f"{config.ids}: no image ids in it. Write one a line")
        return cls(config.split or benchmark.split, ids, config.limit)

    def stamp(self) -> dict[str, object]:
        """The selection as plain data; the ids by their number and digest."""
        digest = hashlib.sha256("\n".join(sorted(self.ids)).encode()).hexdigest()[:12] if self.ids else None
        return {
            "split": self.split,
            "ids": digest and {"count": len(self.ids or ()), "sha256": digest},
            "limit": self.limit,
        }

    def take(self, items: Items, name: str) -> Rows[Item]:
        """Keep the items asked for, sorted by image_id.

        Raises OvssError for an id that does not exist, and for one that occurs more than once.
        """
        found = gathered(items)
        if repeated := sum(times > 1 for _, times in found.counted("image_id")):
            raise OvssError(f"{name}, split {self.split}: {repeated} image ids occur more than once")
        unknown = set(self.ids or ()).difference(item.image_id for item in found)
        if self.ids is not None and unknown:
            example = next((item.image_id for item in found), "")
            raise OvssError(
                f"{name}, split {self.split}: {len(unknown)} of the {len(self.ids)} ids asked for do not exist, such "
                f"as {next(one for one in self.ids if one in unknown)!r}; ids there look like {example!r}"
            )
        asked = set(self.ids or ())
        every = found.in_order("image_id")
        return gathered(islice((item for item in every if not asked or item.image_id in asked), self.limit))


@dataclass(frozen=True)
class Listed:
    """The images asked for, and the files of the data set that none of them is made of."""

    items: Rows[Item]
    left_out: tuple[LeftOut, ...] = ()


def build(name: str, benchmark: Benchmark, root: str, selection: Selection) -> pa.Table:
    """List the images asked for as a table. Raises OvssError as `listed` does."""
    return table(name, benchmark, listed(name, benchmark, root, selection))


def listed(name: str, benchmark: Benchmark, root: str, selection: Selection) -> Listed:
    """List the images asked for.

    Files are left out of a whole split only, and only where nobody says how many images belong to it. Raises OvssError
    if the data are not there, or if the split has another number of images than it should.
    """
    items = benchmark.items(root, selection.split)
    alone, items = left_out(items), gathered(items)
    whole = selection.ids is None and selection.limit is None
    expected = benchmark.counts.get(selection.split)
    if whole and expected is not None and len(items) != expected:
        more = f" (`ovss prepare {name}` completes a prepared form)" if benchmark.prepare else ""
        raise OvssError(
            f"{name}, split {selection.split}: {expected} images belong to it, and {len(items)} were found below "
            f"{root}. Complete the data{more}, or ask for a part of them with --limit or --ids (the report will say so)"
        )
    rows = selection.take(items, name)
    if not len(rows):
        raise OvssError(f"{name}, split {selection.split}: no image with a label was found below {root}")
    return Listed(rows, alone if whole and expected is None else ())


def table(name: str, benchmark: Benchmark, found: Listed) -> pa.Table:
    """Make a table of images, sorted so that images of one shape stand together and batches fill.

    Methods that scale the short side meet equal sizes in a row. Of the table, which lies in a temporary file, that
    alone takes memory which is looked at.
    """
    columns = f"image_id, image, truth, part, height, width, {', '.join(STAMPS)}, ratio"
    sized = Rows(row, columns, _sized(benchmark, found.items))
    return _table(name, benchmark, sized.in_order("ratio, height DESC, image_id"))


def _sized(benchmark: Benchmark, items: Rows[Item]) -> Iterator[tuple[Any, ...]]:
    """Yield each item's values, its photograph's H and W (pixels), two stamps and W / H; AT_ONCE items at a time."""
    stream = iter(items)
    with ThreadPoolExecutor(8) as pool:
        while some := list(islice(stream, AT_ONCE)):
            looks = pool.map(partial(_look, benchmark), some)
            for item, (height, width, *stamps) in zip(some, looks, strict=True):
                ratio = width / max(1, height)
                yield item.image_id, item.image, item.truth, item.part, height, width, *stamps, ratio


def _look(benchmark: Benchmark, item: Item) -> tuple[int, int, str, str]:
    """Look at an item's files without decoding them: H, W, and a stamp each; drawn ones never change."""
    stamps = (DRAWN, DRAWN) if benchmark.drawn else (files.stamp(item.image), files.stamp(item.truth))
    return *_size(benchmark, item), *stamps


def _size(benchmark: Benchmark, item: Item) -> tuple[int, int]:
    """H, W from the file's header; an image that cannot be read is put first, and fails when its turn comes."""
    try:
        return benchmark.size(item.image)
    except OvssError:
        return 0, 0


def _table(name: str, benchmark: Benchmark, rows: Iterator[tuple[Any, ...]]) -> pa.Table:
    """Write rows to a temporary file, and give it as a table; the file is gone when the table is."""
    try:
        with tempfile.NamedTemporaryFile(prefix="ovss_manifest_") as file:
            words = _write(file.name, name, benchmark, rows)
            with pa.memory_map(file.name) as source:
                table = pa.ipc.open_file(source).read_all()
    except OSError as failure:
        raise OvssError(
            f"a temporary file cannot be written: {failure.strerror or failure}. Make room in the folder for such "
            "files, or name another one by the environment variable TMPDIR"
        ) from failure
    for column, chunks in words.items():
        table = table.append_column(column, pa.chunked_array(chunks, pa.string()))
    return table.select([*SCHEMA.names, *STAMPS])


def _write(path: str, name: str, benchmark: Benchmark, rows: Iterator[tuple[Any, ...]]) -> dict[str, list[pa.Array]]:
    """Write what each row has of its own to a file; return the other columns, CHUNK rows at a time."""
    words: dict[str, list[pa.Array]] = {column: [] for column in WORDS}
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, _OWN) as writer:
        while some := list(islice(rows, CHUNK)):
            ids, images, truths, parts, heights, widths, *stamps, _ = zip(*some, strict=True)
            own = zip((ids, images, truths, heights, widths, *stamps), _OWN, strict=True)
            writer.write_batch(pa.record_batch([pa.array(values, one.type) for values, one in own], _OWN))
            asked = tuple(benchmark.question(part)[0].digest for part in parts)
            said = (name,) * len(some), asked, parts, ("",) * len(some)
            for column, values in zip(WORDS, said, strict=True):
                words[column].append(_alike(values))
    return words


@lru_cache(16)
def _repeated(value: str, times: int) -> pa.Array:
    return pa.array([value] * times, pa.string())


def _alike(values: tuple[str, ...]) -> pa.Array:
    """Values as an array, which is shared by all chunks that say nothing but this one word."""
    return _repeated(values[0], len(values)) if len(set(values)) == 1 else pa.array(values, pa.string())


def save(table: pa.Table, uri: str) -> None:
    """Write the manifest. Raises OvssError if one of other images lies there already."""
    if files.exists(uri):
        _compare(load(uri, ["image_id"]), table, uri)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True) as writer:
        for batch in table.to_batches():
            writer.write_batch(batch)
    files.write(uri, sink.getvalue())


def _compare(before: pa.Table, now: pa.Table, uri: str) -> None:
    """Raise OvssError unless two manifests have the same images."""
    ids = ((one.as_py(),) for table in (before, now) for one in chain(*table["image_id"].chunks))
    alone = next((one for one, times in Rows(str, "image_id", ids).counted("image_id") if times == 1), None)
    if alone is not None:
        raise OvssError(
            f"{uri}: the run was begun on {len(before)} images, and now there are {len(now)}; {alone!r} is in one "
            "only. Restore the data, or choose a new --out"
        )


def load(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Read a manifest that `save` wrote, or some of its columns. Raises OvssError if it is damaged."""
    try:
        content = files.read(uri)
        found = pq.read_schema(pa.BufferReader(content))
        if not any(map(found.equals, FORMS)):
            raise pa.ArrowInvalid(f"its columns are {found.names}")
        return files.read_parquet(content, columns)
    except (pa.ArrowException, ValueError, OSError) as failure:
        raise OvssError(
            f"{uri}: the manifest is damaged ({failure}). Delete it and give the same command again"
        ) from failure
