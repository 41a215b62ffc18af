"""Functions that use Ray's private, internal or unstable APIs, and a table of all uses in this project.

If a Ray release lacks an API, a run still works, with the consequence in the last column. If the installed release
lacks an API, a test in tests/engine/cluster/test_ray_internals.py fails.

| API of Ray | kind in Ray 2.60 | used in | consequence if a release lacks it |
|---|---|---|---|
| `ray._private.worker._global_node` | private | own_node | a run assumes that nodes may join its local cluster |
| `Node.is_head` | private | own_head | a run assumes that nodes may join its local cluster |
| status of the autoscaler | private | autoscaler | runs wait for nodes only with --wait-for |
| `Node.start_log_monitor`, `start_api_server`, `start_monitor` | private | lean_start | unneeded processes run |
| `get_dashboard_dependency_error` | private | lean_start | Ray's agent of the node has a web server |
| `Node` objects in tracebacks | private | failed_node | less specific error if Ray does not start |
| `Node._logs_dir` | private | log_folder | less specific error if Ray does not start |
| `Node.all_processes`, `kill_all_processes` | private | daemons, end_node | daemons are found by their names |
| environment variables RAY_… | internal | SETTINGS, SERVING, BEFORE_IMPORT, TRIES | slower, more lines printed |
| RAY_JOB_CONFIG_JSON_ENV_VAR | internal | runs.plan.JOB | a job's runtime environment is merged with the run's |
| `get_ray_address_file` | private | address_file | the path in Ray 2.60 is used |
| fields of DataContext | DeveloperAPI | quiet_data, keep_pool_undivided | slower, more lines on the terminal |
| `ResourceManager.update_usages` of Ray Data | private | lean_start.Seldom | more CPU of the driver per block |
| `ray.data.from_blocks` | DeveloperAPI | dataset | an additional task per block counts its rows |
| wording of errors from workers | undocumented | user_error | Ray's traceback is shown |
| format of Ray's log lines | undocumented | ray_start.NOISE | more lines on the terminal |
| wording of errors from ray.init | undocumented | ray_start.CAUSES | less specific error if Ray does not start |
| restart of dead workers by Ray Data | default | pools.ray_data._map | each death ends a round (evaluate._finish) |
| namespace of Serve's actors | private | SERVE | if Serve does not start, some of its actors stay |
| `serve.delete(_blocking=False)` | private argument | delete_application | a thread waits for the deletion |
| `DeploymentHandle.broadcast` | not annotated | ask_replicas | /metrics lacks the values of the replicas |
| `BackpressureConfig` | alpha | busy_answer | a busy service answers 503 instead of 429 |
| `RequestRouter`, `PendingRequest`, `RunningReplica` | alpha | deployments.routing | images are encoded repeatedly |
| `os._exit` at the end of a worker | workaround | worker._leave | see HANGS_AT_EXIT |
"""

import inspect
import logging
import os
import re
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ovss_ray.errors import OvssError

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import DataContext, Dataset
    from ray.serve.handle import DeploymentHandle

SILENT = "fatal"
"""Value of RAY_BACKEND_LOG_LEVEL at which Ray's C++ code logs fatal errors only."""
METRICS = "RAY_enable_metrics_collection"
"""Environment variable that switches the metrics of a new cluster on ("1") or off ("0")"""
SETTINGS = {
    "RAY_BACKEND_LOG_LEVEL": SILENT,  # else a warning about Ray Data's own restarts
    # Milliseconds that a process may wait for its next task. After Ray's own second, each part got a new process.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    "RAY_prestart_worker_first_driver": "0",  # processes of the wrong environment: never used, woken 100 times a second
    METRICS: "0",  # nobody could read them, without the dashboard
    "RAY_task_events_report_interval_ms": "0",  # likewise
    # Seconds. Serve replaces a dead HTTP proxy after three failed checks; by default, the port is closed for 30 s.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would send its makers a report of each run
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # such as of Ray Data's statistics when a node dies
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # if a submitted job is not recognised, its environment is merged with ours
}
"""Environment variables for a new local cluster: name → value. Variables that the user has set keep their values."""
SERVING = SETTINGS | {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "ovss_ray.serve.intake.headers.begin",  # a deadline for headers
}
"""Environment variables for a new local cluster on which the service runs: name → value."""
BEFORE_IMPORT = {
    "RAY_ENABLE_AUTO_CONNECT": "0",  # its threads begin another cluster if they call it after an interrupt ended ours
    # It prints that tasks are tried again, such as those of Serve's controller that end with it.
    "RAY_DEDUP_LOGS_SKIP_REGEX": r"^Task \S+ failed\. There are .* retries remaining",
}
"""Environment variables that are set before Ray is imported, since Ray reads them on import: name → value."""
# If `uv run` started this program, Ray would otherwise send the current folder, with all data, to the workers. Ray
# would also start each worker with `uv run`.
LOCAL_BEFORE_IMPORT = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
"""Environment variables for local clusters only, which are set before Ray is imported: name → value.

These variables are set in addition to BEFORE_IMPORT. The cluster is local if RAY_ADDRESS is missing or "local"."""
TRIES = ("RAY_gcs_server_port_wait_time_s", "3")
"""Name and value of an environment variable. This value makes Ray try 3 times to connect to a cluster, not 20 times."""
DAEMONS = ("gcs_server", "raylet")
"""Names of the processes that a new local cluster of Ray needs. Their log files have the same names."""
SERVE = "serve"
"""Name of the Ray namespace in which Ray Serve starts its actors."""
# The C++ clean-up waited forever for a destroyed lock. A similar fault of Ray 1.7:
# github.com/ray-project/ray/pull/18899
HANGS_AT_EXIT = "2.60"
"""Latest Ray release in which a worker process was seen to hang when it exits normally."""


