"""Weights & Biases: a run of a project, on a server or in a folder.

`--track wandb:PROJECT` or `--track wandb:ENTITY/PROJECT` names the project. The default project is `ovss_ray`. First
run `wandb login`, or set WANDB_API_KEY.

With WANDB_MODE=offline, wandb sends nothing, but writes files into the subfolder `wandb` of the run folder. If the run
folder is not local, wandb writes the files into ./wandb. Run `wandb sync` to send the files later.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ovss_ray.engine.trackers import Tracked, plain
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.reports.documents.values import class_headings
from ovss_ray.reports.schema import Report

PACKAGE = "wandb"
INSTALL = "pip install 'ovss_ray[wandb]'"
PROJECT = "ovss_ray"


class Tracker:
    """Run of Weights & Biases. The config of this run has the settings and versions of the evaluation.

    In all charts, the x axis is the number of images.
    """

    def __init__(self, target: str, run: Tracked) -> None:
        import wandb

        entity, _, project = target.rpartition("/")
        local = "://" not in run.folder  # else wandb's own folder, ./wandb
        self._wandb = wandb
        self._run: Any = wandb.init(
            project=project or PROJECT,
            entity=entity or None,
            name=run.name,
            id=run.uid,
            resume="allow",
            dir=run.folder if local else None,
            config={"folder": run.folder, "identity": run.identity, **run.settings},
            settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
        )
        self._run.define_metric("images")
        self._run.define_metric("*", step_metric="images")
        self._images = 0
        self.where = self._run.url or self._run.dir

    def log(self, values: Mapping[str, float], images: int) -> None:
        """Log values together with the number of images."""
        self._images = images
        self._run.log({"images": images, **values})

    def finish(self, report: Report, values: Mapping[str, float], attachments: Sequence[Path]) -> None:
        """Log the final values. For each benchmark, also log a table with the values of each class.

        The files `attachments` are logged as one artefact.
        """
        scored = sum(benchmark.images.scored for benchmark in report.benchmarks.values())
        self.log(values, max(self._images, scored))
        self._run.summary.update(dict(values))
        for name, benchmark in report.benchmarks.items():
            headings = class_headings(benchmark)
            rows = [[score.name, *(getattr(score, key) for key in headings)] for score in benchmark.classes]
            table = self._wandb.Table(columns=["class", *headings.values()], data=rows)
            self._run.log({f"classes/{files.plain(name)}": table})
        artifact = self._wandb.Artifact(f"report-{self._run.id}", "report")
        for path in attachments:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self, finished: bool) -> None:
        """End the run, and wait until it is sent."""
        self._run.finish(exit_code=0 if finished else 1)


def check(target: str) -> None:
    """Raise OvssError unless `target` is empty, PROJECT or ENTITY/PROJECT."""
    if target.count("/") > 1 or "://" in target:
        raise OvssError(
            f"--track wandb:{plain(target)}: not a project. Type --track wandb:PROJECT or --track wandb:ENTITY/PROJECT."
            " To use a server of your own, run `wandb login --host URL`"
        )
