"""Lists of classes as people and tools write them: read for sure, or refused with file and line."""

import logging
from pathlib import Path

import pytest

from ovss_ray.benchmarks import catalog, contract
from ovss_ray.datasets.folder import class_files
from ovss_ray.errors import OvssError


def read(folder: Path, content: str | bytes, name: str = "classes.txt") -> class_files.Listed:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return class_files.read(str(folder / name))


def described(folder: Path, content: str, more: str = "") -> contract.Benchmark:
    (folder / "classes.txt").write_text(content)
    (folder / "b.yaml").write_text(f"images: '*.jpg'\nlabels: '*.png'\nclasses: classes.txt\n{more}")
    return catalog.load(f"folder:{folder}/b.yaml")


@pytest.mark.parametrize(
    "content",
    [
        "road\nsky\n",
        "road\nsky",
        "road\nsky\n\n\n \n",
        "road\r\nsky\r\n",
        "\ufeffroad\nsky\n",
        "\ufeffroad\r\nsky",
        "__ignore__\nroad\nsky\n",
        "# label:color_rgb:parts:actions\nroad:128,64,128::\nsky:0,0,255::\n",
        "road:128,64,128::\nsky:0,0,255::wheel:\n",
        "road 128 64 128\nsky 0 0 255\n",
        "128 64 128\troad\n0 0 255\t\tsky\n",
        "name,r,g,b\nroad,128,64,128\nsky,0,0,255\n",
        '["road", "sky"]',
        "['road', 'sky']",
        '{"classes": ["road", "sky"], "palette": [[1, 2, 3], [4, 5, 6]]}',
        '{"names": ["road", "sky"], "nc": 2}',
    ],
)
def test_lists_without_numbers_give_their_names(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content) == class_files.Listed(("road", "sky"))


@pytest.mark.parametrize(
    ("content", "numbers"),
    [
        ("0 road\n1 sky\n", (0, 1)),
        ("1: road\n2: sky", (1, 2)),
        ("1,road\n2,sky\n", (1, 2)),
        ("road,1\nsky,2\n", (1, 2)),
        ("1. road\n2. sky\n", (1, 2)),
        ("0=road\n255=sky\n", (0, 255)),
        ("road: 1\nsky: 4\n", (1, 4)),
        ("0\troad\n7\tsky\n", (0, 7)),
        ("id;name\n1;road\n2;sky\n", (1, 2)),
        ("class,value\nroad,1\nsky,2\n", (1, 2)),
        ("Label,Name\n0,road\n1,sky\n", (0, 1)),
        ("Pixel Value, Class\n0, road\n1, sky\n", (0, 1)),
        ("category,name,id\nflat,road,7\nsky,sky,23\n", (7, 23)),
        ("name,id,category\nroad,7,flat\nsky,23,sky\n", (7, 23)),
        ("0,road,7,8\n1,sky,9,9\n", (0, 1)),
        ("0,road,128,64,128\n1,sky,0,0,255\n", (0, 1)),
        ("Idx\tRatio\tTrain\tVal\tName\n1\t0.15\t11\t1\troad\n2\t0.1\t9\t2\tsky\n", (1, 2)),
        ('{"1": "road", "2": "sky"}', (1, 2)),
        ('{"id2label": {"10": "sky", "9": "road"}, "x": 1}', (9, 10)),
        ('[{"id": 3, "name": "sky"}, {"id": 1, "name": "road", "supercategory": "flat"}]', (1, 3)),
        ('{"categories": [{"id": 1, "name": "road"}, {"id": 2, "name": "sky"}], "images": []}', (1, 2)),
    ],
)
def test_lists_with_numbers_give_names_and_label_values(tmp_path: Path, content: str, numbers: tuple[int, ...]) -> None:
    assert read(tmp_path, content) == class_files.Listed(("road", "sky"), numbers)


@pytest.mark.parametrize(
    ("content", "numbers"),
    [("names:\n  0: road\n  1: sky\n", (0, 1)), ("names: [road, sky]\nnc: 2\n", None), ("- road\n- sky\n", None)],
)
def test_yaml_is_read_by_its_ending(tmp_path: Path, content: str, numbers: tuple[int, ...] | None) -> None:
    assert read(tmp_path, content, "data.yaml") == class_files.Listed(("road", "sky"), numbers)


