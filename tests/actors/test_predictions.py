"""Label maps that other systems have written."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask

from ovss_ray.actors.predictions import Stage
from ovss_ray.errors import OvssError
from ovss_ray.structures.columns import NONE, column
from ovss_ray.structures.masks import rle
from ovss_ray.structures.vocabulary import Vocabulary

THREE = Vocabulary.of(["soil", "crop", "weed"])
MAP = np.array([[0, 1, 2], [2, 2, 0]], np.uint8)


def put(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def predicted(path: Path, *ids: str, vocabulary: Vocabulary = THREE, **options: Any) -> list[np.ndarray]:
    built = Stage(Stage.Config(path=str(path), **options))
    batch = {"image_id": column(ids), "vocabulary": column([vocabulary.digest] * len(ids))}
    return list(built(batch, {vocabulary.digest: vocabulary})["prediction"])


def encoded(values: np.ndarray, file_name: str, offset: int = 0) -> list[dict[str, Any]]:
    """Write a label map as detectron2 does: one entry per value."""
    entries = []
    for value in np.unique(values):
        segmentation = mask.encode(np.asfortranarray(values == value, np.uint8))
        segmentation["counts"] = segmentation["counts"].decode()
        entries.append({"file_name": file_name, "category_id": int(value) + offset, "segmentation": segmentation})
    return entries


@pytest.mark.parametrize(("name", "kind"), [("a.png", np.uint8), ("a.png", np.uint16), ("a.tif", np.uint16)])
def test_a_label_map_is_found_by_its_image_id_in_any_format(tmp_path: Path, name: str, kind: type) -> None:
    put(tmp_path / name, MAP.astype(kind))
    found = predicted(tmp_path, "a")[0]
    assert found.dtype == np.uint16
    assert np.array_equal(found, MAP)


def test_nested_ids_are_found_by_their_path_and_by_their_last_part(tmp_path: Path) -> None:
    put(tmp_path / "berlin/a.png", MAP)
    put(tmp_path / "bonn/a.png", MAP[::-1])
    put(tmp_path / "bonn/b.png", MAP * 0)
    found = predicted(tmp_path, "berlin/a", "bonn/a", "b")
    assert [np.array_equal(*pair) for pair in zip(found, (MAP, MAP[::-1], MAP * 0), strict=True)] == [True] * 3
    with pytest.raises(OvssError, match="2 of 3 files match"):
        predicted(tmp_path, "a")


def test_offset_and_values_that_name_no_class(tmp_path: Path) -> None:
    put(tmp_path / "a.png", np.array([[1, 2, 3, 0, 255]], np.uint8))
    assert predicted(tmp_path, "a", offset=1, none=[0, 255])[0].tolist() == [[0, 1, 2, NONE, NONE]]


def test_what_ovss_itself_writes_can_be_scored_again(tmp_path: Path) -> None:
    put(tmp_path / "a.png", np.array([[0, 2, NONE]], np.uint16))
    assert predicted(tmp_path, "a")[0].tolist() == [[0, 2, NONE]]


@pytest.mark.parametrize("value", [3, 255, 65533, 65535])
def test_a_value_that_is_no_class_is_an_error_that_names_file_and_value(tmp_path: Path, value: int) -> None:
    put(tmp_path / "a.png", np.array([[0, value]], np.uint16))
    with pytest.raises(OvssError, match=rf"a\.png: 1 pixels have values such as {value}.*3 classes.*`offset`"):
        predicted(tmp_path, "a")


def test_a_value_below_the_offset_is_an_error_too(tmp_path: Path) -> None:
    put(tmp_path / "a.png", np.array([[0, 1]], np.uint8))
    with pytest.raises(OvssError, match=r"a\.png: 1 pixels have values such as 0"):
        predicted(tmp_path, "a", offset=1)


def test_minus_one_is_an_error_unless_it_is_said_to_name_no_class(tmp_path: Path) -> None:
    for i, values in enumerate(([[0, -1]], [[0, -(2**31)]])):
        put(tmp_path / f"{i}.tif", np.array(values, np.int32))
    with pytest.raises(OvssError, match=r"0\.tif: 1 pixels have values such as -1"):
        predicted(tmp_path, "0")
    assert predicted(tmp_path, "0", none=-1)[0].tolist() == [[0, NONE]]
    assert predicted(tmp_path, "1", none=(-(2**31), 255))[0].tolist() == [[0, NONE]]


def test_predictions_are_read_as_they_are_stored_or_refused(tmp_path: Path) -> None:
    grey, page = Image.new("P", (1, 1), 1), Image.new("L", (1, 1))
    grey.putpalette([0, 0, 0, 9, 9, 9])
    grey.save(tmp_path / "grey.png")
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    for name, said in (("grey", "displays index 1 as grey 9"), ("pages", "a TIFF with 2 pages")):
        with pytest.raises(OvssError, match=rf"{name}\..*{said}"):
            predicted(tmp_path, name)


def test_a_missing_prediction_is_an_error_that_says_what_was_looked_for(tmp_path: Path) -> None:
    put(tmp_path / "a.png", MAP)
    with pytest.raises(OvssError, match=r"no unique prediction: searched for .*/b\{\.png,\.tif,"):
        predicted(tmp_path, "b")


def test_two_files_for_one_image_are_an_error_that_names_both(tmp_path: Path) -> None:
    put(tmp_path / "a.png", MAP)
    put(tmp_path / "a.tif", MAP)
    with pytest.raises(OvssError, match=r"a\.png and a\.tif"):
        predicted(tmp_path, "a")


def test_a_path_with_nothing_there_is_found_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"nowhere: not found"):
        Stage.files(Stage.Config(path=str(tmp_path / "nowhere")))


def test_the_files_that_decide_the_answers_are_listed(tmp_path: Path) -> None:
    one, other = put(tmp_path / "maps/a.png", MAP), put(tmp_path / "maps/b/c.tif", MAP)
    assert Stage.files(Stage.Config(path=str(tmp_path / "maps"))) == (one, other)
    (tmp_path / "found.json").write_text("[]")
    assert Stage.files(Stage.Config(path=str(tmp_path / "found.json"))) == (tmp_path / "found.json",)


@pytest.mark.parametrize(("case", "step"), [("c150", 3), ("c5_one_image_ignored", 0)])
def test_detectron2_s_json_gives_the_label_maps_it_was_written_from(
    shared: Path, tmp_path: Path, case: str, step: int
) -> None:
    golden = np.load(shared / f"parity/metrics/semseg_{case}.npz")
    (tmp_path / "sem_seg_predictions.json").write_text(str(golden["predictions_json"]))
    classes = int(golden["num_classes"])
    ids = tuple(1000 + step * i for i in range(classes)) if step else None
    vocabulary = Vocabulary.of([f"k{i}" for i in range(classes)])
    images = [str(i) for i in range(int(golden["images"]))]
    found = predicted(tmp_path / "sem_seg_predictions.json", *images, vocabulary=vocabulary, category_ids=ids)
    for i, one in enumerate(found):
        assert np.array_equal(one, golden[f"pred_{i}"]), i


def test_pixels_that_no_mask_covers_name_no_class(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(encoded(MAP, "photos/a.jpg")[1:]))
    assert predicted(tmp_path / "x.json", "a")[0].tolist() == [[NONE, 1, 2], [2, 2, NONE]]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.integers(1, 300))
def test_run_lengths_are_decoded_as_pycocotools_does(seed: int, height: int, width: int, longest: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = np.resize(np.repeat(rng.integers(0, 2, 400), rng.integers(1, longest + 1, 400)), (width, height)).T
    counts = mask.encode(np.asfortranarray(pixels, np.uint8))["counts"].decode()
    assert np.array_equal(rle.decode(counts, (height, width), "x"), pixels)


def test_long_runs_are_decoded() -> None:
    pixels = np.zeros((3000, 4000), np.uint8)
    pixels[1000:2000, 1500:1502] = 1
    counts = mask.encode(np.asfortranarray(pixels))["counts"].decode()
    assert np.array_equal(rle.decode(counts, (3000, 4000), "x"), pixels)


@pytest.mark.parametrize("counts", ["", "0", "3", "7", "60P", "zz", "~", " ", "QQQQQQQQQ0", None])
def test_run_lengths_that_do_not_fill_the_mask_are_an_error(counts: str) -> None:
    with pytest.raises(OvssError, match="photo: "):
        rle.decode(counts, (2, 3), "photo")


def test_a_category_that_is_no_class_is_an_error_that_names_image_and_value(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(encoded(MAP, "photos/a.jpg", offset=100_000)))
    with pytest.raises(OvssError, match=r"x\.json, a: 6 pixels have values such as 100000"):
        predicted(tmp_path / "x.json", "a")


def test_an_image_that_is_not_in_the_json_is_an_error_with_an_example(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(encoded(MAP, "photos/a.jpg")))
    with pytest.raises(
        OvssError, match=r"no prediction: .*x\.json has no file_name with the stem 'b'; an example is 'a'"
    ):
        predicted(tmp_path / "x.json", "b")


def test_masks_of_unlike_or_absurd_sizes_are_an_error_that_names_image_and_sizes(tmp_path: Path) -> None:
    unlike = [*encoded(MAP, "a.jpg"), *encoded(MAP[:1], "a.jpg")]
    absurd = encoded(MAP, "a.jpg")[:1]
    absurd[0]["segmentation"]["size"] = [10**6, 10**6]
    for entries, shown in ((unlike, "(1, 3)"), (absurd, "(1000000, 1000000)")):
        (tmp_path / "x.json").write_text(json.dumps(entries))
        with pytest.raises(OvssError, match=r"x\.json, a: all masks of an image must have the same size") as caught:
            predicted(tmp_path / "x.json", "a")
        assert shown in str(caught.value)


@pytest.mark.parametrize("text", ["{", "{}x", '[{"file_name": "a.jpg"}]', "[1]"])
def test_a_json_of_another_kind_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(OvssError, match=r"x\.json: not detectron2's"):
        predicted(tmp_path / "x.json", "a")


def test_category_ids_must_be_as_many_as_the_classes(tmp_path: Path) -> None:
    put(tmp_path / "a.png", MAP)
    with pytest.raises(OvssError, match="2 ids for 3 classes"):
        predicted(tmp_path, "a", category_ids=[1, 2])


def described(path: Path, entries: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(entries))
    return path


@pytest.mark.parametrize("names", [("s1/0.jpg", "s2/0.jpg"), ("/data/s1/images/0.png", "/data/s2/images/0.png")])
def test_entries_of_one_stem_are_told_apart_by_their_folders(tmp_path: Path, names: tuple[str, str]) -> None:
    entries = [*encoded(MAP, names[0]), *encoded(MAP[::-1], names[1])]
    found = predicted(described(tmp_path / "x.json", entries), "s1/0", "s2/0")
    assert [np.array_equal(*pair) for pair in zip(found, (MAP, MAP[::-1]), strict=True)] == [True, True]
    with pytest.raises(OvssError, match=r"no prediction: 2 file_names of .*x\.json match '0': .*s1.*s2"):
        predicted(tmp_path / "x.json", "0")


def test_an_entry_of_another_folder_is_no_prediction(tmp_path: Path) -> None:
    described(tmp_path / "x.json", encoded(MAP, "s1/0.jpg"))
    with pytest.raises(OvssError, match="no file_name with the stem '0' in the folder 's2'; an example is '0'"):
        predicted(tmp_path / "x.json", "s2/0")
    put(tmp_path / "maps/0.png", MAP)
    with pytest.raises(OvssError, match=r"searched for .*/s1/0\{.*0 of 1 files match"):
        predicted(tmp_path / "maps", "s1/0")


def test_a_label_map_is_found_by_the_folders_of_its_id_in_their_order(tmp_path: Path) -> None:
    for i, name in enumerate(("s1/run/0.png", "s2/run/0.png", "run/s3/0.png")):
        put(tmp_path / name, MAP * 0 + np.uint8(i))
    found = predicted(tmp_path, "s1/0", "s2/0", "s3/0")
    assert [one.max() for one in found] == [0, 1, 2]


def test_windows_paths_have_folders_too(tmp_path: Path) -> None:
    entries = [*encoded(MAP, r"C:\data\s1\0.jpg"), *encoded(MAP[::-1], r"C:\data\s2\0.jpg")]
    assert np.array_equal(predicted(described(tmp_path / "x.json", entries), "s2/0")[0], MAP[::-1])


def test_masks_of_two_images_with_one_file_name_are_not_merged(tmp_path: Path) -> None:
    described(tmp_path / "x.json", [*encoded(MAP, "0.jpg"), *encoded(MAP[::-1], "0.jpg")])
    with pytest.raises(
        OvssError, match=r"x\.json, 0: 2 pixels are covered by masks of two categories.*share a file_name"
    ):
        predicted(tmp_path / "x.json", "0")


def test_run_lengths_may_be_a_list_of_numbers(tmp_path: Path) -> None:
    masks = [([0, 1, 4, 1], 0), ([2, 1, 3], 1), ([1, 1, 1, 2, 1], 2)]
    entries = [
        {"file_name": "a.jpg", "category_id": category, "segmentation": {"size": [2, 3], "counts": runs}}
        for runs, category in masks
    ]
    assert np.array_equal(predicted(described(tmp_path / "x.json", entries), "a")[0], MAP)


@pytest.mark.parametrize("counts", [[], [5], [7], [-1, 7], ["6"], [2.5, 3.5], [True, 5], [[6]]])
def test_lists_that_are_no_run_lengths_are_an_error(counts: list[Any]) -> None:
    with pytest.raises(OvssError, match="photo: "):
        rle.decode(counts, (2, 3), "photo")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"image_id": 1, "category_id": 2, "score": 0.9, "segmentation": {}}], "instances with scores, as in COCO's"),
        ([{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1]}], "entries by image_id"),
        ({"images": [], "annotations": []}, "an object with the keys images, annotations, as in COCO's"),
        ([{"file_name": "a", "category_id": 1, "segmentation": [[0, 0, 1, 1, 2, 0]]}], "polygons are not supported"),
        ([{"file_name": "a", "category_id": 1, "segmentation": {"counts": "6"}}], "the mask of a is not RLE"),
        ([{"file_name": "a", "category_id": 1, "segmentation": {"counts": "6", "size": [2]}}], r"the size \[2\]"),
        ([{"file_name": "a", "category_id": 1, "segmentation": {"counts": "6", "size": [2, "3"]}}], "the size"),
    ],
)
def test_json_of_another_kind_is_called_by_its_name(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(OvssError, match=rf"x\.json: not detectron2's.*{message}"):
        predicted(tmp_path / "x.json", "a")


@pytest.mark.parametrize("folder", ["pred [1]", "what?", "a*b"])
def test_no_character_of_the_path_is_a_wildcard(tmp_path: Path, folder: str) -> None:
    put(tmp_path / folder / "a.png", MAP)
    put(tmp_path / "pred 1/a.png", MAP * 0)
    assert np.array_equal(predicted(tmp_path / folder, "a")[0], MAP)


def test_a_link_to_its_own_folder_is_ignored(tmp_path: Path) -> None:
    put(tmp_path / "a.png", MAP)
    (tmp_path / "again").symlink_to(".")
    assert np.array_equal(predicted(tmp_path, "a")[0], MAP)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"none": 0}, "0 is also the value of the class with index 0"),
        ({"none": [255, 2], "offset": 1}, "2 is also the value of the class with index 1"),
        ({"category_ids": [0, 1, 2], "none": 2}, "2 is also the value of the class with index 2"),
        ({"category_ids": [0, 1, 1]}, "1 is negative or repeated"),
        ({"category_ids": [-1, 1, 2]}, "-1 is negative or repeated"),
        ({"category_ids": [1, 2, 3], "offset": 1}, "`category_ids` and `offset` both define"),
    ],
)
def test_options_that_take_a_class_away_are_refused(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    put(tmp_path / "a.png", MAP * 0)
    with pytest.raises((OvssError, ValueError), match=why):
        predicted(tmp_path, "a", **options)


@pytest.mark.parametrize("category", [1.5, True, None, "x"])
def test_a_category_that_is_no_whole_number_is_refused(tmp_path: Path, category: object) -> None:
    entries = [{**entry, "category_id": category} for entry in encoded(MAP, "a.png")]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    with pytest.raises(OvssError, match="category_id"):
        predicted(tmp_path / "p.json", "a")


@pytest.mark.parametrize("name", ["a.bmp", "a.gif", "a.pgm"])
def test_formats_of_label_files_are_those_of_predictions(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, MAP)
    assert np.array_equal(predicted(tmp_path, "a")[0], MAP)


def test_a_folder_without_label_maps_is_refused_with_what_is_there(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", MAP)
    with pytest.raises(OvssError, match=r"no label maps; found: 1 files \.npy\. Accepted: \.png"):
        Stage.files(Stage.Config(path=str(tmp_path)))


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_whose_accents_macos_has_taken_apart_are_the_same(tmp_path: Path, forms: tuple[str, str]) -> None:
    image_id, name = (unicodedata.normalize(form, "s/café") for form in forms)
    put(tmp_path / f"{name}.png", MAP)
    assert np.array_equal(predicted(tmp_path, image_id)[0], MAP)


def test_palettes_that_are_made_anew_for_each_file_are_refused_before_the_run(tmp_path: Path) -> None:
    for name, colours in {"a": [0, 0, 0, 9, 0, 0, 0, 9, 0], "b": [0, 9, 0, 9, 0, 0, 0, 0, 0]}.items():
        picture = Image.fromarray(MAP, "P")
        picture.putpalette(colours)
        picture.save(tmp_path / f"{name}.png")
        if name == "a":
            assert len(Stage.files(Stage.Config(path=str(tmp_path)))) == 1
    with pytest.raises(OvssError, match=r"is index 2 in .*/a\.png, but index 0 in .*/b\.png"):
        Stage.files(Stage.Config(path=str(tmp_path)))
