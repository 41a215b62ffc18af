"""Lease of a run folder, which only one command holds at a time. The holder renews the lease regularly."""

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
"""Seconds without a renewal after which another command takes the lease over.

The other command measures the time by its own clock, since the clocks of two machines may differ."""
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
        """Write the time of the renewal to the lease file. Errors of reading and writing are ignored.

        If another command has taken the lease over, write nothing. From then on, `check` raises OvssError.
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
        """Renew the lease. Return False if another command has taken the lease over, else True."""
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

    If the lease belongs to a command on this machine that has ended, the lease is taken over at once. If the lease
    belongs to a command on another machine, the end of that command cannot be seen. Then this function waits for STALE
    seconds, and `say` receives a message about the wait. If the lease is not renewed in this time, the lease is taken
    over. Raises OvssError if the command with the lease is alive, or if the folder cannot be written.
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
    """Write the file of a lease, unless the file exists. Return whether the file was written.

    If several processes call this at the same moment, only one of them writes the file. This holds for a local path,
    also if several machines share the path, and for S3. On other remote stores, two processes may both write the file.
    The file then has the lease of the second process. The command of the first process finds this lease at its next
    renewal, and ends. Raises OvssError with the file's name if the file cannot be written.
    """
    if "://" in uri:
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
    """Delete the lease of a command that has ended. `ended`: content of this lease.

    If the lease file has other content than `ended`, the file is kept, since another command now holds the lease.

    If several processes call this at the same moment on a local path, only one of them deletes the file.
    """
    if "://" in uri:
        if _read(uri) == ended:
            files.delete(uri)
        return
    path = Path(uri).expanduser()
    aside = path.with_name(f"{FILE}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.rename(aside)
        if _read(str(aside)) == ended:
            aside.unlink()
        else:
            aside.rename(path)
    except FileNotFoundError:
        return
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be deleted: {failure.strerror or failure}. Choose another --out") from failure


def _wait_for_end(uri: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Wait until the holder of a lease has ended or seems to have ended.

    Return the content of the lease; {} if it was deleted during the wait. Raises OvssError if the holder is alive.
    """
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
    """Return the host, process id and start time of this process, and the text `boot`.

    Two processes have different values of `boot` if the machine was restarted between them. On Linux, processes in
    different containers also have different values.
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
