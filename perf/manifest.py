"""The manifest of a long run in the driver: CPU seconds, and memory beyond the start, of each step that reads it.

Manifest and records are made up (see reduce.py), as a finished run has them: each image has a record, and no file has
changed. Each step has a process of its own. Pages of memory-mapped files count as memory, although the system can drop
them; the second figure leaves them out.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from ovss_ray.engine import reduce as engine_reduce
from ovss_ray.engine.evaluate import PARTS
from ovss_ray.io.arrays import mapped_tables
from ovss_ray.io.arrays.mapped_tables import CHUNK
from ovss_ray.reports.totals import Total
from ovss_ray.runs import changes, records
from ovss_ray.runs import manifest as manifests
from perf import reduce
from perf.semantic import peak_of
from perf.timing import show, titled

STEPS = ("load", "resume", "restamp", "report")


def measure(number: int) -> None:
    """Print a row per step for a manifest of `number` images."""
    table = titled(
        f"Steps of a run of {number:,} images that read the manifest, each in one process",
        *("step", "CPU s", "peak MB beyond the start", "without pages of mapped files"),
    )
    with tempfile.TemporaryDirectory(prefix="ovss_perf_") as folder:
        write(Path(folder), number)
        for step in STEPS:
            command = [sys.executable, "-m", "perf", "manifest-side", folder, step]
            done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            table.add_row(step, f"{done['seconds']:.1f}", f"{done['bytes'] / 1e6:,.0f}", f"{done['own'] / 1e6:,.0f}")
    show(table, "load: the whole table; resume: compare with the records, save, list missing images; report: the sums.")


def write(folder: Path, number: int) -> None:
    """Write the made-up records and the manifest of a finished run."""
    rows = min(PARTS, -(-number // PARTS))
    reduce.write(str(folder / "records"), number, rows)
    parts = (_listed(first, min(CHUNK, number - first), rows) for first in range(0, number, CHUNK))
    manifests.save(mapped_tables.mapped(manifests.WHOLE, parts), _uri(folder))


def _listed(first: int, rows: int, of_file: int) -> pa.Table:
    """Return the manifest of consecutive images, with the stamps of their records in files of `of_file` records."""
    numbers = (k % of_file for k in range(first, first + rows))
    ids, stamps = reduce.ids(first, rows), [f"{k * 997:x}:{k * 7919:x}" for k in numbers]
    columns = {
        "image_id": ids,
        "image_uri": [f"/made/up/ADEChallengeData2016/images/validation/{name}.jpg" for name in ids],
        "truth_uri": [f"/made/up/ADEChallengeData2016/annotations/validation/{name}.png" for name in ids],
        **dict.fromkeys(records.STAMPS, stamps),
    }
    repeated = {"benchmark": "ade20k:150", "vocabulary": "0123456789abcdef" * 4, "height": 512, "width": 683}
    repeated |= dict.fromkeys(("part", "error", *records.DIGESTS), "")
    columns |= {name: [value] * rows for name, value in repeated.items()}
    return pa.table([pa.array(columns[field.name], field.type) for field in manifests.WHOLE], manifests.WHOLE)


def _uri(folder: Path) -> str:
    return str(folder / "manifest.parquet")


def side(folder: str, step: str) -> str:
    """Return the CPU seconds and the peak memory of one step, as JSON."""
    steps: dict[str, Callable[[Path], object]] = {
        "load": lambda at: manifests.load(_uri(at)),
        "resume": _resume,
        "restamp": lambda at: changes.restamped(manifests.load(_uri(at))),
        "report": _report,
    }
    own, ended = [0], threading.Event()
    watching = threading.Thread(target=_watch, args=(own, ended), daemon=True)
    watching.start()
    before, since = _own(), time.process_time()
    peak = peak_of(lambda: steps[step](Path(folder)), "cpu")
    seconds = time.process_time() - since
    ended.set()
    watching.join()
    return json.dumps({"seconds": seconds, "bytes": peak, "own": own[0] - before})


def _watch(most: list[int], ended: threading.Event) -> None:
    while not ended.wait(0.02):
        most[0] = max(most[0], _own())


def _own() -> int:
    """Return the bytes of this process that no file holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def _resume(folder: Path) -> None:
    """Repeat the steps of a resumed run before its first image."""
    uri, place = _uri(folder), str(folder / "records")
    listed = manifests.load(uri).drop_columns(list(records.DIGESTS))
    before = manifests.load(uri)
    now = changes.looked_up(listed, before, place, print)
    assert not changes.repainted(now, before, place)
    manifests.save(now, uri)
    assert not records.settle(place, now).due
    assert not len(records.missing(now, place))


def _report(folder: Path) -> None:
    listed = manifests.load(_uri(folder))
    _, total = engine_reduce.fold(str(folder / "records"), listed, lambda part: Total.of(part, labels=reduce.CLASSES))
    assert total is not None
    assert total.scored == len(listed)
