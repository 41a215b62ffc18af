"""Whether the data of a benchmark are what they should be, before a GPU starts: `ovss check`.

Wrong ground truth is the first cause of wrong numbers: labels that were not shifted, a palette read as values, the
other class order. Looked at are counts and pairs, the headers of all files, and of a sample, or of all files, every
pixel: whether labels have values that the benchmark can have, in files of the photographs' sizes, and whether they lie
where their names say (see looks). The same check, of fewer files, stands in front of every run.
"""

import logging
import math
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import track

from ovss_ray import blame, files, images, looks
from ovss_ray.datasets import benchmark as benchmarks
from ovss_ray.datasets.benchmark import Benchmark
from ovss_ray.errors import OvssError
from ovss_ray.faults import Fault, Faults
from ovss_ray.listing import LABELS, Item, gathered
from ovss_ray.looks import Jury, Look
from ovss_ray.manifest import Selection
from ovss_ray.request import Request
from ovss_ray.spill import Rows
from ovss_ray.vocabulary import Vocabulary

SAMPLE, FEW = 48, 6
"""Images whose pixels are looked at, evenly spread over the ids; in front of a run."""
LOOKS = 512
"""Images whose classes' looks are kept, at most."""
AT_ONCE = 512
"""Images that are given to the processes before the first answers are read: what a check holds in memory."""


@dataclass(frozen=True)
class Seen:
    """What was found out about one image."""

    faults: tuple[Fault, ...]
    counts: np.ndarray | None = None
    """(K + 1,) int64 pixels of each label, and at the end those that are not counted; None if they cannot be read"""
    look: Look | None = None


def run(name: str, root: str | None, split: str | None, limit: int | None, full: bool, workers: int | None) -> int:
    """Check a benchmark and say what was found; return how many faults there are.

    Raises OvssError if the benchmark is not known, or nobody said where the data are.
    """
    console = Console(highlight=False, soft_wrap=True)
    benchmark = benchmarks.load(name)
    chosen = Selection(split or benchmark.split, limit=limit)
    place = "" if benchmark.drawn else benchmarks.data_root(root)
    items, faults = listed(name, benchmark, place, chosen)
    sample = items if full else gathered(spread(items, SAMPLE))
    seen = _inspected(name, sample, workers or os.cpu_count() or 1, Console(stderr=True))
    found, counts = settled(benchmark, seen, len(sample))
    faults.add(_headers(benchmark, items, None if full else {item.image_id for item in sample}))
    for line in (*faults.lines(), *found.lines()):
        console.print(line, markup=False)
    extent = "all of them" if full else f"{len(sample)} of them to the last pixel (--full: all)"
    console.print(f"{name}, split {chosen.split}: {len(items)} images, {extent}; {_told(benchmark, counts, full)}")
    surely = faults.sure() + found.sure()
    console.print(f"faults found: {surely}" if surely else "no fault found")
    return surely


def ahead(request: Request) -> Iterator[str]:
    """Look at a few images of each data set in front of a run; what is doubtful, in words.

    Raises OvssError if no label file that was looked at is right, for one reason. A fault of a single file is left to
    the run, which costs that image alone.
    """
    for name, benchmark in request.benchmarks.items() if request.config.check else ():
        if benchmark.drawn:
            continue
        manifest = request.manifests[name].select(["image_id", "image_uri", "truth_uri", "part"])
        rows = pa.concat_tables(manifest.slice(at, 1) for at in spread(range(len(manifest)), FEW))
        sample = [Item(*row.values()) for row in rows.to_pylist()]
        seen = [inspect(benchmark, item) for item in sample]
        wrong = [one.faults[-1] for one in seen if one.counts is None]
        if len(wrong) == len(sample) > 1 and len({fault.cause for fault in wrong}) == 1 and wrong[0].cause:
            raise OvssError(
                f"{name}: all {len(sample)} label files that were looked at are wrong, such as this: {wrong[0]} "
                f"Type: ovss check {name}. Or go on all the same: --set check=false"
            )
        doubtful = [fault for fault in settled(benchmark, seen, len(sample))[0] if not fault.file]
        more = f"This is of {len(sample)} images. To look closer, type: ovss check {name}"
        yield from (f"{name}: {fault} {more}" for fault in doubtful)


