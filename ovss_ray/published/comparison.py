"""A run's mIoU beside the published ones: which method the run is, and whether the two may be compared.

A run is a published method if its config has one stage alone, and figures.json names that stage and its `variant` among
its "methods": `san` with `san_vit_b_16` is SAN with CLIP ViT-B/16. Nothing is published of what the other stages and
variants make: the presets of SAM and AlphaCLIP, the small networks trained here, label maps of other systems.

What was published was measured on all images of a benchmark's own split, with the published checkpoint, by the names of
the classes that our benchmark has without an @. A run of anything else is shown the figures, with what is otherwise in
the place of a difference.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ovss_ray import published
from ovss_ray.datasets import benchmark as benchmarks
from ovss_ray.published import Figure
from ovss_ray.stage import StageConfig
from ovss_ray.weights import WEIGHTS

METRICS = {"either": "miou", "miou": "miou", "miou_classic": "miou_classic"}
"""The convention of a figure → the metric of a report that has the same."""
OTHER_LABELS = {f"pascal_context:{k}": f"pascal_context:{k}-json" for k in (59, 60)}
"""Benchmarks whose labels are not those that the methods compared here were scored by → the one that has them."""


def beside(
    name: str, measured: Mapping[str, Any], stages: Sequence[StageConfig], weights: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Set the published figures of a run's method for a benchmark beside what its report says; None if there are none.

    `measured` is the benchmark's part of the report, `weights` the files that the report's environment names. A
    `difference` is measured minus published, in points of mIoU under the figure's own convention; it is null where the
    convention is unknown, or for the reasons in `not_comparable`.
    """
    variant = str(getattr(stages[0].settings(), "variant", "")) if len(stages) == 1 else ""
    known = published.method(stages[0].use, variant)
    figures = [figure for figure in published.of(name) if (figure.method, figure.backbone) == known]
    if known is None or not figures:
        return None
    reasons = [*_about_weights(variant, weights), *_about_images(name, measured)]
    return {
        "method": known[0],
        "backbone": known[1],
        "not_comparable": reasons,
        "checkpoint": "" if reasons else _trust(variant),
        "figures": [_one(figure, measured["metrics"], not reasons) for figure in figures],
    }


def _one(figure: Figure, metrics: Mapping[str, float | None], comparable: bool) -> dict[str, Any]:
    metric = METRICS.get(figure.convention)
    value = metrics[metric] if metric else None
    difference = value - figure.miou if comparable and value is not None else None
    told = {"miou": figure.miou, "convention": figure.convention, "kind": figure.kind, "where": figure.where}
    return {**told, "metric": metric, "measured": value, "difference": difference}


def _about_weights(variant: str, used: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Why the weights are not the published ones: by their sha256, or where none is published, by their name."""
    theirs = WEIGHTS[variant]
    if not used:
        yield "nothing says which weights these were"
    for one in used:
        if one["fake"]:
            yield f"{one['file']} holds made-up values"
        elif one["sha256"] != theirs.sha256 if theirs.sha256 else Path(one["file"]).name != theirs.file:
            yield f"{one['file']} is not the published {theirs.file}"


def _trust(variant: str) -> str:
    """What says that the checkpoint is the published one."""
    theirs = WEIGHTS[variant]
    known = "its sha256" if theirs.sha256 else f"its name {theirs.file} alone: its authors give no sha256"
    return f"taken for the published checkpoint by {known}"


def _about_images(name: str, measured: Mapping[str, Any]) -> Iterator[str]:
    """Why the images or the question are not those of the published figures."""
    asked, images = measured["selection"]["split"], measured["images"]
    known, words = benchmarks.load(name), name.partition("@")[2]
    if asked != known.split:
        yield f"published are figures of the split {known.split}, and this is {asked}"
    elif images["expected"] != known.counts[asked]:
        yield f"{images['expected']} of the {known.counts[asked]} images were asked for"
    if not measured["final"]:
        yield f"{images['scored']} of {images['expected']} images have a result"
    if name in OTHER_LABELS:
        yield f"the published figures are of other labels: evaluate {OTHER_LABELS[name]}"
    if words:
        yield f"the classes are asked for in the words of {words}"
