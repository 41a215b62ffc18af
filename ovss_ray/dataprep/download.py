"""Download of a benchmark's data from its authors: `ovss download`.

The files of `Benchmark.archives` are downloaded, verified by their checksums, and unpacked. An interrupted download is
resumed if the file on the server is unchanged (RFC 9110, If-Range).
"""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from filelock import FileLock, Timeout
from requests.adapters import HTTPAdapter
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.contract import DOWNLOADS, Archive, Benchmark
from ovss_ray.dataprep import prepare
from ovss_ray.dataprep.archives import put_aside, room, unpack
from ovss_ray.errors import OvssError

PATIENCE = 20.0, 60.0
"""Maximum seconds to wait for a connection, and for the next bytes."""
PAUSE = 1.0
"""Seconds: shortest pause after an interruption. Each attempt without new data doubles the pause."""
TRIES = 5
"""Number of interruptions in a row, with no byte received in between, after which a download fails."""
PIECE = 1 << 18
"""Bytes that are received and written at once."""
COLUMNS = (
    *(TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn()),
    *(TransferSpeedColumn(), TimeRemainingColumn()),
)


def run(name: str, out: str | None) -> int:
    """Download a benchmark's missing data. Return the number of files that the user must download by hand.

    `out` is the data root; None means $OVSS_DATA. Raises OvssError if a file cannot be downloaded, verified or written.
    """
    benchmark, console = catalog.load(name), Console(stderr=True, highlight=False, soft_wrap=True)
    if not benchmark.archives:
        source = "its images are drawn" if benchmark.drawn else f"its data come from {benchmark.source}"
        console.print(f"{name} has nothing to download: {source}", markup=False)
        return 0
    root = _root(out)
    if not _complete(benchmark, root):
        by_hand = _get(benchmark, root, console)
        for archive in by_hand:
            console.print(_by_hand(archive, root), markup=False)
        if by_hand:
            return len(by_hand)
        console.print(f"the archives in {root / DOWNLOADS} can be deleted", markup=False)
    console.print(_next(name, benchmark, str(root)), markup=False)
    return 0


def _root(out: str | None) -> Path:
    folder = out or os.environ.get("OVSS_DATA")
    if not folder:
        raise OvssError("no data root: pass --out DIR or set OVSS_DATA=DIR")
    if "://" in folder:
        raise OvssError(f"cannot download to {folder}: it must be a local folder. Pass one with --out DIR")
    return Path(folder).expanduser().absolute()


def _complete(benchmark: Benchmark, root: Path) -> bool:
    try:
        count = sum(1 for _ in benchmark.items(str(root), benchmark.split))
    except OvssError:
        return False
    return count == benchmark.counts.get(benchmark.split)


def _get(benchmark: Benchmark, root: Path, console: Console) -> list[Archive]:
    """Download and unpack all archives; return those that the user must download by hand."""
    by_hand = []
    try:
        (root / DOWNLOADS).mkdir(parents=True, exist_ok=True)
        missing = {
            archive.path(root): archive.size
            for archive in benchmark.archives
            if archive.size and not archive.path(root).exists()
        }
        needed = sum(2 * size - _size(_part(path)) for path, size in missing.items())  # photographs hardly shrink
        room(root, needed, f"{benchmark.title}, packed and unpacked,")
        with requests.Session() as session, Progress(*COLUMNS, console=console) as progress:
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=_retry()))
            for archive in benchmark.archives:
                path = archive.path(root)
                if archive.note and not path.exists():
                    by_hand.append(archive)
                    continue
                with _alone(path):
                    if not path.exists():
                        _fetch(session, archive, path, progress)
                    _verify(archive, root)
                    unpack(archive, root, progress)
    except OSError as failure:
        raise OvssError(
            f"{failure.filename or root}: cannot be written: {failure.strerror or failure}. Choose another --out DIR"
        ) from failure
    return by_hand


