"""Digests of files. Records store them, so that a changed file is noticed."""

import hashlib
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ovss_ray.io import files

UNREADABLE = "unreadable"
"""Digest of a file that cannot be read. No record has this digest, so such a file counts as changed."""


def of(data: bytes) -> str:
    """Return the digest of a file's bytes: the first 32 hex digits of their SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


class Reader:
    """Reader of files that also computes their digests, and measures the CPU time of this computation."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def __call__(self, uri: str) -> tuple[bytes, str]:
        """Return a file's bytes and their digest. Raises OvssError if the file cannot be read."""
        data = files.read(uri)
        begun = time.thread_time()
        digest = of(data)
        self._seconds += time.thread_time() - begun
        return data, digest

    def spent(self) -> float:
        """Return the CPU seconds that digests have taken since the last call of this method."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def sha256(file: str | Path) -> str:
    """Return the SHA-256 of a file in hex. The result is cached until the file's size or modification time changes."""
    stat = Path(file).stat()
    return _sha256(str(file), stat.st_size, stat.st_mtime_ns)


def sha256_of(several: Sequence[Path]) -> str | None:
    """Return one SHA-256 in hex for several files, from their names and contents.

    For a single file, the result is the file's own SHA-256. For no files, it is None.
    """
    if len(several) < 2:
        return sha256(several[0]) if several else None
    lines = sorted(f"{file.name} {sha256(file)}" for file in several)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@lru_cache(maxsize=100_000)
def _sha256(file: str, size: int, changed: int) -> str:
    digest = hashlib.sha256()
    with Path(file).open("rb") as stream:
        while piece := stream.read(1 << 24):
            digest.update(piece)
    return digest.hexdigest()
