"""A user's own folder of images and labels."""

import io
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.contract import Benchmark, Values
from ovss_ray.benchmarks.listing import Item
from ovss_ray.datasets import folder
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.io import files
from ovss_ray.structures.columns import IGNORE

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
    return catalog.load(f"folder:{where}/benchmark.yaml")


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
    one = catalog.load(f"folder:{fields.name}/benchmark.yaml")
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
    (fields / "classes.txt").write_text("soil\ncrop\nweed\n\n")
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
    put(fields / "masks/a1_label.png", np.array([[0, 1, 9, 1]], np.uint8))
    text = EXAMPLE.replace("ignore: 0", "ignore: [0, 9]")
    assert truths(described(fields, text))["a1"] == [[IGNORE, 0, IGNORE, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (EXAMPLE + "lables: x\n", r"benchmark\.yaml: lables: unknown\. Did you mean 'labels'"),
        (EXAMPLE + "offset: 2\n", "duplicate key 'offset'"),
        (EXAMPLE.replace("images: photos/*.jpg\n", ""), "images: Field required"),
        (EXAMPLE.replace("offset: 1", "offset: one"), "offset: .*'one'"),
        (EXAMPLE.replace("offset: 1", "offset: 99999999999999999999"), r"benchmark\.yaml: offset: "),
        (EXAMPLE.replace("weed]", "'']"), r"benchmark\.yaml: class 2 of the vocabulary has an empty name"),
        (EXAMPLE.replace("soil,", '"soil\\t",'), r"benchmark\.yaml: class 0 .* invalid character: 'soil\\t'"),
        (EXAMPLE.replace("ignore: 0", "ignore: 99999"), "99999"),
        (EXAMPLE + "encoding: rgb\n", "needs the key `colours`"),
        (EXAMPLE + "colours: {soil: [0, 0, 0]}\n", "need `encoding: rgb`"),
        (
            EXAMPLE.replace("weed]", "{a: b}]"),
            r"classes\.2: expected text or a list, found {'a'",
        ),
        (
            EXAMPLE.replace("[soil, [crop, maize], weed]", "[soil, [[a]]]"),
            r"classes\.1\.0: expected text",
        ),
        (EXAMPLE.replace("ignore: 0", "ignore: yes"), r"ignore: expected a number \(YAML reads `on`.*found True"),
        (EXAMPLE.replace("offset: 1", "offset: on"), r"offset: expected a number \(YAML reads `on`.*found True"),
        (EXAMPLE.replace("ignore: 0", "ignore: [0, off]"), r"ignore.*: expected a number \(YAML reads `on`"),
        (EXAMPLE.replace("ignore: 0", "ignore: 010"), "line 6: 010 means the number 8 in YAML"),
        (EXAMPLE.replace("photos/*.jpg", "*.jpg"), r"(?s)invalid YAML.*begins with \* needs quotes"),
        (EXAMPLE.replace("photos/*.jpg", ""), "`images` is empty"),
        (COLOURED.replace("0, 255, 0", "0, on, 0"), r"colours\.1\.1: expected a number"),
        (COLOURED.replace("1:", "crp:"), "colours.crp: unknown class. Did you mean 'crop'"),
        (COLOURED.replace("0, 255, 0", "0, 0, 0"), "a different colour"),
        (
            COLOURED.replace("0, 255, 0", "255, 255, 255"),
            r"colours\.1: \[255, 255, 255\] is also the colour of `ignore`",
        ),
        (COLOURED.replace(", 1: [0, 255, 0]", ""), "colours: the class 'crop' has no colour"),
        (COLOURED.replace("0, 255, 0", "0, 256, 0"), "256"),
        (COLOURED.replace("[255, 255, 255]", "0"), "`ignore` must be a colour"),
        ("", "benchmark.yaml"),
        ("images: [", "invalid YAML"),
    ],
)
def test_a_fault_in_the_yaml_is_named_with_its_place(fields: Path, text: str, message: str) -> None:
    with pytest.raises(OvssError, match=message):
        described(fields, text)


def valued(where: Path, more: str, classes: str = "[a, b, c]") -> Benchmark:
    return described(where, f"images: '*.jpg'\nlabels: '*.png'\nclasses: {classes}\n{more}")