@cache
def report_missing(touch: str, cost: str) -> None:
    """Log a warning, only once, that this Ray release lacks an API. `touch`: the API. `cost`: the consequence."""
    logging.getLogger(__name__).warning("Ray no longer has %s: see engine/cluster/ray_internals.py. %s", touch, cost)


def prepare_import() -> None:
    """Set the environment variables that Ray reads when it is imported. Call this before the import."""
    local = os.environ.get("RAY_ADDRESS", "local") == "local"
    for name, value in (BEFORE_IMPORT | LOCAL_BEFORE_IMPORT if local else BEFORE_IMPORT).items():
        os.environ.setdefault(name, value)


def own_node() -> Any:
    """Return the Ray Node object that ray.init created in this process; None if there is none."""
    import ray

    try:
        return ray._private.worker._global_node
    except AttributeError:
        report_missing("ray._private.worker._global_node", "A run assumes that nodes may join")
        return None


def own_head() -> bool:
    """Return True if this process is connected to a cluster that this process has started."""
    node = own_node()
    return bool(node and getattr(node, "is_head", bool)())


def failed_node(failure: BaseException) -> Any:
    """Return the Node object that a failed ray.init was starting; None if unknown."""
    try:
        node_class: Any = import_module("ray._private.node").Node
    except (ImportError, AttributeError):
        report_missing("ray._private.node.Node", "The logs of a cluster that did not start are not searched")
        return own_node()
    # Ray stores no reference to an incomplete node, except in local variables.
    for frame, _ in traceback.walk_tb(failure.__traceback__):
        if isinstance(node := frame.f_locals.get("self"), node_class):
            return node
    return own_node()


def log_folder(node: Any) -> str:
    """Return the path of a node's log folder; "" if it does not exist yet."""
    return str(getattr(node, "_logs_dir", None) or "")


def daemons(node: Any) -> dict[str, list["subprocess.Popen[bytes]"]]:
    """Return the processes of a node by kind of process, such as "raylet".

    If the start of the node failed, return only the processes that were started.
    """
    processes: Mapping[str, Sequence[Any]] = getattr(node, "all_processes", {})
    return {kind: [process.process for process in several] for kind, several in processes.items()}


def end_node(node: Any) -> None:
    """Kill the processes of a node, and their child processes that are still running, such as agents of the raylet."""
    pids = [process.pid for several in daemons(node).values() for process in several]
    if not hasattr(node, "all_processes"):
        report_missing("Node.all_processes", "The processes of a failed start are found by their names")
        pids = [child.pid for child in psutil.Process().children() if child.name() in DAEMONS]
    left: list[psutil.Process] = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            daemon = psutil.Process(pid)
            left += [*daemon.children(recursive=True), daemon]
    try:
        node.kill_all_processes(check_alive=False, allow_graceful=True, wait=True)
    except (AttributeError, TypeError):
        report_missing("Node.kill_all_processes", "The processes of a failed start are killed one by one")
        _kill([process for process in left if process.pid in pids])
    _, left = psutil.wait_procs(left, timeout=1)
    _kill(left)


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def address_file() -> Path:
    """Return the path of the file to which `ray start` writes the address of this machine's cluster."""
    for module in ("ray._common.utils", "ray._private.utils"):
        with suppress(ImportError, AttributeError, TypeError):
            return Path(import_module(module).get_ray_address_file(None))
    report_missing("get_ray_address_file", "The address of this machine's cluster is read from the path in Ray 2.60")
    temporary = os.environ.get("TMPDIR", "/tmp") if sys.platform == "linux" else "/tmp"
    return Path(os.environ.get("RAY_TMPDIR", temporary)) / "ray" / "ray_current_cluster"


