"""Published figures of methods, from papers, repositories and logs.

The file figures.json has values of mIoU, SG-IoU, instance_iou and instance_accuracy. The metrics
instance_iou and instance_accuracy are for methods that receive a prompt for each instance, such as a point. The file
vocabulary_free.json has figures of vocabulary-free methods. These figures are not comparable with an ordinary mIoU.

A method may have several figures for a benchmark. For example, two sources may give different figures, or one source
may give more digits.
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
    """"either", "unknown", or a metric of a report: miou, miou_classic, sg_miou_classic, fold_miou, fold_miou_hsnet,
    instance_iou, instance_accuracy.

    "either": miou and miou_classic are equal, since every class has pixels in the truth. "unknown": miou and
    miou_classic differ, and the source does not state which of the two its figure is.
    """
    where: str
    """source of the figure: repository@commit and file"""
    kind: str
    """kind of the source: "log", "README", "figure", "aggregator" or "second-hand"

    A "log" is the output of an evaluation. A "figure" is a picture of a table. An "aggregator" is a website that lists
    the results of many papers. A "second-hand" source is a summary by other people. The summary was not checked
    against the paper, so its values are listed, but never compared.
    """
    note: str = ""

    @property
    def quoted(self) -> str:
        """Source of the figure (`where`), followed by `note` in parentheses if `note` is not empty."""
        return f"{self.where} ({self.note})" if self.note else self.where


def of(benchmark: str) -> tuple[Figure, ...]:
    """Return the figures published for a benchmark, best first, SG-IoU last; empty if there are none.

    A benchmark and its variants have the same figures, since some sources state neither class names nor label files.
    For example, the variant ade20k:150@catseg with its own class names has the figures of ade20k:150. The variant
    pascal_context:59-json with its own label files has the figures of pascal_context:59.
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
    """Return the pair (method, backbone) for a stage with a variant, as named in figures.json.

    For example, the stage `san` with the variant `san_vit_b_16` gives ("SAN", "CLIP ViT-B/16"). If figures.json does
    not list the stage with this variant, return None.
    """
    return next((tuple(known) for *names, known in _content()["methods"] if names == [stage, variant]), None)


@dataclass(frozen=True)
class FreeFigure:
    """A published figure of a vocabulary-free method, or of another method in the same source.

    It is comparable only with figures of the same metric, setting and mapping, and never with an ordinary mIoU.
    """

    method: str
    benchmark: str
    """name of the benchmark in this project; for other data sets, the name in the source"""
    value: float
    metric: str
    """name of the metric in the source"""
    setting: str
    """origin of the words, and the subset of the images if not all were used"""
    mapping: str
    """rule by which words are mapped to classes; "none" if the method was given the class names"""
    kind: str
    """log, text (full text of the paper), abstract, or note (a summary by other people, not checked in the paper)"""
    where: str
    """source of the figure"""


def vocabulary_free(benchmark: str | None = None) -> tuple[FreeFigure, ...]:
    """Return the figures of vocabulary_free.json for a benchmark, or for all benchmarks.

    They are sorted by benchmark, metric, setting and mapping, then by value, the highest first.
    """
    rows = json.loads((Path(__file__).parent / "vocabulary_free.json").read_text("utf-8"))
    every = (FreeFigure(*row) for row in rows)
    base = benchmark and class_lists.base(benchmark)
    matching = (figure for figure in every if base in (None, figure.benchmark))
    return tuple(sorted(matching, key=lambda row: (row.benchmark, row.metric, row.setting, row.mapping, -row.value)))


@functools.cache
def _content() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "figures.json").read_text("utf-8"))
