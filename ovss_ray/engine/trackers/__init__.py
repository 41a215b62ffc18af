"""Experiment trackers, one module each: Weights & Biases, MLflow, TensorBoard, or a module of your own.

In `--track NAME:TARGET`, NAME is a module of this package, or the dotted name of your own module. The module defines

    PACKAGE     name of the Python package that the tracker imports, such as "wandb"
    INSTALL     command that installs this package
    Tracker     class that implements the protocol Tracker
    check       optional: function that gets TARGET before the run starts, and raises OvssError if TARGET is invalid

A tracker runs in a separate process, so a tracker cannot delay or end a run. The module of a tracker must not import
Ray or other trackers.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ovss_ray import registry
from ovss_ray.engine.progress import Progress, Relay
from ovss_ray.engine.trackers._process import Process
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.reports.report import TRACKING
from ovss_ray.reports.schema import Report
from ovss_ray.runs.folder import RunFolder
from ovss_ray.runs.plan import RunPlan

PACKAGE = "ovss_ray.engine.trackers"
EVERY = 10.0
"""Seconds between two messages with provisional values."""
WAIT = 60.0
"""Maximum seconds that a finished run waits for the trackers to send their remaining values."""
ATTACHED = ("report.json", "report.html")
"""Files of a run's folder that a tracker may attach, if they exist."""
USERINFO = re.compile(r"(?<=://)[^/\s]*@")  # a password may contain an @
"""Pattern of `user:password@` in an address. Messages and reports show addresses without this part."""


@dataclass(frozen=True)
class Tracked:
    """Facts about a run that a tracker records at the beginning of the run."""

    name: str
    """last part of the run's folder"""
    uid: str
    """id of the run for trackers, twelve hex digits; a resumed run has the same id"""
    folder: str
    """folder of the run, an absolute path or an address"""
    identity: str
    """digest of the run's identity, twelve hex digits, as in the report (Run.digest)"""
    settings: Mapping[str, Any]
    """config and versions, such as {"config.exact": false, "packages.ray": "2.60.0"}; nested keys are joined by dots"""


class Tracker(Protocol):
    """Connection to one run of an experiment tracker."""

    where: str
    """address or folder at which the user can view the run"""

    def __init__(self, target: str, run: Tracked) -> None:
        """Connect, and record the facts in `run`.

        `target`: TARGET in `--track NAME:TARGET`; "" if the option is `--track NAME`.
        """

    def log(self, values: Mapping[str, float], images: int) -> None:
        """Record provisional values, such as "provisional/camvid/miou". `images`: number of images evaluated so far."""

    def finish(self, report: Report, values: Mapping[str, float], attachments: Sequence[Path]) -> None:
        """Record the results of a finished run.

        `report`: report of the run, for example for a table with the values of each class. `values`: name → final
        value, such as "final/camvid/miou". `attachments`: local copies of files such as report.json.
        """

    def close(self, finished: bool) -> None:
        """End the connection. `finished`: False for a run that was interrupted."""


@dataclass(frozen=True)
class Choice:
    """A tracker and its target, as in the option `--track mlflow:http://localhost:5000`."""

    name: str
    target: str

    def __str__(self) -> str:
        return plain(f"{self.name}:{self.target}" if self.target else self.name)


def plain(text: str) -> str:
    """Return a text without the user names and passwords in its addresses."""
    return USERINFO.sub("", text)


def parse(options: str | Sequence[str]) -> tuple[Choice, ...]:
    """Return one Choice for each distinct value of the option `--track`.

    Raises OvssError for an unknown tracker, a missing package, or an invalid target.
    """
    listed = (options,) if isinstance(options, str) else options
    pairs = [option.partition(":") for option in dict.fromkeys(listed)]
    choices = tuple(Choice(name, target) for name, _, target in pairs)
    for choice in choices:
        package = registry.find(PACKAGE, choice.name, "PACKAGE")
        if not registry.exists(package):
            install = registry.find(PACKAGE, choice.name, "INSTALL")
            raise OvssError(f"--track {choice}: the package {package} is not installed. To install it, run `{install}`")
        if (check := registry.find(PACKAGE, choice.name, "__dict__").get("check")) is not None:
            check(choice.target)
        registry.find(PACKAGE, choice.name, "Tracker")
    return choices


