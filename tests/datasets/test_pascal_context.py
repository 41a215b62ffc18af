"""PASCAL-Context in 459, 59 and 60 classes, from .mat files."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from ovss_ray import files
from ovss_ray.columns import IGNORE
from ovss_ray.datasets import pascal_context
from ovss_ray.datasets.benchmark import Item, class_list, load
from ovss_ray.errors import OvssError
from tests.label_files import sha256


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
        with pytest.raises(OvssError, match=r"x\.mat: 1 pixels have labels such as 460; this data set has 0 to 459"):
            load(f"pascal_context:{name}").truth(Item("x", "x.jpg", "x.mat"), sink.getvalue())
