"""Evaluate a method from Python: `ovss_ray.evaluate`. Torch and Ray are imported by the call, not with this module."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from ovss_ray.engine import trackers
from ovss_ray.engine.cluster.ray_internals import prepare_import
from ovss_ray.engine.display import listener
from ovss_ray.engine.interrupts import held
from ovss_ray.engine.progress import Progress
from ovss_ray.engine.trackers import Choice
from ovss_ray.errors import OvssError
from ovss_ray.reports.schema import Report
from ovss_ray.runs.plan import RunPlan
from ovss_ray.runs.sources import Overrides, Source, Words, plan_runs


def evaluate(
    config: Source,
    benchmarks: str | Sequence[str] | None = None,
    *,
    data_root: str | Path | None = None,
    out: str | Path | None = None,
    split: str | None = None,
    ids: str | Path | None = None,
    limit: int | None = None,
    exact: bool = False,
    relations: str | Path | None = None,
    vocabulary: Words | None = None,
    wait_for: str | None = None,
    overrides: Overrides = (),
    progress: bool | Progress = False,
    track: str | Sequence[str] = (),
) -> Report:
    """Evaluate a method on benchmarks. Repeat the call to score the images that have no result yet.

    `config`: name of a shipped config, YAML file, dict of config values, or RunConfig. `data_root`: folder of the data
    sets; default $OVSS_DATA. `out`: folder of the run; by default, a folder in runs/. `split`: name of the split, such
    as "val"; by default, the config's split, or else the benchmark's default split. `ids`: file with one image id per
    line. `limit`: number of images of each benchmark. `exact`: bit-identical records in every run, but slower.
    `relations`: file of class relations, for SG-IoU. `vocabulary`: your words in place of the classes, such as
    ["road", "car"] (docs/own_words.md). `wait_for`: cluster size to wait for, such as "gpus=8,nodes=2". `overrides`:
    options, such as {"san.precision": "bf16"}. `progress`: True for a display, or your own Progress object. `track`:
    trackers, such as "tensorboard" (docs/tracking.md).

    Raises OvssError for invalid arguments or data, if `out` belongs to another run, and if the run stops early. Images
    that fail raise no exception (see `Report.lacking`).

    Example: `evaluate("san_tiny", "scenes:seen", limit=8).benchmarks["scenes:seen"].metrics["miou"]` is in percent.
    """
    selection = {"data_root": data_root, "split": split, "ids": ids, "limit": limit, "exact": exact or None}
    words = {"relations": relations, "vocabulary": vocabulary}
    plans = plan_runs(config, out, overrides, {"benchmarks": benchmarks, "wait_for": wait_for, **words, **selection})
    if len(plans) > 1:
        names = f"{len(plans)} configs: {', '.join(plans)}"
        raise OvssError(f"evaluate runs one config; {config} lists {names}. Pass one name, or call ovss_ray.compare")
    return dict(run(plans, listener(progress), trackers.parse(track))).popitem()[1]


def run(plans: Mapping[str, RunPlan], progress: Progress, track: Sequence[Choice] = ()) -> Iterator[tuple[str, Report]]:
    """Check a few images of all plans. Then execute each plan in Ray, and yield the plan's name and report.

    `track`: trackers that receive each report. Raises OvssError if a check fails or a run stops early.
    """
    from ovss_ray.dataprep import check

    for plan in {tuple(plan.manifests): plan for plan in plans.values() if plan.config.check}.values():
        for note in check.ahead(plan.benchmarks, plan.manifests):
            progress.say(note)
    prepare_import()
    with held():
        from ovss_ray.engine import evaluate as engine  # only now: Ray takes seconds, and a wrong config should not
        from ovss_ray.engine.cluster import connection
        from ovss_ray.engine.pools import local
    with ExitStack() as stack:
        if len(plans) > 1:  # a single run connects after its own checks
            stack.enter_context(connection.connect())
            stack.enter_context(local.reused())
        for name, plan in plans.items():
            yield name, trackers.tracked(plan.folder, progress, track, partial(engine.run, plan))
