"""Archives of data sets: what they hold, where it goes, and how they are unpacked without being trusted."""

import errno
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from ovss_ray.errors import OvssError

if TYPE_CHECKING:
    from rich.progress import Progress

DOWNLOADS = "downloads"
"""The folder below a data root that archives lie in."""
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, struct.error),
    *(EOFError, ValueError, RuntimeError),  # cut short; no numbers or text; encrypted, or packed in an unknown way
)
"""What the libraries raise for an archive that is none, or is not whole; and OSError, see `unpack`."""


@dataclass(frozen=True)
class Archive:
    """A file that a data set's authors offer, and where its content goes: zip or tar, or else kept as it is."""

    url: str
    """its address, or the page where it is offered if a browser is needed; a path without "://" is a file below the
    data root, which came out of an archive before it"""
    to: str
    """the folder below the data root that the content goes to"""
    inside: str = ""
    """the folder in the archive whose content is taken; or a file in it, or what is no archive itself: `to` is then
    what it will be called"""
    digest: str = ""
    """md5:…, sha1:… or sha256:…, where the authors or a well-known library state one"""
    size: int = 0
    """bytes, more or less: the disk is asked for room before anything is fetched; 0: not known"""
    file: str = ""
    """its name; left out: the end of the address"""
    note: str = ""
    """why a browser is needed; empty: anybody can have it"""

    def path(self, root: Path) -> Path:
        """Where the file itself lies."""
        return root / DOWNLOADS / (self.file or PurePosixPath(self.url).name) if "://" in self.url else root / self.url


@dataclass(frozen=True)
class _Member:
    """A file in an archive."""

    name: str
    size: int
    plain: bool
    """False: a link, a device or the like"""
    open: Callable[[], Any]
    """gives a stream of its bytes"""


def unpack(archive: Archive, root: Path, progress: "Progress") -> None:
    """Unpack what is missing of an archive that is here; a file that is there in its full size is left as it is.

    Raises OvssError, and has then written nothing, if the archive holds links or paths out of its folder, or not the
    folder that is asked for, or if the disk is too small. One that is damaged is put aside, and OvssError raised.
    """
    file = archive.path(root)
    try:
        if file.name.endswith(".zip"):
            with zipfile.ZipFile(file) as zipped:
                _write_all(archive, root, _zipped(zipped), progress)
        elif file.name.endswith((".tar", ".tar.gz", ".tgz")):
            with tarfile.open(file) as tarred:
                _write_all(archive, root, _tarred(tarred), progress)
        else:
            alone = _Member(file.name, file.stat().st_size, True, partial(file.open, "rb"))
            _write_all(archive, root, [alone], progress)
    except (*_DAMAGED, OSError) as failure:
        if isinstance(failure, OSError) and failure.errno not in (None, errno.EINVAL):  # gzip's own; a place before 0
            raise
        why = str(failure).partition("\n")[0].rstrip(":")
        raise OvssError(f"{file} is damaged, or no archive at all: {why}. {put_aside(file)}") from failure


def put_aside(file: Path) -> str:
    """Rename a file that is not what it should be, and say so."""
    aside = file.rename(file.with_name(f"{file.name}.wrong"))
    return f"It was put aside as {aside}; the same command begins anew"


def room(folder: Path, needed: int, what: str) -> None:
    """Raise OvssError if the disk of a folder has less than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OvssError(
            f"{what} needs {needed / 1e9:.2f} GB, and there are {free / 1e9:.2f} GB left on the disk of {folder}. Make "
            "room there, or name another folder by --out"
        )


def _zipped(opened: zipfile.ZipFile) -> Iterator[_Member]:
    for one in opened.infolist():
        kind = stat.S_IFMT(one.external_attr >> 16)  # 0: made where files have no kind
        if not one.is_dir():
            yield _Member(one.filename, one.file_size, kind in (0, stat.S_IFREG), partial(opened.open, one))


def _tarred(opened: tarfile.TarFile) -> Iterator[_Member]:
    for one in opened:
        if not one.isdir():
            yield _Member(one.name, one.size, one.isreg(), partial(opened.extractfile, one))
    while opened.fileobj and opened.fileobj.read(1 << 20):
        pass  # to the end, where gzip compares its checksum


def _write_all(archive: Archive, root: Path, members: Iterable[_Member], progress: "Progress") -> None:
    chosen = _chosen(archive, root, members)
    todo = [(one, path) for one, path in chosen if not (path.is_file() and path.stat().st_size == one.size)]
    total = sum(one.size for one, _ in todo)
    room(root, total, f"what {archive.path(root).name} holds")
    task = progress.add_task(f"unpack {archive.path(root).name}", total=total)
    for one, path in todo:
        _write(one, path)
        progress.advance(task, one.size)


def _chosen(archive: Archive, root: Path, members: Iterable[_Member]) -> list[tuple[_Member, Path]]:
    """Choose the files that are taken, and where each goes. Raises OvssError if one is not to be trusted.

    This is checked here since neither library does it everywhere: zipfile mends such names silently, and tarfile's
    `filter` does so for absolute ones and is missing from some Python 3.11. Links are never made.
    """
    file, chosen = archive.path(root), []
    for one in members:
        path = PureWindowsPath(one.name)  # knows drives and both kinds of slashes
        if path.anchor or ".." in path.parts:
            raise OvssError(f"{file}: {one.name!r} leads out of its folder. Nothing was unpacked; do not trust it")
        if not PurePosixPath(one.name).is_relative_to(archive.inside):
            continue
        if not one.plain:
            raise OvssError(f"{file}: {one.name!r} is a link or a device. Nothing was unpacked; do not trust it")
        chosen.append((one, root / archive.to / PurePosixPath(one.name).relative_to(archive.inside)))
    if not chosen:
        raise OvssError(f"{file} holds no {archive.inside!r}. Its authors have changed it; unpack it by hand to {root}")
    return chosen


def _write(member: _Member, path: Path) -> None:
    """Write all of a file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    try:
        with member.open() as source, aside.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
