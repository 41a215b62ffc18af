"""Ray's start: a second try where that can help, then one line that says why it failed and what to type."""

import errno
import os
import re
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import ray
from ray._private.node import Node

from ovss_ray.errors import OvssError
from ovss_ray.interrupts import held

SILENT = "fatal"
"""The value of RAY_BACKEND_LOG_LEVEL at which Ray's C++ part writes about its own end alone."""
NOISE = re.compile(rb"\[\d{4}-\d\d-\d\d [\d:,]+ [DIWE] \d+ \d+\] |[DIWE]\d{4} \d\d:\d\d:[\d.]+ +\d+ \S+\.cc:\d+\]")
"""Start of a log line of Ray, or of the gRPC inside it, whose level is below SILENT."""
TRIES = ("RAY_gcs_server_port_wait_time_s", "3")
"""Environment variable that bounds Ray's tries to connect, a second apart, and its value here. Ray's own is 20."""
DAEMONS = ("gcs_server", "raylet")
"""Processes that a node cannot work without. Their logs have the same names."""
TAIL = 20_000
"""Bytes at the end of a log that are searched for a cause."""
ROOM = 10_000_000
"""Free bytes below which a disk counts as full. A process that cannot write its log does not report it anywhere."""
LETTERS = 300
"""Maximum number of characters of Ray's own words in a message."""


@dataclass(frozen=True)
class Cause:
    """A reason for which Ray does not start, and what to do about it."""

    sign: str
    """regular expression that is searched for in Ray's error and in the logs of its daemons"""
    advice: str
    lasting: bool = True
    """whether another try would end alike"""


CAUSES = (
    Cause(
        "InvalidAuthToken|AuthenticationError|no authentication token|[Uu]nauthenticated",
        "The cluster asks for a token, and none or a wrong one was sent. export RAY_AUTH_MODE=token, and the cluster's "
        "token as RAY_AUTH_TOKEN or in ~/.ray/auth_token (on its head: ray get-auth-token)",
    ),
    Cause(
        "AF_UNIX path length|File name too long",
        "The folder for temporary files has too long a path. export RAY_TMPDIR=/tmp, or another short path",
    ),
    Cause(
        "No space left on device|Disk quota exceeded|errno=28|SIGBUS",
        "A disk is full: that of /tmp (or RAY_TMPDIR), or /dev/shm. Make room there, or export RAY_TMPDIR=DIR",
    ),
    Cause("Too many open files|errno=24", "Too many files are open. Raise the limit: ulimit -n 8192"),
    Cause(
        r"\[Errno (1|2|13|17|20|30)\]",
        "Ray cannot write there. export RAY_TMPDIR=DIR with a folder that you may write to; for a file below ~/.ray "
        "export HOME=DIR likewise, or RAY_AUTH_MODE=disabled",
    ),
    Cause(
        "Version mismatch",
        "Install the cluster's versions of Ray and Python here, or export RAY_ADDRESS=local to do without the cluster",
    ),
    Cause(
        "Invalid Ray address",
        "RAY_ADDRESS is HOST:PORT of the cluster's head, such as 10.0.0.1:6379. An http address is a dashboard's, for "
        "`ray job submit`. export RAY_ADDRESS=local does without a cluster",
    ),
    Cause(
        "object.store.memory.*(minimum|less than|at least)",
        "Too little memory is free on this machine or in its container (free -h). Give it more",
    ),
    Cause(
        "Address already in use|Failed to start the grpc server",
        "A port that Ray needs is in use. End the program that listens there (ss -ltnp), or unset RAY_GCS_SERVER_PORT",
        lasting=False,
    ),
    Cause(
        "Cannot allocate memory|can't start new thread|Resource temporarily unavailable|bad_alloc|errno=(11|12)\\b",
        "Memory, threads or processes have run out. Look at free -h and ulimit -u, and end what is not needed",
        lasting=False,
    ),
)
"""Known causes. The first whose sign is there counts."""
LATE = Cause(
    "timed out during startup|Timed out waiting for file",
    "Ray gives its processes 30 s to start. When this machine is less busy, give the same command again",
    lasting=False,
)
UNKNOWN = Cause("", "The logs may say why. Give the same command again", lasting=False)
NO_ANSWER = Cause(
    "",
    "The cluster of RAY_ADDRESS, or the one that `ray start` began on this machine, does not answer: it may have "
    "ended. export RAY_ADDRESS=local does without it",
)


@dataclass(frozen=True)
class Trouble:
    """A try that failed: its error, the cause, and traces of its node."""

    failure: Exception
    cause: Cause
    ended: str
    """daemons of the node that have ended by themselves, with their exit status"""
    logs: str
    """the folder of the node's logs; empty if it has none"""


