"""Tracker that sends values to a server of MLflow, or writes them into a folder.

The package mlflow-skinny is enough. The option `--track` names the server or folder:

    --track mlflow:http://HOST:5000     a server
    --track mlflow:databricks           the server that MLflow knows by this name
    --track mlflow:DIR                  a folder
    --track mlflow                      the server or folder in the variable MLFLOW_TRACKING_URI

The variable MLFLOW_EXPERIMENT_NAME sets the name of the experiment. The default is `ovss_ray`.
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
# By default, MLflow's client retries for minutes.
LIMITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Environment variables that make MLflow's client give up sooner. A variable that the user has set keeps its value."""
TOGETHER = 100
"""Largest number of parameters that MLflow accepts in one request."""
LETTERS = 6000
"""Largest number of characters of a parameter; longer values are cut."""
SERVER = re.compile(r"[\w.-]+:\d+(/.*)?")
"""Pattern of a server's address that lacks its scheme, such as localhost:5000."""
DATABRICKS = "databricks"
"""Name that MLflow itself resolves to a server."""
FOREIGN = re.compile(r"[^\w/.\- :]")
"""Pattern of a character that MLflow refuses in names, such as the * in "config.vocabulary.*"."""


class Tracker:
    """Run of MLflow. The config and versions of the evaluation become parameters of this run.

    Values of the evaluation become metrics. The step of a metric is the number of images.
    """

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
        """Send the final values as metrics, and files as artefacts.

        The files are the `attachments` and report.csv, which contains all values of the report.
        """
        scored = sum(benchmark.images.scored for benchmark in report.benchmarks.values())
        self.log(values, max(self._images, scored))
        self._client.log_text(self._run, tables.csv(report), "report.csv")
        for path in attachments:
            self._client.log_artifact(self._run, str(path))

    def close(self, finished: bool) -> None:
        """End the run."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


def check(target: str) -> None:
    """Raise OvssError for an empty target if MLFLOW_TRACKING_URI is not set.

    Also raise OvssError for a server's address without http:// or https://, such as localhost:5000.
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
