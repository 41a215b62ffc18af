"""The cluster that a run uses: found or started, and looked at before the workers are."""

import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.data import DataContext
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ovss_ray import files, placement, ray_start
from ovss_ray.errors import OvssError
from ovss_ray.placement import Placed, Size
from ovss_ray.request import KEPT, Request

HANDED_ON = ("OVSS_WEIGHTS", "OVSS_CACHE")
"""Environment variables that workers on other machines need as well."""
CURRENT = Path("ray") / "ray_current_cluster"
"""The file, in Ray's folder for temporary files, in which `ray start` leaves the address of this machine's cluster."""
RECORD, LABEL_MAP = 10_000, 60_000
"""Bytes of one image's record and label map, about."""
OURS = {
    "RAY_BACKEND_LOG_LEVEL": ray_start.SILENT,  # else a warning about Ray Data's own restarts
    # Milliseconds that a process may wait for its next task. Ray's own second is over before the next part is to be
    # written: each then got a new process, which cost a run of SAN on a CPU 1.6 s an image (perf run).
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
    "RAY_prestart_worker_first_driver": "0",  # processes of the wrong environment: never used, woken 100 times a second
    "RAY_enable_metrics_collection": "0",  # nobody could read them, without the dashboard
    "RAY_task_events_report_interval_ms": "0",  # likewise
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would send its makers a report of each run
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # such as of Ray Data's statistics when a node dies
}
"""What a cluster that we start is told by environment variables; one that has been set by hand stays."""
FEW = 4
"""Files that one network is made of, at most; a stage that names more of them reads label maps."""
LAST_WORDS = (
    "ovss: this process was ended from outside: it was killed, or this machine's node of the cluster has died, with "
    "which Ray ends it on the spot. What is done is kept; give the same command to go on"
)
FAREWELL = 20.0
"""Seconds to leave a cluster in; one that has ended never says goodbye."""


@contextmanager
def connect() -> Iterator[None]:
    """Connect to the cluster that was started or that the job runs on, else start one here for as long as it is needed.

    Raises OvssError if there is one and it does not answer, or if Ray does not start here.
    """
    ours = not ray.is_initialized()
    with _last_words() if ours else nullcontext():
        try:
            if ours:
                _init()
            context = DataContext.get_current()
            context.enable_progress_bars = False
            context.issue_detectors_config.detectors = []  # of hanging work, for instance, which supervise looks after
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            warnings.filterwarnings("ignore", "The maximum number of concurrent tasks")  # of a short run's last round
            yield
        finally:
            if ours:
                leaving = threading.Thread(target=ray.shutdown, daemon=True)
                leaving.start()
                leaving.join(FAREWELL)


