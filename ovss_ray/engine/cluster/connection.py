"""Connection of a run to a running Ray cluster, or to a new local cluster."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import ray

from ovss_ray.engine import interrupts
from ovss_ray.engine.cluster import lean_start, ray_internals, ray_start
from ovss_ray.engine.cluster.nodes import STANDARD, Node, Size
from ovss_ray.errors import OvssError
from ovss_ray.runs.plan import HANDED_ON, JOB

LAST_WORDS = (
    "ovss: this process was killed by the system, by a user, or by Ray because the cluster node of this machine died. "
    "Finished images are kept. Run the same command again to resume"
)
FAREWELL = 20.0
"""Maximum seconds that `connect` waits for ray.shutdown. If the cluster is dead, ray.shutdown may never return."""


@contextmanager
def connect(settings: Mapping[str, str] = ray_internals.SETTINGS) -> Iterator[None]:
    """Connect to a Ray cluster during the block. If no cluster is running, start a local cluster for the block.

    `settings`: environment variables of the local cluster. Variables that the user has set keep their values.
    Raises OvssError if a cluster exists but does not answer, or if Ray does not start on this machine.
    """
    ours = not ray.is_initialized()
    with ExitStack() as stack:
        if ours:
            stack.enter_context(_set(settings))
            stack.enter_context(_last_words())
        try:
            if ours:
                _init()
            yield
        finally:
            if ours and not interrupts.left_connected():
                leaving = threading.Thread(target=ray.shutdown, daemon=True)
                leaving.start()
                leaving.join(FAREWELL)


@contextmanager
def _set(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables during the block. Variables that the user has set keep their values."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _last_words() -> Iterator[None]:
    """Start a helper process, which prints LAST_WORDS if the calling process is killed during the `with` block."""
    say = "import sys; sys.stdin.read(1) or sys.exit(sys.argv[1])"
    command = [sys.executable, "-IS", "-c", say, LAST_WORDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as heir:  # out of reach of Ctrl-C
        try:
            yield
        finally:
            with suppress(OSError):
                heir.communicate(b"done")


def size() -> Size:
    """Return the live nodes of the cluster, with their resources and labels.

    `Size.grows` is False if this process has started the cluster, else True.
    """
    nodes = [_node(node["Resources"], node.get("Labels") or {}) for node in ray.nodes() if node["Alive"]]
    return Size(tuple(nodes), grows=not ray_internals.own_head())


def collects_metrics() -> bool:
    """Return False if this process has started the connected cluster without metrics, else True.

    A cluster that this process starts has no metrics if the environment variable ray_internals.METRICS is unset or "0".
    Every other cluster is assumed to have metrics.
    """
    return not ray_internals.own_head() or os.environ.get(ray_internals.METRICS, "0") != "0"


def running_size() -> Size:
    """Return the live nodes of the running cluster. Raises OvssError if no cluster is running."""
    if not ray.is_initialized() and _starts(_address()):
        raise OvssError(
            "--cluster: no Ray cluster is running on this machine. To use a cluster on other machines, run `export "
            "RAY_ADDRESS=HOST:6379`. To plan for this machine, omit --cluster"
        )
    with connect():
        return size()


def _node(resources: Mapping[str, float], labels: Mapping[str, str]) -> Node:
    cpus, gpus, memory = (resources.get(kind, 0.0) for kind in STANDARD)
    custom = {kind: amount for kind, amount in resources.items() if kind not in STANDARD}
    return Node(cpus, gpus, memory, custom, labels)


def answers() -> bool:
    """Return whether the head node of the connected cluster accepts connections."""
    return _listens(ray.get_runtime_context().gcs_address)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with suppress(OSError, ValueError), socket.create_connection((host, int(port)), timeout=5):
        return True
    return False


def _address() -> str | None:
    """Return the address for ray.init: "local" for a new local cluster, or None if ray.init chooses the cluster.

    Return "local" if RAY_ADDRESS is unset and the cluster that `ray start` started on this machine has ended. In all
    other cases, return None. Raises OvssError if RAY_ADDRESS names a cluster that does not answer.
    """
    requested = os.environ.get("RAY_ADDRESS", "")
    remembered = ray_internals.address_file()
    if requested not in ("", "auto", "local") and "://" not in requested and not _listens(requested):
        raise OvssError(
            f"RAY_ADDRESS={requested}: no cluster answers at this address. Start the cluster, correct the address, or "
            "set RAY_ADDRESS=local to start a new cluster on this machine"
        )
    # With None, ray.init would wait forever for the ended cluster that the address file still names.
    ended = not requested and remembered.is_file() and not _listens(remembered.read_text().strip())
    return "local" if ended else None


def _starts(address: str | None) -> bool:
    """Return whether ray.init with this address would start a new cluster instead of connecting to an existing one."""
    requested = address or os.environ.get("RAY_ADDRESS", "")
    return requested == "local" or not (requested or ray_internals.address_file().is_file())


def _init() -> None:
    address = _address()
    starting = _starts(address)
    runtime = None if starting else _runtime()  # what we start inherits them: a runtime environment takes time
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
    with lean_start.lean():
        ray_start.start(partial(ray.init, address, runtime_env=runtime, **quiet), starting)


def _runtime() -> dict[str, Any] | None:
    """Return Ray's runtime environment, which passes the variables in HANDED_ON to the workers.

    Unset variables, and variables that a submitted Ray job already sets, are left out. If this process belongs to a
    submitted Ray job and all variables are left out, return None.
    """
    brought = json.loads(os.environ.get(JOB) or "{}").get("runtime_env", {}).get("env_vars", {})
    variables = {name: os.environ[name] for name in HANDED_ON if name in os.environ and name not in brought}
    return {"env_vars": variables} if variables or JOB not in os.environ else None


def join() -> None:
    """Connect to a running cluster, or start a local cluster. The connection lasts until this process ends.

    Raises OvssError if Ray cannot connect or start.
    """
    address = _address()
    ray_start.start(partial(ray.init, address), _starts(address))
