"""Check the photographs and labels of a benchmark for faults: `ovss check`.

For example, label values may be off by one, or classes may be in another order. All files are tested for truncation.
Pixels are tested in a sample of images or, with --full, in all images.
"""

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import track

from ovss_ray.benchmarks import catalog, layout, listing
from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import LABELS, Item, gathered
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.dataprep import alignment, missing_classes, truncation
from ovss_ray.dataprep.alignment import Edges
from ovss_ray.dataprep.inspection import Seen, counted, inspect
from ovss_ray.dataprep.missing_classes import Census
from ovss_ray.dataprep.plausibility import ClassStats, PlausibilityTest
from ovss_ray.errors import OvssError
from ovss_ray.io import files, images
from ovss_ray.io.images import palettes
from ovss_ray.io.images.palettes import Shown
from ovss_ray.io.sorted_rows import Rows
from ovss_ray.structures.findings import Fault, Faults, Findings
from ovss_ray.structures.vocabulary import Vocabulary

SAMPLE = 48
"""Maximum number of images in the sample. If --full is not passed, the pixels of the sample are tested."""
FEW = 6
"""Number of images per benchmark that are checked before a run."""
WIDER = 128
"""Number of label files that are searched for a missing class before a fault is reported."""
LOOKS = 512
"""Maximum number of ClassStats, and maximum number of palettes of label files, that a check keeps in memory."""
AT_ONCE = 512
"""Largest number of images in progress at the same time. It limits the memory of a check."""


def run(
    name: str,
    root: str | None,
    split: str | None,
    limit: int | None,
    full: bool,
    workers: int | None,
    show: bool = False,
) -> Findings:
    """Check the data of a benchmark, and return the findings. `show` displays the progress on stderr.

    Raises OvssError if the benchmark is unknown, or if neither `root` nor $OVSS_DATA is set.
    """
    _loaded.cache_clear()  # the YAML of a benchmark may have changed since
    benchmark = catalog.load(name)
    selection = Selection(split or benchmark.split, limit=limit)
    place = "" if benchmark.drawn else layout.data_root(root)
    items, faults = listed(name, benchmark, place, selection)
    places = spread(len(items), SAMPLE)
    traced = _at(items, places)
    sample, ids = items if full else traced, frozenset(item.image_id for item in traced)
    progress, processes = Console(stderr=True, quiet=not show), workers or os.cpu_count() or 1
    seen = _inspected(name, sample, ids, processes, progress)
    of_images, census = settled(benchmark, zip(range(len(items)) if full else places, seen, strict=True))
    if missing_class := missing_classes.taken_away(
        benchmark, census, counted(benchmark, _at(items, spread(len(items), WIDER)))
    ):
        of_images.add([missing_class])
    faults.add(_bits(benchmark, items))
    if not full and not benchmark.drawn:
        others = gathered(item for item in items if item.image_id not in ids and _doubtful(benchmark, item))
        for image in _inspected(name, others, frozenset(), processes, progress):
            faults.add(image.faults)
    extent = "all of them" if full else f"{len(sample)} of them to the last pixel (--full: all)"
    summary = f"{name}, split {selection.split}: {len(items)} images, {extent}; {_summary(benchmark, census)}"
    lines, number = (*faults.lines(), *of_images.lines()), faults.sure() + of_images.sure()
    return Findings(name, selection.split, len(items), number, (*faults, *of_images), lines, summary)