def _retry() -> Retry:
    """Return urllib3's rules for repeating requests."""
    # A server may demand a long pause in the header Retry-After, so the header is ignored.
    return Retry(
        TRIES,
        connect=2,
        status_forcelist=(429, 500, 502, 503, 504),
        backoff_factor=PAUSE,
        respect_retry_after_header=False,
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    try:
        with FileLock(f"{path}.lock", timeout=0):
            yield
    except Timeout as failure:
        raise OvssError(
            f"another process is downloading {path}. Wait for it, then run the same command again"
        ) from failure


def _fetch(session: requests.Session, archive: Archive, path: Path, progress: Progress) -> None:
    """Download a file, or the missing rest of a partial file.

    Raises OvssError if a request fails, if the disk has too little space, or after TRIES interruptions without new
    data. Raises OSError if the file cannot be written.
    """
    part, farthest, vain, whole = _part(path), 0, 0, False
    task = progress.add_task(path.name, total=None)
    while not whole:
        try:
            whole = _receive(session, archive, part, progress, task)
        except HTTPError as failure:
            reached = _size(part)
            farthest, vain = max(reached, farthest), 0 if reached > farthest else vain + 1
            message = f"{archive.url}: interrupted at {reached / 1e6:.1f} MB: {next(iter(failure.args), failure)}"
            if vain == TRIES:
                raise OvssError(
                    f"{message}. {TRIES} attempts in a row received no new data. Run the same command to resume"
                ) from failure
            progress.console.print(message, markup=False)
            time.sleep(PAUSE * 2**vain)
    part.replace(path)
    _mark(part).unlink(missing_ok=True)


def _receive(session: requests.Session, archive: Archive, part: Path, progress: Progress, task: TaskID) -> bool:
    """Request a file, or the rest of a partial file. Return whether the file is complete.

    Raises OvssError if the request fails, and urllib3's HTTPError if the transfer is interrupted.
    """
    # pooch, fsspec and torch.hub would start an interrupted download from the beginning.
    mark = _mark(part)
    tag = mark.read_text() if mark.exists() else ""
    have = _size(part) if tag else 0
    headers = {"Range": f"bytes={have}-", "If-Range": tag} if have else {}
    with _answer(session, archive, part, headers) as response:
        status, where = response.status_code, response.headers.get("Content-Range", "")
        if status == 416 and where == f"bytes */{have}":
            return True
        if status == 416 or (status == 206 and not where.startswith(f"bytes {have}-")):
            part.unlink()
            return False
        have = have if status == 206 else 0
        length = response.raw.length_remaining or 0
        room(part.parent, 2 * length + have, f"{part.stem}, packed and unpacked,")
        progress.update(task, total=have + length if length else None, completed=have)
        with part.open("ab" if have else "wb") as sink:
            if not have:
                mark.write_text(_tag(response))
            for piece in response.raw.stream(PIECE, decode_content=False):
                sink.write(piece)
                progress.advance(task, len(piece))
    return True


def _part(path: Path) -> Path:
    """Return the path of the temporary file that holds the data of an incomplete download of `path`."""
    return path.with_name(f"{path.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mark(part: Path) -> Path:
    """Return the path of the text file that holds the version tag of the partial file `part` (see `_tag`)."""
    return part.with_suffix(".mark")


def _tag(response: requests.Response) -> str:
    """Return the tag of a file's version on the server: a strong ETag, or else the header Last-Modified."""
    tag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified", "") if tag.startswith("W/") else tag


def _answer(session: requests.Session, archive: Archive, part: Path, headers: dict[str, str]) -> requests.Response:
    """Request a file and return the answer if its status is 200, 206 or 416. Otherwise, raise OvssError with advice."""
    request_headers = {"Accept-Encoding": "identity", **headers}  # for the unchanged bytes of the archive
    try:
        response = session.get(archive.url, headers=request_headers, stream=True, timeout=PATIENCE)
        status = f"HTTP status {response.status_code}, {response.reason}"
        if response.status_code in (200, 206, 416):
            return response
    except requests.RequestException as failure:
        status = f"no answer: {failure}"
    raise OvssError(
        f"{archive.url}: {status}. Run the same command again. If that fails, download {part.stem} in a browser, move "
        f"it to {part.parent}, and run the same command again"
    )


def _verify(archive: Archive, root: Path) -> None:
    """Verify the checksum of a downloaded file. If the checksum is wrong, rename the file and raise OvssError."""
    path = archive.path(root)
    kind, _, expected = archive.digest.partition(":")
    if not expected:
        return
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, kind).hexdigest()
    if actual != expected:
        raise OvssError(
            f"checksum mismatch: {path} has {kind} {actual}, expected {expected}. {put_aside(path)}. If the authors "
            f"changed the file and you trust it, unpack it by hand to {root / archive.to}"
        )


def _by_hand(archive: Archive, root: Path) -> str:
    """Return instructions to download a file by hand."""
    path, folder = archive.path(root), root / archive.to
    inside = f" (its {archive.inside})" if archive.inside else ""
    return (
        f"{path.name} must be downloaded by hand ({archive.note}): {archive.url}\n  Move it to {path.parent} and run "
        f"the same command again, or unpack it{inside} to {folder} yourself"
    )


def _next(name: str, benchmark: Benchmark, root: str) -> str:
    """Return a sentence with the command to type next. Raises OvssError if the benchmark's data are still missing."""
    try:
        return prepare.what_next(name, benchmark, root, benchmark.split)
    except OvssError:
        if benchmark.prepare is None:
            raise
    list(benchmark.prepare(root, benchmark.split, None))
    return f"Now type: ovss prepare {name} --data-root {root}"