def seen(one: Benchmark, *values: int | list[int], kind: type = np.int32) -> list[int]:
    """The label indices of some label values."""
    sink = io.BytesIO()
    Image.fromarray(np.array([values], kind)).save(sink, "TIFF")
    return one.truth(Item("x", "x.jpg", "x.tif"), sink.getvalue())[0].tolist()


def test_values_name_the_label_value_of_each_class(tmp_path: Path) -> None:
    one = valued(tmp_path, "values: [7, 0, 300]\n")
    assert one.values == Values((7, 0, 300), (255,), stated=False)
    assert seen(one, 0, 7, 300, 255) == [1, 0, 2, IGNORE]
    with pytest.raises(OvssError, match="labels such as 1; allowed: 0, 7, 255, 300"):
        seen(one, 1)


def test_black_and_white_masks_are_two_classes(tmp_path: Path) -> None:
    one = valued(tmp_path, "values: [0, 255]\n", "[background, coin]")
    assert one.values == Values((0, 255), (), stated=False)
    assert seen(one, 0, 255) == [0, 1]


def test_minus_one_and_other_negative_values_may_be_ignored(tmp_path: Path) -> None:
    one = valued(tmp_path, "ignore: [-1, -32768, 255]\n")
    assert one.values == Values((0, 1, 2), (-1, -32768, 255), stated=True)
    assert seen(one, -1, 2, -32768, 255) == [IGNORE, 2, IGNORE, IGNORE]
    assert seen(one, 2, 255, kind=np.uint8) == [2, IGNORE]
    with pytest.raises(OvssError, match="the label -2"):
        seen(one, -2)


def test_nothing_may_be_ignored(tmp_path: Path) -> None:
    names = [f"k{i}" for i in range(256)]
    assert seen(valued(tmp_path, "ignore: []\n", str(names)), 255) == [255]


