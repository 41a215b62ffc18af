"""CWFID and SUIM, whose labels are colours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovss_ray.benchmarks.catalog import load
from ovss_ray.benchmarks.listing import Item
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from tests.label_files import png, sha256


@pytest.mark.parametrize(
    ("name", "split", "golden", "ending"),
    [("cwfid:mess", "train", "cwfid_mess", "_annotation.png"), ("suim", "test", "suim_mess", ".png")],
)
def test_the_truth_is_that_of_mess_s_scripts(
    root: Path, manifest: dict[str, Any], name: str, split: str, golden: str, ending: str
) -> None:
    made = {
        f"{golden}/annotations_detectron2/{item.image_id}{ending}": sha256(
            load(name).truth(item, files.read(item.truth)).astype(np.uint8)
        )
        for item in load(name).items(str(root), split)
    }
    assert made == {file: told["sha256_pixels"] for file, told in manifest.items() if file.startswith(golden)}


def test_the_classes_are_those_of_mess(shared: Path) -> None:
    told = json.loads((shared / "benchmarks/classes/mess_classes.json").read_text())
    assert list(load("suim").vocabulary.names) == told["suim"]["CLASSES"]
    assert list(load("cwfid:mess").vocabulary.names) == told["cwfid"]["CLASSES"]
    assert list(load("cwfid").vocabulary.names) == told["cwfid"]["CLASSES_OFFICIAL"]


def test_crop_is_green_and_mess_calls_it_weed() -> None:
    item, colours = Item("x", "x.png", "x.png"), np.array([[[0, 0, 0], [0, 255, 0], [255, 0, 0]]], np.uint8)
    assert load("cwfid").truth(item, png(colours)).tolist() == [[0, 1, 2]]
    assert load("cwfid:mess").truth(item, png(colours)).tolist() == [[0, 2, 1]]


def test_the_split_of_cwfid_s_authors_holds_as_many_images_as_the_card_says(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "train_test_split.yaml").symlink_to(shared / "data/real/cwfid/train_test_split.yaml")
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
        for number in range(1, 61):
            (tmp_path / folder / f"{number:03}_{folder.removesuffix('s')}.png").touch()
    found = {
        split: [item.image_id for item in load("cwfid").items(str(tmp_path), split)] for split in ("train", "test")
    }
    assert {split: len(ids) for split, ids in found.items()} == load("cwfid").counts
    assert set(found["train"]) & set(found["test"]) == {"028"}


def test_a_split_file_without_the_split_is_named(root: Path, tmp_path: Path) -> None:
    for folder in ("images", "annotations"):
        (tmp_path / folder).symlink_to(root / "cwfid" / folder)
    (tmp_path / "train_test_split.yaml").write_text("train: [2]\n")
    with pytest.raises(OvssError, match=r"train_test_split\.yaml: no list 'test'"):
        load("cwfid").items(str(tmp_path), "test")


@pytest.mark.parametrize("name", ["cwfid", "suim"])
def test_a_colour_that_is_no_class_names_the_file(name: str) -> None:
    with pytest.raises(OvssError, match=r"x\.png: 1 colours .* such as \[9, 0, 0\]"):
        load(name).truth(Item("x", "x.png", "x.png"), png(np.array([[[9, 0, 0]]], np.uint8)))
