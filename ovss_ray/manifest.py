"""The manifest: every image that a run is asked for, fixed before the first is read. The denominator of all numbers."""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ovss_ray import files
from ovss_ray.config import RunConfig
from ovss_ray.datasets.benchmark import Benchmark, Item
from ovss_ray.errors import OvssError

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

AT_ONCE = 256
"""Photographs whose sizes are asked for before the first answers are taken."""


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

    def take(self, items: Sequence[Item], name: str) -> list[Item]:
        """Keep the items asked for, sorted by image_id. Raises OvssError for an id that does not exist."""
        known = {item.image_id: item for item in items}
        if len(known) < len(items):
            raise OvssError(f"{name}, split {self.split}: {len(items) - len(known)} image ids occur more than once")
        if self.ids is not None and (unknown := [one for one in self.ids if one not in known]):
            raise OvssError(
                f"{name}, split {self.split}: {len(unknown)} of the {len(self.ids)} ids asked for do not exist, such "
                f"as {unknown[0]!r}; ids there look like {next(iter(known), '')!r}"
            )
        asked = sorted(known) if self.ids is None else sorted(self.ids)
        return [known[image_id] for image_id in asked[: self.limit]]


def build(name: str, benchmark: Benchmark, root: str, selection: Selection) -> pa.Table:
    """List the images asked for, sorted so that images of one shape stand together and batches fill.

    Raises OvssError if the data are not there, or if the split has another number of images than it should.
    """
    return _sorted(_listed(name, benchmark, root, selection))  # which holds no items any more, only the table


def _listed(name: str, benchmark: Benchmark, root: str, selection: Selection) -> pa.Table:
    items = list(benchmark.items(root, selection.split))
    expected = benchmark.counts.get(selection.split)
    if expected is not None and len(items) != expected and selection.ids is None and selection.limit is None:
        more = f" (`ovss prepare {name}` completes a prepared form)" if benchmark.prepare else ""
        raise OvssError(
            f"{name}, split {selection.split}: {expected} images belong to it, and {len(items)} were found below "
            f"{root}. Complete the data{more}, or ask for a part of them with --limit or --ids (the report will say so)"
        )
    rows = selection.take(items, name)
    if not rows:
        raise OvssError(f"{name}, split {selection.split}: no image with a label was found below {root}")
    return _table(name, benchmark, rows, _sizes(benchmark, rows))


def _sizes(benchmark: Benchmark, items: Sequence[Item]) -> np.ndarray:
    """H, W of all photographs, (N, 2) int32; few are under way at once, as a pool keeps a note of each."""
    found = np.zeros((len(items), 2), np.int32)
    with ThreadPoolExecutor(8) as pool:
        for begin in range(0, len(items), AT_ONCE):
            some = items[begin : begin + AT_ONCE]
            found[begin : begin + len(some)] = list(pool.map(partial(_size, benchmark), some))
    return found


def _size(benchmark: Benchmark, item: Item) -> tuple[int, int]:
    """H, W from the file's header; an image that cannot be read is put first, and fails when its turn comes."""
    try:
        return benchmark.size(item.image)
    except OvssError:
        return 0, 0


def _table(name: str, benchmark: Benchmark, items: Sequence[Item], sizes: np.ndarray) -> pa.Table:
    return pa.Table.from_pydict(
        {
            "image_id": [item.image_id for item in items],
            "benchmark": [name] * len(items),
            "vocabulary": [benchmark.question(item.part)[0].digest for item in items],
            "image_uri": [item.image for item in items],
            "truth_uri": [item.truth for item in items],
            "part": [item.part for item in items],
            "error": [""] * len(items),
            "height": sizes[:, 0],
            "width": sizes[:, 1],
        },
        SCHEMA,
    )


def _sorted(table: pa.Table) -> pa.Table:
    """By aspect ratio, then height: methods that scale the short side then meet equal sizes in a row."""
    height, width = (table[name].to_numpy() for name in ("height", "width"))
    keys = pa.table({"ratio": width / np.maximum(1, height), "height": height, "image_id": table["image_id"]})
    order = [("ratio", "ascending"), ("height", "descending"), ("image_id", "ascending")]
    return table.take(pc.sort_indices(keys, order))


def save(table: pa.Table, uri: str) -> None:
    """Write the manifest. Raises OvssError if one of other images lies there already."""
    if files.exists(uri):
        before, now = (one["image_id"].sort() for one in (load(uri), table))
        if not before.equals(now):
            example = min(set(before.to_pylist()) ^ set(now.to_pylist()))
            raise OvssError(
                f"{uri}: the run was begun on {len(before)} images, and now there are {len(now)}; {example!r} is in "
                "one only. Restore the data, or choose a new --out"
            )
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True)
    files.write(uri, sink.getvalue())


def load(uri: str) -> pa.Table:
    """Read a manifest that `save` wrote. Raises OvssError if it is damaged."""
    try:
        table = files.read_parquet(files.read(uri))
        if not table.schema.equals(SCHEMA):
            raise pa.ArrowInvalid(f"its columns are {table.schema.names}")
        return table
    except (pa.ArrowException, ValueError, OSError) as failure:
        raise OvssError(
            f"{uri}: the manifest is damaged ({failure}). Delete it and give the same command again"
        ) from failure
