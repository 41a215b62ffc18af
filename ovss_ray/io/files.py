"""Files by path or URI: local paths, and all schemes of pyarrow and fsspec (s3://, gs://, …)."""

import contextlib
import errno
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from ovss_ray.errors import OvssError
from ovss_ray.io import inline

STATE = {
    *("size", "mtime", "lastmodified", "created", "modified", "modify", "modificationtime", "updated", "datetime"),
    *("etag", "contentmd5", "md5", "md5hash", "digest", "checksum", "crc", "sha", "blobid", "generation"),
}
"""Keys of fsspec's `info` for the size, time or checksum of a file, in lower case and without punctuation."""


def locate(uri: str | Path) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URI and the path in it. A local path is made absolute.

    The characters `#`, `?` and `%` have no special meaning. Raises OvssError if no library can open the URI.
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
    import fsspec  # a dependency of Ray Data and huggingface_hub; needed for less common schemes only

    fsspec.register_implementation("scenes", "ovss_ray.datasets.scenes.Files", clobber=True)  # imported on first use
    try:
        backend, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as failure:
        raise OvssError(f"{uri}: neither pyarrow ({first}) nor fsspec ({failure}) can open this URI") from failure
    return fs.PyFileSystem(fs.FSSpecHandler(backend)), path


def join(folder: str | Path, *names: str) -> str:
    """Return the path of a file inside a folder. The folder may be a URI."""
    return "/".join([str(folder).rstrip("/"), *names])


def read(uri: str | Path) -> bytes:
    """Return a file's bytes. Raises OvssError with the file's name if it cannot be read."""
    if inline.is_inline(str(uri)):
        return inline.content(str(uri))
    try:
        if "://" not in str(uri):
            return Path(uri).expanduser().read_bytes()
        system, path = locate(uri)
        with system.open_input_file(path) as file:
            return file.read()
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be read: {_lost_link(uri) or failure.strerror or failure}") from failure


def _lost_link(uri: str | Path) -> str:
    """Return a description of a broken link; "" for other files."""
    path = str(uri) if "://" in str(uri) else str(Path(uri).expanduser())
    if not leads_nowhere(path):
        return ""
    return f"broken link to {os.readlink(path)}. Fetch the file (git annex get, datalad get, dvc pull)"


def stamp(uri: str) -> str:
    """Return a string that changes when a file changes, without reading the file.

    The stamp of a local file consists of size, modification time, change time and inode, so copies differ.
    The stamp of a remote file consists of its URI and of its size, times and checksums, if known.
    So two remote files of equal size have different stamps. The stamp of a missing file is "absent". If nothing is
    known about a file, or it cannot be accessed, its stamp is "". The stamp of an inline address is its digest.
    """
    if inline.is_inline(uri):
        return inline.digest(uri)
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
        info = system.get_file_info(path)
        return "absent" if info.type == fs.FileType.NotFound else f"{info.size}-{info.mtime_ns} {uri}"
    except FileNotFoundError:
        return "absent"
    except (OSError, OvssError):
        return ""


def write(uri: str | Path, data: bytes | Iterator[bytes]) -> None:
    """Write a file completely, or not at all. `data` is the content, or an iterator over its pieces.

    A local file is written piece by piece under a temporary name, then renamed. For a remote file, all pieces are
    first joined in memory, for a single PUT. Raises OvssError with the file's name if it cannot be written (no
    permission, no space).
    """
    system, path = locate(uri)
    local = isinstance(system, fs.LocalFileSystem)
    aside = f"{path}.{uuid.uuid4().hex[:8]}.part" if local else path
    joined = b"".join(data) if isinstance(data, Iterator) and not local else data
    pieces: Iterable[bytes] = joined if isinstance(joined, Iterator) else [joined]
    try:
        system.create_dir(path.rpartition("/")[0], recursive=True)
        with system.open_output_stream(aside) as file:
            for piece in pieces:
                file.write(piece)
        if local:
            os.replace(aside, path)
    except OSError as failure:
        full = failure.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no space left on device. Free some space there" if full else failure.strerror or failure
        raise OvssError(f"{uri}: cannot be written: {reason}") from failure
    finally:
        if local:
            with contextlib.suppress(OSError):  # it is there only after a failure
                Path(aside).unlink()


