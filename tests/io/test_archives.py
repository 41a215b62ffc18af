"""Images inside zip and tar archives: read one by one, and never unpacked."""

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.io.files import archive_index, cache
from ovss_ray.runs import manifest

Files = list[tuple[str, bytes]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVSS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(seed: int, *shape: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 2, shape, np.uint8)).save(file, "PNG")
    return file.getvalue()


def pack_tar(path: Path, packed: Files, form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in packed:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def pack_zip(path: Path, packed: Files, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in packed:
            archive.writestr(name, data)
    return path


def data_set(photos: str, masks: str) -> Files:
    seeds = enumerate(("a", "ä b#1", "c"))
    return [
        pair
        for seed, name in seeds
        for pair in (
            (f"{photos}{name}.png", picture(seed, 16, 20, 3)),
            (f"{masks}{name}{'' if photos != masks else '.seg'}.png", picture(seed, 16, 20)),
        )
    ]


def build(path: Path, text: str, root: Path) -> list[dict[str, Any]]:
    path.write_text(f"{text}\nclasses: [dark, bright]\n")
    benchmark = catalog.load(f"folder:{path}")
    return manifest.build("own", benchmark, str(root), Selection.of(benchmark)).to_pylist()


@pytest.mark.parametrize("kind", ["deflated", "stored", "pax", "gnu"])
def test_a_data_set_in_an_archive_is_that_in_a_folder(tmp_path: Path, kind: str, monkeypatch: Any) -> None:
    """Also with names of more than 100 bytes, for which tar has further headers."""
    packed = data_set("photos/", f"masks/{'x' * 120}/")
    if kind in ("deflated", "stored"):
        root = pack_zip(tmp_path / "data.zip", packed, zipfile.ZIP_DEFLATED if kind == "deflated" else 0)
    else:
        root = pack_tar(tmp_path / "data.tar", packed, tarfile.GNU_FORMAT if kind == "gnu" else tarfile.PAX_FORMAT)
    rows = build(tmp_path / "own.yaml", "images: photos\nlabels: masks/*/*.png", root)
    assert [row["image_id"] for row in rows] == ["a", "c", "ä b#1"]
    monkeypatch.setattr(archive_index, "of", None)  # workers read by the position, without an index
    for row in rows:
        assert (row["height"], row["width"]) == (16, 20)
        contents = dict(packed)
        assert files.read(row["image_uri"]) == contents[f"photos/{row['image_id']}.png"]
        assert files.read(row["truth_uri"]) == contents[f"masks/{'x' * 120}/{row['image_id']}.png"]
        assert files.exists(row["image_uri"])
        assert files.stamp(row["image_uri"]) == row["image_stamp"]


def test_shards_with_photograph_and_labels_of_a_key_are_read_in_any_number(tmp_path: Path) -> None:
    for shard in range(9, 12):
        packed = [(f"./{shard}-{name}", data) for name, data in data_set("", "")]
        pack_tar(tmp_path / f"shards/{shard:03}.tar", packed)
    ids = [f"{shard}-{name}" for shard in (10, 11, 9) for name in ("a", "c", "ä b#1")]
    for shards in ("{009..011}.tar", "*.tar"):
        text = f"images: shards/{shards}/*.png\nlabels: shards/{shards}/*.png\nlabel_suffix: .seg"
        assert sorted(row["image_id"] for row in build(tmp_path / "own.yaml", text, tmp_path)) == ids
    inside = "images: '*.png'\nlabels: '*.png'\nlabel_suffix: .seg"
    assert (
        sorted(row["image_id"] for row in build(tmp_path / "own.yaml", inside, tmp_path / "shards/{009..011}.tar"))
        == ids
    )
    text = text.replace("*.tar", "{009..012}.tar")
    with pytest.raises(OvssError, match=r"images: no such folder: .*012\.tar\. Complete the data"):
        build(tmp_path / "own.yaml", text, tmp_path)


def test_an_index_is_made_once_and_again_for_a_changed_archive(tmp_path: Path, monkeypatch: Any) -> None:
    archive = pack_tar(tmp_path / "a.tar", [("x/1.png", b"first"), ("x/2.png", b"second"), ("y", b"")])
    assert files.walk(archive) == [f"{archive}/{name}" for name in ("x/1.png", "x/2.png", "y")]
    position = files.pinned(f"{archive}/x/2.png")
    assert (files.is_folder(f"{archive}/x"), files.is_folder(archive), files.is_folder(f"{archive}/y")) == (1, 0, 0)
    assert (files.exists(f"{archive}/x"), files.exists(f"{archive}/z"), files.exists(archive)) == (1, 0, 1)
    with monkeypatch.context() as patch:
        archive_index._of.cache_clear()
        patch.setattr(archive_index, "_make", None)
        assert files.read(f"{archive}/x/2.png") == b"second"
    pack_tar(archive, [("x/2.png", b"another"), ("x/1.png", b"first")])
    assert files.read(f"{archive}/x/2.png") == b"another"
    with pytest.raises(OvssError, match=r"a\.tar: cannot read 'x/2\.png': .*has changed since it was listed"):
        files.read(position)
    with pytest.raises(OvssError, match=r"a\.tar/x/3\.png: cannot be read: no such file in the archive"):
        files.read(f"{archive}/x/3.png")


def test_hard_links_are_the_file_itself_and_other_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind, target in (
            ("x/1", tarfile.REGTYPE, ""),
            ("2", tarfile.LNKTYPE, "x/1"),
            ("3", tarfile.SYMTYPE, "2"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 5 if not target else 0
            archive.addfile(info, io.BytesIO(b"first"))
    assert files.read(tmp_path / "a.tar/2") == b"first"
    with pytest.raises(OvssError, match=r"a\.tar: '3' cannot be read without unpacking, because it is a link to '2'"):
        files.pinned(f"{tmp_path}/a.tar/3")


def test_bad_archives_end_in_one_line(tmp_path: Path) -> None:
    two = [("1.png", picture(0, 30, 30, 3)), ("2.png", picture(1, 30, 30, 3))]
    tar, zipped = pack_tar(tmp_path / "a.tar", two).read_bytes(), pack_zip(tmp_path / "a.zip", two).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        second = archive.getmember("2.png").offset
    cases = {
        "cut.tar": (tar[: second + 700], "truncated or damaged: unexpected end of data"),
        "between.tar": (tar[:second], "no further file and no end mark at byte"),
        "middle.tar": (tar[:second] + b"\1" * 512 + tar[second + 512 :], "no further file and no end mark at byte"),
        "cut.zip": (zipped[:-100], "not a zip archive, or truncated or damaged"),
        "text.zip": (b"no archive", "not a zip archive"),
        "empty.tar": (b"", "not a tar archive"),
        "a.tar.gz": (gzip.compress(tar), "files in a compressed tar archive cannot be read one by one. Unpack it"),
        "up.tar": (
            pack_tar(tmp_path / "x.tar", [("../1.png", b"")]).read_bytes(),
            "'../1.png' leads out of the archive",
        ),
        "root.tar": (pack_tar(tmp_path / "x.tar", [("/1.png", b"")]).read_bytes(), "'/1.png' leads out of the archive"),
        "latin.tar": (pack_tar(tmp_path / "x.tar", [("\udce4.png", b"")]).read_bytes(), "surrogates not allowed"),
        "twice.tar": (pack_tar(tmp_path / "x.tar", [two[0], two[0]]).read_bytes(), "contains '1.png' twice"),
        "bz2.zip": (pack_zip(tmp_path / "x.zip", two, zipfile.ZIP_BZIP2).read_bytes(), "compressed by method 12"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OvssError, match=message) as failure:
            files.pinned(f"{tmp_path}/{name}/1.png")
        assert name in str(failure.value)
        assert "\n" not in str(failure.value)
    place = files.pinned(f"{tmp_path}/a.zip/1.png")
    (tmp_path / "a.zip").write_bytes(zipped[:60] + bytes([zipped[60] ^ 1]) + zipped[61:])
    with pytest.raises(OvssError, match=r"a\.zip: cannot read '1\.png'"):
        files.read(place)


def test_a_folder_with_the_name_of_an_archive_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "old.zip/in.tar").mkdir(parents=True)
    pack_tar(tmp_path / "old.zip/in.tar/a.tar", [("b", b"content")])
    assert files.read(tmp_path / "old.zip/in.tar/a.tar/b") == b"content"
    assert files.walk(tmp_path / "old.zip") == [f"{tmp_path}/old.zip/in.tar/a.tar"]


def test_the_cache_of_copies_and_indexes_is_bounded(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVSS_CACHE_GB", "0.000001")
    now = 1_000_000_000
    for age, name in enumerate("abc"):
        files.write(own_cache / f"files/{name}/copy", b"x" * 600)
        os.utime(own_cache / f"files/{name}/copy", (now - age, now - age))
    files.write("memory://words/list.txt", b"y" * 300)
    copy = cache.local_copy("memory://words/list.txt")
    assert copy.read_bytes() == b"y" * 300
    assert sorted(path.name for path in (own_cache / "files").iterdir()) == sorted(["a", copy.parent.name])
    monkeypatch.setenv("OVSS_CACHE_GB", "much")
    with pytest.raises(OvssError, match="OVSS_CACHE_GB=much: expected a number of GB, such as OVSS_CACHE_GB=20"):
        cache.limit()
