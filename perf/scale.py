"""The real graph of a run on faked GPUs, with stages that sleep and columns of real sizes.

Everything but the computations is real: placement, Ray Data, workers, ledger, records and report. Each faked GPU has a
worker that sleeps for a batch of eight images. So the ideal rate is known, and what is missing from it is lost by the
driver process, Ray, or the CPUs of this machine, on which all workers run.
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from ovss_ray.config import loading as configs
from ovss_ray.engine.cluster import ray_internals
from ovss_ray.engine.cluster.nodes import STORE
from ovss_ray.engine.progress import Counts
from ovss_ray.runs.plan import RunPlan, plan_run
from perf.sleeping import SIZE
from perf.timing import show, titled

BATCH = 8
"""Images of a batch, as with `batch: auto` on GPUs"""
STEADY = (0.3, 0.9)
"""Part of the images, in which the rate is measured: all workers have started, and none has run out of images"""
PERIOD = 0.5
"""Seconds between two looks at the memory"""
SMALL = 64
"""Part of the real size that small photographs have, as 1 / SMALL"""
POOLS = 3
"""Pools of the graph, as in a run of SAN on GPUs: photographs, networks, and counts with the stage `measure`"""


@dataclass
class Looks:
    """What was seen during a run: peaks in bytes, and the CPU seconds of the ledger's process at times."""

    driver: float = 0.0
    store: float = 0.0
    ledger: list[tuple[float, float]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look at the driver process and at the object store, until the run has ended."""
        import ray

        process, whole = psutil.Process(), ray.cluster_resources()[STORE]
        ledger: psutil.Process | None = None
        while not self.ended.wait(PERIOD):
            self.driver = max(self.driver, process.memory_info().rss)
            self.store = max(self.store, whole - ray.available_resources().get(STORE, whole))
            ledger = ledger or _named("ray::Ledger", process)
            with suppress(psutil.Error):
                if ledger:
                    used = ledger.cpu_times()
                    self.ledger.append((time.monotonic(), used.user + used.system))


def _named(title: str, of: psutil.Process) -> psutil.Process | None:
    """Return the descendant with this title, once it is there."""
    for child in of.children(recursive=True):
        with suppress(psutil.Error):
            if " ".join(child.cmdline()).startswith(title):
                return child
    return None


class Marks(Counts):
    """Progress that notes time, CPU seconds of this process, and images done, whenever records were written."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[tuple[float, float, int]] = []

    def update(self, receipt: Mapping[str, Any]) -> None:
        """Note a file of records."""
        super().update(receipt)
        self.marks.append((time.monotonic(), time.process_time(), self.done))


def measure(gpus: int, seconds: float, batches: int, small: bool = False) -> None:
    """Print the table for a run of `batches` batches per GPU, each of `seconds` seconds.

    `small`: photographs and label maps have 1/64 of their real size. Then few CPUs reach a rate that tells the ceiling.
    """
    images = gpus * BATCH * batches
    with _cluster(gpus), tempfile.TemporaryDirectory(prefix="ovss_perf_") as folder:
        from ovss_ray.engine import evaluate

        progress, looks = Marks(), Looks()
        watcher = threading.Thread(target=looks.watch, daemon=True)
        watcher.start()
        begun = time.monotonic()
        report = evaluate.run(planned(Path(folder), images, seconds, small), progress)
        whole = time.monotonic() - begun
        looks.ended.set()
        watcher.join()
    (scored,) = (benchmark.images.scored for benchmark in report.benchmarks.values())
    assert scored == images, f"{scored} of {images} images have a record"
    rate, cpu, ledger = steady(progress.marks, looks.ledger, images)
    ideal = gpus * BATCH / seconds
    table = titled(
        f"{gpus} faked GPUs, batches of {seconds:g} s{', small photographs' if small else ''}",
        *("images", "share of the ideal rate, %", "of it with start and end, %", "driver: CPU ms per batch of a pool"),
        "ledger: CPU ms per batch of a pool",
        "ceiling: batches of a pool per second",
        *("driver: peak MB", "object store: peak MB"),
    )
    shares = (f"{100 * rate / ideal:.1f}", f"{100 * images / whole / ideal:.1f}")
    table.add_row(
        f"{images:,}",
        *shares,
        f"{1000 * cpu:.2f}",
        f"{1000 * ledger:.2f}",
        f"{1 / max(cpu, ledger):,.0f}",
        f"{looks.driver / 1e6:,.0f}",
        f"{looks.store / 1e6:,.0f}",
    )
    show(
        table,
        f"{POOLS} pools, {BATCH} images per batch; the rate between {STEADY[0]:.0%} and {STEADY[1]:.0%} of the images. "
        "Ceiling: a whole CPU for the driver, and one for the ledger. At a low rate, their polling counts in it.",
    )


def steady(
    marks: list[tuple[float, float, int]], ledger: list[tuple[float, float]], images: int
) -> tuple[float, float, float]:
    """Return the rate in the part STEADY of a run, and the CPU seconds of driver and ledger per batch of a pool there.

    `marks`: time, CPU seconds of the driver, images done. `ledger`: time, CPU seconds. Rate: images per second.
    """
    times, cpu, done = (np.array(values) for values in zip(*marks, strict=True))
    ends = [int(np.searchsorted(done, part * images)) for part in STEADY]
    (begin, end), (before, after) = times[ends], cpu[ends]
    number = done[ends[1]] - done[ends[0]]
    first, last = np.interp([begin, end], *zip(*ledger, strict=True))
    batches = POOLS * number / BATCH
    return number / (end - begin), (after - before) / batches, (last - first) / batches


def planned(folder: Path, images: int, seconds: float, small: bool = False) -> RunPlan:
    """Return the plan of a run of `images` rows, all of the same drawn scene, which no stage reads.

    Its photographs count as large as the columns of the sleeping stages.
    """
    part = SMALL if small else 1
    raw = {
        "benchmarks": ["scenes:seen"],
        "limit": 1,
        "keep_predictions": "none",
        "pools": [
            {"stages": [{"use": "perf.sleeping.photograph", "options": {"part": part}}]},
            {
                "stages": [{"use": "perf.sleeping.network", "options": {"seconds": seconds / BATCH, "part": part}}],
                "gpus": 1,
                "cpus": 0.1,
            },
            {"stages": [{"use": "perf.sleeping.count"}]},
        ],
    }
    plan = plan_run(configs.validate(raw, "perf scale"), str(folder / "run"))
    ((name, table),) = plan.manifests.items()
    rows = table.take(pa.array(np.zeros(images, np.int64)))
    ids = pa.array([f"{number:09}" for number in range(images)], rows.schema.field("image_id").type)
    rows = rows.set_column(rows.schema.get_field_index("image_id"), "image_id", ids)
    photographs, networks, counts, measuring = plan.pools
    joined = counts.model_copy(update={"stages": (*counts.stages, *measuring.stages)})
    benchmarks = {name: replace(plan.benchmarks[name], size=lambda _: (SIZE[0] // part, SIZE[1]))}
    return replace(plan, manifests={name: rows}, benchmarks=benchmarks, pools=(photographs, networks, joined))


@contextmanager
def _cluster(gpus: int) -> Iterator[None]:
    """Start a Ray cluster of one node during the block. Its GPUs, a CPU for each four, and its memory are faked."""
    ray_internals.prepare_import()
    os.environ.update({**ray_internals.SETTINGS, "RAY_ADDRESS": "local"})
    import ray

    from ovss_ray.engine.cluster import placement, ray_start

    sizes = {"num_cpus": max(8, gpus // 4), "num_gpus": gpus, "_memory": 2 * placement.HEAP * gpus}
    ray_start.start(partial(ray.init, "local", include_dashboard=False, log_to_driver=False, **sizes), local=True)
    try:
        yield
    finally:
        ray.shutdown()
