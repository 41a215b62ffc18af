"""The manifest: what a run is asked for, fixed first."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Item
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.errors import OvssError
from ovss_ray.io.arrays import mapped_tables
from ovss_ray.runs import manifest as manifests
from ovss_ray.structures.vocabulary import Vocabulary

SIZES = {"a": (40, 60), "b": (60, 40), "c": (20, 30), "d": (40, 60), "e": (61, 40)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, size in SIZES.items():
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def benchmark(root: Path, ids: str = "abcde", count: int | None = 5) -> Benchmark:
    def items(root: str, split: str) -> list[Item]:
        return [Item(name, f"{root}/{name}.png", f"{root}/{name}.label.png") for name in ids]

    counts = {"val": count} if count else {}
    words = Vocabulary((("sky",), ("road",)))
    return Benchmark(
        "Toy", "test", "none", "here", counts, words, items, truth=lambda item, data: np.zeros((1, 1), np.uint16)
    )


def build(root: Path, one: Benchmark, **given: Any) -> list[str]:
    return manifests.build("toy", one, str(root), Selection.of(one, **given))["image_id"].to_pylist()


def test_images_of_one_shape_stand_together(root: Path) -> None:
    ids = build(root, benchmark(root))
    shapes = [round(SIZES[name][1] / SIZES[name][0], 3) for name in ids]
    assert sorted(ids) == list("abcde")
    assert shapes == sorted(shapes)
    assert ids[2:] == ["a", "d", "c"]


def test_another_number_of_images_is_an_error_and_not_a_warning(root: Path) -> None:
    with pytest.raises(OvssError, match="split val: expected 6 images, found 5 in"):
        build(root, benchmark(root, count=6))


def test_a_part_may_be_asked_for(root: Path) -> None:
    (root / "ids.txt").write_text("# mine\nd\n\nb\nb\n")
    assert sorted(build(root, benchmark(root, count=6), limit=2)) == ["a", "b"]
    assert sorted(build(root, benchmark(root, count=6), ids=str(root / "ids.txt"))) == ["b", "d"]
    assert sorted(build(root, benchmark(root, count=6), ids=str(root / "ids.txt"), limit=1)) == ["b"]


@pytest.mark.parametrize(
    ("text", "message"), [("a\nx\n", "1 of 2 image ids not found, such as 'x'"), ("# \n", "no image ids")]
)
def test_ids_that_do_not_exist_are_an_error(root: Path, text: str, message: str) -> None:
    (root / "ids.txt").write_text(text)
    with pytest.raises(OvssError, match=message):
        build(root, benchmark(root), ids=str(root / "ids.txt"))


def test_an_id_that_occurs_twice_is_an_error(root: Path) -> None:
    with pytest.raises(OvssError, match="1 image ids occur more than once"):
        build(root, benchmark(root, ids="abcda"))


def test_a_broken_photograph_does_not_keep_the_others_from_being_listed(root: Path) -> None:
    (root / "c.png").write_bytes(b"not a picture")
    assert sorted(build(root, benchmark(root))) == list("abcde")


def test_a_manifest_of_other_images_is_not_overwritten(root: Path) -> None:
    one = benchmark(root, count=None)
    whole = manifests.build("toy", one, str(root), Selection("val"))
    manifests.save(whole, str(root / "manifest.parquet"))
    manifests.save(whole, str(root / "manifest.parquet"))
    fewer = manifests.build("toy", benchmark(root, ids="abcd", count=None), str(root), Selection("val"))
    with pytest.raises(OvssError, match="started with 5 images, now there are 4; 'e' is in only one of the two lists"):
        manifests.save(fewer, str(root / "manifest.parquet"))


MEASURED = """
import sys
from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.dataprep import check
from ovss_ray.runs import manifest

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

def build(root):
    name = f"folder:{root}/data.yaml"
    manifest.save(manifest.build(name, catalog.load(name), "", Selection("all")), f"{root}/made.parquet")

def look(root):
    assert check.run(f"folder:{root}/data.yaml", "/", None, None, False, 1).number == 0

{"build": build, "check": look}[sys.argv[1]](sys.argv[2])
print(peak(), file=sys.stderr)
"""
"""The most memory that a process has had, as Linux counts it, files that it has mapped being part of it."""


def many(root: Path, images: int) -> Path:
    """A folder of so many photographs and as many label files, all of them links to two."""
    for kind, mode in (("photographs", "RGB"), ("labels", "L")):
        (root / kind).mkdir(parents=True)
        Image.new(mode, (6, 4)).save(root / kind / "image_000000.png")
        for number in range(1, images):
            os.link(root / kind / "image_000000.png", root / kind / f"image_{number:06}.png")
    (root / "data.yaml").write_text("images: photographs/*.png\nlabels: labels/*.png\nclasses: [sky, road]\n")
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A folder of 20,000 files, and one of 60,000."""
    place = tmp_path_factory.mktemp("many")
    return [str(many(place / name, images)) for name, images in (("small", 10_000), ("large", 30_000))]


@pytest.mark.slow
@pytest.mark.parametrize(("work", "bound"), [("build", 12_000_000), ("check", 4_000_000)])
def test_memory_does_not_grow_with_the_number_of_files(folders: list[str], work: str, bound: int) -> None:
    """With a list of items it grew by 28 and 9 MB; what is left is the manifest's own file, which `save` reads."""
    small, large = (measured(work, folder) for folder in folders)
    assert large - small < bound, f"{(large - small) / 40_000:.0f} bytes for each file"


def measured(work: str, folder: str) -> int:
    command = [sys.executable, "-c", MEASURED, work, folder]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}  # else each thread keeps as much as chance gives it
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=environment)
    return int(done.stderr.split()[-1])


def test_a_manifest_lies_in_a_file_that_is_gone_with_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = root / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setattr(mapped_tables, "FEW", 0)
    table = manifests.build("toy", benchmark(root), str(root), Selection("val"))
    assert list(place.iterdir()) == []
    assert sorted(table["image_id"].to_pylist()) == list("abcde")
    manifests.save(table, str(root / "manifest.parquet"))
    assert manifests.load(str(root / "manifest.parquet")).equals(table)
    assert manifests.load(str(root / "manifest.parquet"), ["truth_uri"])["truth_uri"].equals(table["truth_uri"])
    assert list(place.iterdir()) == []
    content = (root / "manifest.parquet").read_bytes()
    (root / "damaged.parquet").write_bytes(content[:40] + bytes([content[40] ^ 255]) + content[41:])
    monkeypatch.setattr(mapped_tables, "FEW", -1)
    with pytest.raises(OvssError, match="the manifest is damaged"):
        manifests.load(str(root / "damaged.parquet"))
    place.rmdir()
    with pytest.raises(OvssError, match=r"cannot write a temporary file.*TMPDIR"):
        manifests.build("toy", benchmark(root), str(root), Selection("val"))
