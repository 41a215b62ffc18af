"""Indexes of zip and tar archives. An index gives the position of each file, and is cached as an SQLite file.

If an archive changes, a new index is made.
"""

import hashlib
import sqlite3
import struct
import tarfile
import threading
import uuid
import zipfile
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from ovss_ray.errors import OvssError
from ovss_ray.io.files import addresses, archives, cache, remote
from ovss_ray.io.files.archives import BLOCK, DEFLATED, STORED, Member

VERSION = "1"
"""Version of the layout of an index, which is defined by _TABLES. An index of another version is not read.

The file name of a cached index depends on this version."""
LARGEST = 1 << 31
"""Maximum size in bytes of a file that is read from an archive."""
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error, OSError)
"""Exceptions that zipfile, tarfile and fsspec raise for damaged archives, and for servers without range requests."""
_TABLES = """
CREATE TABLE members (folder TEXT, name TEXT, place TEXT, PRIMARY KEY (folder, name)) WITHOUT ROWID;
CREATE TABLE folders (parent TEXT, name TEXT, PRIMARY KEY (parent, name)) WITHOUT ROWID;
"""


class Index:
    """Index of an archive, which lists the files in each folder of the archive.

    The methods expect paths that neither begin nor end with a slash, such as "a/b.jpg".
    """

    def __init__(self, archive: str, file: Path) -> None:
        self.archive = archive
        self._base = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        self._lock = threading.Lock()

    def _rows(self, question: str, *values: str) -> list[tuple[str, ...]]:
        with self._lock:
            return self._base.execute(question, values).fetchall()

    def find(self, path: str) -> Member | None:
        """Return the file at a path; None if the archive lacks the file.

        Raises OvssError for a file that cannot be read without unpacking the archive, such as an encrypted file.
        """
        folder, _, name = path.rpartition("/")
        rows = self._rows("SELECT place FROM members WHERE folder = ? AND name = ?", folder, name)
        if not rows:
            return None
        ((place,),) = rows
        if member := archives.pinned(f"{self.archive}@{place}/{path}"):
            return member
        raise OvssError(f"{addresses.shown(self.archive)}: {path!r} cannot be read without unpacking, because {place}")

    def has(self, path: str) -> bool:
        """Return whether a file exists in the archive."""
        folder, _, name = path.rpartition("/")
        return bool(self._rows("SELECT 1 FROM members WHERE folder = ? AND name = ?", folder, name))

    def is_folder(self, path: str) -> bool:
        """Return whether a folder exists in the archive."""
        parent, _, name = path.rpartition("/")
        return not path or bool(self._rows("SELECT 1 FROM folders WHERE parent = ? AND name = ?", parent, name))

    def entries(self, path: str) -> Iterator[tuple[str, bool]]:
        """Yield each name in a folder, and True for a subfolder or False for a file."""
        yield from ((name, True) for (name,) in self._rows("SELECT name FROM folders WHERE parent = ?", path))
        last = ""
        while rows := self._rows(
            "SELECT name FROM members WHERE folder = ? AND name > ? ORDER BY name LIMIT 1000", path, last
        ):
            yield from ((name, False) for (name,) in rows)
            ((last,),) = rows[-1:]


def of(archive: str) -> Index:
    """Return the index of an archive. If the cache lacks the index, make the index and add it to the cache.

    Raises OvssError for a damaged archive.
    """
    try:
        return _of(archive, archives.stamp(archive) or uuid.uuid4().hex)
    except OSError as failure:
        raise OvssError(f"{addresses.shown(archive)}: cannot be read: {failure.strerror or failure}") from failure


@lru_cache(256)
def _of(archive: str, stamp: str) -> Index:
    place = archive if "://" in archive else str(addresses.local(archive))
    name = hashlib.sha256(f"{VERSION} {place} {stamp}".encode()).hexdigest()
    file = cache.kept(f"{name}.index")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.exists():
                _make(archive, file)
                cache.trim()
        return Index(archive, file)
    except (OSError, sqlite3.Error) as failure:
        raise OvssError(f"{file}: cannot be written: {failure}. Set OVSS_CACHE to a writable folder") from failure


