"""COCO-Stuff, COCO-Object and the classes of panoptic COCO."""

import json
from pathlib import Path

import numpy as np
import pytest

from ovss_ray.benchmarks.catalog import load
from ovss_ray.benchmarks.listing import Item
from ovss_ray.dataprep.prepare import do
from ovss_ray.datasets import coco
from ovss_ray.errors import OvssError
from ovss_ray.io import files, images
from ovss_ray.structures.columns import IGNORE
from tests.label_files import png

STUFFTHINGS = np.array([[0, 79, 89, 91], [181, 147, 255, 12]], np.uint8)
"""Values of stuffthingmaps: COCO's number − 1; 255 = not labelled"""


def truth(name: str, values: np.ndarray) -> np.ndarray:
    return load(name).truth(Item("x", "x.jpg", "x.png"), png(values))


def test_the_values_of_the_171_classes_are_those_of_the_source(shared: Path) -> None:
    told = json.loads((shared / "benchmarks/classes/coco_stuff_182_to_171.json").read_text())
    assert list(coco.DROPPED) == told["removed_pixel_values"]
    values = np.arange(256, dtype=np.uint8)
    values[182:] = 255
    expected = [told["map"].get(str(value), IGNORE) for value in values.tolist()]
    assert truth("coco:stuff", values[None])[0].tolist() == expected


def test_things_and_stuff_are_apart(shared: Path) -> None:
    told = json.loads((shared / "benchmarks/classes/coco_stuff171.json").read_text())
    groups = load("coco:stuff").groups
    assert [told["coco_ids"][i] <= 90 for i in groups["things"] + groups["stuff"]] == [True] * 80 + [False] * 91


def test_coco_object_counts_every_pixel_and_stuff_is_background() -> None:
    assert truth("coco:object", STUFFTHINGS).tolist() == [[1, 71, 80, 0], [0, 0, 0, 12]]
    assert load("coco:object").labels[:2] == ("background", "person")
    assert load("coco:object").labels[1:] == load("coco:stuff").labels[:80]


@pytest.mark.parametrize(("name", "value"), [("coco:stuff", 182), ("coco:object", 11), ("coco:panoptic", 133)])
def test_a_value_that_is_no_class_names_the_file(name: str, value: int) -> None:
    with pytest.raises(OvssError, match=rf"x\.png: 1 pixels have invalid labels such as {value}"):
        truth(name, np.array([[value]], np.uint8))


def test_the_ids_of_the_133_classes_are_coco_s(shared: Path) -> None:
    told = json.loads((shared / "data/real/coco_panoptic/panoptic_coco_categories.json").read_text())
    assert list(coco.PANOPTIC) == [one["id"] for one in told]
    groups = load("coco:panoptic").groups
    assert [told[i]["isthing"] for i in groups["things"] + groups["stuff"]] == [1] * 80 + [0] * 53


def test_segments_become_the_classes_that_coco_s_own_two_channel_files_name(
    shared: Path, root: Path, tmp_path: Path
) -> None:
    steps = list(load("coco:panoptic").prepare(str(root), "val", str(tmp_path)))
    assert [do(step) for step in steps] == [(True, "")] * 4
    for item in load("coco:panoptic").items(str(tmp_path), "val"):
        other = shared / "data/real/coco_panoptic/sample_data/panoptic_examples_2ch_format" / f"{item.image_id}.png"
        kinds = images.decode(other.read_bytes(), str(other))[..., 0]  # the category's id; 0 = no segment
        made = load("coco:panoptic").truth(item, files.read(item.truth))
        ids = np.array([*coco.PANOPTIC, 0])
        assert np.array_equal(ids[np.where(made == IGNORE, 133, made)], kinds)
        assert len(np.unique(made)) > 3


def test_beside_the_source_only_labels_are_made(root: Path) -> None:
    steps = list(load("coco:panoptic").prepare(str(root), "val", None))
    assert [Path(step.target).relative_to(root).parts[:2] for step in steps] == [
        ("coco", "panoptic_semseg_val2017")
    ] * 2


def test_a_segment_that_the_json_does_not_know_names_file_and_segment(root: Path) -> None:
    steps = list(load("coco:panoptic").prepare(str(root), "val", None))
    with pytest.raises(
        OvssError,
        match=r"142238.png: \d+ segments have none of .*\. The category of segment \d+ is missing in the JSON file",
    ):
        coco.convert_segments({}, files.read(steps[0].source), steps[0].source)


@pytest.mark.parametrize("content", ["{", "[]", '{"annotations": [{}]}', '{"annotations": 1}'])
def test_a_damaged_json_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "told.json").write_text(content)
    with pytest.raises(OvssError, match=r"told\.json: invalid panoptic annotations"):
        coco.categories(str(tmp_path / "told.json"))


def test_what_is_not_prepared_is_told_what_to_type(root: Path) -> None:
    with pytest.raises(OvssError, match="ovss prepare coco:panoptic"):
        load("coco:panoptic").items(str(root), "val")
