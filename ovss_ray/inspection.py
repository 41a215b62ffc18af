"""One image of a benchmark read to the last pixel: what is wrong with its files, and what its labels look like."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from ovss_ray import blame, edges, files, looks, palettes
from ovss_ray.datasets.benchmark import Benchmark
from ovss_ray.edges import Edges
from ovss_ray.errors import OvssError
from ovss_ray.faults import Fault
from ovss_ray.listing import Item
from ovss_ray.looks import Look
from ovss_ray.palettes import Shown


@dataclass(frozen=True)
class Seen:
    """The findings about one image and its label file."""

    faults: tuple[Fault, ...]
    counts: np.ndarray | None = None
    """(K + 1,) int64 pixels of each label, and at the end those that are not counted; None if they cannot be read"""
    look: Look | None = None
    edges: Edges | None = None
    part: str = ""
    """the part of the image that is asked for"""
    palette: Shown | None = None
    """of labels that a user describes by their values, in a file with a palette"""


def inspect(benchmark: Benchmark, item: Item, trace: bool = True) -> Seen:
    """Read an image and its labels to the last pixel; `trace` says whether edges are kept, which take memory."""
    faults: list[Fault] = []
    image, orientation = None, 1
    try:
        data = files.read(item.image)
        image, orientation = benchmark.image(item, data), blame.orientation(data)
    except OvssError as failure:
        faults.append(Fault(str(failure), item.image, "an unfinished download or copy"))
    labels: bytes | None = None
    try:
        labels = files.read(item.truth)
        truth = benchmark.truth(item, labels)
    except OvssError as failure:
        absent = "the file is missing or not readable"
        cause = absent if labels is None else blame.cause(labels, item.truth, benchmark)
        return Seen((*faults, Fault(str(failure), item.truth, cause)), part=item.part)
    faults += _unlike(benchmark, item, truth)
    counts = _counts(benchmark, truth)
    if not counts[:-1].any():
        cause = "`ignore` takes everything away, or an image that was left without labels"
        faults.append(Fault("not one of its pixels is counted", item.truth, cause, sure=not item.part))
    palette = palettes.read(labels, item.truth) if benchmark.values else None
    if image is None:
        return Seen(tuple(faults), counts, part=item.part, palette=palette)
    if image.shape[:2] != truth.shape:
        sizes = f"labels of {truth.shape[1]} × {truth.shape[0]} pixels for {image.shape[1]} × {image.shape[0]}"
        faults.append(Fault(sizes, item.truth, blame.of_sizes(image.shape, truth.shape, orientation)))
        return Seen(tuple(faults), counts, part=item.part, palette=palette)
    traced = edges.trace(image, truth, item.image, orientation) if trace else None
    look = looks.look(image, truth, len(benchmark.labels))
    return Seen(tuple(faults), counts, look, traced, item.part, palette)


def counted(benchmark: Benchmark, items: Iterable[Item]) -> Iterator[np.ndarray]:
    """Yield the pixels (K + 1,) of each label, and of none, of the label files that can be read."""
    for item in items:
        with suppress(OvssError):
            yield _counts(benchmark, benchmark.truth(item, files.read(item.truth)))


def _counts(benchmark: Benchmark, truth: np.ndarray) -> np.ndarray:
    number = len(benchmark.labels)
    return np.bincount(np.minimum(truth, number).ravel(), minlength=number + 1)


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
