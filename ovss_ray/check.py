"""Whether the data of a benchmark are what they should be, before a GPU starts: `ovss check`.

Wrong ground truth is the first cause of wrong numbers: labels that were not shifted, a palette read as values, the
other class order. Looked at are counts and pairs, beginnings and ends of all files (see ends), and every pixel of a
sample or of all files: whether label values and sizes fit (see inspection, blame), whether classes are missing (see
missing), whether boundaries lie on edges (see edges) and labels where their names say (see looks). The same check, of
fewer files, stands in front of every run.
"""

import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from itertools import islice
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import track

from ovss_ray import edges, ends, files, images, missing, palettes
from ovss_ray.datasets import benchmark as benchmarks
from ovss_ray.datasets.benchmark import Benchmark
from ovss_ray.edges import Edges
from ovss_ray.errors import OvssError
from ovss_ray.faults import Fault, Faults
from ovss_ray.inspection import Seen, counted, inspect
from ovss_ray.listing import LABELS, Item, gathered
from ovss_ray.looks import Jury, Look
from ovss_ray.manifest import Selection
from ovss_ray.missing import Census
from ovss_ray.palettes import Shown
from ovss_ray.request import Request
from ovss_ray.spill import Rows
from ovss_ray.vocabulary import Vocabulary

SAMPLE, FEW = 48, 6
"""Images whose pixels are looked at, pairs of neighbours evenly spread over the ids; in front of a run."""
WIDER = 128
"""Label files that are read in search of a class, before `ignore` is said to take it away."""
LOOKS = 512
"""Images whose classes' looks are kept, at most."""
AT_ONCE = 512
"""Images that are given to the processes before the first answers are read: what a check holds in memory."""


def run(name: str, root: str | None, split: str | None, limit: int | None, full: bool, workers: int | None) -> int:
    """Check a benchmark and say what was found; return how many faults there are.

    Raises OvssError if the benchmark is not known, or nobody said where the data are.
    """
    console = Console(highlight=False, soft_wrap=True)
    benchmark = benchmarks.load(name)
    chosen = Selection(split or benchmark.split, limit=limit)
    place = "" if benchmark.drawn else benchmarks.data_root(root)
    items, faults = listed(name, benchmark, place, chosen)
    places = spread(len(items), SAMPLE)
    traced = _at(items, places)
    sample, ids = items if full else traced, frozenset(item.image_id for item in traced)
    progress, processes = Console(stderr=True), workers or os.cpu_count() or 1
    seen = _inspected(name, sample, ids, processes, progress)
    of_images, census = settled(benchmark, zip(range(len(items)) if full else places, seen, strict=True))
    if taken := missing.taken_away(benchmark, census, counted(benchmark, _at(items, spread(len(items), WIDER)))):
        of_images.add([taken])
    faults.add(_bits(benchmark, items))
    if not full and not benchmark.drawn:
        others = gathered(item for item in items if item.image_id not in ids and _doubtful(benchmark, item))
        for image in _inspected(name, others, frozenset(), processes, progress):
            faults.add(image.faults)
    for line in (*faults.lines(), *of_images.lines()):
        console.print(line, markup=False)
    extent = "all of them" if full else f"{len(sample)} of them to the last pixel (--full: all)"
    summary = f"{name}, split {chosen.split}: {len(items)} images, {extent}; {_summary(benchmark, census)}"
    console.print(summary, markup=False)
    surely = faults.sure() + of_images.sure()
    console.print(f"faults found: {surely}" if surely else "no fault found")
    return surely


def ahead(request: Request) -> Iterator[str]:
    """Look at a few images of each data set in front of a run; what is doubtful, in words.

    Raises OvssError if no label file that was looked at is right, for one reason, if `ignore` takes a class away in all
    of them, or if their palettes disagree. A fault of a single file is left to the run, which costs that image alone.
    """
    for name, benchmark in request.benchmarks.items() if request.config.check else ():
        if benchmark.drawn:
            continue
        manifest = request.manifests[name].select(["image_id", "image_uri", "truth_uri", "part"])
        places = spread(len(manifest), FEW)
        sample = [*_rows(manifest, places)]
        seen = [inspect(benchmark, item) for item in sample]
        faults, census = settled(benchmark, zip(places, seen, strict=True))
        type_this = f"Type: ovss check {name}. Or go on all the same: --set check=false"
        wrong = [image.faults[-1] for image in seen if image.counts is None]
        if len(wrong) == len(sample) > 1 and len({fault.reason for fault in wrong}) == 1:
            first = f"all {len(sample)} label files that were looked at are wrong, such as this: {wrong[0]}"
            raise OvssError(f"{name}: {first} {type_this}")
        more = counted(benchmark, _rows(manifest, spread(len(manifest), WIDER)))
        taken = missing.taken_away(benchmark, census, more)
        stops = [*palettes.verdict(filter(None, (image.palette for image in seen)))]
        stops += [taken] if taken and taken.sure else []
        if stops:
            raise OvssError(f"{name}: {stops[0]} {type_this}")
        doubtful = [fault for fault in faults if not fault.file]
        extent = f"This is of {len(sample)} images. To look closer, type: ovss check {name}"
        yield from (f"{name}: {fault} {extent}" for fault in doubtful)


def _rows(manifest: pa.Table, places: list[int]) -> Iterator[Item]:
    return (Item(*row.values()) for place in places for row in manifest.slice(place, 1).to_pylist())


def _at(items: Rows[Item], places: list[int]) -> Rows[Item]:
    wanted = set(places)
    return gathered(item for place, item in enumerate(items) if place in wanted)