def delete(uri: str | Path) -> None:
    """Delete a file, if it exists. Raises OvssError if that fails."""
    system, path = locate(uri)
    try:
        if system.get_file_info(path).type != fs.FileType.NotFound:
            system.delete_file(path)
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be deleted: {failure.strerror or failure}") from failure


def read_parquet(content: bytes, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file and verify the checksums of its pages. Raises ArrowException, ValueError or OSError.

    Arrow's threads are not used. With them, 2 of 100 processes that ended right after a read were aborted.
    """
    with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
        return file.read(columns, use_threads=False)


def names(folder: str | Path, suffix: str = "") -> list[str]:
    """Return the sorted file names in a folder that end in `suffix`; empty if the folder does not exist."""
    _, listed = _list(folder, recursive=False)
    return sorted(file.base_name for file in listed if file.is_file and file.base_name.endswith(suffix))


def walk(folder: str | Path) -> list[str]:
    """Return the sorted addresses of all files below a folder; empty if the folder does not exist."""
    return sorted(scan(folder, recursive=True))


def scan(folder: str | Path, recursive: bool = False) -> Iterator[str]:
    """Yield the addresses of the files in a folder, or of all files below it, in arbitrary order.

    A folder that does not exist has no files. Broken links count as files; links to a parent folder are ignored. Local
    files are listed lazily, so that memory stays constant.
    """
    pending = [(str(folder), Trail.at(folder))]
    while pending:
        place, trail = pending.pop()
        for name, is_folder in entries(place):
            address = join(place, name)
            if not is_folder:
                yield address
            elif recursive and (inner := trail.into(address)):
                pending.append((address, inner))


def entries(folder: str | Path) -> Iterator[tuple[str, bool]]:
    """Yield each name in a folder and whether it is a folder, in arbitrary order.

    A folder that does not exist has no names. Broken links count as files; pipes, sockets and devices are ignored.
    Raises OvssError if the folder cannot be listed.
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
    """Return True for a folder, False for a file or broken link, None for a pipe, socket or device."""
    try:
        if entry.is_dir():
            return True
        return False if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)) else None
    except OSError:  # a link to itself
        return False if entry.is_symlink() else None


def is_link(path: str) -> bool:
    """Return whether a path is a local symbolic link."""
    return "://" not in path and os.path.islink(path)


def leads_nowhere(path: str) -> bool:
    """Return whether a path is a broken local link."""
    return is_link(path) and not os.path.exists(path)


@dataclass(frozen=True)
class Trail:
    """Folders from the start of a recursive search down to the current one, to detect links to a parent folder."""

    reals: tuple[str, ...]
    """real path of each folder from which a link was followed, then of the current folder; empty for remote files"""

    @classmethod
    def at(cls, folder: str | Path) -> "Trail":
        """Return the `Trail` of the folder where a recursive search begins."""
        system, path = locate(folder)
        return cls((os.path.realpath(path),) if isinstance(system, fs.LocalFileSystem) else ())

    def into(self, folder: str) -> "Trail | None":
        """Return the `Trail` of a subfolder; None if the subfolder is a link that leads back to a parent folder."""
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
    """Return the absolute form of a local path, for workers with other working directories. A URI is unchanged."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def is_local(uri: str) -> bool:
    """Return whether an address is local: a path or file://."""
    return "://" not in uri or uri.startswith("file://")


def exists(uri: str | Path) -> bool:
    """Return whether a file or folder exists. Raises OvssError if it cannot be accessed."""
    if inline.is_inline(str(uri)):
        return True
    system, path = locate(uri)
    try:
        return system.get_file_info(path).type != fs.FileType.NotFound
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be accessed: {failure.strerror or failure}") from failure


def is_folder(uri: str | Path) -> bool:
    """Return whether an address is that of a folder. Raises OvssError if it cannot be accessed."""
    system, path = locate(uri)
    try:
        return system.get_file_info(path).type == fs.FileType.Directory
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be accessed: {failure.strerror or failure}") from failure


def plain(name: str) -> str:
    """Return a benchmark's name as a folder name: ade20k:847 → ade20k-847, folder:a/b.yaml → folder-b."""
    family, _, rest = name.partition(":")
    stem = Path(rest).stem if rest.endswith((".yaml", ".yml")) else rest
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{family}-{stem}" if stem else family)
