"""ADE20K with 150 and with 847 classes, from its archives and from the prepared folders."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovss_ray.benchmarks.catalog import load
from ovss_ray.benchmarks.listing import Item
from ovss_ray.datasets import ade20k
from ovss_ray.errors import OvssError
from ovss_ray.io import files, images
from ovss_ray.structures.columns import IGNORE

SMALL, FULL = load("ade20k:150"), load("ade20k:847")
SAMPLES = ["ADE_train_00016869", "ADE_train_00016900", "ADE_train_00016964"]


@pytest.fixture(scope="session")
def manifest(shared: Path) -> dict[str, Any]:
    """What the official preparation scripts made of the samples."""
    return json.loads((shared / "benchmarks/golden/manifest.json").read_text())


def sha256(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


@pytest.fixture(scope="session")
def prepared_150(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout that detectron2's script leaves, without the official annotations."""
    root = tmp_path_factory.mktemp("prepared")
    (root / "ADEChallengeData2016/annotations_detectron2").mkdir(parents=True)
    official = shared / "data/real/ADEChallengeData2016/images"
    (root / "ADEChallengeData2016/images").symlink_to(official)
    golden = shared / "benchmarks/golden/ade150/annotations_detectron2/validation"
    (root / "ADEChallengeData2016/annotations_detectron2/validation").symlink_to(golden)
    return root


@pytest.mark.parametrize(("name", "key"), [("150", "ade150"), ("847", "ade847")])
def test_the_classes_are_those_of_the_reference_byte_for_byte(shared: Path, name: str, key: str) -> None:
    reference = json.loads((shared / f"benchmarks/classes/{key}.json").read_text())
    assert list(ade20k.BENCHMARKS[name].vocabulary.names) == reference["classes"]
    assert ade20k.BENCHMARKS[name].counts["val"] == reference["val_images"] == 2000


def test_the_847_classes_have_the_numbers_of_the_official_table(shared: Path) -> None:
    table = json.loads((shared / "benchmarks/classes/ade847_mapping.json").read_text())["map"]
    assert list(ade20k.INDEX_847) == [entry["ade_index"] for entry in table]


@pytest.mark.parametrize("split", ["val", "validation"])
def test_the_official_and_the_prepared_150_are_the_same_truth(shared: Path, prepared_150: Path, split: str) -> None:
    official = SMALL.items(str(shared / "data/real"), split)
    prepared = SMALL.items(str(prepared_150), split)
    assert [item.image_id for item in official] == [f"ADE_val_0000000{i}" for i in (1, 2, 3)]
    for one, other in zip(official, prepared, strict=True):
        assert "annotations_detectron2" in other.truth
        assert "annotations_detectron2" not in one.truth
        truths = [SMALL.truth(item, files.read(item.truth)) for item in (one, other)]
        assert truths[0].dtype == np.uint16
        assert np.array_equal(*truths)
        assert (truths[0] != IGNORE).any()


def test_the_official_150_becomes_what_detectron2_s_script_makes(shared: Path, manifest: dict[str, Any]) -> None:
    for item in SMALL.items(str(shared / "data/real/ADEChallengeData2016"), "val"):
        truth = SMALL.truth(item, files.read(item.truth))
        golden = manifest[f"ade150/annotations_detectron2/validation/{item.image_id}.png"]
        assert sha256(np.where(truth == IGNORE, 255, truth).astype(np.uint8)) == golden["sha256_pixels"]


def test_official_annotations_come_before_prepared_ones(tmp_path: Path) -> None:
    for folder in ("images", "annotations", "annotations_detectron2"):
        (tmp_path / folder / "validation").mkdir(parents=True)
        (tmp_path / folder / "validation/a.png").write_bytes(b"")
    assert next(iter(SMALL.items(str(tmp_path), "val"))).truth.endswith("/annotations/validation/a.png")