class Tracking(Relay):
    """Listener that sends provisional values of a run to trackers.

    During the run, at least EVERY seconds pass between two messages. If a tracker fails, one warning is shown. The run
    goes on, and the report names the fault.
    """

    def __init__(self, inner: Progress, folder: RunFolder, choices: Sequence[Choice]) -> None:
        super().__init__(inner)
        self.folder, self.choices = folder, choices
        self.processes: dict[str, Process] = {}
        self.warned: set[str] = set()
        self.sent = 0.0

    def start(self) -> None:
        """Start a process for each tracker."""
        for choice in self.choices:
            first = {"name": choice.name, "target": choice.target, "folder": self.folder.uri}
            self.processes[str(choice)] = Process(first)

    @contextmanager
    def watch(self, plan: RunPlan, todo: pa.Table) -> Iterator[None]:
        """Start the trackers, and watch the run."""
        self.start()
        with super().watch(plan, todo):
            yield

    def changed(self) -> None:
        """Send the provisional values if at least EVERY seconds have passed since the previous message."""
        if time.monotonic() - self.sent >= EVERY:
            self._send()

    def finish(self, report: Report) -> Report:
        """Send the final values to the trackers, and return the report with the trackers' faults.

        Wait at most WAIT seconds until the trackers have sent all values. The returned report is also written to the
        run's folder.
        """
        if self.total:
            self._send()
        for process in self.processes.values():
            process.finish()
        deadline = time.monotonic() + WAIT
        for name, process in self.processes.items():
            process.wait(max(0.0, deadline - time.monotonic()))
            if process.where:
                self.say(f"tracked by {name}: {plain(process.where)}")
        self._warn("")
        faults = {name: plain(process.fault) for name, process in self.processes.items()}
        self.folder.save_json(TRACKING, self.folder.json(TRACKING) | faults)
        run = report.run.model_copy(update={"tracking": {**report.run.tracking, **faults}})
        report = report.model_copy(update={"run": run})
        report.save(self.folder)
        return report

    def end(self) -> None:
        """End the trackers' processes. A tracker that has not received the report marks the run as interrupted."""
        for process in self.processes.values():
            process.close()  # all of them at once, then wait for each
        for process in self.processes.values():
            process.end()

    def _send(self) -> None:
        self.sent = time.monotonic()
        for process in self.processes.values():
            process.send({"log": provisional(self), "images": self.done})
        self._warn(". The run goes on")

    def _warn(self, end: str) -> None:
        for name, process in self.processes.items():
            if process.fault and name not in self.warned:
                self.warned.add(name)
                self.say(f"--track {name}: {plain(process.fault)}{end}")


def tracked(folder: RunFolder, progress: Progress, choices: Sequence[Choice], work: Callable[..., Report]) -> Report:
    """Evaluate a run with the function `work`. Send the values and the report to trackers, and return the report.

    `choices` are the trackers. If there are no trackers, call `work(progress)`. Otherwise, call
    `work(listener, conclude)`.

    `listener` passes all calls on to `progress`, and sends values to the trackers. Before `work` releases the run
    folder, `work` must call `conclude(report)`. The function `conclude` sends the report to the trackers, and
    returns a new report with the trackers' faults. `work` must return this new report.
    """
    if not choices:
        return work(progress)
    listener = Tracking(progress, folder, choices)
    try:
        return work(listener, listener.finish)
    finally:
        listener.end()


def send(folder: RunFolder, report: Report, choices: Sequence[Choice], progress: Progress) -> Report:
    """Send the report of a finished run to trackers. Return the report with the trackers' faults."""
    listener = Tracking(progress, folder, choices)
    listener.start()
    try:
        return listener.finish(report)
    finally:
        listener.end()


def provisional(counts: Relay) -> dict[str, float]:
    """Return the values of a run in progress by name, such as "provisional/camvid/miou"."""
    values: dict[str, float] = {
        "images/done": counts.done,
        "images/failed": counts.failed,
        "workers/deaths": counts.deaths,
    }
    if counts.rate is not None:
        values["images/per_second"] = counts.rate
    images = max(1, counts.done - counts.earlier)
    values |= {f"seconds/{stage}": spent / images for stage, spent in counts.sums.seconds.items()}
    for value in counts.sums.values():
        name = f"provisional/{files.plain(value.benchmark)}/{value.key}"
        values |= {name: value.percent} | ({} if value.half is None else {f"{name}_half": value.half})
    return {name: float(value) for name, value in values.items() if not np.isnan(value)}


def final(report: Report) -> dict[str, float]:
    """Return the values of a report by name, such as "final/camvid/miou".

    The ends of a bootstrap interval have names such as "final/camvid/miou_low" and "final/camvid/miou_high".
    """
    values: dict[str, float | None] = {}
    for benchmark, of in report.benchmarks.items():
        name = f"final/{files.plain(benchmark)}"
        values |= {f"{name}/images_{key}": getattr(of.images, key) for key in ("expected", "scored", "failed")}
        values |= {f"{name}/{key}": value for key, value in of.metrics.items()}
        for key, (low, high) in (of.bootstrap.metrics if of.bootstrap else {}).items():
            values |= {f"{name}/{key}_low": low, f"{name}/{key}_high": high}
    for family, means in report.folds.items():
        values |= {f"final/{family}/{key}": value for key, value in means.items()}
    return {name: float(value) for name, value in values.items() if value is not None}
