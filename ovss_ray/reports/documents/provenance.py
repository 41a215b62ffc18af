"""Origin of a run's numbers as text: versions, weights, intervals, command, pools and history."""

import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ovss_ray.config.run import RunConfig
from ovss_ray.io import files
from ovss_ray.reports import terminal
from ovss_ray.reports.documents import values
from ovss_ray.reports.schema import BenchmarkReport, Report
from ovss_ray.runs.folder import RunFolder


def facts(report: Report, config: RunConfig) -> str:
    """Return facts for a paper or an issue, one per line: coverage, weights, precision, intervals and versions."""
    run, packages = report.run, report.run.environment.get("packages", {})
    lines = [f"run {run.digest}, {'final' if report.final else 'not final'}"]
    lines += [line for name, benchmark in report.benchmarks.items() for line in _benchmark(name, benchmark)]
    for weights in run.environment.get("weights", ()):
        fake = " (FAKE WEIGHTS)" if weights["fake"] else ""
        lines.append(f"weights {PurePosixPath(str(weights['file'])).name}{fake}: sha256 {weights['sha256']}")
    lines += precisions(config)
    lines += [f"intervals of {name}: {words}" for name, words in intervals(report).items()]
    if not packages:
        return "\n".join([*lines, "versions: unknown, the run has no environment.json"])
    git = run.environment.get("git")
    lines.append(f"ovss_ray {packages.get('ovss_ray')}" + (f", commit {git}" if git else ""))
    lines.append(", ".join(f"{name} {version}" for name, version in packages.items() if name != "ovss_ray"))
    lines.append(f"Python {run.environment.get('python')}, {run.environment.get('platform')}")
    return "\n".join(lines)


def precisions(config: RunConfig) -> list[str]:
    """Return a line per stage with a network. The line states the precision, and that TensorFloat-32 is off.

    ovss_ray turns TensorFloat-32 off in every run.
    """
    stages = {stage.use: getattr(stage.settings(), "precision", None) for stage in config.stages()}
    return [
        f"precision of {stage}: {precision}, TensorFloat-32 (TF32) off"
        for stage, precision in stages.items()
        if precision
    ]


def _benchmark(name: str, benchmark: BenchmarkReport) -> list[str]:
    ids = benchmark.selection.ids
    lines = [f"{name}: split {values.selection(benchmark)}, images: {values.covered(benchmark)}"]
    if ids:
        lines.append(f"{name}: sha256 of the ids {ids.sha256}")
    if words := benchmark.words:
        lines.append(f"{name}: own words or templates of {words.file or 'the config'}, sha256 {words.sha256}")
    if benchmark.relations:
        lines.append(f"{name}: relations {benchmark.relations.file}, sha256 {benchmark.relations.sha256}")
    return lines


def intervals(report: Report) -> dict[str, str]:
    """Return benchmark → sentence on the method of its intervals, for benchmarks with intervals."""
    return {name: terminal.method(of.bootstrap) for name, of in report.benchmarks.items() if of.bootstrap}


def command(folder: RunFolder) -> str:
    """Return the `ovss evaluate` command that repeats a run with the same config, and another output folder."""
    return f"ovss evaluate {shlex.quote(files.absolute(folder.file('config.yaml')))} --out NEW_FOLDER"


def pools(config: RunConfig) -> list[tuple[str, ...]]:
    """Return a row per pool of the config: its stages, workers, CPUs, GPUs and batch."""
    rows: list[tuple[str, ...]] = []
    for pool in config.pools:
        workers = "{} to {}".format(*pool.workers) if isinstance(pool.workers, tuple) else str(pool.workers)
        rows.append(
            (" → ".join(stage.use for stage in pool.stages), workers, str(pool.cpus), str(pool.gpus), str(pool.batch))
        )
    return rows


def history(report: Report) -> list[tuple[str, ...]]:
    """Return a row per command in the run's folder, oldest first."""
    keys = ("begun", "ended", "seconds", "images", "failed", "deaths", "begun_again")
    return [tuple(_text(entry, key) for key in keys) for entry in report.run.history]


def _text(entry: Mapping[str, Any], key: str) -> str:
    return str(entry.get(key, values.NOT_MEASURED))
