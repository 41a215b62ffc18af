"""Convert a data set to its prepared form on disk: `ovss prepare`.

The prepared form is faster to read than the original files. detectron2's scripts create the same form.
"""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from ovss_ray.benchmarks import catalog, layout
from ovss_ray.benchmarks.contract import Benchmark, Plan, Step
from ovss_ray.engine.interrupts import held
from ovss_ray.errors import OvssError
from ovss_ray.io import files, images

FEW = 64
"""Minimum number of files for the use of Ray, whose start takes some seconds."""


def run(name: str | None, root: str | None, split: str | None, out: str | None, workers: int | None) -> int:
    """Create the missing files of a benchmark's prepared form; return the number of failed files.

    Raises OvssError if the benchmark has no prepared form, the original files are missing, or the folder cannot be
    written.
    """
    benchmark, plan = _find(name)
    root, split, out = layout.data_root(root), split or benchmark.split, out and files.absolute(out)
    steps = list(plan(root, split, out))
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    created, faults = 0, 0
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        for new, fault in progress.track(_done(steps, workers), len(steps), description="files"):
            created, faults = created + new, faults + bool(fault)
            if fault:
                console.print(fault, style="red", markup=False)
    console.print(f"{created} files created, {len(steps) - created - faults} existed already, {faults} failed")
    if not faults:
        console.print(what_next(str(name), benchmark, out or root, split), markup=False)
    return faults


def _find(name: str | None) -> tuple[Benchmark, Plan]:
    """Return the benchmark and its function `prepare`. Raises OvssError if the benchmark has no prepared form."""
    known = [
        candidate
        for candidate in catalog.known()
        if not candidate.startswith("folder:") and catalog.load(candidate).prepare
    ]
    listed = f"Benchmarks with a prepared form: {', '.join(known)}"
    if name is None:
        raise OvssError(f"missing argument: the name of a benchmark. {listed}")
    benchmark = catalog.load(name)
    if benchmark.prepare is None:
        raise OvssError(f"{name} has no prepared form: its files are read as they were downloaded. {listed}")
    return benchmark, benchmark.prepare


def _done(steps: Sequence[Step], workers: int | None) -> Iterator[tuple[bool, str]]:
    """Create one file per step. Yield the result of `do` for each step.

    If there are fewer than 64 steps (FEW), this process creates all files. Otherwise, this process creates the first
    file, and workers of Ray create the rest.
    """
    if len(steps) < FEW:
        yield from map(do, steps)
        return
    first, *others = steps  # the first file shows whether every node of the cluster can access the files
    yield do(first)
    with held():
        from ovss_ray.engine.cluster import connection, preflight  # imported here, since Ray takes seconds
        from ovss_ray.engine.scatter import scattered
    shared = [uri for uri in (first.source, first.target) if files.exists(uri)]
    with connection.connect():
        preflight.see_everywhere(shared, "--data-root and --out")
        yield from scattered(do, others, workers, _killed)


def _killed(step: Step) -> tuple[bool, str]:
    return False, (
        f"{step.source}: its worker process died twice, perhaps out of memory. Other files are not affected. Run the "
        "same command again with fewer --workers"
    )


def do(step: Step) -> tuple[bool, str]:
    """Create the file `step.target`, unless an undamaged file exists. Return (file was created, error message).

    If the source cannot be read or converted, no file is created, and the error message states the reason. Otherwise
    the error message is "". If the file cannot be written, this function raises OvssError.
    """
    if _whole(step.target):
        return False, ""
    try:
        content = step.convert(files.read(step.source), step.source)
    except OvssError as failure:
        return False, str(failure)
    files.write(step.target, content)  # an OvssError ends the command, since later files would fail as well
    return True, ""


def _whole(uri: str) -> bool:
    """Return whether an image exists and can be read to its end."""
    try:
        return files.exists(uri) and images.decode(files.read(uri), uri).size > 0
    except OvssError:
        return False


def what_next(name: str, benchmark: Benchmark, root: str, split: str) -> str:
    """Return a sentence with the next command to type.

    If the number of images on disk differs from the expected number, the command has the option `--limit`. In this
    case, another sentence states both numbers. Raises OvssError if the data set is not found.
    """
    count, expected = sum(1 for _ in benchmark.items(root, split)), benchmark.counts.get(split)
    options = ("" if split == benchmark.split else f" --split {split}") + f" --data-root {root}"
    part = f" --limit {count}" if expected not in (None, count) else ""
    lacking = f"{count} of {expected} images were found. " if part else ""
    config = "ovsam_rn50x16" if benchmark.instances else "san_vit_b_16"
    return f"{lacking}Now type: ovss evaluate {config} --benchmark {name}{options}{part}"
