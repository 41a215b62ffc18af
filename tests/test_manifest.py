"""The manifest: what a run is asked for, fixed first."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss_ray import manifest as manifests
from ovss_ray.config import Pool, RunConfig
from ovss_ray.datasets.benchmark import Benchmark, Item
from ovss_ray.errors import OvssError
from ovss_ray.manifest import Selection
from ovss_ray.stage import StageConfig
from ovss_ray.vocabulary import Vocabulary

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


def config(**given: object) -> RunConfig:
    return RunConfig(pools=(Pool(stages=(StageConfig(use="oracle"),)),), **given)  # type: ignore[arg-type]


def build(root: Path, one: Benchmark, **given: object) -> list[str]:
    return manifests.build("toy", one, str(root), Selection.of(config(**given), one))["image_id"].to_pylist()


def test_images_of_one_shape_stand_together(root: Path) -> None:
    ids = build(root, benchmark(root))
    shapes = [round(SIZES[name][1] / SIZES[name][0], 3) for name in ids]
    assert sorted(ids) == list("abcde")
    assert shapes == sorted(shapes)
    assert ids[2:] == ["a", "d", "c"]


def test_another_number_of_images_is_an_error_and_not_a_warning(root: Path) -> None:
    with pytest.raises(OvssError, match="split val: 6 images belong to it, and 5 were found"):
        build(root, benchmark(root, count=6))


def test_a_part_may_be_asked_for(root: Path) -> None:
    (root / "ids.txt").write_text("# mine\nd\n\nb\nb\n")
    assert sorted(build(root, benchmark(root, count=6), limit=2)) == ["a", "b"]
    assert sorted(build(root, benchmark(root, count=6), ids=str(root / "ids.txt"))) == ["b", "d"]
    assert sorted(build(root, benchmark(root, count=6), ids=str(root / "ids.txt"), limit=1)) == ["b"]


@pytest.mark.parametrize(
    ("text", "message"), [("a\nx\n", "1 of the 2 ids asked for do not exist, such as 'x'"), ("# \n", "no image ids")]
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
    with pytest.raises(OvssError, match="begun on 5 images, and now there are 4; 'e' is in one only"):
        manifests.save(fewer, str(root / "manifest.parquet"))


BUILDS = """
import sys
from ovss_ray import manifest
from ovss_ray.datasets import benchmark

def build(root):
    name = f"folder:{root}/data.yaml"
    return len(manifest.build(name, benchmark.load(name), "", manifest.Selection("all")))

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

build(sys.argv[1])
before = peak()
print(build(sys.argv[2]), peak() - before)
"""
"""What a process's memory has grown by at its peak, after a first small manifest, as Linux counts it."""


def many(root: Path, images: int) -> Path:
    """A folder of so many photographs and as many label files, all of them links to two."""
    for kind, mode in (("photographs", "RGB"), ("labels", "L")):
        (root / kind).mkdir(parents=True)
        Image.new(mode, (6, 4)).save(root / kind / "image_000000.png")
        for number in range(1, images):
            os.link(root / kind / "image_000000.png", root / kind / f"image_{number:06}.png")
    (root / "data.yaml").write_text("images: photographs/*.png\nlabels: labels/*.png\nclasses: [sky, road]\n")
    return root


def test_a_folder_of_many_files_costs_a_bounded_number_of_bytes_for_each(tmp_path: Path) -> None:
    small, large = many(tmp_path / "small", 1000), many(tmp_path / "large", 10_000)
    command = [sys.executable, "-c", BUILDS, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    images, grown = map(int, done.stdout.split())
    assert images == 10_000
    assert grown / 20_000 < 1000, f"{grown / 20_000:.0f} bytes for each file"  # 600; 1500 with a note of each in a pool