def _set(context: "DataContext", path: str, value: object) -> None:
    """Set a field of a DataContext. If this Ray release lacks the field, log a warning.

    `path`: dotted name of the field, such as "issue_detectors_config.detectors".
    """
    owner, _, field = path.rpartition(".")
    try:
        holder = attrgetter(owner)(context) if owner else context
        getattr(holder, field)
        setattr(holder, field, value)
    except AttributeError:
        report_missing(f"DataContext.{path}", "Ray Data keeps its own value, which costs speed or prints lines")


def quiet_data(callbacks: Sequence[type] = ()) -> None:
    """Stop Ray Data from printing lines and from ending idle workers.

    `callbacks`: classes such as lean_start.Seldom, whose methods Ray Data calls during a run.
    """
    from ray.data import DataContext

    context = DataContext.get_current()
    _set(context, "enable_progress_bars", False)
    _set(context, "issue_detectors_config.detectors", [])  # of hanging work, for instance, which Watch looks after
    _set(context, "custom_execution_callback_classes", list(callbacks))
    # Ray Data would end idle workers and soon start new workers, which would load their networks again.
    _set(context, "autoscaling_config.actor_pool_util_downscaling_threshold", -1.0)  # no pool is used less than that
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "The maximum number of concurrent tasks")  # of a short run's last round


def keep_pool_undivided(images: "Dataset") -> None:
    """Stop Ray Data from computing how much memory each pool of the dataset `images` may use.

    Call this function only if the images pass through a single pool, since several pools must share the memory.
    """
    # Ray Data would compute the division ten times a second.
    _set(images.context, "op_resource_reservation_enabled", False)
    _set(images.context, "downstream_capacity_backpressure_ratio", None)


def dataset(blocks: Sequence["pa.Table"]) -> "Dataset":
    """Return a Ray dataset with these blocks. Unlike `ray.data.from_arrow`, this starts no tasks that count rows."""
    import ray.data

    if hasattr(ray.data, "from_blocks"):
        return ray.data.from_blocks(list(blocks))
    report_missing("ray.data.from_blocks", "Each block of images costs one more task")
    return ray.data.from_arrow(list(blocks))


def user_error(failure: BaseException) -> str:
    """Return the message of the OvssError that made a Ray task fail; "" for other errors."""
    if isinstance(cause := getattr(failure, "cause", None), OvssError):
        return str(cause)
    # Ray Data passes errors on as text.
    *_, message = re.split(r"ovss_ray\.errors\.(?:OvssError|UnknownName): ", text := str(failure))
    return "" if message == text else message.partition("\n\nThe above exception")[0].strip()


def delete_application(name: str) -> None:
    """Delete an application of Serve, without waiting until it is deleted."""
    from ray import serve

    if "_blocking" in inspect.signature(serve.delete).parameters:
        serve.delete(name, _blocking=False)
        return
    report_missing("serve.delete(_blocking=False)", "An interrupt waits a second for Serve")
    deleting = threading.Thread(target=serve.delete, args=(name,), daemon=True)
    deleting.start()
    deleting.join(1)


async def ask_replicas(handle: "DeploymentHandle", method: str, seconds: float) -> list[Any]:
    """Call a method of each replica of a deployment, and return one answer or exception per replica.

    If this Ray release lacks DeploymentHandle.broadcast, return an empty list. Raises TimeoutError if the answers take
    longer than `seconds`.
    """
    if hasattr(type(handle), "broadcast"):
        return await handle.broadcast(method).results_async(timeout_s=seconds, return_exceptions=True)
    report_missing("DeploymentHandle.broadcast", "/metrics lacks the counters of the replicas")
    return []


def busy_answer(retry: int) -> dict[str, Any]:
    """Return the options with which a Ray Serve deployment answers HTTP 429 while its queue is full.

    `retry`: seconds for the header Retry-After. If this Ray release lacks BackpressureConfig, return {}.
    """
    try:
        config: Any = import_module("ray.serve.config").BackpressureConfig
        return {"backpressure_config": config(status_code=429, retry_after_s=retry)}
    except (ImportError, AttributeError, TypeError, ValueError):
        report_missing("BackpressureConfig", "A busy service answers 503 in place of 429")
        return {}
