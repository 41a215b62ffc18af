"""Detection of classes that never occur, perhaps because their pixels are ignored.

For example, a mask has the value 255 in an object and 0 elsewhere. If the benchmark has the usual setting
`ignore: 255`, all pixels of the object are ignored. The only sign of this mistake is that the object's class never
occurs.

Dimensions: K labels.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ovss_ray.benchmarks.contract import Benchmark, Values
from ovss_ray.dataprep import label_causes
from ovss_ray.dataprep.plausibility import ClassStats, PlausibilityTest
from ovss_ray.structures.findings import Fault

BULK = 0.05
"""Minimum ratio (ignored pixels / all pixels) to suspect that ignored pixels belong to a class that never occurs."""
MOST = 0.2
"""Minimum share of ignored pixels, in one or two label files, to be certain that labels are shifted by one.

If the first class, such as "background" (see REST), never occurs, the labels are perhaps shifted by one. In 3 or more
label files, a single ignored pixel makes the shift certain. Without enough ignored pixels, the shift is reported as
possible: `Fault.sure` is False.

If positions and colours of labels indicate the shift, the shift is always certain (see `PlausibilityTest.moved`).
"""
FEW_CLASSES = 4
"""Maximum number of classes of a small benchmark.

If all pixels of the last class seem to be ignored, a fault is reported. In a small benchmark, this fault can be
certain, and can advise on black-and-white masks (see `_ignoring`). In a larger benchmark, this fault is always
uncertain (`Fault.sure` is False), and never advises on masks.
"""
ENOUGH = 3
"""Minimum number of label files without a class before its absence counts as a fault."""
MANY = 8
"""Minimum number of label files to conclude from label frequencies alone that labels are shifted by one.

MANY is used if the first class is an ordinary class. For a first class in REST, ENOUGH and MOST are used instead.
"""
NEARLY_ALL = 0.8
"""Minimum share of classes that must occur often (see OFTEN) to conclude that labels are shifted by one.

The share is computed over all classes except the first class. If the name of the first class is in REST, NEARLY_ALL is
not used.
"""
OFTEN = 0.5
"""A class occurs often if it is in at least this share of the label files."""
REST = {"background", "ground", "backgrounds", "bg"}
"""Names, in lower case, of classes that occur in nearly every image."""
UNUSED = {"void", "unlabelled", "unlabeled", "ignore", "ignored", "__ignore__", "_ignore_", "none", "undefined"}
"""Names, in lower case, of classes that stand for unlabelled pixels, and need not occur."""
NAMED = 10
"""Largest number of missing classes that a sentence lists by name; further classes are only counted."""


@dataclass
class Census:
    """Frequency of each label in the label files."""

    pixels: np.ndarray
    """(K + 1,) int64: number of pixels of each label, ignored pixels last"""
    occurs: np.ndarray
    """(K + 1,) int64: number of files in which each label occurs, ignored pixels last"""
    files: int = 0
    parts: bool = field(default=False, kw_only=True)
    """True if the images are few-shot episodes (Item.part), in which most classes never occur"""

    @classmethod
    def of(cls, labels: int) -> "Census":
        """Return an empty census for `labels` labels."""
        return cls(np.zeros(labels + 1, np.int64), np.zeros(labels + 1, np.int64))

    def add(self, counts: np.ndarray) -> None:
        """Add the label counts of one label file.

        `counts`: (K + 1,) int64, the number of pixels of each label. The last element counts ignored pixels.
        """
        self.pixels += counts
        self.occurs += counts > 0
        self.files += 1

    @property
    def absent(self) -> list[int]:
        """Return the indices of the labels that never occur."""
        return np.flatnonzero(self.pixels[:-1] == 0).tolist()

    @property
    def ignored(self) -> float:
        """Return the share of ignored pixels among all pixels."""
        return float(self.pixels[-1] / max(1, self.pixels.sum()))


def taken_away(benchmark: Benchmark, census: Census, more: Iterable[np.ndarray] = ()) -> Fault | None:
    """Return a fault if `ignore` seems to exclude all pixels of a class; else None.

    `more`: label counts of further label files, (K + 1,) int64 each, ignored pixels last. If a class that is
    missing in `census` occurs in one of these files, the result is None.
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
            cause=_ignoring(benchmark, census) or "`ignore` lists the values of classes, or labels of another data set",
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
            cause="the last class was saved with the ignored value",
            sure=False,
        )
    if len(absent) != 1 or not (two or (several and not (values and values.stated))):
        return None
    return Fault(
        f"{benchmark.labels[absent[0]]!r} never occurs in {census.files} label files, while {census.ignored:.1%} of "
        f"their pixels are not counted{_away(values)}",
        cause=_ignoring(benchmark, census) or "`ignore` lists the value of this class",
    )


