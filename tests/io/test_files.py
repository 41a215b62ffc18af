"""Files by path or URI: whole or not at all, and errors that name them."""

import errno
import os
import uuid
from pathlib import Path

import pytest

from ovss_ray.errors import OvssError
from ovss_ray.io import files


@pytest.fixture(params=["local", "file://", "memory://"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {"local": str(tmp_path), "file://": f"file://{tmp_path}", "memory://": f"memory://{tmp_path}"}[request.param]


def test_what_was_written_is_read_wherever_it_lies(folder: str) -> None:
    uri = files.join(folder, "deep", "er", "name.bin")
    assert not files.exists(uri)
    files.write(uri, b"first")
    files.write(uri, b"second")
    assert files.read(uri) == b"second"
    assert files.names(files.join(folder, "deep", "er")) == ["name.bin"]
    assert files.names(files.join(folder, "nowhere")) == []


@pytest.mark.parametrize(
    "name", ["a#1.png", "a?1.png", "a%20b.png", "a b.png", "ä.png", "a[1].png", "a*.png", "{a}.png"]
)
def test_a_name_is_taken_as_it_is(folder: str, name: str) -> None:
    files.write(files.join(folder, "named", name), name.encode())
    assert files.names(files.join(folder, "named")) == [name]
    assert files.walk(files.join(folder, "named")) == [files.join(folder, "named", name)]
    assert files.read(files.join(folder, "named", name)) == name.encode()


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OvssError, match="x: cannot be written"):
        files.write(tmp_path / "file" / "x", b"")


def test_a_file_that_is_not_there_is_named(folder: str) -> None:
    with pytest.raises(OvssError, match=r"nothing\.bin: cannot be read"):
        files.read(files.join(folder, "nothing.bin"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OvssError, match="cannot be written: Permission denied"):
        files.write(tmp_path / "a", b"")


def test_a_folder_in_the_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OvssError, match="taken: cannot be written"):
        files.write(tmp_path / "taken", b"")
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_a_full_disk_is_said_in_plain_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=0))
    (tmp_path / "name.00000000.part").symlink_to("/dev/full")  # where every write fails for want of space
    with pytest.raises(OvssError, match="name: cannot be written: no space left on device") as found:
        files.write(tmp_path / "name", b"content")
    assert isinstance(found.value.__cause__, OSError)
    assert found.value.__cause__.errno == errno.ENOSPC, "so that a run can tell it from a fault of one image"
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_nothing_can_open_is_refused() -> None:
    with pytest.raises(OvssError, match=r"fsspec cannot open this URI: Protocol not known"):
        files.read("nosuchscheme://a/b")


@pytest.mark.parametrize(
    ("name", "folder"),
    [("ade20k:847", "ade20k-847"), ("camvid", "camvid"), ("folder:a/b c/my garden.yaml", "folder-my-garden")],
)
def test_a_benchmarks_name_becomes_the_name_of_a_folder(name: str, folder: str) -> None:
    assert files.plain(name) == folder


def test_links_that_point_nowhere_are_listed_and_links_to_folders_followed(tmp_path: Path) -> None:
    (tmp_path / "disk/deep").mkdir(parents=True)
    (tmp_path / "disk/deep/a.png").touch()
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "linked").symlink_to("../disk")
    (folder / "gone.png").symlink_to("../annex/gone.png")
    (folder / "itself.png").symlink_to("itself.png")
    os.mkfifo(folder / "pipe.png")
    assert sorted(files.scan(folder)) == [f"{folder}/gone.png", f"{folder}/itself.png"]
    assert files.walk(folder) == [f"{folder}/{name}" for name in ("gone.png", "itself.png", "linked/deep/a.png")]
    assert dict(files.entries(folder)) == {"linked": True, "gone.png": False, "itself.png": False}


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_link_to_a_folder_that_contains_it_is_entered_once(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x.png").touch()
    (tmp_path / "a/b/self").symlink_to(".")
    (tmp_path / "a/b/above").symlink_to(tmp_path)
    (tmp_path / "a/c").mkdir()
    (tmp_path / "a/c/there").symlink_to("../b")
    folder = f"{scheme}{tmp_path}/a"
    assert files.walk(folder) == [f"{folder}/b/x.png", f"{folder}/c/there/x.png"]


def test_a_folder_is_known_as_one(folder: str) -> None:
    files.write(files.join(folder, "kinds", "a [1]", "x"), b"")
    assert files.is_folder(files.join(folder, "kinds", "a [1]"))
    assert not files.is_folder(files.join(folder, "kinds", "a [1]", "x"))
    assert not files.is_folder(files.join(folder, "kinds", "a 1"))