def listed(name: str, benchmark: Benchmark, root: str, chosen: Selection) -> tuple[Rows[Item], Faults]:
    """The images asked for, and what is wrong with their number and their pairs."""
    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    readers = logging.getLogger("ovss_ray")
    readers.addHandler(listener)
    try:
        every = gathered(benchmark.items(root, chosen.split))
        items = chosen.take(every, name)
    except OvssError as failure:
        return gathered([]), Faults([Fault(str(failure).removesuffix("."))])
    finally:
        readers.removeHandler(listener)
    if not len(items):
        return items, Faults([Fault(f"no image with a label was found below {root}")])
    faults = Faults(
        Fault(one, cause="a copy that is not complete, or files of another set among these") for one in said
    )
    expected = benchmark.counts.get(chosen.split)
    if expected not in (None, len(every)) and chosen.ids is None and chosen.limit is None:
        faults.add([Fault(f"{len(every)} images, and {expected} belong to the split {chosen.split}")])
    faults.add(_order(name, benchmark.vocabulary))
    return items, faults


def spread(some: Rows[Item] | range, most: int) -> list[Any]:
    """At most so many, evenly spread."""
    return list(islice(some, 0, None, max(1, math.ceil(len(some) / most))))


def inspect(benchmark: Benchmark, item: Item) -> Seen:
    """Read an image and its labels to the last pixel."""
    faults: list[Fault] = []
    try:
        image = benchmark.image(item, files.read(item.image))
    except OvssError as failure:
        faults.append(Fault(str(failure), item.image, "an unfinished download or copy"))
        image = None
    data = b""
    try:
        data = files.read(item.truth)
        truth = benchmark.truth(item, data)
    except OvssError as failure:
        cause = blame.cause(data, item.truth, len(benchmark.labels)) if data else "the file is missing or not readable"
        return Seen((*faults, Fault(str(failure), item.truth, cause)))
    faults += _unlike(benchmark, item, truth)
    counts = np.bincount(np.minimum(truth, len(benchmark.labels)).ravel(), minlength=len(benchmark.labels) + 1)
    if not counts[:-1].any():
        left_out = "an image that the preparation scripts of others silently leave out of the set"
        faults.append(Fault("not one of its pixels is counted", item.truth, left_out, sure=False))
    if image is None:
        return Seen(tuple(faults), counts)
    if image.shape[:2] != truth.shape:
        sizes = f"labels of {truth.shape[1]} × {truth.shape[0]} pixels for {image.shape[1]} × {image.shape[0]}"
        faults.append(Fault(sizes, item.truth, "resized, or of another image"))
        return Seen(tuple(faults), counts)
    return Seen(tuple(faults), counts, looks.look(image, truth, len(benchmark.labels)))


def _unlike(benchmark: Benchmark, item: Item, truth: np.ndarray) -> Iterator[Fault]:
    """Compare labels with another file that should say the same, if it is there."""
    other = benchmark.twin(item) if benchmark.twin else item.truth
    if other == item.truth or not files.exists(other):
        return
    cause = "one of the two was made of another source, and numbers of the one are not comparable with the other's"
    try:
        if not np.array_equal(truth, benchmark.truth(item, files.read(other))):
            yield Fault(f"other labels than in {other}", item.truth, cause, sure=False)
    except OvssError as failure:
        yield Fault(str(failure), other, cause, sure=False)


def settled(benchmark: Benchmark, seen: Iterable[Seen], number: int) -> tuple[Faults, np.ndarray]:
    """The faults of images, those that only all images together show, and the pixels of each label (K + 1,)."""
    faults = Faults()
    counts, whole = np.zeros(len(benchmark.labels) + 1, np.int64), 0
    shown: list[Look] = []
    for one in seen:
        faults.add(one.faults)
        if one.counts is not None:
            counts += one.counts
            whole += 1
        if one.look is not None and len(shown) < LOOKS:
            shown.append(one.look)
    if benchmark.unlabelled and whole >= min(3, number) > 0 and counts[-1] == 0:
        what = f"not one pixel of {whole} label files is unlabelled, and this data set leaves some out in nearly all"
        cause = "labels that were not shifted, or another value for what is not labelled, such as 0"
        faults.add([Fault(what, cause=cause)])
    faults.add(Jury(benchmark.labels).verdict(shown, _orders(benchmark)))
    return faults, counts


