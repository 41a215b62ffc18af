"""The reduction of a run's records in the driver: CPU seconds, and memory beyond the start.

The records are made up: images with cells of about twenty pairs of classes of ADE20K-150, digests, stamps and seconds
of five stages. They are written in as many files as a run has, and deleted afterwards. A process of its own selects the
records that count, and sums them, without Ray.
"""

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from ovss_ray.engine.evaluate import PARTS
from ovss_ray.metrics import confusion
from ovss_ray.reports.totals import Total
from ovss_ray.runs import records
from perf.semantic import peak_of
from perf.timing import show, titled

CLASSES = 150
CELLS = 20
STAGES = ("decode", "truth", "san", "measure", "digest")


def measure(numbers: list[int], rows: int) -> None:
    """Print a row per number of records. `rows`: records of a file; 0: as many as a run of this length writes."""
    table = titled(
        "Reduction of records in one process (aim for 1,000,000: 25 s, 150 MB)",
        *("records", "files", "bytes per record", "CPU s", "settle alone CPU s", "peak MB beyond the start"),
    )
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="ovss_perf_") as folder:
            write(folder, number, rows or min(PARTS, -(-number // PARTS)))
            sizes = [path.stat().st_size for path in Path(folder).glob("*.parquet")]
            command = [sys.executable, "-m", "perf", "reduce-side", folder, str(number)]
            done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert done["scored"] == number, "a record was lost or counted twice"
        numbers_of = (f"{number:,}", f"{len(sizes):,}", f"{sum(sizes) / number:,.0f}")
        table.add_row(*numbers_of, f"{done['all']:.1f}", f"{done['settle']:.1f}", f"{done['bytes'] / 1e6:,.0f}")
    show(table, f"About {CELLS} cells of {CLASSES} classes per image.")


def write(folder: str, number: int, rows: int) -> None:
    """Write made-up records in files of `rows` records."""
    for first in range(0, number, rows):
        records.append(folder, part(first, min(rows, number - first)))


def part(first: int, rows: int) -> pa.Table:
    """Return made-up records of consecutive images."""
    generator = np.random.default_rng(first)
    n = rows * CELLS
    cells = np.sort(generator.integers(0, CLASSES * CLASSES, (rows, CELLS)), axis=1).reshape(-1)
    offsets = pa.array(np.arange(rows + 1) * CELLS, pa.int32())
    values = (cells // CLASSES).astype(np.uint16), (cells % CLASSES).astype(np.uint16), generator.integers(1, 9999, n)
    lists = [pa.ListArray.from_arrays(offsets, pa.array(of)) for of in values]
    seconds = pa.MapArray.from_arrays(
        pa.array(np.arange(rows + 1) * len(STAGES), pa.int32()),
        pa.array(list(STAGES) * rows),
        pa.array(generator.random(rows * len(STAGES)).astype(np.float32)),
    )
    known = {
        "image_id": pa.array(ids(first, rows)),
        "error": pa.array([""] * rows),
        "seconds": seconds,
        "confusion": pa.StructArray.from_arrays(lists, fields=list(confusion.schema)),
        **{name: pa.array(_digests(generator, rows)) for name in records.DIGESTS},
        **{name: pa.array([f"{k * 997:x}:{k * 7919:x}" for k in range(rows)]) for name in records.STAMPS},
    }
    columns = [known.get(field.name, pa.nulls(rows, field.type)) for field in records.SCHEMA]
    return pa.Table.from_arrays(columns, schema=records.SCHEMA)


def _digests(generator: np.random.Generator, rows: int) -> list[str]:
    """Return random texts of 64 hexadecimal digits."""
    text = generator.bytes(32 * rows).hex()
    return [text[64 * k : 64 * k + 64] for k in range(rows)]


def ids(first: int, rows: int) -> list[str]:
    """Return the ids of consecutive images."""
    return [f"ADE_val_{k:012}" for k in range(first, first + rows)]


def side(folder: str, number: int) -> str:
    """Return the CPU seconds and the peak memory of one reduction, as JSON."""
    listed = pa.table({"image_id": ids(0, number)})
    totals, times = [], [time.process_time()]
    peak = peak_of(lambda: totals.append(records.fold(folder, listed, partial(Total.of, labels=CLASSES))), "cpu")
    times.append(time.process_time())
    records.settle(folder, listed)
    times.append(time.process_time())
    scored = totals[0][1].scored
    return json.dumps({"scored": scored, "all": times[1] - times[0], "settle": times[2] - times[1], "bytes": peak})
