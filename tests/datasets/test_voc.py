"""PASCAL VOC 2012, in its three forms."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovss_ray.benchmarks.catalog import load
from ovss_ray.benchmarks.listing import Item
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from ovss_ray.structures.columns import IGNORE
from tests.label_files import png, sha256

GOLDENS = [
    ("voc:20", "voc/catseg/annotations_detectron2/val"),
    ("voc:20", "voc/fcclip/annotations_pascal20"),
    ("voc:20b", "voc/catseg/annotations_detectron2_bg/val"),
    ("voc:21", "voc/fcclip/annotations_pascal21"),
]


@pytest.mark.parametrize(("name", "golden"), GOLDENS)
def test_the_truth_is_that_of_the_official_scripts(
    root: Path, manifest: dict[str, Any], name: str, golden: str
) -> None:
    (item,) = load(name).items(str(root), "val")
    truth = load(name).truth(item, files.read(item.truth))
    assert (
        sha256(np.where(truth == IGNORE, 255, truth).astype(np.uint8))
        == (manifest[f"{golden}/2007_000129.png"]["sha256_pixels"])
    )


def test_20b_asks_for_59_names_and_all_that_is_no_voc_thing_counts_as_background() -> None:
    found = load("voc:20b")
    assert found.labels == (*load("voc:20@catseg").vocabulary.names, "background")
    assert found.vocabulary.names[:20] == found.labels[:20]
    assert found.index == (*range(20), *[20] * 39)
    assert set(found.vocabulary.names) == set(load("pascal_context:59").vocabulary.names)


def test_the_images_are_those_that_the_split_lists_and_the_larger_labels_do_where_there_are_no_others(
    tmp_path: Path,
) -> None:
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("b\r\na\n")
    for stem in "abc":
        (tmp_path / f"JPEGImages/{stem}.jpg").touch()
        (tmp_path / f"SegmentationClassAug/{stem}.png").touch()
    assert [item.image_id for item in load("voc:20").items(str(tmp_path), "val")] == ["a", "b"]
    (tmp_path / "SegmentationClass").mkdir()
    assert list(load("voc:20").items(str(tmp_path), "val")) == []


@pytest.mark.parametrize("name", ["voc:20", "voc:20b", "voc:21"])
def test_a_value_that_is_no_class_names_the_file(name: str) -> None:
    with pytest.raises(OvssError, match=r"x\.png: 4 pixels have invalid labels such as 21; allowed: 0 to 20, 255"):
        load(name).truth(Item("x", "x.jpg", "x.png"), png(np.full((2, 2), 21, np.uint8)))


def test_of_a_palette_file_the_indices_count(root: Path) -> None:
    (item,) = load("voc:21").items(str(root), "val")
    assert Image.open(item.truth).mode == "P"
    assert np.unique(load("voc:21").truth(item, files.read(item.truth))).tolist() == [0, 2, 15, IGNORE]