def test_a_csv_without_a_plain_column_of_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        OvssError, match=r"classes\.csv, line 1 begins a table, but it is ambiguous which column has the class names"
    ):
        read(tmp_path, "LabelName,DisplayName\n/m/0,road\n/m/1,sky\n", "classes.csv")
    with pytest.raises(OvssError, match=r"classes\.csv, line 1 begins a table whose lines have different numbers"):
        read(tmp_path, "a,road,x\nb,sky\n", "classes.csv")
    assert read(tmp_path, "road\nsky\n", "classes.csv").names == ("road", "sky")
    assert read(tmp_path, "name\tr\tg\tb\nroad\t1\t2\t3\n", "classes.tsv").names == ("road",)


def test_words_that_yaml_takes_for_values_stay_words(tmp_path: Path) -> None:
    assert read(tmp_path, "names: [on, off, no, null, 1.0]", "data.yml").names == ("on", "off", "no", "null", "1.0")


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        ("road\n\nsky\n", 2, "is empty.*`values: "),
        ("\nroad\nsky\n", 1, "is empty"),
        ("road\n   \nsky\n", 2, "is empty"),
        ("\n", 1, "is empty"),
        ("", 1, "is empty"),
        ("road\rsky\r", 1, "CR without LF"),
        ("road\n__ignore__\nsky\n", 2, "stands for unlabelled pixels, not for a class"),
        ("__unlabeled__\nroad\n", 1, "stands for unlabelled pixels"),
        ("# my classes\nroad\nsky\n", 1, "is a comment"),
        ("road\n# sky\ncar\n", 2, "is a comment"),
        ("road # grey\nsky\n", 1, "is a comment"),
        ("// road\nsky\n", 1, "is a comment"),
        ("road, sky, car\n", 1, "is the only line, and has several names"),
        ("road|sky", 1, "is the only line, and has several names"),
        ("road\tpath\nsky\theaven", 1, "contains a tab"),
        ("3 \t4\n5 \t6\n", 1, "ambiguous which column has the class names"),
        ("1\t3\t\n2\t5\n", 1, "has only numbers"),
        ("1\troad\n2\t\n", 2, "is empty"),
        ("2\nroad\nsky\n", 1, "the number of classes"),
        ("name\nroad\nsky\n", 1, "the heading of a column"),
        ("Class\nroad\nsky\n", 1, "the heading of a column"),
        ("'road',\n'sky',\n", 1, "quotes around it or a comma"),
        ('"road"\n"sky"\n', 1, "quotes around it"),
        ("road,\nsky\n", 1, "a comma after it"),
        ("CLASSES = (\n'road',\n)\n", 1, "a line of a program"),
        ("classes=2\nnames=obj.names\n", 1, "a line of a program or of settings"),
        ("names:\n- road\n- sky\n", 1, "a line of a program or of settings"),
        ("- road\n- sky\n", 1, "is YAML"),
        ("0,road,flat\n1,sky,sky\n", 1, "ambiguous which column has the class names"),
        ("Farbe,Wert\nroad,1\nsky,2\n", 1, "ambiguous which column has the class names"),
        ("id,name\n1,road\nx,sky\n", 3, "'x' where other lines have a label value"),
    ],
)
def test_lines_that_are_no_class_are_refused(tmp_path: Path, content: str, line: int, why: str) -> None:
    with pytest.raises(OvssError, match=rf"classes\.txt, line {line} .*{why}"):
        read(tmp_path, content)


@pytest.mark.parametrize("content", ["__ignore__\n", "# label:color_rgb:parts:actions\n"])
def test_a_list_of_marks_alone_has_no_class(tmp_path: Path, content: str) -> None:
    with pytest.raises(OvssError, match=r"b\.yaml: empty vocabulary: it needs at least one class"):
        described(tmp_path, content)


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"a": 1}', "[[1]]", '{"classes": 3}', "[" * 5000, '{"1": "a", "01": "b"}', '[{"id": 1}]']
)
def test_json_without_a_list_of_classes_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(OvssError, match=r"classes\.txt: "):
        read(tmp_path, content)


