"""Remote files, through fsspec: s3://, gs://, abfs://, http(s)://, hf:// and others.

Failed reads are repeated. Listings are not cached, since other processes of a run write files.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from ovss_ray.errors import OvssError
from ovss_ray.io.files.addresses import ADVICE, refuse_secrets, shown, without_secrets

if TYPE_CHECKING:
    from fsspec.spec import AbstractFileSystem

STATE = {
    *("size", "mtime", "lastmodified", "created", "modified", "modify", "modificationtime", "updated", "datetime"),
    *("etag", "contentmd5", "md5", "md5hash", "digest", "checksum", "crc", "sha", "blobid", "generation"),
}
"""Keys of fsspec's `info` for the size, time or checksum of a file, in lower case and without punctuation."""
EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("abfs", "abfss", "az"), "azure"),
}
"""Scheme → extra that installs the scheme's library, such as "s3" in `pip install 'ovss_ray[s3]'`"""
OBJECT_STORES = (*EXTRAS, "hf")
"""Schemes without real folders. Before a file is written, its folder need not be created."""
# With simple_links, fsspec would take every text like a URL in a folder's index page for a file, not only <a> tags.
OPTIONS = {"http": {"simple_links": False}, "https": {"simple_links": False}}
"""Scheme → options of fsspec's file system"""
ATTEMPTS = 4
"""Number of times that a read is attempted. The libraries of object stores repeat requests themselves, too."""
SILENCE = 60.0
"""Maximum number of seconds that a download waits for more data. Then the download fails."""
PAGE = 1000
"""Number of entries of a listing that are fetched at once."""
_LIBRARIES = (
    *(("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError")),
    *(("google.auth.exceptions", "GoogleAuthError"), ("gcsfs.retry", "HttpError")),
    *(("azure.core.exceptions", "AzureError"), ("httpx", "HTTPError")),
)
"""Exceptions of libraries for remote files, as (module, class). OSError and its subclasses need no entry here."""

T = TypeVar("T")


def failures(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Return the types of the exceptions that a failed request may raise. `more`: further types of this request."""
    loaded = [getattr(sys.modules.get(module), name, None) for module, name in _LIBRARIES]
    return (OSError, NotImplementedError, *more, *(failure for failure in loaded if failure is not None))


def locate(uri: str) -> tuple["AbstractFileSystem", str]:
    """Return the fsspec file system and the path that a URI names. Raises OvssError if fsspec cannot open the URI."""
    refuse_secrets(uri)
    from fsspec.core import url_to_fs  # here, since most commands need local files only
    from fsspec.registry import register_implementation

    scheme = uri.partition("://")[0].lower()
    register_implementation("scenes", "ovss_ray.datasets.scenes.Files", clobber=True)  # imported on first use
    try:
        return url_to_fs(uri, use_listings_cache=False, **OPTIONS.get(scheme, {}))
    except ImportError as failure:
        extra = EXTRAS.get(scheme)
        advice = f"Run `pip install 'ovss_ray[{extra}]'`" if extra else f"{failure}"
        raise OvssError(f"{shown(uri)}: the library for {scheme}:// is not installed. {advice}") from failure
    except failures(ValueError) as failure:
        raise OvssError(f"{shown(uri)}: fsspec cannot open this URI: {reason(uri, failure)}") from failure


def reason(uri: str, failure: BaseException) -> str:
    """Return a short description of a failed request, without passwords and keys.

    If credentials are missing or access is denied, the description ends with advice on credentials.
    """
    advice = ADVICE.get(uri.partition("://")[0].lower(), "")
    status = getattr(failure, "status", None)
    if "Credentials" in type(failure).__name__ or "credentials" in str(failure).lower():
        return f"no valid credentials ({_text(failure)}). {advice}".rstrip()
    if isinstance(failure, FileNotFoundError) and "bucket" not in str(failure).lower():
        return "no such file"
    if isinstance(failure, PermissionError) or status in (401, 403):
        return f"access denied ({_text(failure)}). {advice}".rstrip()
    return _text(failure)


def _text(failure: BaseException) -> str:
    plain = failure.strerror if isinstance(failure, OSError) and type(failure).__module__ == "builtins" else None
    text = plain or str(failure) or type(failure).__name__
    return re.sub(r"\s+", " ", without_secrets(text))[:300]


@contextmanager
def explained(uri: str, action: str) -> Iterator[None]:
    """Convert failed requests in the block to OvssError, such as "s3://b/x: cannot be read: access denied"."""
    try:
        yield
    except failures(ValueError) as failure:
        raise OvssError(f"{shown(uri)}: cannot be {action}: {reason(uri, failure)}") from failure


def _transient(failure: BaseException) -> bool:
    """Return whether a failed request may succeed if it is repeated."""
    status = getattr(failure, "status", None)
    if isinstance(status, int):
        return status in (408, 425, 429) or status >= 500
    lost = tuple(filter(None, (getattr(sys.modules.get("aiohttp"), "ClientConnectionError", None),)))
    return isinstance(failure, (ConnectionError, asyncio.TimeoutError, *lost))


def _repeated(request: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Return the result of a read. After a transient failure, the read is repeated, with growing pauses."""
    import tenacity  # here, as fsspec

    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_transient),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
        reraise=True,
    )
    return cast(T, attempts(request, *arguments, **options))


def read(uri: str, start: int | None = None, end: int | None = None) -> bytes:
    """Return the bytes content[start:end] of a file, as in a Python slice. Raises OvssError if the read fails."""
    backend, path = locate(uri)
    with explained(uri, "read"):
        return _repeated(backend.cat_file, path, start=start, end=end)


