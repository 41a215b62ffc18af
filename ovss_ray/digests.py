"""Digests of files: they say in a record which bytes it is of, and whether a file has changed since."""

import hashlib
import time

from ovss_ray import files

UNREADABLE = "unreadable"
"""In the place of the digest of a file that cannot be read: no record is of such a file."""


def of(data: bytes) -> str:
    """Return the digest of a file's bytes: 32 hex digits of its SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


class Reader:
    """Reads files and their digests, and adds up the time that the digests take."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def __call__(self, uri: str) -> tuple[bytes, str]:
        """Return a file's bytes and their digest. Raises OvssError if it cannot be read."""
        data = files.read(uri)
        begun = time.thread_time()
        digest = of(data)
        self._seconds += time.thread_time() - begun
        return data, digest

    def spent(self) -> float:
        """Return the CPU seconds of all digests since this was last called."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