def test_a_list_without_brackets_in_the_description_is_explained(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("images: a\nlabels: b\nclasses: road, sky\n")
    with pytest.raises(
        OvssError,
        match=r"b\.yaml: classes: no such file: .*/road, sky\. To list classes in place of a file, write \[road, sky\]",
    ):
        catalog.load(f"folder:{tmp_path}/b.yaml")


def test_utf_16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"classes\.txt: not UTF-8 text: .*\. Save the list of classes as UTF-8"):
        read(tmp_path, "road\nsky\n".encode("utf-16"))


@pytest.mark.parametrize(
    "names",
    [
        ("door, double door", "wall"),
        ("2 wheeler", "car"),
        ("1 euro", "2 euro", "5 euro"),
        ("F #1", "road [wet]"),
        ("class 1", "class 2"),
        ("don't walk", "it's"),
        ("a: b", "c"),
        ("road;path", "sky"),
    ],
)
def test_names_with_numbers_and_marks_in_them_stay_as_they_are(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert read(tmp_path, "\n".join(names)) == class_files.Listed(names)
    assert class_files.inline(names, "classes") == class_files.Listed(names)


def test_labelme_s_list_is_read_with_the_label_values_that_labelme_writes(shared: Path) -> None:
    listed = class_files.read(str(shared / "data/real/labelme_voc/labels.txt"))
    assert listed.names[:2] == ("background", "aeroplane")
    assert "__ignore__" not in listed.names
    assert len(listed.names) == 21
    assert listed.numbers is None, "labelme counts from 0, which is background"


def test_real_tables_are_read(shared: Path) -> None:
    cvat = class_files.read(str(shared / "data/real/datumaro_tests/voc_dataset/voc_dataset2/labelmap.txt"))
    assert cvat.names[:3] == ("background", "aeroplane", "bicycle")
    kaggle = "data/real/datumaro_tests/kaggle_dataset/image_mask_with_labelmap/labelmap.csv"
    assert class_files.read(str(shared / kaggle)).names[:3] == ("background", "cat", "dog")
    ade = class_files.read(str(shared / "data/real/ADEChallengeData2016/objectInfo150.csv"))
    assert ade.numbers == tuple(range(1, 151))
    assert ade.names[:3] == ("wall", ("building", "edifice"), "sky")
    assert class_files.read(str(shared / "data/real/ADEChallengeData2016/objectInfo150.txt")).numbers == ade.numbers


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("", "'road' has the number 1 .* the label value 0 .*Write `offset: 1`"),
        ("offset: 2\n", ".* the label value 2 .*Write `offset: 1`"),
        ("values: [1, 3]\n", "'sky' has the number 2 .*the label value 3"),
    ],
)
def test_numbers_that_contradict_the_description_are_refused(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(OvssError, match=rf"classes\.txt: the class {message}"):
        described(tmp_path, "1 road\n2 sky\n", more)


@pytest.mark.parametrize("more", ["offset: 1\n", "values: [1, 2]\n"])
def test_numbers_that_agree_with_the_description_are_taken_off(tmp_path: Path, more: str) -> None:
    one = described(tmp_path, "1 road\n2 sky\n", more)
    assert one.vocabulary.names == ("road", "sky")
    assert one.values is not None
    assert one.values.classes == (1, 2)


def test_a_list_with_gaps_is_told_its_values(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"Write `values: \[0, 2, 7\]`"):
        described(tmp_path, "0: background\n2: road\n7: sky\n")


def test_numbers_play_no_part_where_colours_decide(tmp_path: Path) -> None:
    colours = "encoding: rgb\ncolours: {road: [1, 1, 1], sky: [2, 2, 2]}\n"
    assert described(tmp_path, "1 road\n2 sky\n", colours).vocabulary.names == ("road", "sky")


@pytest.mark.parametrize("name", ["void", "Unlabeled", "ignore", "unlabelled"])
def test_names_of_what_is_not_labelled_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with caplog.at_level(logging.WARNING, "ovss_ray"):
        assert read(tmp_path, f"road\n{name}\n").names == ("road", name)
    assert f"classes.txt: '{name}' is treated like any other class" in caplog.text


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("['1: road', '2: sky']", "classes: the class 'road' has the number 1"),
        ("[road, '', sky]", "classes, entry 2 is empty"),
        ("[road, __ignore__]", "classes, entry 2 is '__ignore__'"),
        ("[road, '# sky']", "classes, entry 2 is '# sky', which is a comment"),
        ("[0: road, 1: sky]", r"classes\.0: expected text or a list, found {'0': 'road'}"),
        ("{0: road, 1: sky}", r"classes: expected text or a list, found {'0': 'road', '1': 'sky'}"),
    ],
)
def test_lists_inside_the_description_are_held_to_the_same(tmp_path: Path, entries: str, message: str) -> None:
    (tmp_path / "b.yaml").write_text(f"images: '*.jpg'\nlabels: '*.png'\nclasses: {entries}\n")
    with pytest.raises(OvssError, match=rf"b\.yaml: {message}"):
        catalog.load(f"folder:{tmp_path}/b.yaml")


