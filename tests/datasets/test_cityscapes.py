"""Cityscapes-19."""

import json
from pathlib import Path

import numpy as np
import pytest

from ovss_ray.benchmarks.catalog import load
from ovss_ray.benchmarks.listing import Item
from ovss_ray.errors import OvssError
from ovss_ray.io import files, images
from ovss_ray.structures.columns import IGNORE
from tests.label_files import png

CITYSCAPES = load("cityscapes:19")


def test_the_truth_is_that_of_the_official_train_ids(root: Path) -> None:
    """But for 2 pixels in 1000, at borders: whoever shrank this sample did so with either file alone."""
    (item,) = CITYSCAPES.items(str(root), "val")
    assert item.image_id == "frankfurt_000000_000294"
    official = item.truth.replace("labelIds", "labelTrainIds")
    ids = images.decode_labels(files.read(official), official)
    made = CITYSCAPES.truth(item, files.read(item.truth))
    assert (made == np.where(ids == 255, IGNORE, ids)).mean() > 0.997
    for number in np.unique(made):
        assert np.bincount(ids[made == number]).argmax() == min(number, 255)


def test_the_numbers_are_those_of_cityscapes_scripts(shared: Path) -> None:
    told = json.loads((shared / "benchmarks/classes/cityscapes19.json").read_text())["labels"]
    expected = [IGNORE if one["trainId"] == 255 else one["trainId"] for one in told if one["id"] >= 0]
    numbers = np.array([[one["id"] for one in told if one["id"] >= 0]], np.uint8)
    assert numbers.tolist() == [list(range(34))]
    assert CITYSCAPES.truth(Item("x", "x.png", "x.png"), png(numbers)).tolist() == [expected]


def test_train_ids_in_the_place_of_the_numbers_are_refused_where_they_can_be_told() -> None:
    with pytest.raises(OvssError, match=r"x\.png: 1 pixels have invalid labels such as 255; allowed: 0 to 33"):
        CITYSCAPES.truth(Item("x", "x.png", "x.png"), png(np.array([[0, 255]], np.uint8)))
