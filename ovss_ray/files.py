"""Files by path or URI: a local path, or anything that pyarrow or fsspec can open (s3://, gs://, …)."""

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ovss_ray.errors import OvssError

STATE = {
    *("size", "mtime", "lastmodified", "created", "modified", "modify", "modificationtime", "updated", "datetime"),
    *("etag", "contentmd5", "md5", "md5hash", "digest", "checksum", "crc", "sha", "blobid", "generation"),
}
"""Keys under which fsspec reports size, time or checksum of a file, in lower case and without punctuation."""


def locate(uri: str | Path) -> tuple[fs.FileSystem, str]:
    """Split a URI into its file system and the path there; a local path is made absolute.

    Names are taken as they are: `#`, `?` and `%` in them mean nothing. Raises OvssError if nothing can open it.
    """
    scheme, mark, rest = str(uri).partition("://")
    if not mark:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    host, _, path = rest.partition("/")
    try:
        system, base = fs.FileSystem.from_uri(f"{scheme}://{host}/")
    except (ValueError, OSError) as failure:
        return _fsspec(str(uri), failure)
    return system, f"{base.rstrip('/')}/{path}"


def _fsspec(uri: str, first: Exception) -> tuple[fs.FileSystem, str]:
    import fsspec  # comes with pyarrow's own users (Ray Data, huggingface_hub); needed for rarer schemes only

    fsspec.register_implementation("scenes", "ovss_ray.datasets.scenes.Files", clobber=True)  # imported when asked for
    try:
        backend, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as failure:
        raise OvssError(f"{uri}: neither pyarrow ({first}) nor fsspec ({failure}) can open this address") from failure
    return fs.PyFileSystem(fs.FSSpecHandler(backend)), path


def join(folder: str | Path, *names: str) -> str:
    """Put names behind a folder, which may be a URI."""
    return "/".join([str(folder).rstrip("/"), *names])


def read(uri: str | Path) -> bytes:
    """Return a file's bytes. Raises OvssError if it cannot be read, naming it."""
    try:
        if "://" not in str(uri):
            return Path(uri).expanduser().read_bytes()
        system, path = locate(uri)
        with system.open_input_file(path) as file:
            return file.read()
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be read: {_lost_link(uri) or failure.strerror or failure}") from failure


def _lost_link(uri: str | Path) -> str:
    """Describe a link that points nowhere; "" for anything else."""
    path = str(uri) if "://" in str(uri) else str(Path(uri).expanduser())
    if not leads_nowhere(path):
        return ""
    return f"a link to {os.readlink(path)}, which is not there. Fetch it (git annex get, datalad get, dvc pull)"


def stamp(uri: str) -> str:
    """Describe a file's state without reading it: another stamp means that its content may be another.

    A file of this machine has size, times of change of content and of entry, and inode: a copy has another stamp even
    if its times were copied too. Elsewhere it is the size, with the time or the ETag where there is one, and the
    address: another file may have the same size. "absent" if there is no such file, "" if nothing is known of it.
    """
    try:
        system, path = locate(uri)
        if isinstance(system, fs.LocalFileSystem):
            state = os.stat(path)
            return f"{state.st_size}-{state.st_mtime_ns}-{state.st_ctime_ns}-{state.st_ino}"
        if isinstance(system, fs.PyFileSystem):
            known = system.handler.fs.info(path)
            named = {re.sub("[^a-z0-9]", "", key.lower()): value for key, value in known.items()}
            facts = "-".join(str(named[key]) for key in sorted(STATE & named.keys()) if named[key] is not None)
            return facts and f"{facts} {uri}"
        found = system.get_file_info(path)
        return "absent" if found.type == fs.FileType.NotFound else f"{found.size}-{found.mtime_ns} {uri}"
    except FileNotFoundError:
        return "absent"
    except (OSError, OvssError):
        return ""


def write(uri: str | Path, data: bytes) -> None:
    """Write all of a file or nothing: locally aside and renamed, on an object store in one PUT.

    Raises OvssError if it cannot be written (no permission, no space), naming it.
    """
    system, path = locate(uri)
    local = isinstance(system, fs.LocalFileSystem)
    aside = f"{path}.{uuid.uuid4().hex[:8]}.part" if local else path
    try:
        system.create_dir(path.rpartition("/")[0], recursive=True)
        with system.open_output_stream(aside) as file:
            file.write(data)
        if local:
            os.replace(aside, path)
    except OSError as failure:
        if local:
            with contextlib.suppress(OSError):
                Path(aside).unlink()
        full = failure.errno in (errno.ENOSPC, errno.EDQUOT)
        why = "no space left on its disk. Make room there" if full else failure.strerror or failure
        raise OvssError(f"{uri}: cannot be written: {why}") from failure


def delete(uri: str | Path) -> None:
    """Delete a file, if there is one. Raises OvssError if that is not allowed."""
    system, path = locate(uri)
    try:
        if system.get_file_info(path).type != fs.FileType.NotFound:
            system.delete_file(path)
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be deleted: {failure.strerror or failure}") from failure