def _only_last(census: Census) -> bool:
    """Return whether the last class never occurs, and all others occur in most files."""
    last = len(census.occurs) - 2
    return census.absent == [last] and bool((census.occurs[:last] >= OFTEN * census.files).all())


def _away(values: Values | None) -> str:
    if values is None:
        return ""
    default = "" if values.stated else ", the default"
    return f" (`ignore` is {', '.join(map(str, values.ignore))}{default})"


def _ignoring(benchmark: Benchmark, census: Census) -> str:
    """Return advice if the label files seem to be black-and-white masks whose white is ignored; else ""."""
    values = benchmark.values
    if values is None or len(values.ignore) != 1 or len(benchmark.labels) > FEW_CLASSES:
        return ""
    present = {value for value, pixels in zip(values.classes, census.pixels[:-1], strict=True) if pixels}
    return label_causes.black_and_white(present | set(values.ignore), values)


def shifted(benchmark: Benchmark, census: Census, looks: Sequence[ClassStats]) -> Iterator[Fault]:
    """Yield a fault if the first or last class never occurs, and the labels seem to be shifted by one."""
    number, last = len(benchmark.labels), len(benchmark.labels) - 1
    if census.parts or number < 3 or not census.files or len(census.absent) == number:
        return
    test = PlausibilityTest(benchmark.labels)
    for step, end, mistake in (
        (1, 0, "labels shifted by one"),
        (-1, last, "labels shifted by one once too often"),
    ):
        if census.pixels[end]:
            continue
        message = f"{benchmark.labels[end]!r} never occurs in {census.files} label files"
        sure = _surely(benchmark, census) if step > 0 else None  # frequencies give no sign of a shift by -1
        moved = test.moved(looks, step)
        if moved:
            message += ", and the other labels look like their names only if they are shifted back by one"
        elif sure is None:
            continue
        else:
            message += f", while {census.ignored:.1%} of their pixels are not counted"
        cause = f"{mistake}, so that another class is not counted; or a class saved with the value of unlabelled pixels"
        yield Fault(message, cause=cause, sure=moved or sure is True)


def _surely(benchmark: Benchmark, census: Census) -> bool | None:
    """Return how likely pixels of label i show class i - 1: True = certainly, False = perhaps, None = no sign.

    Only the frequencies of the labels and of ignored pixels are used.
    """
    name = benchmark.labels[0].lower().strip()
    others = census.occurs[1:-1]
    usual = (others > 0).mean() >= NEARLY_ALL and (others >= OFTEN * census.files).mean() >= NEARLY_ALL
    if name in UNUSED:
        return None
    if name in REST:
        return bool(census.pixels[-1]) and (census.files >= ENOUGH or census.ignored >= MOST)
    return True if usual and census.files >= MANY and census.ignored >= BULK / 5 else None


def named(labels: Sequence[str], absent: Sequence[int]) -> str:
    """Return a sentence with the number of labels that never occur, and the names of at most ten such labels.

    `absent`: the indices of the labels that never occur.
    """
    if not absent:
        return f"0 of {len(labels)} labels never occur"
    more = f", … and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
    return f"{len(absent)} of {len(labels)} labels never occur: {', '.join(labels[i] for i in absent[:NAMED])}{more}"
