"""Inspect one image of a benchmark: decode all pixels, find faults of its files, and compute label statistics.

Dimensions: K labels.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Item
from ovss_ray.dataprep import alignment, label_causes, plausibility
from ovss_ray.dataprep.alignment import Edges
from ovss_ray.dataprep.plausibility import ClassStats
from ovss_ray.errors import OvssError
from ovss_ray.io import files, inline
from ovss_ray.io.images import palettes
from ovss_ray.io.images.palettes import Shown
from ovss_ray.structures.findings import Fault


@dataclass(frozen=True)
class Seen:
    """Result of inspecting one image and its label file."""

    faults: tuple[Fault, ...]
    counts: np.ndarray | None = None
    """(K + 1,) int64: number of pixels of each label, ignored pixels last; None if the labels cannot be read"""
    look: ClassStats | None = None
    edges: Edges | None = None
    part: str = ""
    """name of the only class to segment in this image, in a few-shot benchmark; "" in other benchmarks"""
    palette: Shown | None = None
    """palette of the label file; None if the file has no palette

    If `Benchmark.values` is None, the palette is not read, and `palette` is None.
    """


def inspect(benchmark: Benchmark, item: Item, trace: bool = True) -> Seen:
    """Read all pixels of an image and its labels; return faults, label counts and statistics.

    Only the test of the labels' alignment needs `Seen.edges`. If `trace` is False, `Seen.edges` is None, which saves
    memory.
    """
    faults: list[Fault] = []
    place = inline.shown(item.truth)
    image, orientation = None, 1
    try:
        data = files.read(item.image)
        image, orientation = benchmark.image(item, data), label_causes.orientation(data)
    except OvssError as failure:
        faults.append(Fault(str(failure), item.image, "an unfinished download or copy"))
    labels: bytes | None = None
    try:
        labels = files.read(item.truth)
        truth = benchmark.truth(item, labels)
    except OvssError as failure:
        absent = "the file is missing or not readable"
        cause = absent if labels is None else ""
        if labels is not None and benchmark.instances is None:  # else annotations, which are no image
            cause = label_causes.cause(labels, item.truth, benchmark)
        return Seen((*faults, Fault(str(failure), place, cause)), part=item.part)
    faults += _unlike(benchmark, item, truth)
    counts = _counts(benchmark, truth)
    if not counts[:-1].any() and benchmark.instances is None:
        cause = "`ignore` excludes all of its values, or the image was never labelled"
        faults.append(Fault("all of its pixels are ignored", item.truth, cause, sure=not item.part))
    palette = palettes.read(labels, item.truth) if benchmark.values else None
    if image is None:
        return Seen(tuple(faults), counts, part=item.part, palette=palette)
    if image.shape[:2] != truth.shape:
        sizes = f"labels of {truth.shape[1]} × {truth.shape[0]} pixels for {image.shape[1]} × {image.shape[0]}"
        faults.append(Fault(sizes, place, label_causes.of_sizes(image.shape, truth.shape, orientation)))
        return Seen(tuple(faults), counts, part=item.part, palette=palette)
    traced = alignment.trace(image, truth, item.image, orientation) if trace else None
    look = plausibility.look(image, truth, len(benchmark.labels))
    return Seen(tuple(faults), counts, look, traced, item.part, palette)


def counted(benchmark: Benchmark, items: Iterable[Item]) -> Iterator[np.ndarray]:
    """Yield the pixel counts of the labels, (K + 1,) int64, ignored pixels last, for each readable label file."""
    for item in items:
        with suppress(OvssError):
            yield _counts(benchmark, benchmark.truth(item, files.read(item.truth)))


def _counts(benchmark: Benchmark, truth: np.ndarray) -> np.ndarray:
    number = len(benchmark.labels)
    return np.bincount(np.minimum(truth, number).ravel(), minlength=number + 1)


def _unlike(benchmark: Benchmark, item: Item, truth: np.ndarray) -> Iterator[Fault]:
    """Yield a fault if the labels in the image's second label file differ from `truth`, or cannot be read.

    `Benchmark.twin` returns the address of the second label file. If this file does not exist, no fault is yielded.
    """
    other = benchmark.twin(item) if benchmark.twin else item.truth
    if other == item.truth or not files.exists(other):
        return
    cause = "the two files have different sources, so results with one file are not comparable with those of the other"
    try:
        if not np.array_equal(truth, benchmark.truth(item, files.read(other))):
            yield Fault(f"labels differ from those in {other}", item.truth, cause, sure=False)
    except OvssError as failure:
        yield Fault(str(failure), other, cause, sure=False)