@contextmanager
def _last_words() -> Iterator[None]:
    """Have a small process say what has happened, should this one end without a chance to say it itself."""
    say = "import sys; sys.stdin.read(1) or sys.exit(sys.argv[1])"
    command = [sys.executable, "-IS", "-c", say, LAST_WORDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as heir:  # out of reach of Ctrl-C
        try:
            yield
        finally:
            with suppress(OSError):
                heir.communicate(b"done")


def size() -> Size:
    """Measure the cluster as it is now."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus, memory = ([node.get(kind, 0.0) for node in nodes] for kind in ("CPU", "GPU", "memory"))
    return Size(sum(cpus), sum(gpus), max(cpus), max(gpus), sum(memory))


def answers() -> bool:
    """Whether the head of the cluster that we are connected to takes connections."""
    return _listens(ray.get_runtime_context().gcs_address)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with suppress(OSError, ValueError), socket.create_connection((host, int(port)), timeout=5):
        return True
    return False


def _address() -> str | None:
    """What to tell Ray: "local" if the cluster that this machine remembers has ended, else nothing.

    Left to itself, Ray waits without end for a cluster whose address a killed `ray start` left behind. Raises OvssError
    if RAY_ADDRESS names a cluster that does not answer.
    """
    asked = os.environ.get("RAY_ADDRESS", "")
    remembered = _remembered()
    if asked not in ("", "auto", "local") and "://" not in asked and not _listens(asked):
        raise OvssError(
            f"RAY_ADDRESS={asked}: no cluster answers there. Start one, correct the address, or set RAY_ADDRESS=local "
            "to do without"
        )
    ended = not asked and remembered.is_file() and not _listens(remembered.read_text().strip())
    return "local" if ended else None


def _starts(address: str | None) -> bool:
    """Whether ray.init would start a cluster."""
    asked = address or os.environ.get("RAY_ADDRESS", "")
    return asked == "local" or not (asked or _remembered().is_file())


def _remembered() -> Path:
    temporary = os.environ.get("TMPDIR", "/tmp") if sys.platform == "linux" else "/tmp"
    return Path(os.environ.get("RAY_TMPDIR", temporary)) / CURRENT


def _init() -> None:
    address = _address()
    for name, value in OURS.items():
        os.environ.setdefault(name, value)
    settings = {"env_vars": {name: os.environ[name] for name in HANDED_ON if name in os.environ}}
    starting = _starts(address)
    theirs = not starting and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ  # a job brings its own
    runtime = settings if theirs else None  # and what we start inherits it: a runtime environment takes time
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
    ray_start.start(partial(ray.init, address, runtime_env=runtime, **quiet), starting)
    if starting and (node := ray._private.worker._global_node):
        # What looks at all logs ten times a second, shows the cluster, and makes it larger: nobody asks for that here.
        for kill in (node.kill_log_monitor, node.kill_dashboard, node.kill_monitor):
            kill(check_alive=False)


def join() -> None:
    """Connect as ray.init does by itself, or start a cluster, for as long as this process lives. Raises OvssError."""
    address = _address()
    ray_start.start(partial(ray.init, address), _starts(address))


def preflight(request: Request) -> None:
    """Have every node look for the run's folder, the first photograph and label file, and the weights.

    Raises OvssError that names the node and what it does not see, or that says that the disk of the run's folder is
    too small.
    """
    _room(request)
    first = [str(table[name][0]) for table in request.manifests.values() for name in ("image_uri", "truth_uri")]
    weights = [str(file) for some in request.sources for file in some[:FEW]]
    see_everywhere([request.folder.file("identity.json"), *first, *weights], "--out, --data-root and weights")


def see_everywhere(wanted: Sequence[str], options: str) -> None:
    """Have every node look for files and folders, which the `options` name.

    On a single node there is nothing to ask: this process has looked already. A node that dies meanwhile is passed
    over, since work is placed on those that are left. Raises OvssError that names the node and what it does not see.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    for node in nodes if len(nodes) > 1 else ():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(num_cpus=0)(_unseen).options(scheduling_strategy=there)
        try:
            unseen = ray.get(task.remote(wanted))
        except RayTaskError:
            raise
        except RayError:  # for half a minute a node that has died still counts as alive
            continue
        if unseen:
            raise OvssError(
                f"the node {node['NodeManagerAddress']} does not see {', '.join(unseen)}. Give {options} as paths or "
                "addresses that every node of the cluster sees"
            )


def _room(request: Request) -> None:
    """Compare a local disk with what records and label maps take, as large as they usually are."""
    if "://" in request.folder.uri:
        return
    images = sum(len(table) for table in request.manifests.values())
    kept = 0 if request.config.keep_predictions == "none" else images
    if request.config.keep_predictions == "auto":
        kept = min(kept, KEPT)
    needed, free = images * RECORD + kept * LABEL_MAP, shutil.disk_usage(request.folder.uri).free
    if free < needed:
        raise OvssError(
            f"{request.folder.uri}: {free / 1e9:.2f} GB are free there; records and label maps of {images:,} images "
            f"take about {needed / 1e9:.2f} GB. Make room, choose another --out, or --set keep_predictions=none"
        )


def _unseen(uris: Sequence[str]) -> list[str]:
    return [uri for uri in uris if not files.exists(uri)]


def place(request: Request, patience: float) -> list[Placed]:
    """Decide the pools for the cluster as it is, or as it gets within `patience` seconds.

    Raises OvssError if it lacks what they need: Ray would wait for that without a word.
    """
    until = time.monotonic() + patience
    weights = sum(file.stat().st_size for some in request.sources for file in some if len(some) <= FEW)
    while True:
        there = size()
        pools = placement.place(placement.fused(request.pools, there), there, weights)
        if not (lack := placement.unmet(pools, there)):
            return pools
        if time.monotonic() > until:
            raise OvssError(lack)
        time.sleep(1)
