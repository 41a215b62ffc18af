"""Files by path or URI: local paths, and all schemes of fsspec (s3://, gs://, abfs://, http://, hf://, …)."""

import contextlib
import errno
import io
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ovss_ray.errors import OvssError
from ovss_ray.io import inline
from ovss_ray.io.files import addresses, archive_index, archives, cells, folders, remote
from ovss_ray.io.files.addresses import plain as plain
from ovss_ray.io.files.addresses import shown as shown
from ovss_ray.io.files.archives import Member
from ovss_ray.io.files.archives import is_archive as is_archive
from ovss_ray.io.files.cells import read_parquet as read_parquet
from ovss_ray.io.files.folders import Trail as Trail
from ovss_ray.io.files.folders import is_link as is_link
from ovss_ray.io.files.folders import leads_nowhere as leads_nowhere


def join(folder: str | Path, *names: str) -> str:
    """Return the path of a file inside a folder. The folder may be a URI."""
    return "/".join([str(folder).rstrip("/"), *names])


def read(uri: str | Path) -> bytes:
    """Return a file's bytes. Raises OvssError if the file cannot be read. The error names the file."""
    if inline.is_inline(str(uri)):
        return inline.content(str(uri))
    if (data := _inner(str(uri))) is not None:
        return data
    path = addresses.local(uri)
    if path is None:
        return remote.read(str(uri))
    with _explained(uri, "read"):
        return Path(path).read_bytes()


def archive_of(uri: str) -> str | None:
    """Return the address of the archive that an address contains.

    For "data/a.tar/b/c.jpg", the result is "data/a.tar". For "data/a.tar", the result is also "data/a.tar". If the
    address contains no archive, the result is None. Raises OvssError for a compressed tar archive.
    """
    inside = archives.split(f"{uri.rstrip('/')}/")
    return inside and inside[0]


def _inner(uri: str) -> bytes | None:
    """Return the bytes of a file in an archive, or of a table's cell (see cells.py); None for any other address."""
    if cell := cells.parsed(uri):
        return cells.content(cell)
    member = _member(uri)
    return archives.content(member) if member else None


def _member(uri: str) -> Member | None:
    """Return the file at an address in an archive; None for any other address. Raises OvssError for a missing file."""
    if member := archives.pinned(uri):
        return member
    if not (inside := archives.split(uri)):
        return None
    archive, path = inside
    if member := archive_index.of(archive).find(path):
        return member
    raise OvssError(f"{shown(uri)}: cannot be read: no such file in the archive")


def pinned(uri: str) -> str:
    """Add the file's position to an address inside an archive: return a.tar@1536+20481/b.jpg for a.tar/b.jpg.

    With the new address, the file is read without an index of the archive. If `uri` is not an address inside an
    archive, it is returned unchanged. Raises OvssError if the archive is damaged or lacks the file.
    """
    member = None if inline.is_inline(uri) else _member(uri)
    return member.uri if member else uri


def beginning(uri: str | Path, number: int) -> bytes:
    """Return the first `number` bytes of a file. If the file is shorter, return the whole file.

    Raises OvssError if the file cannot be read.
    """
    if (data := _inner(str(uri))) is not None:
        return data[:number]
    path = addresses.local(uri)
    if path is None:
        return remote.read(str(uri), 0, number)[:number]  # a web server may ignore the request for a part
    with _explained(uri, "read"), open(path, "rb") as file:
        return file.read(number)


@contextmanager
def opened(uri: str | Path) -> Iterator[BinaryIO]:
    """Open a file as a seekable stream of bytes. Raises OvssError if the file cannot be opened or read."""
    if (data := _inner(str(uri))) is not None:
        yield io.BytesIO(data)
        return
    path = addresses.local(uri)
    if path is None:
        with remote.opened(str(uri)) as file:
            yield file
        return
    with _explained(uri, "read"), open(path, "rb") as file:
        yield file


@contextmanager
def _explained(uri: str | Path, action: str) -> Iterator[None]:
    """Convert an OSError of the `with` block to OvssError, such as "photo.jpg: cannot be read: Permission denied"."""
    try:
        yield
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be {action}: {_lost_link(uri) or failure.strerror or failure}") from failure


def _lost_link(uri: str | Path) -> str:
    """Return a description of a broken link; "" for other files."""
    path = str(uri) if "://" in str(uri) else str(Path(uri).expanduser())
    if not leads_nowhere(path):
        return ""
    return f"broken link to {os.readlink(path)}. Fetch the file (git annex get, datalad get, dvc pull)"


def stamp(uri: str) -> str:
    """Return a string that changes when a file changes. The content of the file is not read.

    A copy of a file has another stamp than the original file. The stamp of a missing file is "absent". If a
    file cannot be accessed, or its size, times and checksums are all unknown, the stamp is "".
    """
    if inline.is_inline(uri):
        return inline.digest(uri)
    path = addresses.local(uri)
    try:
        if cell := cells.parsed(uri):
            table = archives.stamp(cell.table)
            return table and f"{cell.place} {table}"
        if member := archives.pinned(uri) or (archives.split(uri) and _member(uri)):
            archive = archives.stamp(member.archive)
            return archive and f"{member.place} {archive}"
        if path is None:
            return remote.stamp(uri)
        state = os.stat(path)
        return f"{state.st_size}-{state.st_mtime_ns}-{state.st_ctime_ns}-{state.st_ino}"
    except FileNotFoundError:
        return "absent"
    except (OSError, OvssError):
        return ""


