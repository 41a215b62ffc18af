"""Lease of a run folder. Only one command at a time holds the lease, and this command renews the lease regularly."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.runs.folder import RunFolder

FILE = "lease.json"
"""Name of the lease's file in the run folder"""
BEAT = 10.0
"""Seconds between two renewals of a lease"""
STALE = 60.0
"""Seconds without a renewal after which another command takes the lease over"""
LOOK = 1.0
"""Seconds between two reads of a lease that may be stale"""


class Lease:
    """Lease that this process holds. A thread renews it until it is released."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.content = {"token": uuid.uuid4().hex, **_process(), "since": _now(), "renewed": _now()}
        self.loss = ""
        self.released = threading.Event()

    def check(self) -> None:
        """Raise OvssError if another command has taken the lease over."""
        if self.loss:
            raise OvssError(self.loss)

    def renew(self) -> None:
        """Write the current time to the lease file, unless another command has taken the lease over.

        If another command has taken the lease over, `check` raises OvssError from then on. Errors of reading and
        writing are ignored.
        """
        with suppress(OvssError):  # the next renewal may succeed; if none does, another command may take over
            holder = _read(self.uri)
            if holder and holder.get("token") != self.content["token"]:
                self.loss = (
                    f"{self.uri}: another command has taken over this run: {_who(holder)}. It received no sign of "
                    f"life of this command for {STALE:.0f} s. Finished images are kept. This command ends"
                )
                return
            self.content["renewed"] = _now()
            files.write(self.uri, _bytes(self.content))

    def kept(self) -> bool:
        """Renew the lease. Return whether this process still holds the lease."""
        self.renew()
        return not self.loss

    def release(self) -> None:
        """End the renewals. Then delete the lease file, unless the file has the lease of another command."""
        self.released.set()
        with suppress(OvssError):
            if (_read(self.uri) or {}).get("token") == self.content["token"]:
                files.delete(self.uri)

    def keep(self) -> None:
        """Renew the lease every BEAT seconds, until it is released or lost."""
        while not self.loss and not self.released.wait(BEAT):
            self.renew()


@contextmanager
def held(folder: RunFolder, say: Callable[[str], None]) -> Iterator[Lease]:
    """Hold the lease of a run folder during the block.

    If a command has ended without releasing the lease, the lease is taken over. If the lease is that of a command on
    another machine, wait up to STALE seconds for a renewal; `say` prints a line about the wait. If the lease is not
    renewed, the command on the other machine counts as ended. Raises OvssError if the command that holds the lease
    still runs, or if the folder cannot be written.
    """
    lease = Lease(folder.file(FILE))
    while not _create(lease.uri, _bytes(lease.content)):
        _remove(lease.uri, _wait_for_end(lease.uri, say))
    keeper = threading.Thread(target=lease.keep, daemon=True)
    keeper.start()
    try:
        yield lease
    finally:
        lease.released.set()
        keeper.join(BEAT)
        lease.release()


def _create(uri: str, data: bytes) -> bool:
    """Write the lease file, unless the file exists. Return whether the file was written.

    On remote stores other than S3, simultaneous calls may both return True. Raises OvssError if the write fails.
    """
    if "://" in uri:
        # two commands may both write; the first one then finds the other lease at its next renewal, and ends
        return files.create(uri, data)
    path = Path(uri).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            try:
                file.write(data)
                file.flush()
            except OSError:  # the next command would wait for the holder of an empty lease
                path.unlink(missing_ok=True)
                raise
    except OSError as failure:
        if isinstance(failure, FileExistsError) and path.is_file():
            return False
        raise OvssError(f"{uri}: cannot be written: {failure.strerror or failure}. Choose another --out") from failure
    return True


def _remove(uri: str, ended: dict[str, Any]) -> None:
    """Delete the lease file if its content is still `ended`, the lease of a command that has ended.

    Raises OvssError if the file cannot be deleted.
    """
    if "://" in uri:
        if _read(uri) == ended:
            files.delete(uri)
        return
    path = Path(uri).expanduser()
    aside = path.with_name(f"{FILE}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.rename(aside)  # only one of several processes succeeds, and then looks into the file
        if _read(str(aside)) == ended:
            aside.unlink()
        else:
            aside.rename(path)
    except FileNotFoundError:
        return
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be deleted: {failure.strerror or failure}. Choose another --out") from failure


def _wait_for_end(uri: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the lease of a command that has ended. Raises OvssError if the command still runs.

    If it is unknown whether the command still runs, wait up to STALE seconds. If the lease file changes during the
    wait, the command still runs. If the lease file does not change, the command counts as ended. If the lease file is
    deleted, return {}.
    """
    # the times in the lease are not used, since the clocks of two machines may differ
    first, since = _read(uri), time.monotonic()
    ended = _ended(first)
    if ended is None and first:
        say(f"{uri}: held by {_who(first)}. Waiting up to {STALE:.0f} s for a sign of life of that command")
    while ended is None and time.monotonic() - since < STALE:
        time.sleep(LOOK)
        holder = _read(uri)
        if not holder and not files.exists(uri):
            return {}
        ended = False if holder != first else None
        first = holder
    if ended is False:
        raise OvssError(
            f"{uri}: another command works in this run folder: {_who(first)}. Wait until it ends, stop it, or choose "
            "another --out. Two commands would evaluate the same images twice"
        )
    return first


def _ended(holder: dict[str, Any]) -> bool | None:
    """Return whether the process that holds a lease has ended; None if unknown, for example on another machine."""
    here = _process()
    if not holder or any(holder.get(key) != here[key] for key in ("host", "boot")):
        return None
    try:
        process = psutil.Process(holder["pid"])
        return process.status() == psutil.STATUS_ZOMBIE or abs(_started(process) - holder["started"]) > 1
    except psutil.AccessDenied:  # a process of another user, on a machine that hides these
        return None
    except (psutil.Error, KeyError, TypeError, ValueError):
        return True


def _process() -> dict[str, Any]:
    """Return the host, process id and start time of this process, and an id of the machine's boot.

    On Linux, the id of the boot also differs between containers.
    """
    boot = [str(psutil.boot_time())]
    with suppress(OSError):
        boot = [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    started = _started(psutil.Process())
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started, "boot": " ".join(boot)}


def _started(process: psutil.Process) -> float:
    """Return the seconds from the machine's boot to the start of a process. Changes of the clock have no effect."""
    return process.create_time() - psutil.boot_time()


def _read(uri: str) -> dict[str, Any]:
    """Return the content of a lease; {} if there is none, or if it is not completely written."""
    try:
        content = json.loads(files.read(uri)) if files.exists(uri) else {}
    except ValueError:
        return {}
    except OvssError as failure:
        if not isinstance(failure.__cause__, FileNotFoundError):  # deleted since the look, as its holder has ended
            raise
        return {}
    return content if isinstance(content, dict) else {}


def _bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _who(holder: dict[str, Any]) -> str:
    host, pid, since, renewed = (holder.get(key, "unknown") for key in ("host", "pid", "since", "renewed"))
    return f"host {host}, process {pid}, since {since}, last sign of life {renewed}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
