"""PASCAL-Context in 459, 59 and 60 classes, from .mat files."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from scipy.io import savemat

from ovss_ray.benchmarks.catalog import load
from ovss_ray.benchmarks.class_lists import class_list
from ovss_ray.benchmarks.listing import Item
from ovss_ray.dataprep.prepare import do
from ovss_ray.datasets import pascal_context
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.structures.columns import IGNORE
from tests.label_files import png, sha256

PC59 = "benchmarks/classes/pc59_mapping.json"


def truth(root: Path, name: str, stem: str) -> np.ndarray:
    (item,) = (item for item in load(name).items(str(root), "val") if item.image_id == stem)
    return load(name).truth(item, files.read(item.truth))


@pytest.mark.parametrize("stem", ["full", "withzero"])
def test_the_459_are_those_of_both_official_scripts(root: Path, manifest: dict[str, Any], stem: str) -> None:
    made = sha256(truth(root, "pascal_context:459", stem))
    assert made == manifest[f"pc_synthetic/fcclip459/{stem}.tif"]["sha256_pixels"]
    assert made == manifest[f"pc_synthetic/{stem}_ovseg_pc459.tif"]["sha256_pixels"]


def test_the_59_in_ovseg_s_order_are_those_of_its_script(root: Path, manifest: dict[str, Any]) -> None:
    made = truth(root, "pascal_context:59@ovseg", "withzero")
    golden = manifest["pc_synthetic/withzero_ovseg_pc59.png"]["sha256_pixels"]
    assert sha256(np.where(made == IGNORE, 255, made).astype(np.uint8)) == golden


def test_the_numbers_of_the_59_are_those_of_the_source_in_both_orders(shared: Path) -> None:
    told = json.loads((shared / "benchmarks/classes/pc59_mapping.json").read_text())
    numbers = [one["pc459_id"] for one in told["san_order"]]
    assert pascal_context.numbers(class_list("pascal_context_59")).tolist() == numbers
    other = [numbers[one["san_train_id"]] for one in told["ovseg_order"]]
    assert pascal_context.numbers(class_list("pascal_context_59@ovseg")).tolist() == other


def test_both_orders_and_the_60_say_the_same_of_every_pixel(root: Path) -> None:
    sorted_by_name, voc_first, sixty = (
        truth(root, f"pascal_context:{name}", "withzero") for name in ("59", "59@ovseg", "60")
    )
    counted = sorted_by_name != IGNORE
    assert (voc_first[~counted] == IGNORE).all()
    assert (sixty[~counted] == 0).all()
    assert np.array_equal(sixty[counted], sorted_by_name[counted] + 1)
    names = [
        np.array([name.replace("diningtable", "table") for name in load(f"pascal_context:{one}").labels])
        for one in ("59", "59@ovseg")
    ]
    assert np.array_equal(names[0][sorted_by_name[counted]], names[1][voc_first[counted]])
    assert not np.array_equal(sorted_by_name, voc_first)


def test_only_listed_images_belong_to_it_whoever_wrote_the_list(root: Path, tmp_path: Path) -> None:
    assert [item.image_id for item in load("pascal_context:59").items(str(root), "val")] == ["full", "withzero"]
    for name in ("JPEGImages", "trainval"):
        (tmp_path / name).symlink_to(root / "VOCdevkit/VOC2010" / name)
    (tmp_path / "ImageSets/SegmentationContext").mkdir(parents=True)
    (tmp_path / "ImageSets/SegmentationContext/val.txt").write_text("full\n")
    assert [item.image_id for item in load("pascal_context:59").items(str(tmp_path), "val")] == ["full"]


def test_a_number_that_is_no_class_names_the_file() -> None:
    sink = io.BytesIO()
    savemat(sink, {"LabelMap": np.array([[1, 460]], np.uint16)})
    for name in ("59", "60", "459"):
        with pytest.raises(OvssError, match=r"x\.mat: 1 pixels have invalid labels such as 460; allowed: 0 to 459"):
            load(f"pascal_context:{name}").truth(Item("x", "x.jpg", "x.mat"), sink.getvalue())


@pytest.fixture(scope="module")
def merged(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with what `ovss prepare pascal_context:59-json` makes of the JSON."""
    out = tmp_path_factory.mktemp("merged")
    for step in load("pascal_context:59-json").prepare(str(root), "val", str(out)):
        assert do(step) == (True, "")
    return out


def test_masks_of_the_json_are_painted_one_over_the_other_as_the_official_scripts_do(
    root: Path, merged: Path, shared: Path
) -> None:
    told = json.loads((root / "VOCdevkit/VOC2010/trainval_merged.json").read_text())
    ids = [0, *(one["pc459_id"] for one in json.loads((shared / PC59).read_text())["san_order"])]
    for number, stem in ((0, "full"), (2, "withzero")):
        painted = np.zeros((27, 34), np.int64)
        for one in told["annos_segmentation"]:
            if one["image_id"] == number:
                painted[coco_masks.decode(one["segmentation"]) > 0] = one["category_id"]
        sixty = np.searchsorted(ids, painted)
        label = np.asarray(Image.open(merged / f"VOCdevkit/VOC2010/annotations_detectron2/pc59_val/{stem}.png"))
        assert np.array_equal(label, (sixty - 1).astype(np.uint8))  # 255 is what 0 has become
        assert np.array_equal(truth(merged, "pascal_context:60-json", stem), sixty)
        assert np.array_equal(truth(merged, "pascal_context:59-json", stem), np.where(sixty, sixty - 1, IGNORE))
    assert not list(merged.rglob("of_train*"))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([(3, "0j0")], "a mask of category 3, which is not one of the 59"),
        ([(2, "zz")], "invalid compressed RLE"),
        ([(2, "1")], "its runs have 1 pixels"),
    ],
)
def test_a_mask_that_cannot_be_painted_names_the_photograph(masks: list[tuple[int, str]], message: str) -> None:
    with pytest.raises(OvssError, match=f"x.jpg.*{message}"):
        pascal_context.convert_masks((2, 2), masks, png(np.zeros((2, 2), np.uint8)), "x.jpg")


def test_a_photograph_of_another_size_than_its_masks_is_an_error() -> None:
    with pytest.raises(OvssError, match=r"x\.jpg: .* \(2, 2\) pixels .* the masks in .*merged\.json is \(2, 3\)"):
        pascal_context.convert_masks((2, 3), [], png(np.zeros((2, 2), np.uint8)), "x.jpg")


@pytest.mark.parametrize("text", ["[]", "{", '{"images": [{"image_id": 1}], "annos_segmentation": []}'])
def test_a_json_of_another_kind_is_an_error_that_says_how_to_get_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "trainval_merged.json").write_text(text)
    with pytest.raises(OvssError, match=r"not in the format of trainval_merged\.json.*Get it: "):
        pascal_context.annotated(str(tmp_path / "trainval_merged.json"), "val")
