"""A user's own folder of images and labels."""

import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss_ray import files
from ovss_ray.columns import IGNORE
from ovss_ray.datasets import benchmark, folder
from ovss_ray.datasets.benchmark import Benchmark
from ovss_ray.errors import OvssError, UnknownName

EXAMPLE = """\
images: photos/*.jpg
labels: masks/*.png
label_suffix: _label
classes: [soil, [crop, maize], weed]
offset: 1
ignore: 0
"""
COLOURED = """\
images: photos/*.jpg
labels: masks/*.png
label_suffix: _label
classes: [soil, crop]
encoding: rgb
colours: {soil: [0, 0, 0], 1: [0, 255, 0]}
ignore: [255, 255, 255]
"""


@pytest.fixture
def fields(tmp_path: Path) -> Path:
    """The files of the worked example in the module's docstring."""
    for name, value in (("a1", 1), ("a2", 3)):
        put(tmp_path / f"photos/{name}.jpg", np.zeros((4, 6, 3), np.uint8))
        put(tmp_path / f"masks/{name}_label.png", np.array([[0, 1, 2, value]], np.uint8))
    return tmp_path


def put(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def described(where: Path, text: str) -> Benchmark:
    (where / "benchmark.yaml").write_text(text)
    return benchmark.load(f"folder:{where}/benchmark.yaml")


def truths(one: Benchmark, root: str = "") -> dict[str, list[list[int]]]:
    return {item.image_id: one.truth(item, files.read(item.truth)).tolist() for item in one.items(root, one.split)}


def test_the_worked_example_works(fields: Path) -> None:
    one = described(fields, EXAMPLE)
    assert one.vocabulary.classes == (("soil",), ("crop", "maize"), ("weed",))
    assert truths(one) == {"a1": [[IGNORE, 0, 1, 0]], "a2": [[IGNORE, 0, 1, 2]]}


def test_the_worked_example_is_the_one_in_the_docstring() -> None:
    assert textwrap.indent(EXAMPLE, "    ") in str(folder.__doc__)


def test_paths_are_absolute_so_that_workers_find_them(fields: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described(fields, EXAMPLE)
    monkeypatch.chdir(fields.parent)
    one = benchmark.load(f"folder:{fields.name}/benchmark.yaml")
    assert next(iter(one.items("", "all"))).image == str(fields / "photos/a1.jpg")


def test_what_is_not_beside_the_yaml_is_looked_for_below_the_data_root(fields: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    one = described(tmp_path / "elsewhere", EXAMPLE)
    assert sorted(truths(one, str(fields))) == ["a1", "a2"]


def test_two_stars_stand_for_any_folders(fields: Path) -> None:
    put(fields / "photos/more/deep/a3.jpg", np.zeros((4, 6, 3), np.uint8))
    put(fields / "masks/a3_label.png", np.array([[1]], np.uint8))
    nested = EXAMPLE.replace("photos/*.jpg", "photos/**/*.jpg")
    assert sorted(truths(described(fields, nested))) == ["a1", "a2", "a3"]
    assert sorted(truths(described(fields, EXAMPLE))) == ["a1", "a2"]


def test_images_may_have_a_suffix_too_and_patterns_may_be_a_list(fields: Path) -> None:
    put(fields / "photos/b_left.jpg", np.zeros((4, 6, 3), np.uint8))
    put(fields / "more/b_label.png", np.array([[1]], np.uint8))
    text = EXAMPLE.replace("masks/*.png", "[masks/*.png, more/*.png]") + "image_suffix: _left\n"
    assert sorted(truths(described(fields, text))) == ["b"]


def test_classes_may_stand_in_a_text_file(fields: Path) -> None:
    (fields / "classes.txt").write_text("soil\ncrop\n\nweed\n")
    one = described(fields, EXAMPLE.replace("[soil, [crop, maize], weed]", "classes.txt"))
    assert one.vocabulary.names == ("soil", "crop", "weed")


def test_colours_become_classes_and_ignored_ones_are_not_counted(fields: Path) -> None:
    for name in ("a1", "a2"):
        colours = np.array([[[0, 0, 0], [0, 255, 0], [255, 255, 255]]], np.uint8)
        put(fields / f"masks/{name}_label.png", colours)
    assert truths(described(fields, COLOURED))["a1"] == [[0, 1, IGNORE]]


def test_a_colour_that_is_not_listed_is_an_error_that_names_file_and_colour(fields: Path) -> None:
    put(fields / "masks/a1_label.png", np.array([[[1, 2, 3]]], np.uint8))
    with pytest.raises(OvssError, match=r"a1_label\.png.*\[1, 2, 3\]"):
        truths(described(fields, COLOURED))


def test_a_value_that_is_no_class_is_an_error_that_names_file_and_value(fields: Path) -> None:
    with pytest.raises(OvssError, match=r"a1_label\.png.*such as 0"):
        truths(described(fields, EXAMPLE.replace("ignore: 0\n", "")))


def test_several_values_may_be_ignored(fields: Path) -> None:
    text = EXAMPLE.replace("ignore: 0", "ignore: [0, 2]")
    assert truths(described(fields, text))["a1"] == [[IGNORE, 0, IGNORE, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (EXAMPLE + "lables: x\n", r"benchmark\.yaml: lables: unknown\. Did you mean 'labels'"),
        (EXAMPLE + "offset: 2\n", "'offset' stands there twice"),
        (EXAMPLE.replace("images: photos/*.jpg\n", ""), "images: Field required"),
        (EXAMPLE.replace("offset: 1", "offset: one"), "offset: .*'one'"),
        (EXAMPLE.replace("offset: 1", "offset: 99999999999999999999"), r"benchmark\.yaml: offset: "),
        (EXAMPLE.replace("weed]", "'']"), r"benchmark\.yaml: class 2 of the vocabulary has an empty name"),
        (EXAMPLE.replace("soil,", '"soil\\t",'), r"benchmark\.yaml: class 0 .* character that is no text: 'soil\\t'"),
        (EXAMPLE.replace("ignore: 0", "ignore: 99999"), "99999"),
        (EXAMPLE + "encoding: rgb\n", "needs a table `colours`"),
        (EXAMPLE + "colours: {soil: [0, 0, 0]}\n", "for `encoding: rgb`"),
        (EXAMPLE.replace("weed]", "no]"), "classes.*False"),
        (COLOURED.replace("1:", "crp:"), "colours.crp: no such class. Did you mean 'crop'"),
        (COLOURED.replace("0, 255, 0", "0, 0, 0"), "a colour of its own"),
        (COLOURED.replace("0, 255, 0", "0, 256, 0"), "256"),
        (COLOURED.replace("[255, 255, 255]", "0"), "`ignore` is a colour"),
        ("", "benchmark.yaml"),
        ("images: [", "not YAML"),
    ],
)
def test_a_fault_in_the_yaml_is_named_with_its_place(fields: Path, text: str, message: str) -> None:
    with pytest.raises(OvssError, match=message):
        described(fields, text)


def test_labels_that_match_no_image_are_shown_with_an_example(fields: Path) -> None:
    with pytest.raises(OvssError, match=r"2 photographs fit.*2 label files fit.*'a1', 'a1_label'.*label_suffix"):
        truths(described(fields, EXAMPLE.replace("label_suffix: _label\n", "")))


def test_a_missing_yaml_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"nowhere\.yaml"):
        benchmark.load(f"folder:{tmp_path}/nowhere.yaml")


def test_a_folder_without_a_path_is_told_how_to_write_it() -> None:
    with pytest.raises(OvssError, match=r"folder:PATH\.yaml"):
        benchmark.load("folder")


def test_there_is_one_split_and_another_is_refused(fields: Path) -> None:
    with pytest.raises(UnknownName, match="Known: all"):
        described(fields, EXAMPLE).items("", "val")
