"""Local folders: their entries, links to folders, and broken links."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ovss_ray.io.files import addresses


def entries(path: str) -> Iterator[tuple[str, bool]]:
    """Yield each name in a local folder, and True for a subfolder or False for a file (see `_kind`).

    Raises OSError if the folder cannot be listed.
    """
    if not os.path.lexists(path):
        return
    with os.scandir(path) as listed:
        for entry in listed:
            kind = _kind(entry)
            if kind is not None:
                yield entry.name, kind


def _kind(entry: os.DirEntry[str]) -> bool | None:
    """Return True for a folder, False for a file or broken link, None for a pipe, socket or device."""
    try:
        if entry.is_dir():
            return True
        return False if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)) else None
    except OSError:  # a link to itself
        return False if entry.is_symlink() else None


def state(path: str) -> os.stat_result | None:
    """Return `os.stat` of a local path; None if nothing exists there. Raises OSError if access fails."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_folder(path: str) -> bool:
    """Return whether a local folder exists. Raises OSError if access fails."""
    status = state(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def is_link(path: str) -> bool:
    """Return whether a path is a local symbolic link."""
    return "://" not in path and os.path.islink(path)


def leads_nowhere(path: str) -> bool:
    """Return whether a path is a broken local link."""
    return is_link(path) and not os.path.exists(path)


@dataclass(frozen=True)
class Trail:
    """Current folder of a recursive search. The method `into` detects links that would make the search endless."""

    reals: tuple[str, ...]
    """real paths of the folders in which the search followed a link, then the real path of the current folder

    For example, the folder /a/b contains a link to the folder /c. If the search has followed this link and then entered
    /c/d, the tuple is ("/a/b", "/c/d"). In remote folders, the tuple is empty.
    """

    @classmethod
    def at(cls, folder: str | Path) -> "Trail":
        """Return the `Trail` of the folder where a recursive search begins."""
        path = addresses.local(folder)
        return cls(() if path is None else (os.path.realpath(path),))

    def into(self, folder: str) -> "Trail | None":
        """Return the `Trail` of a subfolder; None if the subfolder is a link that would make the search endless.

        Such a link leads to a folder in `reals`, or to a folder that contains a folder in `reals`.
        """
        path = addresses.local(folder)
        if not self.reals or path is None:
            return self
        *before, here = self.reals
        if not os.path.islink(path):
            return Trail((*before, os.path.join(here, path.rpartition("/")[2])))
        real = os.path.realpath(path)
        if any(f"{known}/".startswith(f"{real.rstrip('/')}/") for known in self.reals):
            return None
        return Trail((*self.reals, real))
