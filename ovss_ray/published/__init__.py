"""What papers, their repositories and their logs say that methods score: figures.json, read as it is printed there.

One method may have several figures for one benchmark, where sources differ or one of them has more digits.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One published mIoU."""

    method: str
    backbone: str
    benchmark: str
    """its name in this project"""
    miou: float
    """percent, with the digits that the source prints"""
    convention: str
    """miou or miou_classic (see ovss_ray.metrics.confusion); either: every class has truth pixels, and so they are
    one; unknown: they differ, and the source does not say which it is"""
    where: str
    """repository@commit and file"""
    kind: str
    """log, README, figure (a table that is a picture), or aggregator (a listing by others than the authors)"""
    note: str = ""


def of(benchmark: str) -> tuple[Figure, ...]:
    """The figures published for a benchmark, best first; none if there are none.

    Sources do not always say by which names they ask, so ade20k:150@catseg has the figures of ade20k:150; nor of
    which files their labels are, so pascal_context:59-json has those of pascal_context:59.
    """
    base = benchmark.partition("@")[0].removesuffix("-json")
    found = (figure for figure in figures() if figure.benchmark == base)
    return tuple(sorted(found, key=lambda figure: -figure.miou))


@functools.cache
def figures() -> tuple[Figure, ...]:
    """All of them, in the order of the file."""
    told = _told()
    return tuple(Figure(*row, **told["sources"][source]) for *row, source in told["figures"])


def method(stage: str, variant: str) -> tuple[str, str] | None:
    """The method and backbone whose figures are those of a stage with this `variant`; None if none are published."""
    return next((tuple(known) for *own, known in _told()["methods"] if own == [stage, variant]), None)


@functools.cache
def _told() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "figures.json").read_text("utf-8"))
