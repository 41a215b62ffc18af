"""Report of the faults in a benchmark's data. At most SHOWN faults of each kind are listed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

SHOWN = 10
"""Maximum number of faults of one kind that a report lists; further faults are only counted."""


@dataclass(frozen=True)
class Fault:
    """Fault in one file, or in the data set as a whole."""

    what: str
    file: str = ""
    """address of the faulty file; empty for the whole data set"""
    cause: str = ""
    """usual cause of this kind of fault; empty if unknown"""
    sure: bool = True
    """True for a certain fault; False for a note about data that may be correct"""

    @property
    def reason(self) -> str:
        """Return the usual cause of the fault. If no usual cause is known, return the description of the fault.

        The description is `what` without the address of the file. The same fault in two files has the same description.
        """
        return self.cause or (self.what.replace(self.file, "") if self.file else self.what)

    def __str__(self) -> str:
        cause = f" Usually: {self.cause}." if self.cause else ""
        return f"{f'{self.file}: ' if self.file and self.file not in self.what else ''}{self.what}.{cause}"


@dataclass
class _Kind:
    first: list[Fault] = field(default_factory=list)
    number: int = 0


class Faults:
    """Faults grouped by kind. The kinds are in order of appearance. At most SHOWN faults of each kind are kept."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._kinds: dict[tuple[str, bool], _Kind] = {}
        self.add(faults)

    def add(self, faults: Iterable[Fault]) -> None:
        """Add faults. Faults with equal `cause` and equal `sure` are of one kind.

        If `cause` and `file` are both empty, `what` is compared instead of `cause`.
        """
        for fault in faults:
            kind = self._kinds.setdefault((fault.cause or (not fault.file and fault.what) or "", fault.sure), _Kind())
            kind.number += 1
            if len(kind.first) < SHOWN:
                kind.first.append(fault)

    def __iter__(self) -> Iterator[Fault]:
        """Iterate over the kept faults."""
        return (fault for kind in self._kinds.values() for fault in kind.first)

    def sure(self) -> int:
        """Return the number of faults that are certain (`Fault.sure`)."""
        return sum(kind.number for (_, sure), kind in self._kinds.items() if sure)

    def lines(self) -> Iterator[str]:
        """Yield a line for each kept fault. If a kind has further faults, one more line gives their number."""
        for kind in self._kinds.values():
            for fault in kind.first:
                yield f"{'fault' if fault.sure else 'note'}: {fault}"
            if kind.number > SHOWN:
                yield f"… and {kind.number - SHOWN} more of this kind"


@dataclass(frozen=True)
class Findings:
    """Result of a check of a benchmark's data."""

    benchmark: str
    split: str
    images: int
    """number of images in the split, or in the part that was checked"""
    number: int
    """number of all faults whose `sure` is True, including faults that are not in `faults`"""
    faults: tuple[Fault, ...]
    """faults and notes, at most SHOWN of each kind; a note is a Fault whose `sure` is False"""
    lines: tuple[str, ...]
    """faults and notes as text, one line each"""
    summary: str
    """sentence that states how much was checked, and which label values occurred"""
