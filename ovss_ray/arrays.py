"""Arrays that are dear to make, such as the embeddings of a vocabulary, kept on disk between runs."""

import contextlib
import hashlib
import os
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ovss_ray.weights import cache_folder


class ArrayCache:
    """Arrays by key in a folder, shared by processes and runs, mapped into memory when read.

    A file is named by its key and by the sha256 of its bytes, so one that was damaged is made again, not trusted.
    Files are written aside and renamed. When there are more bytes than `limit_bytes`, those unused for longest go.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int = 1 << 30) -> None:
        self.folder = folder or cache_folder() / "arrays"
        self.limit_bytes = limit_bytes

    def get(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return what is kept under the key, or else make and keep it. A folder that cannot be written only warns."""
        found = self.find(key)
        if found is not None:
            return found
        made = make()
        try:
            self._keep(key, made)
            self._forget()
        except OSError as failure:
            warnings.warn(f"{self.folder}: nothing is kept there: {failure}. Set OVSS_CACHE to a folder", stacklevel=2)
        return made

    def find(self, key: str) -> np.ndarray | None:
        """Return what is kept under the key, whole and undamaged, or None."""
        for file in self.folder.glob(f"{key}.*.npy"):
            try:
                if file.name.split(".")[1] == _checksum(file):
                    with contextlib.suppress(OSError):  # a cache that may only be read is a cache all the same
                        os.utime(file)
                    return np.load(file, mmap_mode="r")
                file.unlink()
            except OSError:  # another process has just removed it, or may not be disturbed
                continue
        return None

    def _keep(self, key: str, made: np.ndarray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f"{uuid.uuid4().hex}.part"
        try:
            with aside.open("wb") as file:
                np.save(file, made)
            aside.rename(self.folder / f"{key}.{_checksum(aside)}.npy")
        finally:
            aside.unlink(missing_ok=True)

    def _forget(self) -> None:
        """Remove the files unused for longest, and what a process that died has left behind."""
        files = sorted(((file.stat(), file) for file in self.folder.iterdir()), key=lambda one: one[0].st_mtime_ns)
        excess = sum(stat.st_size for stat, _ in files) - self.limit_bytes
        for stat, file in files:
            dead = file.suffix == ".part" and stat.st_mtime < time.time() - 3600
            if dead or (excess > 0 and file.suffix == ".npy"):
                file.unlink(missing_ok=True)
                excess -= stat.st_size


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:32]
