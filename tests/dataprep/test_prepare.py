"""`ovss prepare`: the prepared form of a data set, equal to what the official scripts make, whatever befalls it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray
from PIL import Image
from ray.cluster_utils import Cluster

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.contract import Step
from ovss_ray.benchmarks.listing import Item
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.dataprep import prepare
from ovss_ray.dataprep.prepare import _done, do
from ovss_ray.datasets import ade20k
from ovss_ray.engine.cluster import preflight
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.runs import manifest as manifests
from tests import commands

KINDS = [("ade20k:847", "train", "ade847"), ("ade20k:150", "val", "ade150")]


def ovss(*arguments: str) -> subprocess.CompletedProcess[str]:
    return commands.ovss("prepare", *arguments, OVSS_DATA="", COLUMNS="400")


def made_by(name: str, split: str, root: Path, out: Path | None = None) -> subprocess.CompletedProcess[str]:
    where = ["--out", str(out)] if out else []
    return ovss(name, "--split", split, "--data-root", str(root), *where, "--workers", "2")


@pytest.fixture(scope="session")
def real(shared: Path) -> Path:
    return shared / "data/real"


@pytest.fixture(scope="module")
def prepared(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with both data sets in their prepared form."""
    out = tmp_path_factory.mktemp("prepared")
    for name, split, _ in KINDS:
        done = made_by(name, split, real, out)
        assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def archive(real: Path, tmp_path: Path) -> Path:
    """A copy of the sample of the full archive; returned is its folder of images."""
    inner = "ADE20K_2021_17_01/images/ADE/training/urban/street"
    return shutil.copytree(real / inner, tmp_path / inner)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(("name", "split", "golden"), KINDS)
def test_every_file_equals_that_of_the_official_script(
    shared: Path, prepared: Path, name: str, split: str, golden: str
) -> None:
    base = shared / "benchmarks/golden" / golden
    theirs = [file for file in sorted(base.rglob("*")) if file.suffix in (".png", ".tif", ".jpg")]
    assert len(theirs) == {"ade847": 6, "ade150": 3}[golden]
    for file in theirs:
        (mine,) = prepared.glob(f"*/{file.relative_to(base)}")
        assert Image.open(mine).mode == Image.open(file).mode
        assert np.array_equal(pixels(mine), pixels(file)), file


@pytest.mark.parametrize(("name", "split", "golden"), KINDS)
def test_the_prepared_form_has_the_ids_the_truth_and_the_pixels_of_the_source(
    real: Path, prepared: Path, name: str, split: str, golden: str
) -> None:
    one = catalog.load(name)
    ids, arrays = [], []
    for root in (real, prepared):
        table = manifests.build(name, one, str(root), Selection(split, limit=9))
        ids.append(sorted(table["image_id"].to_pylist()))
        rows = sorted(table.select(["image_id", "image_uri", "truth_uri"]).to_pylist(), key=lambda row: row["image_id"])
        items = [Item(*row.values()) for row in rows]
        arrays += [[one.truth(item, files.read(item.truth)) for item in items]]
        arrays += [[one.image(item, files.read(item.image)) for item in items]]
        assert str(root) in items[0].truth
    assert ids[0] == ids[1] != []
    for before, after in zip(arrays[0] + arrays[1], arrays[2] + arrays[3], strict=True):
        assert np.array_equal(before, after)


def test_the_same_command_again_makes_only_what_is_missing_or_not_whole(archive: Path, tmp_path: Path) -> None:
    assert "6 files created, 0 existed" in made_by("ade20k:847", "train", tmp_path).stderr
    beside = tmp_path / "ADE20K_2021_17_01"
    made = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in beside.glob("*_detectron2/training/*")}
    missing, cut, *others = sorted(made)
    missing.unlink()
    cut.write_bytes(made[cut][0][:-1000])
    again = made_by("ade20k:847", "train", tmp_path)
    assert "2 files created, 4 existed already, 0 failed" in again.stderr
    assert all(file.read_bytes() == content for file, (content, _) in made.items())
    assert all(file.stat().st_mtime_ns == made[file][1] for file in others)
    assert not list(tmp_path.rglob("*.part"))


