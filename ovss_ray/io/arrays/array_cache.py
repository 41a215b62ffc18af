"""Cache on disk for arrays that are expensive to compute, such as the embeddings of a vocabulary."""

import contextlib
import hashlib
import os
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ovss_ray.io.files.cache import cache_folder


class ArrayCache:
    """Cache of arrays by key, as files in a folder that processes and runs share. Cached arrays are memory-mapped.

    If all files together exceed `limit_bytes`, the least recently used files are deleted. If a file is damaged, the
    method `get` computes the array again.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int = 1 << 30) -> None:
        self.folder = folder or cache_folder() / "arrays"
        self.limit_bytes = limit_bytes

    def get(self, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array with the key `key` from the cache. If the cache lacks this array, compute it with `make`.

        A computed array is written to the cache. If writing fails, show a warning, and return the computed array.
        """
        cached = self.find(key)
        if cached is not None:
            return cached
        array = make()
        try:
            self._keep(key, array)
            self._forget()
        except OSError as failure:
            warnings.warn(f"{self.folder}: cannot write the cache: {failure}. Set OVSS_CACHE to a folder", stacklevel=2)
        return array

    def find(self, key: str) -> np.ndarray | None:
        """Return the cached array if it is undamaged, else None."""
        for file in self.folder.glob(f"{key}.*.npy"):
            try:
                if file.name.split(".")[1] == _checksum(file):  # else the file is damaged
                    with contextlib.suppress(OSError):  # a read-only cache is still of use
                        os.utime(file)
                    return np.load(file, mmap_mode="r")
                file.unlink()
            except OSError:  # another process has just deleted it, or has locked it
                continue
        return None

    def _keep(self, key: str, array: np.ndarray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f"{uuid.uuid4().hex}.part"
        try:
            with aside.open("wb") as file:
                np.save(file, array)
            aside.rename(self.folder / f"{key}.{_checksum(aside)}.npy")
        finally:
            aside.unlink(missing_ok=True)

    def _forget(self) -> None:
        """Delete the least recently used arrays while the files of the cache together exceed `limit_bytes`.

        Also delete temporary files that are more than an hour old.
        """
        stored = []
        for file in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process has just deleted it
                stored.append((file.stat(), file))
        stored.sort(key=lambda stat_and_file: stat_and_file[0].st_mtime_ns)
        excess = sum(stat.st_size for stat, _ in stored) - self.limit_bytes
        for stat, file in stored:
            dead = file.suffix == ".part" and stat.st_mtime < time.time() - 3600
            if dead or (excess > 0 and file.suffix == ".npy"):
                file.unlink(missing_ok=True)
                excess -= stat.st_size


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:32]
