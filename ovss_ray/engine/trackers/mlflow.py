"""MLflow: a run of the experiment `ovss_ray`, on a server or in a folder. The package mlflow-skinny is enough.

`--track mlflow:http://HOST:5000` names a server. `--track mlflow:databricks` names the server that MLflow knows by this
name. `--track mlflow:DIR` names a folder. `--track mlflow` uses the server or folder in MLFLOW_TRACKING_URI. If the
variable MLFLOW_EXPERIMENT_NAME is set, it is the name of the experiment.
"""

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ovss_ray.engine.trackers import Tracked
from ovss_ray.errors import OvssError
from ovss_ray.reports.documents.exports import tables
from ovss_ray.reports.schema import Report

PACKAGE = "mlflow"
INSTALL = "pip install 'ovss_ray[mlflow]'"
EXPERIMENT = "ovss_ray"
UID = "ovss_ray.uid"
"""Tag by which a resumed run is recognised."""
LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Environment variables that shorten the retries of MLflow's client. Variables that the user has set keep their values.

By default, the client retries for minutes."""
TOGETHER = 100
"""Largest number of parameters that MLflow accepts in one request."""
LETTERS = 6000
"""Largest number of characters of a parameter; longer values are cut."""
SERVER = re.compile(r"[\w.-]+:\d+(/.*)?")
"""Pattern of a server's address that lacks its scheme, such as localhost:5000."""
DATABRICKS = "databricks"
"""Name that MLflow itself resolves to a server."""
FOREIGN = re.compile(r"[^\w/.\- :]")
"""Pattern of a character that MLflow refuses in names, such as the * in "config.vocabulary.*".

The tracker sends _ instead of each refused character."""


class Tracker:
    """Run of MLflow. Config and versions are parameters, values are metrics whose step is the number of images."""

    def __init__(self, target: str, run: Tracked) -> None:
        for name, value in LIMITS.items():
            os.environ.setdefault(name, value)
        address = _address(target)
        if "://" not in address and address != DATABRICKS:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(address)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        earlier = self._client.search_runs([experiment], f"tags.`{UID}` = '{run.uid}'")
        if earlier:
            self._run = earlier[0].info.run_id
            self._client.update_run(self._run, "RUNNING")
        else:
            tags = {UID: run.uid, "ovss_ray.identity": run.identity, "ovss_ray.folder": run.folder}
            self._run = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
            params = [Param(FOREIGN.sub("_", key), str(value)[:LETTERS]) for key, value in run.settings.items()]
            for first in range(0, len(params), TOGETHER):
                self._client.log_batch(self._run, params=params[first : first + TOGETHER])
        self._images = 0
        self.where = f"{address}, experiment {name}, run {self._run}"

    def log(self, values: Mapping[str, float], images: int) -> None:
        """Send values as metrics."""
        from mlflow.entities import Metric

        self._images, now = images, int(time.time() * 1000)
        metrics = [Metric(FOREIGN.sub("_", name), value, now, images) for name, value in values.items()]
        for first in range(0, len(metrics), 1000):  # the most that MLflow takes at once
            self._client.log_batch(self._run, metrics=metrics[first : first + 1000])

    def finish(self, report: Report, values: Mapping[str, float], attachments: Sequence[Path]) -> None:
        """Send the final values, all values of the report as CSV, and the files as artefacts."""
        scored = sum(benchmark.images.scored for benchmark in report.benchmarks.values())
        self.log(values, max(self._images, scored))
        self._client.log_text(self._run, tables.csv(report), "report.csv")
        for path in attachments:
            self._client.log_artifact(self._run, str(path))

    def close(self, finished: bool) -> None:
        """End the run."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


def check(target: str) -> None:
    """Raise OvssError if neither the option nor the environment names a server or folder.

    The error is also raised for a server whose address lacks http:// or https://.
    """
    _address(target)


def _address(target: str) -> str:
    address = target or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address:
        raise OvssError(
            "--track mlflow: no server and no folder. Type --track mlflow:http://HOST:5000 or --track mlflow:DIR, or "
            "export MLFLOW_TRACKING_URI"
        )
    if SERVER.fullmatch(address):
        raise OvssError(
            f"--track mlflow:{address}: the address of a server must begin with http:// or https://. Type --track "
            f"mlflow:http://{address} for a server, or --track mlflow:./{address} for a folder of this name"
        )
    return address if "://" in address or address == DATABRICKS else str(Path(address).expanduser().absolute())