def test_broken_files_are_named_and_counted_and_the_others_are_done(archive: Path, tmp_path: Path) -> None:
    photo, labels = archive / "ADE_train_00016869.jpg", archive / "ADE_train_00016900_seg.png"
    photo.write_bytes(photo.read_bytes()[:5000])
    damaged = bytearray(labels.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    labels.write_bytes(damaged)
    done = made_by("ade20k:847", "train", tmp_path, tmp_path / "out")
    assert done.returncode == 1
    for words in (f"{photo}: ", f"{labels}: ", "4 files created", "ovss: 2 files could not be made"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len([file for file in (tmp_path / "out").rglob("*") if file.is_file()]) == 4


def test_it_ends_with_what_to_type_next(archive: Path, tmp_path: Path) -> None:
    said = made_by("ade20k:847", "train", tmp_path, tmp_path / "out").stderr
    assert "3 of 25574 images were found" in said
    assert f"--benchmark ade20k:847 --split train --data-root {tmp_path / 'out'} --limit 3" in said


def test_a_prepared_form_that_is_not_complete_is_told_how_to_become_so(prepared: Path) -> None:
    with pytest.raises(OvssError, match=r"found 3 .*`ovss prepare ade20k:847` completes a prepared form"):
        manifests.build("ade20k:847", catalog.load("ade20k:847"), str(prepared), Selection("train"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the name of a benchmark. Benchmarks with a prepared form: ade20k:150, ade20k:847"),
        (
            ["camvid"],
            "camvid has no prepared form: its files are read as they were downloaded. Benchmarks with a prepared form",
        ),
        (["ade20k:84"], "Did you mean 'ade20k:847'?"),
        (["ade20k:847"], "pass --data-root DIR or set OVSS_DATA=DIR"),
        (["ade20k:847", "--data-root", "/nowhere"], "request_data"),
        (["ade20k:847", "--data-root", ".", "--split", "vall"], "Did you mean 'val'?"),
    ],
)
def test_a_wrong_command_ends_in_one_message(arguments: list[str], message: str) -> None:
    done = ovss(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_ends_it_at_once(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = made_by("ade20k:847", "train", tmp_path, tmp_path / "file/below")
    assert done.returncode == 2
    assert done.stderr.count("cannot be written") == 1
    assert "Traceback" not in done.stderr


FILES = 100


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A data root with ADE20K-150 of FILES small files: so many are made by a cluster."""
    for folder, mode, kind in (("images", "RGB", "jpg"), ("annotations", "L", "png")):
        where = tmp_path / "root/ADEChallengeData2016" / folder / "validation"
        where.mkdir(parents=True)
        for number in range(FILES // 2):
            Image.new(mode, (8, 6), number).save(where / f"ADE_val_{number:08}.{kind}")
    return tmp_path / "root"


@pytest.mark.ray
def test_many_files_are_made_on_ray_and_an_interrupted_command_goes_on(many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ovss_ray", "prepare", "ade20k:150", "--data-root", str(many), "--out", str(out)]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which a shell's background jobs ignore
    begun = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed)
    while begun.poll() is None and not list(out.rglob("*.*g")):  # the first is made before there is a cluster
        time.sleep(0.01)
    begun.send_signal(signal.SIGINT)
    assert (
        "interrupted. Prepared files are kept; run the same command again to resume"
        in begun.communicate(timeout=300)[1]
    )
    assert begun.returncode == 130
    made = len(list(out.rglob("*.*g")))
    assert 0 < made < FILES
    done = prepared_by(many, out)
    assert done.returncode == 0, done.stderr
    assert f"{FILES - made} files created, {made} existed already, 0 failed" in done.stderr
    labels = sorted((out / "ADEChallengeData2016/annotations_detectron2/validation").iterdir())
    assert [int(pixels(file).max()) for file in labels] == [255, *range(FILES // 2 - 1)]


def prepared_by(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return ovss("ade20k:150", "--data-root", str(root), "--out", str(out), "--workers", "2")


@pytest.fixture(scope="module")
def nodes() -> Iterator[None]:
    """A cluster of two nodes, which this process is connected to."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=1)
    ray.init(made.address, log_to_driver=False)
    yield
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def some(archive: Path, tmp_path: Path) -> list[Step]:
    """As many steps as a cluster is begun for."""
    source = str(next(archive.glob("*_seg.png")))
    return [Step(source, str(tmp_path / f"made/{number}"), keep) for number in range(prepare.FEW)]


def keep(data: bytes, name: str) -> bytes:
    return data


def die(data: bytes, name: str) -> bytes:
    os._exit(1)


@pytest.mark.ray
@pytest.mark.slow
def test_a_file_that_kills_its_process_is_named_and_the_others_are_done(nodes: None, some: list[Step]) -> None:
    some[40] = replace(some[40], convert=die)
    done = list(_done(some, workers=2))
    assert len(done) == len(some)
    (fault,) = (fault for _, fault in done if fault)
    assert fault.startswith(f"{some[40].source}: its worker process died twice")
    assert [step for step in some if not files.exists(step.target)] == [some[40]]


@pytest.mark.ray
def test_a_node_that_does_not_see_the_source_is_named(
    nodes: None, some: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_unseen", lambda uris: list(uris))  # what a node says which shares no folder
    with pytest.raises(OvssError, match=r"node .* cannot access .*_seg\.png, .*made/0\. Pass --data-root and --out as"):
        list(_done(some, workers=2))
    assert [step for step in some if files.exists(step.target)] == some[:1]


@pytest.mark.ray
def test_a_folder_that_cannot_be_written_ends_it_on_a_cluster_too(
    nodes: None, some: list[Step], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    some[9] = replace(some[9], target=str(tmp_path / "file/below"))
    with pytest.raises(OvssError, match="file/below: cannot be written"):
        list(_done(some, workers=2))


def test_a_photograph_that_is_too_long_for_a_jpeg_is_an_error_of_its_own(tmp_path: Path) -> None:
    Image.new("L", (70_000, 2)).save(tmp_path / "long.png")
    made, fault = do(Step(str(tmp_path / "long.png"), str(tmp_path / "made.jpg"), ade20k.convert_image))
    assert not made
    assert "long.png: 70000 × 2 pixels are too large for a JPEG" in fault
