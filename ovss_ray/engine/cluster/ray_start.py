"""Start of Ray, with a second attempt if that may help. If Ray does not start, the error states cause and remedy."""

import errno
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ray

from ovss_ray.engine.cluster import ray_internals
from ovss_ray.engine.cluster.ray_internals import DAEMONS, SILENT, TRIES
from ovss_ray.engine.interrupts import held
from ovss_ray.errors import OvssError

NOISE = re.compile(rb"\[\d{4}-\d\d-\d\d [\d:,]+ [DIWE] \d+ \d+\] |[DIWE]\d{4} \d\d:\d\d:[\d.]+ +\d+ \S+\.cc:\d+\]")
"""Pattern for the beginning of a line that Ray or its gRPC library logs at a level below "fatal"."""
TAIL = 20_000
"""Number of bytes at the end of a log file that are searched for the cause of a failed start."""
ROOM = 10_000_000
"""Free bytes below which a disk counts as full. Ray cannot write its logs to a full disk."""
LETTERS = 300
"""Maximum number of characters that an error message of this module quotes from Ray's error."""


@dataclass(frozen=True)
class Cause:
    """A cause of a failed start of Ray, and its remedy."""

    sign: str
    """regular expression that finds this cause in Ray's error or in the logs of its daemons"""
    advice: str
    lasting: bool = True
    """True if a second attempt would also fail"""


CAUSES = (
    Cause(
        "InvalidAuthToken|AuthenticationError|no authentication token|[Uu]nauthenticated",
        "The cluster requires a token, which is missing or wrong. export RAY_AUTH_MODE=token, and the cluster's token "
        "as RAY_AUTH_TOKEN or in ~/.ray/auth_token (on its head: ray get-auth-token)",
    ),
    Cause(
        "AF_UNIX path length|File name too long",
        "The folder for temporary files has too long a path. export RAY_TMPDIR=/tmp, or another short path",
    ),
    Cause(
        "No space left on device|Disk quota exceeded|errno=28|SIGBUS",
        "A disk is full: the one of /tmp (or RAY_TMPDIR), or /dev/shm. Make room there, or export RAY_TMPDIR=DIR",
    ),
    Cause("Too many open files|errno=24", "Too many files are open. Raise the limit: ulimit -n 8192"),
    Cause(
        r"\[Errno (1|2|13|17|20|30)\]",
        "Ray cannot write there. export RAY_TMPDIR=DIR with a folder that you may write to; for a file below ~/.ray "
        "export HOME=DIR likewise, or RAY_AUTH_MODE=disabled",
    ),
    Cause(
        "Version mismatch",
        "Install the cluster's versions of Ray and Python here, or export RAY_ADDRESS=local to run without the cluster",
    ),
    Cause(
        "Invalid Ray address",
        "RAY_ADDRESS is HOST:PORT of the cluster's head, such as 10.0.0.1:6379. An http address is a dashboard's, for "
        "`ray job submit`. To run without it: export RAY_ADDRESS=local",
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
        "Memory, threads or processes have run out. Check `free -h` and `ulimit -u`, and end unneeded programs",
        lasting=False,
    ),
)
"""Known causes of a failed start. The first cause whose `sign` matches the error or the logs is reported."""
LATE = Cause(
    "timed out during startup|Timed out waiting for file",
    "Ray gives its processes 30 s to start. Run the same command again when this machine is less busy",
    lasting=False,
)
UNKNOWN = Cause("", "The logs may name the cause. Run the same command again", lasting=False)
NO_ANSWER = Cause(
    "",
    "The cluster of RAY_ADDRESS, or the one that `ray start` began on this machine, does not answer: it may have "
    "ended. To run without it: export RAY_ADDRESS=local",
)


@dataclass(frozen=True)
class Trouble:
    """A failed attempt to start Ray: its error, the cause, and the state of its node."""

    failure: Exception
    cause: Cause
    ended: str
    """names of the node's daemons that have exited, with their exit statuses, as text; "" if none has exited"""
    logs: str
    """path of the node's log folder; "" if the node has no log folder yet"""


def start(init: Callable[[], object], local: bool) -> None:
    """Call `init`, which starts Ray or connects to a cluster. Raises OvssError if this fails.

    `local`: True if `init` starts a cluster on this machine. A failed local start is repeated once, unless a second
    attempt would certainly fail.
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
        node = ray_internals.failed_node(failure)
        ended, logs = _ended(node), ray_internals.log_folder(node)
        trouble = Trouble(failure, _cause(failure, logs, local, bool(ended)), ended, logs)
        if node and local:
            ray_internals.end_node(node)
        ray.shutdown()
        return trouble
    return None


def _cause(failure: Exception, logs: str, local: bool, ended: bool) -> Cause:
    said = _said(failure)
    if local and logs:
        said += "".join(_tail(Path(logs, f"{name}.{kind}")) for name in DAEMONS for kind in ("err", "out"))
        said += "".join(os.strerror(errno.ENOSPC) for disk in (logs, "/dev/shm") if _full(disk))
    known = (cause for cause in (*CAUSES, *([] if ended else [LATE])) if re.search(cause.sign, said))
    return next(known, UNKNOWN if local else NO_ANSWER)


def _said(failure: BaseException | None) -> str:
    """Return the texts of an error and of its chained causes, one per line."""
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
    processes = ray_internals.daemons(node)
    statuses = {name: process.poll() for name in DAEMONS for process in processes.get(name, ())}
    return ", ".join(f"{name} ended with status {status}" for name, status in statuses.items() if status is not None)


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
    """Limit the number of Ray's attempts to connect (see TRIES) during the block. For a local start, do nothing."""
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
    """Remove lines that match NOISE from standard error during the block, if RAY_BACKEND_LOG_LEVEL is SILENT."""
    if os.environ.get("RAY_BACKEND_LOG_LEVEL") != SILENT:
        yield
        return
    sys.stderr.flush()
    # Until Ray's C++ code has read RAY_BACKEND_LOG_LEVEL, it logs at level INFO.
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