@pytest.mark.parametrize(("folder", "value"), [("annotations", 151), ("annotations_detectron2", 150)])
def test_a_label_out_of_range_names_file_and_value(folder: str, value: int) -> None:
    item = Item("a", "a.jpg", f"{folder}/validation/a.png")
    with pytest.raises(OvssError, match=rf"{folder}/validation/a\.png.*{value}"):
        SMALL.truth(item, png(np.full((2, 2), value, np.uint8)))


def test_the_847_from_the_archive_equals_the_official_script_s_files(shared: Path, manifest: dict[str, Any]) -> None:
    items = FULL.items(str(shared / "data/real"), "train")
    assert [item.image_id for item in items] == SAMPLES
    for item in items:
        labels = manifest[f"ade847/annotations_detectron2/training/{item.image_id}.tif"]
        photo = manifest[f"ade847/images_detectron2/training/{item.image_id}.jpg"]
        assert sha256(FULL.truth(item, files.read(item.truth))) == labels["sha256_pixels"]
        assert sha256(FULL.image(item, files.read(item.image))) == photo["sha256_pixels"]


def test_the_847_from_the_archive_equals_the_prepared_folders(shared: Path) -> None:
    archive = FULL.items(str(shared / "data/real/ADE20K_2021_17_01"), "training")
    prepared = FULL.items(str(shared / "benchmarks/golden/ade847"), "training")
    for one, other in zip(archive, prepared, strict=True):
        assert other.truth.endswith(".tif")
        assert np.array_equal(*(FULL.truth(item, files.read(item.truth)) for item in (one, other)))
        assert np.array_equal(*(FULL.image(item, files.read(item.image)) for item in (one, other)))


def test_a_photograph_is_prepared_to_a_jpeg_that_decodes_to_the_prepared_pixels(shared: Path) -> None:
    item = next(iter(FULL.items(str(shared / "data/real"), "training")))
    made = ade20k.convert_image(files.read(item.image))
    golden = shared / f"benchmarks/golden/ade847/images_detectron2/training/{item.image_id}.jpg"
    assert made.startswith(b"\xff\xd8")
    assert np.array_equal(images.decode(made, "made"), images.decode(golden.read_bytes(), "golden"))


@pytest.mark.parametrize(
    ("shape", "scaled"),
    [((600, 800), (512, 683)), ((800, 600), (683, 512)), ((1024, 1024), (512, 512)), ((512, 2000), (512, 2000))],
)
def test_the_short_side_becomes_512_if_it_is_longer(shape: tuple[int, int], scaled: tuple[int, int]) -> None:
    data = png(np.zeros((*shape, 3), np.uint8))
    assert ade20k.convert_labels(data).shape == scaled
    assert images.decode(ade20k.convert_image(data), "x").shape[:2] == scaled


def test_colours_of_no_listed_class_are_not_counted() -> None:
    wall = ade20k.INDEX_847[0]
    colours = np.array([[[wall // 256 * 10, wall % 256, 7], [0, 0, 0], [255, 255, 9]]], np.uint8)
    assert ade20k.convert_labels(png(colours)).tolist() == [[0, IGNORE, IGNORE]]


def test_parts_and_instances_of_the_archive_are_no_images() -> None:
    names = ["ADE_val_1.jpg", "ADE_val_1_seg.png", "ADE_val_1_parts_1.png", "ADE_val_1/instance_000_ADE_val_1.png"]
    assert list(ade20k.archive_items([f"x/{name}" for name in names])) == [
        Item("ADE_val_1", "x/ADE_val_1.jpg", "x/ADE_val_1_seg.png")
    ]


@pytest.mark.parametrize(("one", "link"), [(SMALL, "ADEChallengeData2016.zip"), (FULL, "request_data")])
def test_missing_data_are_told_where_they_were_looked_for_and_how_to_get_them(
    tmp_path: Path, one: Any, link: str
) -> None:
    with pytest.raises(OvssError, match=rf"annotations_detectron2/validation.*{link}"):
        one.items(str(tmp_path), "val")