@pytest.mark.parametrize(
    ("more", "classes", "message"),
    [
        ("ignore: 1\n", "[a, b, c]", "ignore: 1 is the label value of the class 'b'"),
        ("ignore: [9, 3]\noffset: 1\n", "[a, b, c]", "ignore: 3 is the label value of the class 'c'"),
        ("ignore: 255\nvalues: [0, 255]\n", "[a, b]", "ignore: 255 is the label value of the class 'b'"),
        ("", str([f"k{i}" for i in range(256)]), "class 'k255' has the label value 255, which is ignored by default"),
        ("offset: 253\n", "[a, b, c]", "class 'c' has the label value 255, which is ignored by default"),
        ("offset: -1\n", "[a, b, c]", "offset: -1 gives the class 'a' the label value -1"),
        ("offset: 65534\n", "[a, b, c]", "gives the class 'c' the label value 65536"),
        ("values: [0, 1]\n", "[a, b, c]", "values: 2 label values for 3 classes"),
        ("values: [0, 1, 2, 3]\n", "[a, b, c]", "values: 4 label values for 3 classes"),
        ("values: [0, 4, 4]\n", "[a, b, c]", "values: 4 is the label value of two classes, 'b' and 'c'"),
        ("values: [0, 1, 65536]\n", "[a, b, c]", r"values\.2: expected a number up to 65535, found 65536"),
        ("values: [0, 1, -1]\n", "[a, b, c]", r"values\.2: expected a number from 0, found -1"),
        ("values: [0, yes, 2]\n", "[a, b, c]", r"values\.1: expected a number"),
        ("values: [0, 1, 2]\noffset: 1\n", "[a, b, c]", "`values` and `offset` both"),
        ("values: []\n", "[a]", "values: 0 label values for 1 classes"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(
    tmp_path: Path, more: str, classes: str, message: str
) -> None:
    with pytest.raises(OvssError, match=rf"benchmark\.yaml: .*{message}"):
        valued(tmp_path, more, classes)


def test_the_rules_of_a_description_without_newer_keys_are_what_they_were(fields: Path) -> None:
    """They are part of the identity of runs that have been begun."""
    assert described(fields, EXAMPLE).rules == (
        '{"images":"photos/*.jpg","labels":"masks/*.png","image_suffix":"","label_suffix":"_label","offset":1,'
        '"ignore":0,"encoding":"index","colours":{}}'
    )
    assert described(fields, COLOURED).rules == (
        '{"images":"photos/*.jpg","labels":"masks/*.png","image_suffix":"","label_suffix":"_label","offset":0,'
        '"ignore":[255,255,255],"encoding":"rgb","colours":{"soil":[0,0,0],"1":[0,255,0]}}'
    )
    assert '"values":[4,5,6]' in valued(fields, "values: [4, 5, 6]\n").rules


WORDS = ["on", "off", "no", "yes", "y", "n", "null", "~", "true", "1.0", "2024-01-01", "12:30", "0x10", "010", ".nan"]


def test_classes_are_words_whatever_yaml_makes_of_them(tmp_path: Path) -> None:
    inline = valued(tmp_path, "", f"[{', '.join(WORDS)}]")
    assert inline.vocabulary.names == tuple(WORDS)
    nested = valued(tmp_path, "", f"[[{', '.join(WORDS)}], no]")
    assert nested.vocabulary.classes == (tuple(WORDS), ("no",))
    block = valued(tmp_path, "title: 2024\nlicence: no\n", "\n" + "".join(f"- {word}\n" for word in WORDS))
    assert (block.vocabulary.names, block.title, block.licence) == (tuple(WORDS), "2024", "no")


def test_colours_are_called_by_words_whatever_yaml_makes_of_them(tmp_path: Path) -> None:
    colours = "\n".join(f"  {word}: [{i}, 0, 0]" for i, word in enumerate(WORDS))
    one = valued(tmp_path, f"encoding: rgb\ncolours:\n{colours}\n", f"[{', '.join(WORDS)}]")
    assert seen(one, *([i, 0, 0] for i in range(len(WORDS))), kind=np.uint8) == list(range(len(WORDS)))


def test_suffixes_and_patterns_are_text_too(tmp_path: Path) -> None:
    put(tmp_path / "2024/a1.jpg", np.zeros((1, 4, 3), np.uint8))
    put(tmp_path / "10/a0.png", np.zeros((1, 4), np.uint8))
    one = described(tmp_path, "images: 2024\nlabels: 10\nclasses: [a]\nimage_suffix: 1\nlabel_suffix: 0\n")
    assert list(truths(one)) == ["a"]


def test_a_key_of_colours_is_a_name_first_and_else_a_number(tmp_path: Path) -> None:
    colours = "encoding: rgb\ncolours: {{{}: [0, 0, 0], {}: [9, 0, 0]}}\n"
    assert seen(valued(tmp_path, colours.format("a", "1"), "[a, b]"), [9, 0, 0], kind=np.uint8) == [1]
    assert seen(valued(tmp_path, colours.format("a", "1"), "[a, '1']"), [9, 0, 0], kind=np.uint8) == [1]
    assert seen(valued(tmp_path, colours.format("a", "7"), "[a, '7']"), [9, 0, 0], kind=np.uint8) == [1]
    with pytest.raises(
        OvssError,
        match=r"colours\.1: ambiguous key\. Classes \[0, 1\] have '1' as their name or index",
    ):
        valued(tmp_path, colours.format("a", "1"), "['1', a]")


def test_on_and_off_as_classes_are_not_swapped(shared: Path) -> None:
    case = shared / "cases/turn-2/yaml-on-off"
    one = catalog.load(f"folder:{case}/benchmark.yaml")
    for item in one.items(str(case), "all"):
        white = np.array(Image.open(item.truth).convert("L")) > 128
        assert np.array_equal(one.truth(item, files.read(item.truth)), np.where(white, 0, 1))


def test_an_empty_line_in_a_list_of_classes_is_refused(shared: Path) -> None:
    with pytest.raises(OvssError, match=r"classes\.txt, line 2 is empty"):
        catalog.load(f"folder:{shared}/cases/turn-2/class-list-blank-line/benchmark.yaml")


def test_labels_that_match_no_image_are_shown_with_an_example(fields: Path) -> None:
    with pytest.raises(OvssError, match=r"2 photographs fit.*2 label files fit.*'a1', 'a1_label'.*label_suffix"):
        truths(described(fields, EXAMPLE.replace("label_suffix: _label\n", "")))


def test_a_missing_yaml_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"nowhere\.yaml"):
        catalog.load(f"folder:{tmp_path}/nowhere.yaml")


def test_a_folder_without_a_path_is_told_how_to_write_it() -> None:
    with pytest.raises(OvssError, match=r"folder:PATH\.yaml"):
        catalog.load("folder")


def test_there_is_one_split_and_another_is_refused(fields: Path) -> None:
    with pytest.raises(UnknownName, match="Known: all"):
        described(fields, EXAMPLE).items("", "val")
