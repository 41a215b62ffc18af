"""Make the prepared form of a data set on disk, once, of what its authors send: `ovss prepare`.

It is what the scripts that come with detectron2 make, so other programs read it too, and it is read faster than the
source. What has to be made is the benchmark's own business (Benchmark.prepare); here it is done, on Ray if it is much.
"""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from ovss_ray import files, images
from ovss_ray.datasets import benchmark as benchmarks
from ovss_ray.datasets.benchmark import Benchmark, Plan, Step
from ovss_ray.errors import OvssError
from ovss_ray.interrupts import held

FEW = 64
"""Fewer files than this are made here: a cluster takes some seconds to start."""


def run(name: str | None, root: str | None, split: str | None, out: str | None, workers: int | None) -> int:
    """Make what is missing of the prepared form of a benchmark; return how many files could not be made.

    Each of those is named on standard error, and the others are done. Raises OvssError if the benchmark has no prepared
    form, if the source is not there, or if nothing can be written.
    """
    benchmark, plan = _find(name)
    root, split, out = benchmarks.data_root(root), split or benchmark.split, out and files.absolute(out)
    steps = list(plan(root, split, out))
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    made, faults = 0, 0
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        for new, fault in progress.track(_done(steps, workers), len(steps), description="files"):
            made, faults = made + new, faults + bool(fault)
            if fault:
                console.print(fault, style="red", markup=False)
    console.print(f"{made} files made, {len(steps) - made - faults} were there already, {faults} could not be made")
    if not faults:
        console.print(what_next(str(name), benchmark, out or root, split), markup=False)
    return faults


def _find(name: str | None) -> tuple[Benchmark, Plan]:
    """The benchmark and what it has to be prepared. Raises OvssError that names those that can be."""
    known = [one for one in benchmarks.known() if not one.startswith("folder:") and benchmarks.load(one).prepare]
    listed = f"Those that have one: {', '.join(known)}"
    if name is None:
        raise OvssError(f"the prepared form of which benchmark? {listed}")
    found = benchmarks.load(name)
    if found.prepare is None:
        raise OvssError(f"{name} has no prepared form: its files are read as its authors send them. {listed}")
    return found, found.prepare


def _done(steps: Sequence[Step], workers: int | None) -> Iterator[tuple[bool, str]]:
    """Do the steps, on a cluster unless they are few; yield what `do` returns."""
    if len(steps) < FEW:
        yield from map(do, steps)
        return
    first, *others = steps
    yield do(first)
    with held():
        from ovss_ray import cluster  # only now: Ray takes seconds to import
        from ovss_ray.scatter import scattered
    shared = [uri for uri in (first.source, first.target) if files.exists(uri)]
    with cluster.connect():
        cluster.see_everywhere(shared, "--data-root and --out")
        yield from scattered(do, others, workers, _killed)


def _killed(step: Step) -> tuple[bool, str]:
    return False, (
        f"{step.source}: the process that prepared it died, twice, perhaps for want of memory. The others are not held "
        "up. Give the same command again, with fewer --workers"
    )


def do(step: Step) -> tuple[bool, str]:
    """Make one file, unless it is there and whole; return whether it was made, and what is wrong with its source.

    Raises OvssError if it cannot be written: the next one could not either.
    """
    if _whole(step.target):
        return False, ""
    try:
        made = step.convert(files.read(step.source), step.source)
    except OvssError as failure:
        return False, str(failure)
    files.write(step.target, made)
    return True, ""


def _whole(uri: str) -> bool:
    """Whether there is an image that can be read to its end."""
    try:
        return files.exists(uri) and images.decode(files.read(uri), uri).size > 0
    except OvssError:
        return False


def what_next(name: str, benchmark: Benchmark, root: str, split: str) -> str:
    """Say what to type now; if the split is not complete, how to score what is there."""
    found, expected = sum(1 for _ in benchmark.items(root, split)), benchmark.counts.get(split)
    options = ("" if split == benchmark.split else f" --split {split}") + f" --data-root {root}"
    part = f" --limit {found}" if expected not in (None, found) else ""
    lacking = f"{expected} images belong to it, and {found} are here. " if part else ""
    return f"{lacking}Now type: ovss evaluate san_vit_b_16 --benchmark {name}{options}{part}"
