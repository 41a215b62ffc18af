"""Compare runs from Python: `ovss_ray.compare`. Rebuild the report of a run from its records."""

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from ovss_ray import metrics as further
from ovss_ray.api import evaluation
from ovss_ray.config.shipped import find_config
from ovss_ray.engine import trackers
from ovss_ray.engine.display import listener
from ovss_ray.engine.progress import Progress
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.io import files
from ovss_ray.reports import paired, subsets, totals
from ovss_ray.reports import report as reports
from ovss_ray.reports.paired import Paired
from ovss_ray.reports.schema import Report
from ovss_ray.reports.totals import Reading
from ovss_ray.runs import changes
from ovss_ray.runs import relations as relating
from ovss_ray.runs.folder import RunFolder
from ovss_ray.runs.plan import RunPlan
from ovss_ray.runs.sources import Overrides, Words, plan_runs


class Selection(TypedDict, total=False):
    """Keyword arguments of `evaluate` that replace values of a config. None keeps the config's value."""

    benchmarks: str | Sequence[str] | None
    data_root: str | Path | None
    split: str | None
    ids: str | Path | None
    limit: int | None
    exact: bool | None
    relations: str | Path | None
    vocabulary: Words | None
    wait_for: str | None


def compare(
    *runs: str | Path,
    out: str | Path | None = None,
    overrides: Overrides = (),
    progress: bool | Progress = False,
    track: str | Sequence[str] = (),
    **selection: Unpack[Selection],
) -> dict[str, Report]:
    """Return the reports of several runs by name, in the order of the arguments.

    Each of `runs` is the folder of a run, the name of a shipped config, or a config file. The report of a folder is
    rebuilt from its records. Each config is evaluated, in a folder inside `out` if `out` is set. The keyword arguments
    are those of `evaluate`. Of `selection`, only `relations` applies to folders of runs.

    Raises OvssError for fewer than two runs, or for a repeated run. Raises OvssError if `track` is set and one of
    `runs` is a folder. For configs, also raises OvssError in the same cases as `evaluate`.

    Example: `compare("runs/first", "runs/second")["runs/first"].benchmarks["camvid"].metrics["miou"]` is in percent.
    """
    shown, choices = listener(progress), trackers.parse(track)
    targets: list[tuple[str, RunFolder | RunPlan]] = []
    for run in runs:
        below = files.join(out, Path(run).stem) if out and len(runs) > 1 else out
        targets += _targets(run, below, overrides, selection)
    check_names([name for name, _ in targets])
    if choices and (folders := [name for name, target in targets if isinstance(target, RunFolder)]):
        raise OvssError(
            f"track: {folders[0]} is the folder of a finished run. Trackers receive only runs that `compare` "
            f"evaluates from configs. To send the finished run, run `ovss report {folders[0]} --track {choices[0]}`"
        )
    plans = {name: target for name, target in targets if isinstance(target, RunPlan)}
    evaluated = dict(evaluation.run(plans, shown, choices)) if plans else {}
    return {
        name: rebuild(target, shown, relations=selection.get("relations"))[0]
        if isinstance(target, RunFolder)
        else evaluated[name]
        for name, target in targets
    }


def check_names(names: Sequence[str]) -> None:
    """Raise OvssError if there are fewer than two runs, or if two of them have the same name or path."""
    places = {name: os.path.realpath(name) if "://" not in name else name.rstrip("/") for name in names}
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise OvssError(f"{repeated[0]} is listed twice. Pass at least two different runs, each of them once")
    if len(names) < 2:
        listed = ", ".join(names) or "none"
        raise OvssError(f"compare needs at least two different runs; found: {listed}. Pass more folders or configs")
    for name, place in places.items():
        if same := [other for other in places if other != name and places[other] == place]:
            raise OvssError(f"{name} and {same[0]} are the same run. Pass at least two different runs")


def differences(first: str | Path, *others: str | Path) -> dict[tuple[str, str], Paired]:
    """Return (run, benchmark) → paired differences of this run minus the first run, in percentage points.

    The arguments are folders of runs. If two runs cannot be compared on a benchmark, `Paired.refused` has the reason.
    Raises OvssError for fewer than two runs, for a repeated run, and for a folder that is incomplete or damaged.

    Example: `differences("runs/a", "runs/b")["runs/b", "camvid"].values["miou"].p` is the p-value of b minus a.
    """
    names = [str(first), *map(str, others)]
    check_names(names)
    return paired_with_first({name: totals.read(RunFolder(name), cells=True) for name in names})


def paired_with_first(readings: Mapping[str, Mapping[str, Reading]]) -> dict[tuple[str, str], Paired]:
    """Return (run, benchmark) → paired differences of this run minus the first run (see `differences`).

    `readings`: run → benchmark → Reading. Each Reading has confusion cells, which are the nonzero cells of each image's
    confusion matrix (see totals.read).
    """
    (of_first, first), *others = readings.items()
    return {
        (name, benchmark): paired.compare(first[benchmark], other[benchmark])
        if benchmark in first and benchmark in other
        else Paired(f"only {of_first if benchmark in first else name} has this benchmark: evaluate it in both runs")
        for name, other in others
        for benchmark in dict.fromkeys((*first, *other))
    }


def rebuild(
    folder: RunFolder,
    progress: Progress,
    images: bool = False,
    relations: str | Path | None = None,
    cells: bool = True,
    bounds: bool = True,
    metrics: Sequence[str] = (),
    needed: Collection[str] = (),
) -> tuple[Report, dict[str, Reading]]:
    """Rebuild the report of a run from its records, and write the report to the folder of the run.

    Warn if photographs or label files have changed since the run listed them.

    Return the report, and benchmark → Reading. `images`: keep the values of single images. `relations`: file of class
    relations, for SG-IoU. `cells`: keep the confusion matrices of single images, as nonzero cells. `bounds`: compute
    confidence intervals from these cells. `metrics`: further metrics, such as "mmseg". `needed`: benchmarks that must
    have cells.

    Raises OvssError if `folder` has no run, if the run has not begun, or if `relations` or `metrics` are invalid.
    Raises OvssError if a benchmark in `needed` has no cells, or if `images` is True for a compact run.
    """
    if relations is not None:
        relating.save(folder, relating.read(relations, folder.labels()))
    requested = further.requested(metrics)
    readings = totals.read(folder, images=images, cells=cells)
    readings = {name: replace(reading, requested=requested) for name, reading in readings.items()}
    if images:
        totals.check_images(readings, "--images")
    subsets.check_kept(readings, needed)
    report = reports.assemble(folder, readings, bounds)
    for doubt in changes.doubts(folder, {name: reading.listed for name, reading in readings.items()}):
        progress.say(doubt)
    return report, readings


def _targets(
    run: str | Path, out: str | Path | None, overrides: Overrides, selection: Any
) -> list[tuple[str, RunFolder | RunPlan]]:
    """Return (name, folder) for the folder of a run, or (name, plan) for each run of a config.

    Raises OvssError if `run` is neither the folder of a run nor a config, or if the config is invalid.
    """
    if files.exists(files.join(run, "config.yaml")):
        return [(str(run), RunFolder(str(run)))]
    try:
        find_config(str(run))
    except UnknownName as failure:
        raise OvssError(
            f"{run}: not the folder of a run (there is no config.yaml in it), and not a config: {failure}"
        ) from None
    return list(plan_runs(run, out, overrides, selection).items())
