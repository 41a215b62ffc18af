"""Safe extraction of archives that contain data sets."""

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

from ovss_ray.benchmarks.contract import Archive
from ovss_ray.errors import OvssError

if TYPE_CHECKING:
    from rich.progress import Progress

_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, struct.error),
    *(EOFError, ValueError, RuntimeError),  # truncated; invalid numbers or text; encrypted or an unknown method
)
"""Exceptions other than OSError that zipfile, tarfile and lzma raise for damaged files or files of other formats."""


@dataclass(frozen=True)
class _Member:
    """Archive entry other than a folder."""

    name: str
    size: int
    plain: bool
    """True for a regular file; False for a link, device or other special file"""
    open: Callable[[], Any]
    """function without arguments that opens the entry, and returns a binary stream"""


def unpack(archive: Archive, root: Path, progress: "Progress") -> None:
    """Extract a downloaded archive below `root`. Files that already exist with the right size are skipped.

    Raises OvssError in these cases:

    - the archive is damaged; the archive is then renamed
    - the path of a file in the archive leads outside the target folder
    - a file to extract is a link or device
    - the archive does not contain the file or folder `archive.inside`
    - the extracted files would not fit on the disk
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
            member = _Member(file.name, file.stat().st_size, True, partial(file.open, "rb"))
            _write_all(archive, root, [member], progress)
    except (*_DAMAGED, OSError) as failure:
        if isinstance(failure, OSError) and failure.errno not in (
            None,
            errno.EINVAL,
        ):  # None: of gzip; EINVAL: negative offset
            raise
        reason = str(failure).partition("\n")[0].rstrip(":")
        raise OvssError(f"{file} is damaged or not an archive: {reason}. {put_aside(file)}") from failure


def put_aside(file: Path) -> str:
    """Rename a damaged or wrong download. Return a sentence for the user with the new name of the file."""
    aside = file.rename(file.with_name(f"{file.name}.wrong"))
    return f"It was renamed to {aside}; run the same command to download it again"


def room(folder: Path, needed: int, what: str) -> None:
    """Raise OvssError if the disk of a folder has less than `needed` free bytes. `what` names the files to write."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OvssError(
            f"no space left on device: {what} needs {needed / 1e9:.2f} GB, but the disk of {folder} has "
            f"{free / 1e9:.2f} GB free. Free some space there, or name another folder with --out"
        )


def _zipped(opened: zipfile.ZipFile) -> Iterator[_Member]:
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0: created on a system without file types
        if not info.is_dir():
            yield _Member(info.filename, info.file_size, kind in (0, stat.S_IFREG), partial(opened.open, info))


def _tarred(opened: tarfile.TarFile) -> Iterator[_Member]:
    for info in opened:
        if not info.isdir():
            yield _Member(info.name, info.size, info.isreg(), partial(opened.extractfile, info))
    while opened.fileobj and opened.fileobj.read(1 << 20):
        pass  # read to the end, where gzip verifies its checksum


def _write_all(archive: Archive, root: Path, members: Iterable[_Member], progress: "Progress") -> None:
    targets = _targets(archive, root, members)
    todo = [(member, path) for member, path in targets if not (path.is_file() and path.stat().st_size == member.size)]
    total = sum(member.size for member, _ in todo)
    room(root, total, f"the content of {archive.path(root).name}")
    task = progress.add_task(f"unpack {archive.path(root).name}", total=total)
    for member, path in todo:
        _write(member, path)
        progress.advance(task, member.size)


def _targets(archive: Archive, root: Path, members: Iterable[_Member]) -> list[tuple[_Member, Path]]:
    """Return the files to extract, each with its target path.

    Raises OvssError if the path of a file leads outside the target folder. Raises OvssError if a file to extract is a
    link or device. Raises OvssError if the archive has no file to extract.
    """
    file, targets = archive.path(root), []
    for member in members:
        # zipfile and tarfile would silently change some unsafe paths.
        path = PureWindowsPath(member.name)  # parses drives and both kinds of slashes
        if path.anchor or ".." in path.parts:
            raise OvssError(
                f"{file}: {member.name!r} is outside the target folder. Nothing was unpacked; do not trust the archive"
            )
        if not PurePosixPath(member.name).is_relative_to(archive.inside):
            continue
        if not member.plain:
            raise OvssError(
                f"{file}: {member.name!r} is a link or device. Nothing was unpacked; do not trust the archive"
            )
        targets.append((member, root / archive.to / PurePosixPath(member.name).relative_to(archive.inside)))
    if not targets:
        raise OvssError(
            f"{file}: {archive.inside!r} not found in the archive. Perhaps the authors of the data set changed the "
            f"archive. Unpack the archive by hand, find the new name of {archive.inside!r}, and move this file or "
            f"folder to {root / archive.to}"
        )
    return targets


def _write(member: _Member, path: Path) -> None:
    """Extract a member of an archive to a file. If that fails, no partial file is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    try:
        with member.open() as source, aside.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
