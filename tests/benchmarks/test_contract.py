"""What a benchmark is, and how a name becomes one."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

from ovss_ray.benchmarks import catalog, class_lists, labels, listing
from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Item
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.structures.columns import IGNORE
from ovss_ray.structures.vocabulary import Vocabulary

TOY = Benchmark(
    title="toy",
    domain="tests",
    licence="none",
    source="here",
    counts={"val": 1},
    vocabulary=Vocabulary.of(["cat", "dog", "lawn"]),
    items=lambda root, split: [],
    truth=lambda item, data: np.zeros((1, 1), np.uint16),
)


@pytest.mark.parametrize("name", [name for name in catalog.known() if not name.startswith("folder")])
def test_every_benchmark_is_found_by_its_name_and_says_what_it_is(name: str) -> None:
    found = catalog.load(name)
    assert all([found.title, found.domain, found.licence, found.source])
    assert found.counts.get(found.split, 1) > 0
    assert len(set(found.vocabulary.names)) == len(found.vocabulary)


def test_the_known_benchmarks_are_listed_by_the_names_that_load_takes() -> None:
    assert {"ade20k:150", "ade20k:847", "camvid", "folder:PATH.yaml"} <= set(catalog.known())


@pytest.mark.parametrize(
    ("name", "near"), [("camvd", "'camvid'"), ("ade20k", "ade20k:150, ade20k:847"), ("ade20k:84", "'ade20k:847'")]
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownName, match=near):
        catalog.load(name)


def test_the_module_that_all_share_is_no_benchmark() -> None:
    with pytest.raises(UnknownName, match="unknown benchmark 'benchmark'"):
        catalog.load("benchmark")


def test_a_user_s_own_module_is_found_by_its_dotted_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab/birds.py").write_text("BENCHMARKS = {'': 'the birds', 'small': 'ten birds'}")
    monkeypatch.syspath_prepend(tmp_path)
    assert catalog.load("my_lab.birds") == "the birds"
    assert catalog.load("my_lab.birds:small") == "ten birds"


def test_benchmarks_by_name_are_loaded_when_they_are_read_and_once() -> None:
    benchmarks = catalog.Benchmarks()
    assert not benchmarks
    with pytest.raises(UnknownName, match="camvidd"):
        benchmarks["camvidd"]
    assert benchmarks["scenes:seen"] is benchmarks["scenes:seen"]
    assert list(benchmarks) == ["scenes:seen"]


def test_left_out_a_class_counts_as_the_label_of_its_place() -> None:
    assert TOY.index == (0, 1, 2)
    assert TOY.labels == ("cat", "dog", "lawn")


def test_a_part_of_an_image_may_be_asked_for_other_words() -> None:
    own = Vocabulary.of(["grass", "pet"]), (2, 1)
    found = dataclasses.replace(TOY, parts={"pets": own})
    assert found.question("pets") == own
    assert found.question("") == found.question("left half") == (TOY.vocabulary, TOY.index)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"index": (0, 1)}, "3 classes, but `index` has 2 label indices"),
        ({"index": (0, 1, 3), "labels": ("a", "b", "c")}, r"\[2, 3\]"),
        ({"index": (0, 0, 1), "labels": ("a", "b", "c")}, r"\[2\]"),
        ({"index": (0, 65534, 3), "labels": ("a", "b", "c"), "own_words": True}, r"invalid .*\[3\]\. .* or 65534 for"),
        ({"counts": {"val": 0}}, "at least one image"),
        ({"parts": {"cat": (Vocabulary.of(["cat", "rest"]), (0,))}}, "part 'cat' has 2 classes"),
        ({"parts": {"cat": (Vocabulary.of(["cat", "rest"]), (0, 3))}}, r"2 classes and the label indices \(0, 3\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(OvssError, match=message):
        dataclasses.replace(TOY, **{"index": (), "labels": (), **changed})


def test_images_and_labels_are_paired_by_stem_and_the_rest_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    photographs, truths = {"b": "b.jpg", "a": "a.jpg", "c": "c.jpg"}, {"a": "a.png", "b": "b.png", "d": "d.png"}
    with caplog.at_level(logging.WARNING):
        found = listing.paired(photographs, truths)
    assert list(found) == [Item("a", "a.jpg", "a.png"), Item("b", "b.jpg", "b.png")]
    assert not caplog.messages, "who lists a data set decides whether to log"
    rest = ["1 photographs without a label file, such as c.jpg", "1 label files without a photograph, such as d.png"]
    assert [fault.what for fault in listing.faults(found)] == rest
    with caplog.at_level(logging.WARNING):
        assert listing.logged(found) is found
    assert caplog.messages == rest


def test_two_files_of_one_stem_are_an_error_that_names_both() -> None:
    with pytest.raises(OvssError, match=r"x/a\.jpg and x/a\.png"):
        listing.by_stem(["x/a.png", "x/a.jpg"])


def test_files_of_other_kinds_and_hidden_files_are_passed_by() -> None:
    assert listing.by_stem(["x/a.JPG", "x/a.txt", "x/._a.jpg"]) == {"a": "x/a.JPG"}


def test_a_value_table_knows_labels_ignored_values_and_nothing_else() -> None:
    table = labels.value_table(3, offset=1, ignore=[0])
    assert labels.look_up(np.array([[0, 1, 3]]), table, "x").tolist() == [[IGNORE, 0, 2]]
    assert labels.look_up(np.array([[0]]), labels.value_table(3, offset=-1), "x").tolist() == [[1]]


@pytest.mark.parametrize("value", [4, 65533, 65535, 70000, -1])
def test_a_label_out_of_range_is_an_error_that_names_file_and_value(value: int) -> None:
    with pytest.raises(OvssError, match=rf"street\.png.*{value}"):
        labels.look_up(np.array([[1, value]]), labels.value_table(3, offset=1, ignore=[0]), "street.png")


def test_the_error_of_a_wrong_label_says_what_labels_there_are() -> None:
    with pytest.raises(OvssError, match="1 pixels have invalid labels such as 12; allowed: 0 to 10, 255"):
        labels.look_up(np.array([[12]]), labels.value_table(11, ignore=[255]), "x")


def test_blanks_in_class_lists_belong_to_the_names() -> None:
    assert "window " in class_lists.class_list("ade20k_150")