def ahead(benchmarks: Mapping[str, Benchmark], manifests: Mapping[str, pa.Table]) -> Iterator[str]:
    """Check six images (FEW) of each benchmark before a run. Yield a warning for each likely fault of a data set.

    A warning concerns a whole data set, such as labels in another class order. Faults of single files yield no warning.

    Raises OvssError in these cases:

    - two or more label files were checked, and all are invalid for the same reason
    - the palettes of the label files contradict each other
    - the benchmark's `ignore` excludes all pixels of a class, and this fault is certain (`Fault.sure`)
    """
    for name, benchmark in benchmarks.items():
        if benchmark.drawn:
            continue
        manifest = manifests[name].select(["image_id", "image_uri", "truth_uri", "part"])
        places = spread(len(manifest), FEW)
        sample = [*_rows(manifest, places)]
        seen = [inspect(benchmark, item) for item in sample]
        faults, census = settled(benchmark, zip(places, seen, strict=True))
        type_this = f"For details, run `ovss check {name}`. To run without the check, add --set check=false"
        wrong = [image.faults[-1] for image in seen if image.counts is None]
        if len(wrong) == len(sample) > 1 and len({fault.reason for fault in wrong}) == 1:
            first = f"all {len(sample)} label files that were checked are wrong, such as {wrong[0]}"
            raise OvssError(f"{name}: {first} {type_this}")
        more = counted(benchmark, _rows(manifest, spread(len(manifest), WIDER)))
        missing_class = missing_classes.taken_away(benchmark, census, more)
        stops = [*palettes.verdict(filter(None, (image.palette for image in seen)))]
        stops += [missing_class] if missing_class and missing_class.sure else []
        if stops:
            raise OvssError(f"{name}: {stops[0]} {type_this}")
        # The run itself reports files that fail.
        doubtful = [fault for fault in faults if not fault.file]
        extent = f"This was a check of {len(sample)} images. For a larger one, type: ovss check {name}"
        yield from (f"{name}: {fault} {extent}" for fault in doubtful)


def _rows(manifest: pa.Table, places: list[int]) -> Iterator[Item]:
    return (Item(*row.values()) for place in places for row in manifest.slice(place, 1).to_pylist())


def _at(items: Rows[Item], places: list[int]) -> Rows[Item]:
    wanted = set(places)
    return gathered(item for place, item in enumerate(items) if place in wanted)


def listed(name: str, benchmark: Benchmark, root: str, selection: Selection) -> tuple[Rows[Item], Faults]:
    """Return the selected images, and faults of the data set as a whole, such as unpaired files."""
    try:
        unsorted = benchmark.items(root, selection.split)
        every = gathered(unsorted)
        items = selection.take(every, name)
    except OvssError as failure:
        return gathered([]), Faults([Fault(str(failure).removesuffix("."))])
    if not len(items):
        return items, Faults([Fault(f"no image with a label was found below {root}")])
    faults = Faults()
    if name.startswith("folder:"):
        faults.add(Fault(sentence, sure=False) for sentence in benchmark.vocabulary.ambiguities(name))
    strict = benchmark.unpaired == "error"
    faults.add(replace(fault, sure=fault.sure and strict) for fault in listing.faults(unsorted))
    expected = benchmark.counts.get(selection.split)
    if expected not in (None, len(every)) and selection.ids is None and selection.limit is None:
        faults.add([Fault(f"{len(every)} images, but the split {selection.split} has {expected}")])
    faults.add(_order(name, benchmark.vocabulary))
    return items, faults