def write(uri: str | Path, data: bytes | Iterator[bytes]) -> None:
    """Write a file completely, or not at all. `data` is the content, or an iterator over its pieces.

    The pieces of a remote file are first joined in memory. Raises OvssError if the file cannot be written.
    """
    path = addresses.local(uri)
    if path is None:
        remote.write(str(uri), b"".join(data) if isinstance(data, Iterator) else bytes(data))
        return
    aside = f"{path}.{uuid.uuid4().hex[:8]}.part"
    pieces: Iterable[bytes] = data if isinstance(data, Iterator) else [data]
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(aside, "wb") as file:
            for piece in pieces:
                file.write(piece)
        os.replace(aside, path)
    except OSError as failure:
        full = failure.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "no space left on device. Free some space there" if full else failure.strerror or failure
        raise OvssError(f"{uri}: cannot be written: {reason}") from failure
    finally:
        with contextlib.suppress(OSError):  # it is there only after a failure
            os.unlink(aside)


def create(uri: str, data: bytes) -> bool:
    """Write a file unless the file exists. Return True if this call has written the file.

    Two simultaneous calls may both return True, except on S3. Raises OvssError if the file cannot be written.
    """
    if not is_local(uri):
        return remote.create(uri, data)
    if exists(uri):
        return False
    write(uri, data)
    return True


def delete(uri: str | Path) -> None:
    """Delete a file, if it exists. Raises OvssError if that fails."""
    path = addresses.local(uri)
    if path is None:
        remote.delete(str(uri))
        return
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as failure:
        raise OvssError(f"{uri}: cannot be deleted: {failure.strerror or failure}") from failure


def names(folder: str | Path, suffix: str = "") -> list[str]:
    """Return those file names in a folder that end in `suffix`, sorted. For a missing folder, return an empty list."""
    return sorted(name for name, is_folder in entries(folder) if not is_folder and name.endswith(suffix))


def walk(folder: str | Path) -> list[str]:
    """Return the sorted addresses of all files below a folder; empty if the folder does not exist."""
    return sorted(scan(folder, recursive=True))


def scan(folder: str | Path, recursive: bool = False) -> Iterator[str]:
    """Yield the addresses of the files in a folder, in arbitrary order. If `recursive`, also search the subfolders.

    A folder that does not exist has no files. Broken links count as files.
    """
    pending = [(str(folder), Trail.at(folder))]
    while pending:
        place, trail = pending.pop()
        for name, is_folder in entries(place):
            address = join(place, name)
            if not is_folder:
                yield address
            elif recursive and (inner := trail.into(address)):  # not a link to a parent folder
                pending.append((address, inner))


def entries(folder: str | Path) -> Iterator[tuple[str, bool]]:
    """Yield each name in a folder, and True for a subfolder or False for a file, in arbitrary order.

    `folder` may be an archive. In a folder, archives and broken links count as files. Pipes, sockets and devices are
    ignored. A folder that does not exist has no entries. Raises OvssError if the folder cannot be listed.
    """
    if inside := archives.split(f"{str(folder).rstrip('/')}/"):
        archive, path_inside = inside
        yield from archive_index.of(archive).entries(path_inside)
        return
    path = addresses.local(folder)
    if path is None:
        yield from remote.entries(str(folder))
        return
    try:
        yield from folders.entries(path)
    except OSError as failure:
        raise OvssError(f"{folder}: cannot be listed: {failure.strerror or failure}") from failure


def absolute(uri: str) -> str:
    """Return a local path as an absolute path, and a URI unchanged.

    Raises OvssError if a URI contains a password or a key (see addresses.refuse_secrets).
    """
    addresses.refuse_secrets(uri)
    # workers have other working directories
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def is_local(uri: str) -> bool:
    """Return whether an address is local: a path or file://."""
    return "://" not in uri or uri.startswith("file://")


def exists(uri: str | Path) -> bool:
    """Return whether a file or folder exists. Raises OvssError if the check fails, for example without permission."""
    if inline.is_inline(str(uri)):
        return True
    if cell := cells.parsed(str(uri)):
        return exists(cell.table)
    if member := archives.pinned(str(uri)):
        return exists(member.archive)
    if inside := archives.split(str(uri)):
        index = archive_index.of(inside[0])
        return index.is_folder(inside[1]) or index.has(inside[1])
    path = addresses.local(uri)
    if path is None:
        return remote.exists(str(uri))
    with _explained(uri, "accessed"):
        return folders.state(path) is not None


def is_folder(uri: str | Path) -> bool:
    """Return whether a folder exists. The folder may be inside an archive. The archive itself counts as a file."""
    if inside := archives.split(str(uri)):
        return archive_index.of(inside[0]).is_folder(inside[1])
    path = addresses.local(uri)
    if path is None:
        return remote.is_folder(str(uri))
    with _explained(uri, "accessed"):
        return folders.is_folder(path)
