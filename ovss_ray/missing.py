"""Classes that never occur, and pixels that are not counted, which may have been theirs.

A mask of 0 and 255 loses its object to the usual `ignore: 255`; labels shifted by one lose their last class to the
value for what is not labelled, and leave the first class empty. Both leave files without a single forbidden value.

Letters: K labels.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ovss_ray import blame
from ovss_ray.datasets.benchmark import Benchmark, Values
from ovss_ray.faults import Fault
from ovss_ray.looks import Jury, Look

BULK = 0.05
"""share of pixels that are not counted, from which on they may well be a class"""
MOST = 0.2
"""share from which on they are a class even in one file, if there is no background"""
FEW_CLASSES = 4
"""of so few classes, one that never occurs is conspicuous"""
ENOUGH, MANY = 3, 8
"""files in which a class must be missing; where no name and no look speaks for a fault"""
NEARLY_ALL, OFTEN = 0.8, 0.5
"""share of the other classes that must occur; and in which share of the files"""
REST = {"background", "ground", "backgrounds", "bg"}
"""names of classes that occur in nearly every image"""
UNUSED = {"void", "unlabelled", "unlabeled", "ignore", "ignored", "__ignore__", "_ignore_", "none", "undefined"}
"""names of classes that may well never occur"""
NAMED = 10
"""missing classes that a sentence names; the others are counted"""


@dataclass
class Census:
    """How often each label occurs in the files that were read."""

    pixels: np.ndarray
    """(K + 1,) int64: of each label, and at the end those that are not counted"""
    occurs: np.ndarray
    """(K + 1,) int64: in how many files"""
    files: int = 0
    parts: bool = field(default=False, kw_only=True)
    """whether only a part of each image is asked for, so that other labels are left out on purpose"""

    @classmethod
    def of(cls, labels: int) -> "Census":
        """Return a census of no file."""
        return cls(np.zeros(labels + 1, np.int64), np.zeros(labels + 1, np.int64))

    def add(self, counts: np.ndarray) -> None:
        """Count the pixels (K + 1,) of one file."""
        self.pixels += counts
        self.occurs += counts > 0
        self.files += 1

    @property
    def absent(self) -> list[int]:
        """Labels that never occur."""
        return np.flatnonzero(self.pixels[:-1] == 0).tolist()

    @property
    def ignored(self) -> float:
        """Share of the pixels that are not counted."""
        return float(self.pixels[-1] / max(1, self.pixels.sum()))


def taken_away(benchmark: Benchmark, census: Census, more: Iterable[np.ndarray] = ()) -> Fault | None:
    """Return the fault that `ignore` takes a class away, if one of few classes is nowhere while pixels are ignored.

    `more` are pixels (K + 1,) of further label files: a class that occurs in one of them is only rare.
    """
    fault, absent = _taken_away(benchmark, census), census.absent
    return None if fault and any(counts[absent].any() for counts in more) else fault


def _taken_away(benchmark: Benchmark, census: Census) -> Fault | None:
    number, absent, values = len(benchmark.labels), census.absent, benchmark.values
    if census.parts or not census.files or not census.pixels[-1]:
        return None
    if len(absent) == number:
        return Fault(
            f"not one pixel of {census.files} label files is counted{_away(values)}",
            cause=_ignoring(benchmark, census) or "`ignore` holds the values of classes, or labels of another data set",
        )
    if number == 1 and values and not values.stated and values.classes == (0,):
        return Fault(
            f"the only class, {benchmark.labels[0]!r}, has the label value 0, while {census.ignored:.1%} of the pixels "
            f"are not counted{_away(values)}",
            cause="masks of an object on black. Name both classes and write `values:`, such as `values: [0, 255]`",
        )
    two = number == 2
    several = number <= FEW_CLASSES and census.files >= ENOUGH and census.ignored >= 2 * BULK and absent == [number - 1]
    by_default = values is not None and not values.stated
    perhaps = number > 2 and census.files >= ENOUGH and census.ignored >= BULK and by_default and _only_last(census)
    if perhaps and not several:
        return Fault(
            f"{benchmark.labels[-1]!r} never occurs in {census.files} label files, all other classes do, and "
            f"{census.ignored:.1%} of the pixels are not counted{_away(values)}",
            cause="the last class was written as the value that is not counted",
            sure=False,
        )
    if len(absent) != 1 or not (two or (several and not (values and values.stated))):
        return None
    return Fault(
        f"{benchmark.labels[absent[0]]!r} never occurs in {census.files} label files, while {census.ignored:.1%} of "
        f"their pixels are not counted{_away(values)}",
        cause=_ignoring(benchmark, census) or "`ignore` takes away what should be this class",
    )


def _only_last(census: Census) -> bool:
    """Whether the last class never occurs, and all others in most files."""
    last = len(census.occurs) - 2
    return census.absent == [last] and bool((census.occurs[:last] >= OFTEN * census.files).all())


def _away(values: Values | None) -> str:
    if values is None:
        return ""
    default = "" if values.stated else ", which holds if nothing else is written"
    return f" (`ignore` is {', '.join(map(str, values.ignore))}{default})"


def _ignoring(benchmark: Benchmark, census: Census) -> str:
    """Recognise black-and-white masks by the values that must have been in the files."""
    values = benchmark.values
    if values is None or len(values.ignore) != 1 or len(benchmark.labels) > FEW_CLASSES:
        return ""
    held = {value for value, pixels in zip(values.classes, census.pixels[:-1], strict=True) if pixels}
    return blame.black_and_white(held | set(values.ignore), values)


def shifted(benchmark: Benchmark, census: Census, looks: Sequence[Look]) -> Iterator[Fault]:
    """Find labels shifted by one: the class at one end never occurs, since its pixels count as its neighbour."""
    number, last = len(benchmark.labels), len(benchmark.labels) - 1
    if census.parts or number < 3 or not census.files or len(census.absent) == number:
        return
    jury = Jury(benchmark.labels)
    for step, end, said in (
        (1, 0, "labels shifted by one"),
        (-1, last, "labels shifted by one once too often"),
    ):
        if census.pixels[end]:
            continue
        what = f"{benchmark.labels[end]!r} never occurs in {census.files} label files"
        sure = _surely(benchmark, census, step)
        moved = jury.moved(looks, step)
        if moved:
            what += ", and the other labels look like their names only once they are moved back by one"
        elif sure is None:
            continue
        else:
            what += f", while {census.ignored:.1%} of their pixels are not counted"
        cause = f"{said}, so that another class is not counted; or a class written as the value that is not labelled"
        yield Fault(what, cause=cause, sure=moved or sure is True)


def _surely(benchmark: Benchmark, census: Census, step: int) -> bool | None:
    """Return whether a missing first class is a fault without any look; False: perhaps; None: it is no sign."""
    name = benchmark.labels[0].lower().strip()
    others = census.occurs[1:-1]
    usual = (others > 0).mean() >= NEARLY_ALL and (others >= OFTEN * census.files).mean() >= NEARLY_ALL
    if step < 0 or name in UNUSED:
        return None
    if name in REST:
        return bool(census.pixels[-1]) and (census.files >= ENOUGH or census.ignored >= MOST)
    return True if usual and census.files >= MANY and census.ignored >= BULK / 5 else None


def named(labels: Sequence[str], absent: Sequence[int]) -> str:
    """Write which labels never occur: the first NAMED, and how many more there are."""
    if not absent:
        return f"0 of {len(labels)} labels never occur"
    more = f", … and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
    return f"{len(absent)} of {len(labels)} labels never occur: {', '.join(labels[i] for i in absent[:NAMED])}{more}"
