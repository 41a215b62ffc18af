"""`ovss download`: files come whole or not at all, whatever the server does, and what is left is said."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.contract import Archive
from ovss_ray.dataprep import archives, download
from ovss_ray.datasets import camvid
from ovss_ray.errors import OvssError
from tests.web import Web, tarred, zipped

FRAMES = {f"CamVid/{folder}/{stem}.png": os.urandom(70_000) for folder in ("val", "valannot") for stem in ("a", "b")}
"""A data set of two images, which need not be decoded to be counted."""
PACKED = zipped({f"top/{name}": content for name, content in FRAMES.items()} | {"top/model.bin": b"not wanted"})


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with Web() as server:
        server.files["frames.zip"] = PACKED
        yield server
        server.shutdown()


@pytest.fixture
def frames(web: Web, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """The one archive of the benchmark camvid, for the length of a test."""
    return offer(monkeypatch, Archive(web.url("frames.zip"), to="CamVid", inside="top/CamVid", size=len(PACKED)))


def offer(monkeypatch: pytest.MonkeyPatch, archive: Archive) -> Archive:
    changed = replace(catalog.load("camvid"), archives=(archive,), counts={"val": 2})
    monkeypatch.setitem(camvid.BENCHMARKS, "", changed)
    return archive


def get(root: Path, name: str = "camvid") -> int:
    return download.run(name, str(root))


def unpacked(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in root.glob("CamVid/**/*") if file.is_file()}


def test_what_a_benchmark_reads_is_fetched_and_unpacked(
    web: Web, frames: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get(tmp_path) == 0
    assert unpacked(tmp_path) == FRAMES
    assert not (tmp_path / "model.bin").exists()
    assert [file.name for file in (tmp_path / "downloads").iterdir() if file.suffix != ".lock"] == ["frames.zip"]
    assert f"Now type: ovss evaluate san_vit_b_16 --benchmark camvid --data-root {tmp_path}" in capsys.readouterr().err


def test_a_finished_file_is_not_fetched_again(web: Web, frames: Archive, tmp_path: Path) -> None:
    get(tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("CamVid/*/*")}
    lost, cut = tmp_path / "CamVid/val/a.png", tmp_path / "CamVid/valannot/b.png"
    lost.unlink()
    cut.write_bytes(b"cut")
    get(tmp_path)
    assert unpacked(tmp_path) == FRAMES
    assert all(file.stat().st_mtime_ns == before[file] for file in before if file not in (lost, cut))
    shutil.rmtree(tmp_path / "downloads")  # what was packed is not needed any more
    get(tmp_path)
    assert web.asked == [("frames.zip", "")]


def test_a_file_that_breaks_off_goes_on_where_it_broke(web: Web, frames: Archive, tmp_path: Path) -> None:
    web.cuts = [100_000, 80_000]
    get(tmp_path)
    assert unpacked(tmp_path) == FRAMES
    first, *others = [wanted for _, wanted in web.asked]
    starts = [int(wanted[len("bytes=") : -1]) for wanted in others]
    assert first == ""
    assert starts == [100_000, 180_000]


def test_another_command_goes_on_where_the_first_gave_up(web: Web, frames: Archive, tmp_path: Path) -> None:
    web.cuts = [150_000] + [0] * download.TRIES
    with pytest.raises(
        OvssError,
        match=r"interrupted at 0\.1 MB.* 5 attempts in a row received no new data\. Run the same command to resume",
    ):
        get(tmp_path)
    web.asked.clear()
    get(tmp_path)
    assert unpacked(tmp_path) == FRAMES
    assert web.asked == [("frames.zip", "bytes=150000-")]


def test_without_ranges_it_starts_anew(web: Web, frames: Archive, tmp_path: Path) -> None:
    web.ranges, web.cuts = False, [100_000, 200_000]
    get(tmp_path)
    assert unpacked(tmp_path) == FRAMES
    assert web.asked == [("frames.zip", "")] * 3


def test_a_part_of_another_version_is_not_gone_on_with(web: Web, frames: Archive, tmp_path: Path) -> None:
    web.files["frames.zip"], web.cuts = os.urandom(len(PACKED)), [150_000] + [0] * download.TRIES
    with pytest.raises(OvssError, match="interrupted"):
        get(tmp_path)
    web.files["frames.zip"] = PACKED
    get(tmp_path)
    assert unpacked(tmp_path) == FRAMES
    assert (tmp_path / "downloads/frames.zip").read_bytes() == PACKED


def test_a_part_that_is_whole_already_is_taken(web: Web, frames: Archive, tmp_path: Path) -> None:
    get(tmp_path)
    whole = tmp_path / "downloads/frames.zip"
    whole.rename(f"{whole}.part")
    whole.with_name("frames.zip.mark").write_text(f'"{zlib.crc32(PACKED)}"')
    shutil.rmtree(tmp_path / "CamVid")
    get(tmp_path)
    assert unpacked(tmp_path) == FRAMES
    assert web.asked[1:] == [("frames.zip", f"bytes={len(PACKED)}-")]


def test_a_server_that_is_busy_is_asked_again(web: Web, frames: Archive, tmp_path: Path) -> None:
    web.statuses = [503, 429]
    get(tmp_path)
    assert unpacked(tmp_path) == FRAMES


def test_a_wrong_checksum_is_told_and_the_file_put_aside(
    web: Web, frames: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, replace(frames, digest=f"md5:{'0' * 32}"))
    found = hashlib.md5(PACKED).hexdigest()
    with pytest.raises(OvssError, match=rf"frames\.zip has md5 {found}, expected 0+\. .*frames\.zip\.wrong"):
        get(tmp_path)
    assert (tmp_path / "downloads/frames.zip.wrong").read_bytes() == PACKED
    assert not (tmp_path / "CamVid").exists()
    offer(monkeypatch, replace(frames, digest=f"md5:{found}"))
    get(tmp_path)
    assert unpacked(tmp_path) == FRAMES


def test_what_is_not_there_is_told_with_another_way(web: Web, frames: Archive, tmp_path: Path) -> None:
    web.files.clear()
    with pytest.raises(OvssError, match=r"frames\.zip: HTTP status 404.*download frames\.zip in a browser, move it to"):
        get(tmp_path)
    assert len(web.asked) == 1
    (tmp_path / "downloads/frames.zip").write_bytes(PACKED)
    assert get(tmp_path) == 0
    assert unpacked(tmp_path) == FRAMES


def test_without_a_network_it_ends_in_a_message(frames: Archive, web: Web, tmp_path: Path) -> None:
    web.shutdown()
    web.server_close()
    with pytest.raises(OvssError, match=r"no answer: .*refused.*Run the same command again"):
        get(tmp_path)


@pytest.mark.parametrize("known", [True, False])
def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    web: Web, frames: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    offer(monkeypatch, replace(frames, size=frames.size * known))
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: SimpleNamespace(free=int(1.9 * len(PACKED))))
    with pytest.raises(OvssError, match=r"needs 0\.00 GB, but the disk of .* has 0\.00 GB free.*--out"):
        get(tmp_path)
    assert len(web.asked) == (0 if known else 1)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".lock"]


def test_an_archive_that_was_packed_for_the_journey_stays_packed(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files["frames.tar.gz"], web.headers = tarred(FRAMES, "gz"), {"Content-Encoding": "x-gzip"}
    offer(monkeypatch, Archive(web.url("frames.tar.gz"), to="CamVid", inside="CamVid"))
    get(tmp_path)
    assert (tmp_path / "downloads/frames.tar.gz").read_bytes() == web.files["frames.tar.gz"]
    assert unpacked(tmp_path) == FRAMES


def test_two_commands_do_not_write_one_file(web: Web, frames: Archive, tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    with (
        FileLock(tmp_path / "downloads/frames.zip.lock"),
        pytest.raises(OvssError, match=r"another process is downloading .*frames\.zip"),
    ):
        get(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(frames: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OvssError, match=r"file.*: cannot be written"):
        get(tmp_path / "file")


def test_what_takes_a_browser_is_told_and_unpacked_once_it_is_there(
    frames: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(monkeypatch, replace(frames, url="https://example.org/login", file="frames.zip", note="it asks for a login"))
    assert get(tmp_path) == 1
    said = capsys.readouterr().err
    assert "frames.zip must be downloaded by hand (it asks for a login): https://example.org/login" in said
    assert f"Move it to {tmp_path}/downloads" in said
    assert f"or unpack it (its top/CamVid) to {tmp_path}/CamVid yourself" in said
    assert "Now type" not in said
    (tmp_path / "downloads/frames.zip").write_bytes(PACKED)
    assert get(tmp_path) == 0
    assert unpacked(tmp_path) == FRAMES


def ovss(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ovss_ray", "download", *arguments]
    surroundings = {**os.environ, "OVSS_DATA": "", **environment}
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell has background jobs ignore
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=surroundings, preexec_fn=heed)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["scenes:all"], 0, "scenes:all has nothing to download: its images are drawn"),
        (["ade20k:15"], 2, "Did you mean 'ade20k:150'?"),
        (["camvid"], 2, "pass --out DIR or set OVSS_DATA=DIR"),
        (["camvid", "--out", "s3://bucket/data"], 2, "must be a local folder"),
        (
            ["cityscapes:19", "--out", "{}"],
            1,
            "gtFine_trainvaltest.zip must be downloaded by hand (this page asks for a login",
        ),
    ],
)
def test_the_status_says_how_it_ended(arguments: list[str], status: int, message: str, tmp_path: Path) -> None:
    done = ovss(*(argument.format(tmp_path) for argument in arguments))
    said = done.communicate(timeout=60)[1]
    assert done.returncode == status
    assert message in said
    assert "Traceback" not in said


def test_an_interrupted_command_goes_on_when_it_is_given_again(web: Web, tmp_path: Path) -> None:
    module = f"""
from dataclasses import replace
from ovss_ray.dataprep.archives import Archive
from ovss_ray.datasets import camvid
archive = Archive({web.url("frames.zip")!r}, to="CamVid", inside="top/CamVid")
BENCHMARKS = {{"": replace(camvid.BENCHMARKS[""], archives=(archive,), counts={{"val": 2}})}}
"""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/frames.py").write_text(module)
    command, part = ("mine.frames", "--out", str(tmp_path)), tmp_path / "downloads/frames.zip.part"
    web.files["frames.zip"], web.held = PACKED * 20, threading.Event()  # zip archives are read from their end
    first = ovss(*command, PYTHONPATH=str(tmp_path))
    while first.poll() is None and not (part.exists() and part.stat().st_size > len(PACKED)):
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 130
    assert "interrupted. Downloaded files are kept; run the same command again to resume" in said
    assert "Traceback" not in said
    have = part.stat().st_size
    web.held.set()
    web.held = None
    second = ovss(*command, PYTHONPATH=str(tmp_path))
    second.communicate(timeout=60)
    assert second.returncode == 0
    assert unpacked(tmp_path) == FRAMES
    assert web.asked == [("frames.zip", ""), ("frames.zip", f"bytes={have}-")]