def listed(name: str, benchmark: Benchmark, root: str, chosen: Selection) -> tuple[Rows[Item], Faults]:
    """The images asked for, and what is wrong with their number and their pairs."""
    said: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = said.append  # type: ignore[method-assign, assignment]
    readers = logging.getLogger("ovss_ray")
    readers.addHandler(listener)
    try:
        if name.startswith("folder:"):
            benchmark.vocabulary.warn_of_repeated(name)
        every = gathered(benchmark.items(root, chosen.split))
        items = chosen.take(every, name)
    except OvssError as failure:
        return gathered([]), Faults([Fault(str(failure).removesuffix("."))])
    finally:
        readers.removeHandler(listener)
    if not len(items):
        return items, Faults([Fault(f"no image with a label was found below {root}")])
    faults = Faults(_left_over(record, benchmark.unpaired == "error") for record in said)
    expected = benchmark.counts.get(chosen.split)
    if expected not in (None, len(every)) and chosen.ids is None and chosen.limit is None:
        faults.add([Fault(f"{len(every)} images, and {expected} belong to the split {chosen.split}")])
    faults.add(_order(name, benchmark.vocabulary))
    return items, faults


def _left_over(record: logging.LogRecord, strict: bool) -> Fault:
    """Turn a line that a reader of a data set logs into a fault: a note unless it is sure and the set is `strict`."""
    if not getattr(record, "sure", True):
        return Fault(record.getMessage(), sure=False)
    cause = getattr(record, "cause", None) or "a copy that is not complete, or files of another set among these"
    return Fault(record.getMessage(), cause=cause, sure=strict)


def spread(number: int, most: int) -> list[int]:
    """At most so many places of images, evenly spread, two neighbours each: labels may be those of the next image."""
    if number <= most:
        return list(range(number))
    starts = (pair * number // (most // 2) for pair in range(most // 2))
    return [place for start in starts for place in (start, start + 1)]


def settled(benchmark: Benchmark, seen: Iterable[tuple[int, Seen]]) -> tuple[Faults, Census]:
    """The faults of images, those that only all images together show, and how often each label occurs.

    `seen` are places in the order of the ids, and images.
    """
    faults, census, number = Faults(), Census.of(len(benchmark.labels)), 0
    shown: list[Look] = []
    traced: list[tuple[int, Edges]] = []
    shown_by: list[Shown] = []
    for place, image in seen:
        number += 1
        faults.add(image.faults)
        census.parts |= bool(image.part)
        if image.counts is not None:
            census.add(image.counts)
        if image.look is not None and len(shown) < LOOKS:
            shown.append(image.look)
        if image.edges is not None:
            traced.append((place, image.edges))
        if image.palette is not None and len(shown_by) < LOOKS:
            shown_by.append(image.palette)
    if benchmark.unlabelled and census.files >= min(3, number) > 0 and census.pixels[-1] == 0:
        nowhere = f"not one pixel of {census.files} label files is unlabelled"
        what = f"{nowhere}, and this data set leaves some out in nearly all"
        cause = "labels that were not shifted, or another value for what is not labelled, such as 0"
        faults.add([Fault(what, cause=cause)])
    faults.add(Jury(benchmark.labels).verdict(shown, _orders(benchmark)))
    faults.add(missing.shifted(benchmark, census, shown))
    faults.add(edges.verdict(traced))
    faults.add(palettes.verdict(shown_by))
    return faults, census


def _inspected(name: str, items: Rows[Item], traced: frozenset[str], workers: int, console: Console) -> Iterator[Seen]:
    """Inspect images, by several processes if there are many; never more than AT_ONCE are under way.

    Edges are kept of the images whose ids are `traced`.
    """
    task = partial(_inspect, name, traced)
    if len(items) <= SAMPLE:
        yield from map(task, items)
        return
    # Not forked: pyarrow has threads already.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        stream = iter(items)
        for _ in track(range(0, len(items), AT_ONCE), f"images, {AT_ONCE} a step", console=console):
            yield from pool.map(task, list(islice(stream, AT_ONCE)), chunksize=8)


def _inspect(name: str, traced: frozenset[str], item: Item) -> Seen:
    return inspect(_loaded(name), item, item.image_id in traced)


@lru_cache(1)
def _loaded(name: str) -> Benchmark:
    return benchmarks.load(name)


def _doubtful(benchmark: Benchmark, item: Item) -> bool:
    """Return whether beginnings and ends of an image's two files leave a doubt: then they are read in full."""
    try:
        size, whole = benchmark.size(item.image), ends.reached(item.image)
        if PurePosixPath(item.truth).suffix.lower() in LABELS:
            return not whole or images.size(item.truth) != size or not ends.reached(item.truth)
        return not whole or not files.exists(item.truth)
    except OvssError:
        return True


def _bits(benchmark: Benchmark, items: Iterable[Item]) -> Iterator[Fault]:
    """Look at how many bits all label files have, where more than 8 are needed."""
    for item in items if len(benchmark.labels) > 256 else ():
        with suppress(OvssError):  # reported by whoever reads the whole file
            if PurePosixPath(item.truth).suffix.lower() in LABELS and images.bits(item.truth) == 8:
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


def _summary(benchmark: Benchmark, census: Census) -> str:
    """The histogram in a sentence: what is not counted, the commonest labels, and which never occur."""
    if not census.files:
        return "no label was read"
    shares = census.pixels / census.pixels.sum()
    order = np.argsort(-census.pixels[:-1])[:3]
    common = ", ".join(f"{benchmark.labels[i]} {shares[i]:.0%}" for i in order if census.pixels[i])
    absent = missing.named(benchmark.labels, census.absent)
    return f"{shares[-1]:.1%} of the pixels are not counted, most others are {common or 'none'}; {absent}"
