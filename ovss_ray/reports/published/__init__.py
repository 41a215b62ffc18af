"""Published figures of methods, from papers, repositories and logs.

The file vocabulary_free.json has figures of vocabulary-free methods. These figures are not comparable with an ordinary
mIoU. The file figures.json has all other figures. A method may have several figures for a benchmark, for example from
two sources.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovss_ray.benchmarks import class_lists

SECOND_HAND = "second-hand"
"""Kind of a figure that was quoted by other authors, and not checked against its source."""


@dataclass(frozen=True)
class Figure:
    """A published value of a metric, for a method on a benchmark. Most figures are values of mIoU."""

    method: str
    backbone: str
    benchmark: str
    """name of the benchmark in this project"""
    miou: float
    """value of the metric (see `convention`) in percent, with the digits of the source"""
    convention: str
    """name of the metric in a report, such as "miou_classic", or one of the words "either" and "unknown"

    The word is "either" if the metrics miou and miou_classic are equal on the benchmark. The word is
    "unknown" if miou and miou_classic differ, and the source does not state which of them was computed.
    """
    where: str
    """source of the figure: repository@commit and file"""
    kind: str
    """kind of the source: "log", "README", "figure", "aggregator" or "second-hand"

    A "figure" is a picture of a table. An "aggregator" is a website with the results of many papers. A "second-hand"
    value was quoted by other authors, and was not checked in the original paper. Second-hand values are listed, but
    never compared.
    """
    note: str = ""

    @property
    def quoted(self) -> str:
        """Source of the figure (`where`), followed by `note` in parentheses if `note` is not empty."""
        return f"{self.where} ({self.note})" if self.note else self.where


def of(benchmark: str) -> tuple[Figure, ...]:
    """Return the figures published for a benchmark, the highest value first; () if no figure is published.

    Figures of SG-IoU follow all other figures, again with the highest value first. Variants of a benchmark have the
    figures of the benchmark. For example, ade20k:150@catseg has the figures of ade20k:150.
    """
    base = class_lists.base(benchmark)
    matching = (figure for figure in figures() if figure.benchmark == base)
    return tuple(sorted(matching, key=lambda figure: (figure.convention.startswith("sg_"), -figure.miou)))


@functools.cache
def figures() -> tuple[Figure, ...]:
    """Return all published figures, in the order of figures.json."""
    content = _content()
    return tuple(Figure(*row, **content["sources"][source]) for *row, source in content["figures"])


def method(stage: str, variant: str) -> tuple[str, str] | None:
    """Return (method, backbone) for a stage with a variant; None if figures.json has no entry for the variant.

    For example, `method("san", "san_vit_b_16")` is ("SAN", "CLIP ViT-B/16").
    """
    return next((tuple(known) for *names, known in _content()["methods"] if names == [stage, variant]), None)


@dataclass(frozen=True)
class FreeFigure:
    """A figure from a publication about vocabulary-free methods.

    `method` is a vocabulary-free method, or another method that the publication lists for comparison. Two figures are
    comparable only if they have the same metric, setting and mapping.
    """

    method: str
    benchmark: str
    """name of the benchmark in this project; for other data sets, the name in the source"""
    value: float
    metric: str
    """name of the metric in the source"""
    setting: str
    """origin of the words that the method predicts, such as "vocabulary-free" or "open vocabulary (names given)"

    If only a part of the images was used, `setting` also names this part, such as "every 4th image".
    """
    mapping: str
    """rule by which words are mapped to classes; "none" if the method was given the class names"""
    kind: str
    """kind of the source: "log", "text", "abstract" or "note"

    A "text" is the full text of a paper, and an "abstract" is the abstract of a paper. A "note" is a summary of a paper
    by other people. A value from a note was not checked in the paper.
    """
    where: str
    """source of the figure"""


def vocabulary_free(benchmark: str | None = None) -> tuple[FreeFigure, ...]:
    """Return the figures of vocabulary_free.json for a benchmark, or for all benchmarks.

    The figures are sorted by benchmark, metric, setting and mapping, then by value, the highest first.
    """
    rows = json.loads((Path(__file__).parent / "vocabulary_free.json").read_text("utf-8"))
    every = (FreeFigure(*row) for row in rows)
    base = benchmark and class_lists.base(benchmark)
    matching = (figure for figure in every if base in (None, figure.benchmark))
    return tuple(sorted(matching, key=lambda row: (row.benchmark, row.metric, row.setting, row.mapping, -row.value)))


@functools.cache
def _content() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "figures.json").read_text("utf-8"))