def spread(number: int, most: int) -> list[int]:
    """Return at most `most` of the positions 0 to `number` - 1, in ascending order.

    If `number` is at most `most`, all positions are returned. Otherwise, the positions are evenly spaced pairs of
    neighbours. For example, `spread(100, 4)` is [0, 1, 50, 51].
    """
    if number <= most:
        return list(range(number))
    starts = (pair * number // (most // 2) for pair in range(most // 2))
    return [place for start in starts for place in (start, start + 1)]


def settled(benchmark: Benchmark, seen: Iterable[tuple[int, Seen]]) -> tuple[Faults, Census]:
    """Return the faults of the images and of the data set as a whole, and the frequency of each label.

    `seen`: (position in the data set, result of the inspection) of each image, sorted by position.
    """
    faults, census, number = Faults(), Census.of(len(benchmark.labels)), 0
    shown: list[ClassStats] = []
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
        message = f"{nowhere}, but nearly all label files of this data set have unlabelled pixels"
        cause = "labels that were not shifted, or another value for unlabelled pixels, such as 0"
        faults.add([Fault(message, cause=cause)])
    faults.add(PlausibilityTest(benchmark.labels).verdict(shown, _orders(benchmark)))
    faults.add(missing_classes.shifted(benchmark, census, shown))
    faults.add(alignment.verdict(traced))
    faults.add(palettes.verdict(shown_by))
    return faults, census


def _inspected(name: str, items: Rows[Item], traced: frozenset[str], workers: int, console: Console) -> Iterator[Seen]:
    """Inspect images. Yield the results in the order of `items`.

    If there are more than 48 images (SAMPLE), `workers` processes inspect them in parallel. `traced` contains the ids
    of the images for which `Seen.edges` is computed.
    """
    task = partial(_inspect, name, traced)
    if len(items) <= SAMPLE or workers == 1:
        yield from map(task, items)
        return
    # Not forked, since pyarrow already has threads.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        stream = iter(items)
        for _ in track(range(0, len(items), AT_ONCE), f"images, {AT_ONCE} a step", console=console):
            yield from pool.map(task, list(islice(stream, AT_ONCE)), chunksize=8)


def _inspect(name: str, traced: frozenset[str], item: Item) -> Seen:
    return inspect(_loaded(name), item, item.image_id in traced)


@lru_cache(1)
def _loaded(name: str) -> Benchmark:
    return catalog.load(name)


def _doubtful(benchmark: Benchmark, item: Item) -> bool:
    """Return whether a file of an image may be missing, truncated or of the wrong size."""
    try:
        size, whole = benchmark.size(item.image), truncation.reached(item.image)
        if PurePosixPath(item.truth).suffix.lower() in LABELS:
            return not whole or images.size(item.truth) != size or not truncation.reached(item.truth)
        return not whole or not files.exists(item.truth)
    except OvssError:
        return True


def _bits(benchmark: Benchmark, items: Iterable[Item]) -> Iterator[Fault]:
    """Yield a fault for each label file of 8 bits per pixel, if the benchmark has more than 256 labels."""
    for item in items if len(benchmark.labels) > 256 else ():
        with suppress(OvssError):  # reported when the whole file is read
            if PurePosixPath(item.truth).suffix.lower() in LABELS and images.bits(item.truth) == 8:
                yield Fault(
                    f"8 bits per pixel, too few for {len(benchmark.labels)} labels",
                    item.truth,
                    "saved by a program that keeps the low byte only: prepare the labels again",
                )


def _order(name: str, vocabulary: Vocabulary) -> Iterator[Fault]:
    """Yield a fault if the classes of a user's data set are those of a built-in benchmark in another order."""
    if not name.startswith("folder:"):
        return
    ordered = [class_name.lower() for class_name in vocabulary.names]
    for listed_as, names in _known_lists():
        if sorted(names) == sorted(ordered) and names != ordered:
            yield Fault(
                f"its {len(ordered)} classes are those of {listed_as} in another order, so label values may be wrong",
                cause="a list of classes that was sorted, or taken from another paper",
                sure=False,
            )


def _orders(benchmark: Benchmark) -> dict[str, list[int]]:
    """Return other orders of a benchmark's labels, as name of the order → label indices in this order.

    The other orders are the alphabetical order, and the orders of built-in benchmarks that have the same labels.
    """
    current = [label.lower() for label in benchmark.labels]
    if len(set(current)) < len(current):
        return {}
    tried = {"the alphabet": sorted(current), **{f"{label}": names for label, names in _known_lists()}}
    return {
        order: [current.index(label) for label in names]
        for order, names in tried.items()
        if names != current and sorted(names) == sorted(current)
    }


@lru_cache(1)
def _known_lists() -> list[tuple[str, list[str]]]:
    """Return (name, [label 0, label 1, …]) of each built-in benchmark except `scenes:…`, with labels in lower case."""
    names = [name for name in catalog.known() if not name.startswith(("folder:", "scenes:"))]
    return [(name, [label.lower() for label in catalog.load(name).labels]) for name in names]


def _summary(benchmark: Benchmark, census: Census) -> str:
    """Return a sentence on the label frequencies: ignored pixels, most common labels, missing labels."""
    if not census.files:
        return "no label was read"
    shares = census.pixels / census.pixels.sum()
    order = np.argsort(-census.pixels[:-1])[:3]
    common = ", ".join(f"{benchmark.labels[i]} {shares[i]:.0%}" for i in order if census.pixels[i])
    absent = missing_classes.named(benchmark.labels, census.absent)
    return f"{shares[-1]:.1%} of the pixels are not counted, most others are {common or 'none'}; {absent}"