def read_parquet(content: bytes, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, its pages' checksums being compared. Raises ArrowException, ValueError or OSError.

    No thread takes part: of processes that end right after a read with Arrow's own, two in a hundred were aborted.
    """
    with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
        return file.read(columns, use_threads=False)


def names(folder: str | Path, suffix: str = "") -> list[str]:
    """The names of the files directly in a folder that end in `suffix`, sorted; none if there is no such folder."""
    _, listed = _list(folder, recursive=False)
    return sorted(file.base_name for file in listed if file.is_file and file.base_name.endswith(suffix))


def walk(folder: str | Path) -> list[str]:
    """The addresses of all files below a folder, sorted; none if there is no such folder."""
    return sorted(scan(folder, recursive=True))


def scan(folder: str | Path, recursive: bool = False) -> Iterator[str]:
    """The addresses of the files in a folder, or of all below it, in no order; none if there is no such folder.

    A link that points nowhere is a file. A link to a folder that contains it is passed by. Files of this machine are
    had one by one, and never stand in memory together.
    """
    left = [(str(folder), Trail.at(folder))]
    while left:
        place, trail = left.pop()
        for name, is_folder in entries(place):
            address = join(place, name)
            if not is_folder:
                yield address
            elif recursive and (inner := trail.into(address)):
                left.append((address, inner))


def entries(folder: str | Path) -> Iterator[tuple[str, bool]]:
    """The names in a folder, and whether each is a folder itself, in no order; none if there is no such folder.

    A link that points nowhere is a file; pipes, sockets and devices are left out. Raises OvssError.
    """
    system, path = locate(folder)
    if not isinstance(system, fs.LocalFileSystem):
        yield from ((file.base_name, not file.is_file) for file in _list(folder, recursive=False)[1])
        return
    if not os.path.lexists(path):
        return
    try:
        with os.scandir(path) as listed:
            for entry in listed:
                kind = _kind(entry)
                if kind is not None:
                    yield entry.name, kind
    except OSError as failure:
        raise OvssError(f"{folder}: cannot be listed: {failure.strerror or failure}") from failure


def _kind(entry: os.DirEntry[str]) -> bool | None:
    """True for a folder, False for a file or a link that leads nowhere, None for anything else."""
    try:
        if entry.is_dir():
            return True
        return False if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)) else None
    except OSError:  # a link to itself
        return False if entry.is_symlink() else None


def is_link(path: str) -> bool:
    """Whether a path is a link of this machine."""
    return "://" not in path and os.path.islink(path)


def leads_nowhere(path: str) -> bool:
    """Whether a path is a link of this machine to something that is not there."""
    return is_link(path) and not os.path.exists(path)


@dataclass(frozen=True)
class Trail:
    """The real paths of the folders that lead to a place: by them a link into its own folder is known."""

    reals: tuple[str, ...]
    """the place itself last, before it the folders in which links on the way stand; empty on another machine"""

    @classmethod
    def at(cls, folder: str | Path) -> "Trail":
        """Begin at a folder."""
        system, path = locate(folder)
        return cls((os.path.realpath(path),) if isinstance(system, fs.LocalFileSystem) else ())

    def into(self, folder: str) -> "Trail | None":
        """Go into a folder inside the place; None if it is a link to a folder that contains it."""
        if not self.reals:
            return self
        *before, here = self.reals
        _, path = locate(folder)
        if not os.path.islink(path):
            return Trail((*before, os.path.join(here, path.rpartition("/")[2])))
        real = os.path.realpath(path)
        if any(f"{known}/".startswith(f"{real.rstrip('/')}/") for known in self.reals):
            return None
        return Trail((*self.reals, real))


def _list(folder: str | Path, recursive: bool) -> tuple[str, list[fs.FileInfo]]:
    system, path = locate(folder)
    try:
        return path, system.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=recursive))
    except OSError as failure:
        raise OvssError(f"{folder}: cannot be listed: {failure.strerror or failure}") from failure


def absolute(uri: str) -> str:
    """Make a local path absolute, since workers have another working directory; a URI is returned as it is."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def is_local(uri: str) -> bool:
    """Whether an address is of this machine: a path, or file://."""
    return "://" not in uri or uri.startswith("file://")


def exists(uri: str | Path) -> bool:
    """Whether there is a file or folder of this name."""
    system, path = locate(uri)
    try:
        return system.get_file_info(path).type != fs.FileType.NotFound
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be looked up: {failure.strerror or failure}") from failure


def is_folder(uri: str | Path) -> bool:
    """Whether there is a folder of this name."""
    system, path = locate(uri)
    try:
        return system.get_file_info(path).type == fs.FileType.Directory
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be looked up: {failure.strerror or failure}") from failure


def plain(name: str) -> str:
    """A benchmark's name as the name of a folder: ade20k:847 → ade20k-847, folder:a/b.yaml → folder-b."""
    family, _, rest = name.partition(":")
    stem = Path(rest).stem if rest.endswith((".yaml", ".yml")) else rest
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{family}-{stem}" if stem else family)
