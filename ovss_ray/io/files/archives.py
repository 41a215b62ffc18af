"""Files inside zip and tar archives, read by their position, without unpacking the archive.

In an address, an archive is a folder: /data/000.tar/a.jpg. The address /data/000.tar@1536+20481/a.jpg also contains
the file's offset and length in bytes. To read this address, no index of the archive is needed.
"""

import os
import re
import struct
import tarfile
import time
import zlib
from dataclasses import dataclass
from functools import lru_cache

from ovss_ray.errors import OvssError
from ovss_ray.io.files import addresses, remote

ENDINGS = (".zip", ".tar")
"""Extensions of archives whose files can be read one by one."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
"""Extensions of archives that are compressed as a whole. Files in these archives cannot be read one by one."""
_INSIDE = re.compile(r"\.(?:zip|tar|tar\.(?:gz|bz2|xz|zst)|tgz|tbz2|txz)(?=/)", re.IGNORECASE)
_PINNED = re.compile(
    r"(?P<archive>.+?\.(?P<kind>zip|tar))@(?P<offset>\d+)\+(?P<length>\d+)(?:-(?P<size>\d+)-(?P<crc>[0-9a-f]{8}))?"
    r"/(?P<name>.+)",
    re.IGNORECASE | re.DOTALL,
)
_HEADER = struct.Struct("<4s4xH16xHH")
"""Local header of a file in a zip archive (APPNOTE 4.3.7): signature, method, length of name, length of extra field."""
BLOCK = 512
"""Bytes of the header of a file in a tar archive."""
STORED, DEFLATED = 0, 8
"""Numbers of the two supported compression methods of zip archives: no compression, and Deflate."""


@dataclass(frozen=True)
class Member:
    """File in an archive, and its position."""

    archive: str
    name: str
    offset: int
    """first byte of the content in a tar archive, or of the local header in a zip archive"""
    length: int
    """number of bytes from `offset` to the end of the content (tar archive), or to the next header (zip archive)"""
    size: int
    """number of bytes of the content"""
    crc: int | None = None
    """CRC-32 of the content; None for a tar archive, which does not store a CRC-32"""

    @property
    def place(self) -> str:
        """Position of the file as text for an address, such as "1536+20481".

        The text is OFFSET+LENGTH in a tar archive, and OFFSET+LENGTH-SIZE-CRC in a zip archive. OFFSET, LENGTH, SIZE
        and CRC are the values of the attributes `offset`, `length`, `size` and `crc`. CRC is in hex.
        """
        return f"{self.offset}+{self.length}" + ("" if self.crc is None else f"-{self.size}-{self.crc:08x}")

    @property
    def uri(self) -> str:
        """The file's address with the position, such as a.tar@1536+20481/b.jpg."""
        return f"{self.archive}@{self.place}/{self.name}"


def is_archive(name: str) -> bool:
    """Return whether a name has the extension of an archive: one of ENDINGS or COMPRESSED, in upper or lower case."""
    return name.lower().endswith((*ENDINGS, *COMPRESSED))


def pinned(uri: str) -> Member | None:
    """Parse an address with the position of a file in an archive, such as a.tar@1536+20481/b.jpg.

    Return None for an address without a position. `Member.uri` is the inverse of this function.
    """
    match = _PINNED.fullmatch(uri) if "@" in uri else None
    if not match:
        return None
    offset, length = int(match["offset"]), int(match["length"])
    zipped = match["size"] is not None
    size, crc = (int(match["size"]), int(match["crc"], 16)) if zipped else (length, None)
    return Member(match["archive"], match["name"], offset, length, size, crc)


def split(uri: str) -> tuple[str, str] | None:
    """Return the archive in an address, and the path inside the archive. Return None for an address without an archive.

    Raises OvssError for an archive with an extension in COMPRESSED.
    """
    for match in _INSIDE.finditer(uri):
        archive, name = uri[: match.end()], uri[match.end() :].strip("/")
        if not _is_file(archive):
            continue
        if archive.lower().endswith(COMPRESSED):
            raise OvssError(
                f"{addresses.shown(archive)}: files in a compressed tar archive cannot be read one by one. Unpack it, "
                "or decompress it to a .tar, for example with gunzip or unxz"
            )
        return archive, name
    return None


def _is_file(uri: str) -> bool:
    path = addresses.local(uri)
    return _is_remote_file(uri, _minute()) if path is None else os.path.isfile(path)


@lru_cache(1024)
def _is_remote_file(uri: str, minute: int) -> bool:
    return (remote.info(uri) or {}).get("type") == "file"


def _minute() -> int:
    """Return the number of full minutes on the monotonic clock.

    Cached functions take this number as an argument. So a cached result is used for at most a minute.
    """
    return int(time.monotonic() // 60)


def stamp(archive: str) -> str:
    """Return a string that changes when an archive changes (see `files.stamp`).

    For a remote archive, the string may be a minute old.
    """
    path = addresses.local(archive)
    if path is None:
        return _remote_stamp(archive, _minute())
    state = os.stat(path)
    return f"{state.st_size}-{state.st_mtime_ns}-{state.st_ctime_ns}-{state.st_ino}"


@lru_cache(1024)
def _remote_stamp(archive: str, minute: int) -> str:
    return remote.stamp(archive)


def content(member: Member) -> bytes:
    """Return the bytes of a file in an archive. Raises OvssError if they are damaged, or if the archive has changed."""
    in_tar = member.crc is None
    data = _range(member.archive, member.offset - BLOCK * in_tar, member.offset + member.length)
    try:
        if len(data) < member.length + BLOCK * in_tar:
            raise ValueError("the archive is truncated")
        return _of_tar(member, data) if in_tar else _of_zip(member, data)
    except (ValueError, tarfile.TarError, zlib.error, struct.error) as failure:
        raise OvssError(
            f"{addresses.shown(member.archive)}: cannot read {member.name!r}: {failure}. The archive is damaged, or "
            "has changed since it was listed. Run the same command again, or get the archive again"
        ) from failure


def _range(archive: str, start: int, end: int) -> bytes:
    path = addresses.local(archive)
    if path is not None:
        try:
            with open(path, "rb") as file:
                file.seek(start)
                return file.read(end - start)
        except OSError as failure:
            raise OvssError(f"{archive}: cannot be read: {failure.strerror or failure}") from failure
    data = remote.read(archive, start, end)
    if len(data) > end - start:
        raise OvssError(
            f"{addresses.shown(archive)}: the server ignores range requests, so each image would require a download of "
            "the whole archive. Unpack the archive on the server, or copy it to a disk or an object store"
        )
    return data


def _of_tar(member: Member, data: bytes) -> bytes:
    header = tarfile.TarInfo.frombuf(data[:BLOCK], "utf-8", "surrogateescape")
    if header.size != member.length:
        raise ValueError(f"expected a file of {member.length} bytes, found {header.size} bytes")
    return data[BLOCK:]


def _of_zip(member: Member, data: bytes) -> bytes:
    signature, method, *lengths = _HEADER.unpack_from(data)
    if signature != b"PK\x03\x04":
        raise ValueError(f"no file begins at byte {member.offset}")
    body = data[_HEADER.size + sum(lengths) :]
    plain = body[: member.size] if method == STORED else zlib.decompressobj(-15).decompress(body, member.size + 1)
    if len(plain) != member.size or zlib.crc32(plain) != member.crc:
        raise ValueError("its checksum differs")
    return plain
