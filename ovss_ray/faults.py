"""What is wrong with the data of a benchmark, in a bounded number of words however much of it there is."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

SHOWN = 10
"""Faults of one kind that are named; the others are counted."""


@dataclass(frozen=True)
class Fault:
    """Something wrong: with one file, or with all of them."""

    what: str
    file: str = ""
    """empty: with the set"""
    cause: str = ""
    """what usually leads to it"""
    sure: bool = True
    """False: it may be meant so"""

    @property
    def reason(self) -> str:
        """The cause, or else what is wrong without the file's name."""
        return self.cause or (self.what.replace(self.file, "") if self.file else self.what)

    def __str__(self) -> str:
        cause = f" Usually: {self.cause}." if self.cause else ""
        return f"{f'{self.file}: ' if self.file and self.file not in self.what else ''}{self.what}.{cause}"


@dataclass
class _Kind:
    first: list[Fault] = field(default_factory=list)
    number: int = 0


class Faults:
    """Faults by their kinds, in the order of the first of each; of a kind, SHOWN are kept."""

    def __init__(self, some: Iterable[Fault] = ()) -> None:
        self._kinds: dict[tuple[str, bool], _Kind] = {}
        self.add(some)

    def add(self, some: Iterable[Fault]) -> None:
        """Take note of faults."""
        for fault in some:
            kind = self._kinds.setdefault((fault.cause or (not fault.file and fault.what) or "", fault.sure), _Kind())
            kind.number += 1
            if len(kind.first) < SHOWN:
                kind.first.append(fault)

    def __iter__(self) -> Iterator[Fault]:
        """Those that were kept."""
        return (fault for kind in self._kinds.values() for fault in kind.first)

    def sure(self) -> int:
        """How many there are that cannot be meant so."""
        return sum(kind.number for (_, sure), kind in self._kinds.items() if sure)

    def lines(self) -> Iterator[str]:
        """Each fault in words; of those of one kind the first ones, and how many more there are."""
        for kind in self._kinds.values():
            for fault in kind.first:
                yield f"{'fault' if fault.sure else 'note'}: {fault}"
            if kind.number > SHOWN:
                yield f"… and {kind.number - SHOWN} more of this kind"
