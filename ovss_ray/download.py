"""Get the data of a benchmark from where its authors offer them: `ovss download`.

What there is to get is the benchmark's own business (Benchmark.archives); here it is fetched, compared with its
checksum, and unpacked into the layout that the benchmark reads (see archives).

HTTP is requests', and urllib3's Retry asks again where there was no answer. Going on with half a file is done here:
pooch, fsspec and torch's hub begin anew, and huggingface_hub's function for it is for its own hub, not documented, and
does not ask whether the file is still the one that was begun (RFC 9110, If-Range).
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

from ovss_ray import prepare
from ovss_ray.archives import DOWNLOADS, Archive, put_aside, room, unpack
from ovss_ray.datasets import benchmark as benchmarks
from ovss_ray.datasets.benchmark import Benchmark
from ovss_ray.errors import OvssError

PATIENCE = 20.0, 60.0
"""Seconds to wait for a connection, and for the next bytes."""
PAUSE = 1.0
"""Seconds before a second try; each further one waits twice as long."""
TRIES = 5
"""How often in a row a file may break off without any new byte."""
PIECE = 1 << 18
COLUMNS = (
    *(TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn()),
    *(TransferSpeedColumn(), TimeRemainingColumn()),
)


def run(name: str, out: str | None) -> int:
    """Get what is missing of a benchmark's data, and say what to type next; return how many files only a user can get.

    `out` is the data root, $OVSS_DATA if it is None. Raises OvssError if something cannot be had: no network, no such
    file, not what its checksum says, no room on the disk.
    """
    benchmark, console = benchmarks.load(name), Console(stderr=True, highlight=False, soft_wrap=True)
    if not benchmark.archives:
        source = "its images are drawn" if benchmark.drawn else f"its data come from {benchmark.source}"
        console.print(f"{name} has nothing to download: {source}", markup=False)
        return 0
    root = _root(out)
    if not _complete(benchmark, root):
        by_hand = _get(benchmark, root, console)
        for archive in by_hand:
            console.print(_ask(archive, root), markup=False)
        if by_hand:
            return len(by_hand)
        console.print(f"the archives in {root / DOWNLOADS} are not needed any more", markup=False)
    console.print(_next(name, benchmark, str(root)), markup=False)
    return 0


def _root(out: str | None) -> Path:
    given = out or os.environ.get("OVSS_DATA")
    if not given:
        raise OvssError("where the data are to lie was not said. Add --out DIR, or set OVSS_DATA=DIR")
    if "://" in given:
        raise OvssError(f"data are downloaded into a folder of this machine, and {given} is none. Name one by --out")
    return Path(given).expanduser().absolute()


def _complete(benchmark: Benchmark, root: Path) -> bool:
    try:
        found = sum(1 for _ in benchmark.items(str(root), benchmark.split))
    except OvssError:
        return False
    return found == benchmark.counts.get(benchmark.split)


def _get(benchmark: Benchmark, root: Path, console: Console) -> list[Archive]:
    """Fetch and unpack; return those that have to be fetched by hand, and are not here."""
    by_hand = []
    try:
        (root / DOWNLOADS).mkdir(parents=True, exist_ok=True)
        missing = {one.path(root): one.size for one in benchmark.archives if one.size and not one.path(root).exists()}
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
        raise OvssError(f"{failure.filename or root}: cannot be written: {failure.strerror or failure}") from failure
    return by_hand


def _retry() -> Retry:
    """When to ask a server again that gave no answer; one that asks for an hour's patience is not waited for."""
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
            f"another process is getting {path}. Wait for it, then give the same command again"
        ) from failure


def _fetch(session: requests.Session, archive: Archive, path: Path, progress: Progress) -> None:
    """Fetch a file, or what is missing of it. Raises OvssError, OSError."""
    part, farthest, vain, whole = _part(path), 0, 0, False
    task = progress.add_task(path.name, total=None)
    while not whole:
        try:
            whole = _receive(session, archive, part, progress, task)
        except HTTPError as failure:
            reached = _size(part)
            farthest, vain = max(reached, farthest), 0 if reached > farthest else vain + 1
            told = f"{archive.url} broke off at {reached / 1e6:.1f} MB: {next(iter(failure.args), failure)}"
            if vain == TRIES:
                raise OvssError(f"{told}, {TRIES} times. The same command goes on") from failure
            progress.console.print(told, markup=False)
            time.sleep(PAUSE * 2**vain)
    part.replace(path)
    _mark(part).unlink(missing_ok=True)


def _receive(session: requests.Session, archive: Archive, part: Path, progress: Progress, task: TaskID) -> bool:
    """Ask for a file, or for the rest of what is here; return whether all of it is here now.

    Raises OvssError if there is no answer or none that helps, and urllib3's HTTPError if it breaks off.
    """
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
    """Where a file lies while it is not whole."""
    return path.with_name(f"{path.name}.part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mark(part: Path) -> Path:
    """The file that says, in the server's words, which version of a file a part is of."""
    return part.with_suffix(".mark")


def _tag(response: requests.Response) -> str:
    """What tells a version of a file from another: its ETag unless that is a weak one, or when it was last changed."""
    tag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified", "") if tag.startswith("W/") else tag


def _answer(session: requests.Session, archive: Archive, part: Path, headers: dict[str, str]) -> requests.Response:
    """Ask a server. Raises OvssError that says what else can be done, unless it offers a file, or says 416."""
    asked = {"Accept-Encoding": "identity", **headers}  # what is wanted is the archive, byte for byte
    try:
        response = session.get(archive.url, headers=asked, stream=True, timeout=PATIENCE)
        told = f"HTTP status {response.status_code}, {response.reason}"
        if response.status_code in (200, 206, 416):
            return response
    except requests.RequestException as failure:
        told = f"no answer: {failure}"
    raise OvssError(
        f"{archive.url}: {told}. Give the same command again, or get {part.stem} in another way, put it into "
        f"{part.parent}, and give the same command then"
    )


def _verify(archive: Archive, root: Path) -> None:
    """Compare a file with its checksum, if one is known. Raises OvssError, and puts it aside."""
    path = archive.path(root)
    kind, _, wanted = archive.digest.partition(":")
    if not wanted:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != wanted:
        raise OvssError(
            f"{path} has {kind} {found}, and {wanted} was asked for. {put_aside(path)}. If its authors have changed it "
            f"and you trust it, unpack it yourself to {root / archive.to}"
        )


def _ask(archive: Archive, root: Path) -> str:
    """Say how a file is got by hand."""
    path, folder = archive.path(root), root / archive.to
    inside = f" (its {archive.inside})" if archive.inside else ""
    return (
        f"{path.name} has to be got by hand ({archive.note}): {archive.url}\n  Put it into {path.parent} and give the "
        f"same command again, or unpack it{inside} to {folder} yourself"
    )


def _next(name: str, benchmark: Benchmark, root: str) -> str:
    """Say what to type now. Raises OvssError if the benchmark does not find its data."""
    try:
        return prepare.what_next(name, benchmark, root, benchmark.split)
    except OvssError:
        if benchmark.prepare is None:
            raise
    list(benchmark.prepare(root, benchmark.split, None))
    return f"Now type: ovss prepare {name} --data-root {root}"