def _inspected(name: str, items: Rows[Item], workers: int, console: Console) -> Iterator[Seen]:
    """Inspect images, by several processes if there are many; never more than AT_ONCE are under way."""
    task = partial(_inspect, name)
    if len(items) <= SAMPLE:
        yield from map(task, items)
        return
    # Not forked: pyarrow has threads already.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        stream = iter(items)
        for _ in track(range(0, len(items), AT_ONCE), f"images, {AT_ONCE} a step", console=console):
            yield from pool.map(task, list(islice(stream, AT_ONCE)), chunksize=8)


def _inspect(name: str, item: Item) -> Seen:
    return inspect(_loaded(name), item)


@lru_cache(1)
def _loaded(name: str) -> Benchmark:
    return benchmarks.load(name)


def _headers(benchmark: Benchmark, items: Iterable[Item], done: set[str] | None) -> Iterator[Fault]:
    """Read the beginnings of the files whose pixels were not looked at, and how many bits all label files have.

    `done` are the ids of those that were looked at, None if they all were.
    """
    for item in items:
        new = done is not None and item.image_id not in done
        try:
            if new:
                benchmark.size(item.image)
            bits = images.bits(item.truth) if PurePosixPath(item.truth).suffix.lower() in LABELS else 0
        except OvssError as failure:
            if new:
                yield Fault(str(failure), item.image, "an unfinished download or copy")
            continue
        if bits == 8 and len(benchmark.labels) > 256:
            yield Fault(
                f"8 bits a pixel, which cannot tell {len(benchmark.labels)} labels apart",
                item.truth,
                "saved by a program that keeps the low byte only: prepare the labels anew",
            )


def _order(name: str, vocabulary: Vocabulary) -> Iterator[Fault]:
    """Compare the order of a user's own classes with that of the known lists: equal numbers, unlike meanings."""
    if not name.startswith("folder:"):
        return
    own = [one.lower() for one in vocabulary.names]
    for listed_as, names in _known_lists():
        if sorted(names) == sorted(own) and names != own:
            yield Fault(
                f"its {len(own)} classes are those of {listed_as} in another order, so that label values mean others",
                cause="a list of classes that was sorted, or taken from another paper",
                sure=False,
            )


def _orders(benchmark: Benchmark) -> dict[str, list[int]]:
    """Other orders in which the same names are known, and the alphabet's: label index → class index."""
    own = [one.lower() for one in benchmark.labels]
    if len(set(own)) < len(own):
        return {}
    tried = {"the alphabet": sorted(own), **{f"{one}": names for one, names in _known_lists()}}
    return {
        said: [own.index(one) for one in names]
        for said, names in tried.items()
        if names != own and sorted(names) == sorted(own)
    }


@lru_cache(1)
def _known_lists() -> list[tuple[str, list[str]]]:
    """The names of every benchmark that comes with the project, in its order and lower case."""
    named = [one for one in benchmarks.known() if not one.startswith(("folder:", "scenes:"))]
    return [(one, [label.lower() for label in benchmarks.load(one).labels]) for one in named]


def _told(benchmark: Benchmark, counts: np.ndarray, full: bool) -> str:
    """The histogram in a sentence: what is not counted, the commonest labels, and if it is `full` what never occurs."""
    if not counts.sum():
        return "no label was read"
    shares = counts / counts.sum()
    common = ", ".join(f"{benchmark.labels[i]} {shares[i]:.0%}" for i in np.argsort(-counts[:-1])[:3] if counts[i])
    absent = f"; {np.count_nonzero(counts[:-1] == 0)} of {len(benchmark.labels)} labels never occur" if full else ""
    return f"{shares[-1]:.1%} of the pixels are not counted, most others are {common}{absent}"
