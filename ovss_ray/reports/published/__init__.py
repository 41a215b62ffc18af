"""Published figures: mIoU, SG-IoU and values of instances in papers, repositories and logs, as in figures.json.

Figures of vocabulary-free methods are in vocabulary_free.json, since no ordinary mIoU is comparable with them.

One method may have several figures for one benchmark, if sources differ or one source gives more digits.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovss_ray.benchmarks import class_lists

SECOND_HAND = "second-hand"
"""Kind of a figure that is quoted by others and was not checked against its source."""


@dataclass(frozen=True)
class Figure:
    """One published mIoU, mean SG-IoU, or value of prompted instances."""

    method: str
    backbone: str
    benchmark: str
    """name of the benchmark in this project"""
    miou: float
    """percent, with the digits that the source prints; mIoU, or the value that the convention names"""
    convention: str
    """"either", "unknown", or a metric of a report: miou, miou_classic, sg_miou_classic, fold_miou, fold_miou_hsnet,
    instance_iou, instance_accuracy.

    "either": the two metrics are equal, since every class has pixels in the truth. "unknown": the two metrics differ,
    and the source does not say which of them it gives.
    """
    where: str
    """source of the figure: repository@commit and file"""
    kind: str
    """log, README, figure (a table that is a picture), aggregator or second-hand

    aggregator: a listing by others than the authors. second-hand: a summary by others, not checked against the source;
    such a figure is listed, but never compared.
    """
    note: str = ""

    @property
    def quoted(self) -> str:
        """Repository and file, with the note in brackets."""
        return f"{self.where} ({self.note})" if self.note else self.where


def of(benchmark: str) -> tuple[Figure, ...]:
    """Return the figures published for a benchmark, best first, SG-IoU last; empty if there are none.

    Sources do not always state their class names, so ade20k:150@catseg has the figures of ade20k:150. Nor do they
    always state their label files, so pascal_context:59-json has the figures of pascal_context:59.
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
    """Return method and backbone, as published, of a stage with this `variant`; None if no figures are published."""
    return next((tuple(known) for *names, known in _content()["methods"] if names == [stage, variant]), None)


@dataclass(frozen=True)
class FreeFigure:
    """One published figure of a method that finds its own words, or of its comparison in the same source.

    It is comparable only with figures of the same metric, setting and mapping, and never with an ordinary mIoU.
    """

    method: str
    benchmark: str
    """name of the benchmark in this project, or the source's name of another data set"""
    value: float
    metric: str
    """metric in the words of the source"""
    setting: str
    """origin of the words, and the images if they are not all"""
    mapping: str
    """mapping of words to classes; "none" if class names were given"""
    kind: str
    """log, text (full text of the paper), abstract, or note: notes of others on a paper whose tables were not seen"""
    where: str
    """source of the figure"""


def vocabulary_free(benchmark: str | None = None) -> tuple[FreeFigure, ...]:
    """Return the figures of methods without given class names, for a benchmark or for all, grouped by setting."""
    rows = json.loads((Path(__file__).parent / "vocabulary_free.json").read_text("utf-8"))
    every = (FreeFigure(*row) for row in rows)
    base = benchmark and class_lists.base(benchmark)
    matching = (figure for figure in every if base in (None, figure.benchmark))
    return tuple(sorted(matching, key=lambda row: (row.benchmark, row.metric, row.setting, row.mapping, -row.value)))


@functools.cache
def _content() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "figures.json").read_text("utf-8"))