def _make(archive: str, file: Path) -> None:
    """Write the index of an archive under a temporary name, then rename it."""
    aside = file.with_suffix(".part")
    aside.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(aside, isolation_level=None)) as base:
            base.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _TABLES + "BEGIN;")
            _fill(base, archive)
            base.execute("COMMIT")
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def _fill(base: sqlite3.Connection, archive: str) -> None:
    known = {""}
    for path, place in _members(archive):
        folder, _, name = path.rpartition("/")
        target = place.removeprefix("same as ") if place.startswith("same as ") else None
        if target is not None:
            place = _place_of(base, target)
        try:
            base.execute("INSERT INTO members VALUES (?, ?, ?)", (folder, name, place))
        except sqlite3.IntegrityError as failure:
            raise OvssError(
                f"{addresses.shown(archive)}: contains {path!r} twice. Pack it again, with each file once"
            ) from failure
        while folder not in known:
            known.add(folder)
            parent, _, name = folder.rpartition("/")
            base.execute("INSERT OR IGNORE INTO folders VALUES (?, ?)", (parent, name))
            folder = parent


def _place_of(base: sqlite3.Connection, path: str) -> str:
    """Return the place of a hard link's target (see `_members`). `path`: path of the target.

    If `base` lacks the target, return the reason why the hard link cannot be read: "it is a link to 'a/b.jpg'".
    """
    folder, _, name = path.rpartition("/")
    row = base.execute("SELECT place FROM members WHERE folder = ? AND name = ?", (folder, name)).fetchone()
    return row[0] if row else f"it is a link to {path!r}"


def _members(archive: str) -> Iterator[tuple[str, str]]:
    """Yield two texts for each file in an archive: the path, and the place.

    The place is a position such as "1536+20481", or a fault such as "it is encrypted". For a hard link, the place is
    "same as PATH".
    """
    listed = _of_zip if archive.lower().endswith(".zip") else _of_tar
    try:
        with _opened(archive) as file:
            for name, place in listed(file):
                yield _path(name), place
    except _DAMAGED as failure:
        kind = archive[-3:].lower()
        raise OvssError(
            f"{addresses.shown(archive)}: not a {kind} archive, or truncated or damaged: {failure}. Get it again"
        ) from failure


def _opened(archive: str) -> AbstractContextManager[BinaryIO]:
    path = addresses.local(archive)
    return remote.opened(archive) if path is None else open(path, "rb")


def _path(name: str) -> str:
    """Return a path in normal form, such as "a/b" for "./a//b". Raises ValueError for an unsafe path such as "../a"."""
    steps = [step for step in name.split("/") if step not in ("", ".")]
    if ".." in steps or name.startswith("/") or "\0" in name or not steps:
        raise ValueError(f"the path {name!r} leads out of the archive")
    name.encode()  # raises UnicodeEncodeError, a ValueError, for a name that was not UTF-8
    return "/".join(steps)


def _of_zip(file: BinaryIO) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        starts = [*sorted(info.header_offset for info in infos), archive.start_dir]
        for info in infos:
            end = starts[bisect_right(starts, info.header_offset)]
            member = Member("", "", info.header_offset, end - info.header_offset, info.file_size, info.CRC)
            if not info.is_dir():
                yield info.filename, _zip_fault(info) or member.place


def _zip_fault(info: zipfile.ZipInfo) -> str:
    """Return the reason why a file in a zip archive cannot be read; "" if it can."""
    if info.flag_bits & 1:
        return "it is encrypted"
    if info.compress_type not in (STORED, DEFLATED):
        return f"it is compressed by method {info.compress_type}; pack it with `zip`"
    return "it is larger than 2 GB" if info.file_size > LARGEST else ""


def _of_tar(file: BinaryIO) -> Iterator[tuple[str, str]]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else all headers stay in memory
            if info.isreg() and not info.issparse():
                large = info.size > LARGEST
                yield info.name, "it is larger than 2 GB" if large else f"{info.offset_data}+{info.size}"
            elif info.islnk():
                yield info.name, f"same as {_path(info.linkname)}"
            elif info.issym() or info.issparse():
                yield info.name, f"it is a link to {info.linkname!r}" if info.issym() else "it is a sparse file"
        file.seek(archive.offset)
        if any(file.read(BLOCK) or b"\1"):  # tarfile takes damage in the middle for the end
            raise tarfile.ReadError(f"no further file and no end mark at byte {archive.offset}")