def test_an_empty_list_of_classes_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("images: '*.jpg'\nlabels: '*.png'\nclasses: []\n")
    with pytest.raises(OvssError, match="the list of classes is empty"):
        catalog.load(f"folder:{tmp_path}/b.yaml")


def test_labelme_s_marks_inside_the_description_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("images: a\nlabels: b\nclasses: [__ignore__, _background_, road]\n")
    assert catalog.load(f"folder:{tmp_path}/b.yaml").vocabulary.names == ("background", "road")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("-1: unlabeled\n0: ground\n1: tree\n", "line 1 has the invalid label value -1"),
        ("unlabeled: -1\nground: 0\ntree: 1\n", "line 1 has the invalid label value -1"),
        ("0: ground\n1: tree\nsky\n", "line 1 is '0: ground', which begins with a number, but other lines do not"),
        ("0: ground\n1: tree\n1: sky\n", "line 3 has the same label value 1 as another line"),
        ("0|ground\n1|tree\n", "begins with a separator"),
        ("0 -> ground\n1 -> tree\n", "begins with a separator"),
        ("ground #000000\ntree #00ff00\n", "contains a colour"),
        ("0 ground 0 0 0\n1 tree 0 255 0\n", "contains the numbers of a colour"),
        ("<label>ground</label>\n<label>sky</label>\n", "is XML or HTML"),
        ("0: ground\n1: ground\n", "line 1 is '0: ground', which begins with a number"),
        ('[{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]', "0 is an invalid or repeated label value"),
        ('{"a": 0, "b": 0}', "0 is an invalid or repeated label value"),
        ('{"unlabeled": -1, "b": 0}', "-1 is an invalid or repeated label value"),
    ],
)
def test_numbers_of_classes_are_neither_names_nor_lost(tmp_path: Path, content: str, why: str) -> None:
    with pytest.raises(OvssError, match=why):
        read(tmp_path, content)


@pytest.mark.parametrize("name", ["classes.json", "classes.yaml"])
def test_a_table_of_names_and_their_numbers_is_read(tmp_path: Path, name: str) -> None:
    listed = read(tmp_path, '{"sky": 2, "ground": 0, "on": 1}', name)
    assert listed == class_files.Listed(("ground", "on", "sky"), (0, 1, 2))


def test_names_with_numbers_and_marks_inside_are_names(tmp_path: Path) -> None:
    names = ("2:1 ratio", "C# book", "route 66", "windows 3 11", "a|b", "<3 heart")
    assert read(tmp_path, "\n".join(names)).names == names


def test_an_outermost_list_in_yaml_is_text(tmp_path: Path) -> None:
    assert read(tmp_path, "- no\n- on\n- 1\n- 1e3\n", "classes.yaml").names == ("no", "on", "1", "1e3")