def download(uri: str, file: Path) -> None:
    """Copy a file to this machine, piece by piece. Raises OvssError if the transfer cannot begin, or breaks off."""
    backend, path = locate(uri)
    with explained(uri, "downloaded"):
        if _is_web(backend):  # fsspec would end a transfer after five minutes
            _repeated(_streamed, uri, file)
        else:
            _repeated(backend.get_file, path, str(file))


def _streamed(uri: str, file: Path) -> None:
    import requests

    try:
        with requests.get(uri, stream=True, timeout=SILENCE) as answer, file.open("wb") as sink:
            answer.raise_for_status()
            for piece in answer.iter_content(1 << 20):
                sink.write(piece)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as failure:
        raise ConnectionError(str(failure)) from failure


@contextmanager
def opened(uri: str) -> Iterator[BinaryIO]:
    """Open a file as a seekable stream, read in blocks. Raises OvssError if the file cannot be opened or read."""
    backend, path = locate(uri)
    try:
        with _repeated(backend.open, path, "rb") as file:
            yield file
    except failures() as failure:
        raise OvssError(f"{shown(uri)}: cannot be read: {reason(uri, failure)}") from failure


def write(uri: str, data: bytes) -> None:
    """Write a file. In an object store, no reader sees only a part of the file. Raises OvssError if the write fails."""
    backend, path = locate(uri)
    with explained(uri, "written"):
        _make_parent(backend, uri, path)
        backend.pipe_file(path, data)


def create(uri: str, data: bytes) -> bool:
    """Write a file unless the file exists. Return True if this call has written the file.

    Two simultaneous calls may both return True, except on S3. Raises OvssError if the file cannot be written.
    """
    if exists(uri):
        return False
    backend, path = locate(uri)
    with explained(uri, "written"):
        _make_parent(backend, uri, path)
        try:
            backend.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        except TypeError:  # a library without the argument `mode`
            backend.pipe_file(path, data)
    return True


def _make_parent(backend: "AbstractFileSystem", uri: str, path: str) -> None:
    if uri.partition("://")[0].lower() not in OBJECT_STORES:
        backend.makedirs(path.rpartition("/")[0], exist_ok=True)


def delete(uri: str) -> None:
    """Delete a file, if the file exists. Raises OvssError if the deletion fails."""
    backend, path = locate(uri)
    with explained(uri, "deleted"):
        try:
            backend.rm_file(path)
        except FileNotFoundError:
            return


def info(uri: str) -> dict[str, Any] | None:
    """Return fsspec's `info` of a URI; None if nothing exists at the URI. Raises OvssError if the request fails."""
    backend, path = locate(uri)
    with explained(uri, "accessed"):
        return _repeated(_info, backend, path)


def _info(backend: "AbstractFileSystem", path: str) -> dict[str, Any] | None:
    try:
        return backend.info(path)
    except FileNotFoundError as failure:
        cause = failure.__cause__  # fsspec also calls a file missing if a web server refuses or does not answer
        lost = getattr(cause, "status", None) in (404, 410) or isinstance(cause, FileNotFoundError)
        if _is_web(backend) and isinstance(cause, failures()) and not lost:
            raise cause from failure
        return None


def _is_web(backend: "AbstractFileSystem") -> bool:
    return "http" in backend.protocol


def exists(uri: str) -> bool:
    """Return whether a file or folder exists. Raises OvssError if the request fails."""
    return info(uri) is not None


def is_folder(uri: str) -> bool:
    """Return whether a folder exists. On a web server, the folder's address with a final slash must exist."""
    if _is_web(locate(uri)[0]):
        return exists(uri.rstrip("/") + "/")
    return (info(uri) or {}).get("type") == "directory"


def stamp(uri: str) -> str:
    """Return a text of a file's size, times and checksums, followed by the file's URI.

    If fsspec lacks some of these facts, the text omits them. If fsspec lacks all of these facts, the text is "". For a
    missing file, the text is "absent". Raises OvssError if the request fails.
    """
    known = info(uri)
    if known is None:
        return "absent"
    named = {re.sub("[^a-z0-9]", "", key.lower()): value for key, value in known.items()}
    facts = "-".join(str(named[key]) for key in sorted(STATE & named.keys()) if named[key] is not None)
    return facts and f"{facts} {uri}"


def entries(uri: str) -> Iterator[tuple[str, bool]]:
    """Yield each name in a folder, and True for a subfolder or False for a file, in arbitrary order.

    A missing folder has no entries. Raises OvssError if the listing fails.
    """
    backend, path = locate(uri)
    folder = f"{path.strip('/')}/".removeprefix("/")
    with explained(uri, "listed"):
        for entry in _listed(backend, f"{path.rstrip('/')}/"):
            name = entry["name"].lstrip("/")
            inner = name.removeprefix(folder)
            if (inner == name and folder) or not re.fullmatch("[^/]+/?", inner):
                continue  # the folder itself, or a link of an index page to another folder
            if not (_is_web(backend) and re.search("[?#]", inner)):  # a link that sorts the index page
                yield inner.rstrip("/"), entry["type"] == "directory"


def _listed(backend: "AbstractFileSystem", folder: str) -> Iterator[dict[str, Any]]:
    """Yield fsspec's entries of a folder. On S3, the entries are fetched page by page."""
    if "s3" in backend.protocol and hasattr(backend, "_iterdir"):
        from fsspec.asyn import sync

        bucket, _, prefix = folder.partition("/")
        pages = backend._iterdir(bucket, prefix=prefix)  # the listing of s3fs that does not collect all pages
        while page := sync(backend.loop, _page, pages):
            yield from page
        return
    try:
        yield from _repeated(backend.ls, folder, detail=True)
    except FileNotFoundError:
        return


async def _page(entries: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    page = []
    async for entry in entries:
        page.append(entry)
        if len(page) == PAGE:
            break
    return page
