"""Cache folder of this project, for copies of remote files and indexes of archives. Their total size is limited."""

import contextlib
import hashlib
import os
import time
import uuid
from functools import lru_cache
from pathlib import Path, PurePosixPath

from filelock import FileLock
from platformdirs import user_cache_dir

from ovss_ray.errors import OvssError
from ovss_ray.io.files import addresses, remote

LIMIT = "OVSS_CACHE_GB"
"""Name of the environment variable with the maximum total size, in GB, of copies and indexes in the cache"""
DEFAULT = 20.0
"""Default limit in GB"""
# Soon after `kept` has returned a path, a process opens the file.
YOUNG = 600.0
"""Minimum seconds between the last use of a file and the deletion of the file"""


def cache_folder() -> Path:
    """Return the folder of this project's caches: $OVSS_CACHE, or the user's cache folder."""
    return Path(os.environ.get("OVSS_CACHE") or user_cache_dir("ovss_ray")).expanduser()


def limit() -> int:
    """Return the maximum total size, in bytes, of copies and indexes in the cache.

    The environment variable OVSS_CACHE_GB sets this size in GB; the default is DEFAULT. Raises OvssError if the
    variable is not a finite number of at least 0.
    """
    text = os.environ.get(LIMIT, "")
    try:
        value = float(text) if text else DEFAULT
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise OvssError(f"{LIMIT}={text}: expected a number of GB, such as {LIMIT}=20")
    return int(value * 1e9)


def kept(name: str) -> Path:
    """Return the path for a cached file. If the file exists, mark the file as used now (see `trim`)."""
    path = cache_folder() / "files" / name
    with contextlib.suppress(OSError):  # it does not exist yet, or the cache is read-only, but still of use
        os.utime(path)
    return path


def trim() -> None:
    """Delete the least recently used copies and indexes while the cache exceeds the limit.

    Files that were used in the last YOUNG seconds are never deleted, even if the cache still exceeds the limit. In each
    process, only the first call in a minute has an effect.
    """
    _trim(cache_folder() / "files", limit(), int(time.monotonic() // 60))


@lru_cache(1)
def _trim(folder: Path, most: int, minute: int) -> None:
    stored = []
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process has just deleted it
            if file.is_file():
                stored.append((file.stat(), file))
    excess = sum(stat.st_size for stat, _ in stored) - most
    for stat, file in sorted(stored, key=lambda of: of[0].st_mtime):
        if excess > 0 and stat.st_mtime < time.time() - YOUNG:
            with contextlib.suppress(OSError):
                file.unlink()
                excess -= stat.st_size
                file.parent.rmdir()  # if it is empty now


def local_copy(uri: str) -> Path:
    """Return the path of a local file, or of a cached copy of a remote file.

    If the content of the remote file changes, the path of the copy changes. Raises OvssError if the file cannot be read
    or copied.
    """
    if (path := addresses.local(uri)) is not None:
        return Path(uri) if "://" not in uri else Path(path)
    content = remote.read(uri)
    copy = kept(f"{hashlib.sha256(content).hexdigest()}/{PurePosixPath(uri).name}")
    if not copy.exists():
        aside = copy.with_name(f"{uuid.uuid4().hex}.part")
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(content)
            aside.replace(copy)
            trim()
        except OSError as failure:
            raise OvssError(
                f"{copy}: cannot be written: {failure.strerror}. Set OVSS_CACHE to a writable folder"
            ) from failure
    return copy


def fetch(uri: str, file: Path) -> Path:
    """Download a file from `uri` to the path `file`, and return `file`. If `file` already exists, download nothing.

    Simultaneous calls download the file only once. Raises OvssError if the download fails. Raises OSError if the folder
    of `file` is not writable.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_of(file)):
        if not file.exists():
            aside = file.with_name(f".{file.name}.part")
            try:
                remote.download(uri, aside)
                aside.replace(file)
            finally:
                aside.unlink(missing_ok=True)
    return file


def lock_of(file: Path) -> Path:
    """Return the path of the lock that a process holds while it downloads a file."""
    return file.with_name(f".{file.name}.lock")