def start(init: Callable[[], object], local: bool) -> None:
    """Call `init`, which is ray.init with its arguments; `local` if it is to start a cluster.

    A failed start is cleaned up, and repeated once if that can help. Raises OvssError if Ray is not there in the end.
    """
    for tries in (1, 2):
        with held():
            trouble = _try(init, local)
        if not trouble:
            return
        if not local or trouble.cause.lasting or tries == 2:
            raise OvssError(_message(trouble, local, tries)) from trouble.failure


def _try(init: Callable[[], object], local: bool) -> Trouble | None:
    try:
        with _hurried(local), _quiet():
            init()
    except Exception as failure:  # noqa: BLE001 - Ray raises plain Exception for a node that is late
        node = _node(failure)
        ended = _ended(node)
        trouble = Trouble(failure, _cause(failure, node, local, bool(ended)), ended, getattr(node, "_logs_dir", ""))
        if node and local:
            _end(node)
        ray.shutdown()
        return trouble
    return None


def _node(failure: Exception) -> Any:
    """Return the node that ray.init has begun. While it is incomplete, only the frames of the error hold it."""
    for frame, _ in traceback.walk_tb(failure.__traceback__):
        if isinstance(node := frame.f_locals.get("self"), Node):
            return node
    return ray._private.worker._global_node


def _cause(failure: Exception, node: Any, local: bool, ended: bool) -> Cause:
    said = _said(failure)
    if local and (folder := getattr(node, "_logs_dir", None)):
        said += "".join(_tail(Path(folder, f"{name}.{kind}")) for name in DAEMONS for kind in ("err", "out"))
        said += "".join(os.strerror(errno.ENOSPC) for disk in (folder, "/dev/shm") if _full(disk))
    known = (cause for cause in (*CAUSES, *([] if ended else [LATE])) if re.search(cause.sign, said))
    return next(known, UNKNOWN if local else NO_ANSWER)


def _said(failure: BaseException | None) -> str:
    """Return the words of an error and of the errors behind it."""
    words = ""
    while failure:
        words += f"{type(failure).__name__}: {failure}\n"
        failure = failure.__cause__ or failure.__context__
    return words


def _tail(log: Path) -> str:
    try:
        return log.read_bytes()[-TAIL:].decode(errors="replace")
    except OSError:
        return ""


def _full(folder: str) -> bool:
    try:
        return shutil.disk_usage(folder).free < ROOM
    except OSError:
        return False


def _ended(node: Any) -> str:
    processes = getattr(node, "all_processes", {})
    statuses = {name: process.process.poll() for name in DAEMONS for process in processes.get(name, ())}
    return ", ".join(f"{name} ended with status {status}" for name, status in statuses.items() if status is not None)


def _end(node: Any) -> None:
    """Kill the processes of a node and their children. The agents of a killed raylet may outlive it."""
    processes = [process.process.pid for several in node.all_processes.values() for process in several]
    theirs: list[psutil.Process] = []
    for pid in processes:
        with suppress(psutil.NoSuchProcess):
            theirs += psutil.Process(pid).children(recursive=True)
    node.kill_all_processes(check_alive=False, allow_graceful=True, wait=True)
    _, left = psutil.wait_procs(theirs, timeout=1)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _message(trouble: Trouble, local: bool, tries: int) -> str:
    failure = trouble.failure
    words = " ".join(str(failure).split()).partition(". ")[0][:LETTERS] or type(failure).__name__
    what = "Ray did not start" if local else f"no connection to the Ray cluster {os.environ.get('RAY_ADDRESS', '')}"
    twice = ", nor at a second try" if tries > 1 else ""
    logs = f" (logs: {trouble.logs})" if local and os.path.isdir(trouble.logs) else ""
    facts = "; ".join(filter(None, [words.rstrip(" ."), trouble.ended]))
    return f"{what.strip()}{twice}: {facts}. {trouble.cause.advice}{logs}"


@contextmanager
def _hurried(local: bool) -> Iterator[None]:
    """Limit how often Ray tries to connect. That something listens at the address is known before."""
    name, value = TRIES
    ours = not local and name not in os.environ
    if ours:
        os.environ[name] = value
    try:
        yield
    finally:
        if ours:
            del os.environ[name]


@contextmanager
def _quiet() -> Iterator[None]:
    """Remove Ray's NOISE from standard error, and pass on all other lines.

    Ray's C++ part writes at level INFO until it has read its log level, and reports that it has read it. A level that
    somebody has set by hand is left alone.
    """
    if os.environ.get("RAY_BACKEND_LOG_LEVEL") != SILENT:
        yield
        return
    sys.stderr.flush()
    terminal, (read, write) = os.dup(2), os.pipe()
    os.dup2(write, 2)
    os.close(write)
    passing = threading.Thread(target=_pass_on, args=(os.fdopen(read, "rb"), terminal), daemon=True)
    passing.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        passing.join(1)  # it goes on if a process that was started meanwhile writes there


def _pass_on(lines: BinaryIO, terminal: int) -> None:
    with lines, os.fdopen(terminal, "wb", buffering=0) as out:
        for line in lines:
            if not NOISE.match(line):
                out.write(line)
