"""Comparison of a run's values with published figures of the same method, if the run is comparable with them.

A run is comparable if it has the checkpoint, images, labels, class names and resolution of the published figures. The
results of the run must also be final (see BenchmarkReport.final). If a run is not comparable, the report gives the
reasons. The published figures are then listed without differences between them and the values of the run.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovss_ray.benchmarks import catalog
from ovss_ray.models import zoo
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.reports import published
from ovss_ray.reports.published import Figure
from ovss_ray.reports.schema import BenchmarkReport, Published, PublishedFigure

METRICS = {
    "either": "miou",
    "miou": "miou",
    "miou_classic": "miou_classic",
    "sg_miou_classic": "sg_miou_classic",
    "fold_miou": "fold_miou",
    "fold_miou_hsnet": "fold_miou_hsnet",
}
"""Convention of a published figure (see Figure.convention) → metric of a report."""
OTHER_LABELS = {f"pascal_context:{k}": f"pascal_context:{k}-json" for k in (59, 60)}
"""Benchmark whose labels differ from those of the published figures → benchmark with the labels of the figures."""
FIRST = {f"coco20i:{fold}": 1000 for fold in range(4)}
"""Benchmark → n, if the published figures cover only the first n images"""


def published_for(
    name: str, measured: BenchmarkReport, stages: Sequence[StageConfig], weights: Sequence[Mapping[str, Any]]
) -> Published | None:
    """Return the published figures of a run's method for a benchmark, each with the run's value of the same metric.

    `measured` has the run's results on the benchmark. `weights` is `environment["weights"]` in the report. If a figure
    is second-hand, its `difference` is None. Returns None if the run has several stages. Also returns None if no figure
    of the method is published for the benchmark.
    """
    variant = str(getattr(stages[0].settings(), "variant", "")) if len(stages) == 1 else ""
    known = published.method(stages[0].use, variant)
    figures = [figure for figure in published.of(name) if (figure.method, figure.backbone) == known]
    if known is None or not figures:
        return None
    reasons = (*_about_weights(variant, weights), *_about_images(name, measured), *_about_size(stages[0].settings()))
    return Published(
        method=known[0],
        backbone=known[1],
        not_comparable=reasons,
        checkpoint="" if reasons else _trust(variant),
        figures=tuple(_compared(figure, measured.metrics, not reasons) for figure in figures),
    )


def _compared(figure: Figure, metrics: Mapping[str, float | None], comparable: bool) -> PublishedFigure:
    metric = METRICS.get(figure.convention)
    value = metrics.get(metric) if metric else None
    comparable = comparable and figure.kind != published.SECOND_HAND
    difference = value - figure.miou if comparable and value is not None else None
    return PublishedFigure(
        miou=figure.miou,
        convention=figure.convention,
        kind=figure.kind,
        where=figure.quoted,
        metric=metric,
        measured=value,
        difference=difference,
    )


def _about_weights(variant: str, used: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield texts for `Published.not_comparable` if the weights are not known to be the published checkpoint.

    If the authors publish a SHA-256 of the checkpoint, the weights must have this SHA-256. If the authors publish no
    SHA-256, the weights must have the file name of the published checkpoint.
    """
    theirs = zoo.weights_of(variant)
    if not theirs.file:
        yield f"no checkpoint of {variant} is published"
    if not used:
        yield "the run did not record its weights"
    for weights in used:
        same = weights["sha256"] == theirs.sha256 if theirs.sha256 else Path(weights["file"]).name == theirs.file
        if weights["fake"]:
            yield f"{weights['file']} holds made-up values"
        elif theirs.file and not same:
            yield f"{weights['file']} is not the published {theirs.file}"


def _trust(variant: str) -> str:
    """Return a sentence on how the checkpoint was recognised as the published one."""
    theirs = zoo.weights_of(variant)
    known = "its sha256" if theirs.sha256 else f"its name {theirs.file} alone: its authors give no sha256"
    return f"taken for the published checkpoint by {known}"


def _about_images(name: str, measured: BenchmarkReport) -> Iterator[str]:
    """Yield texts for `Published.not_comparable` about images, labels, class names, templates and missing results."""
    split, images = measured.selection.split, measured.images
    known, words = catalog.load(name), name.partition("@")[2]
    if split != known.split:
        yield f"the published figures are of the split {known.split}, and this run is of {split}"
    elif measured.selection.ids or images.expected != FIRST.get(name, known.counts[split]):
        advice = f"; published are the first {FIRST[name]}: add --limit {FIRST[name]}" if name in FIRST else ""
        yield f"{images.expected} of the {known.counts[split]} images were requested{advice}"
    if not measured.final:
        yield f"{images.scored} of {images.expected} images have a result"
    if name in OTHER_LABELS:
        yield f"the published figures are of other labels: evaluate {OTHER_LABELS[name]}"
    if words:
        yield f"the class names are those of {words}, not the published ones"
    if measured.words:
        yield "the class names or templates are those of the user, not the published ones"


def _about_size(settings: object) -> Iterator[str]:
    """Yield a text for `Published.not_comparable` if a stage's settings have a `resolution` other than "original"."""
    if getattr(settings, "resolution", "original") != "original":
        yield "the published figures are scored at original resolution"
