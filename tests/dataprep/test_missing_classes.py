"""Classes that never occur: which are a fault, and which are rare."""

from dataclasses import replace

import numpy as np
import pytest

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.contract import Benchmark, Values
from ovss_ray.dataprep import missing_classes
from ovss_ray.dataprep.missing_classes import Census
from ovss_ray.structures.vocabulary import Vocabulary


def described(*names: str, values: Values | None = None) -> Benchmark:
    return replace(
        catalog.load("camvid"), vocabulary=Vocabulary.of(names), labels=(), index=(), values=values, unlabelled=False
    )


def census(*files: tuple[int, ...]) -> Census:
    """Pixels of each label and, last, of those that are not counted, file by file."""
    counted = Census.of(len(files[0]) - 1)
    for counts in files:
        counted.add(np.array(counts))
    return counted


SILENT, STATED = (Values((0, 1), (255,), stated) for stated in (False, True))


@pytest.mark.parametrize(
    ("values", "said"),
    [(SILENT, "(`ignore` is 255, the default)"), (STATED, "(`ignore` is 255)")],
)
def test_black_and_white_masks_are_recognised_by_what_ignore_takes_away(values: Values, said: str) -> None:
    fault = missing_classes.taken_away(described("background", "coin", values=values), census((90, 0, 10), (100, 0, 0)))
    assert fault is not None
    assert "'coin' never occurs in 2 label files, while 5.0% of their pixels are not counted" in fault.what
    assert said in fault.what
    assert (
        "black-and-white masks: 255 is the object, and `ignore` takes it away. Write `values: [0, 255]`" in fault.cause
    )


def test_masks_of_nothing_but_white_are_recognised() -> None:
    fault = missing_classes.taken_away(described("background", "coin", values=SILENT), census((0, 0, 100), (0, 0, 100)))
    assert fault is not None
    assert "not one pixel of 2 label files is counted" in fault.what


def test_masks_of_0_1_and_255_that_lose_their_third_class_are_recognised() -> None:
    values = Values((0, 1, 2), (255,), False)
    fault = missing_classes.taken_away(described("a", "b", "c", values=values), census(*[(60, 20, 0, 20)] * 3))
    assert fault is not None
    assert "If 255 is a class, write `values: [0, 1, 255]`" in fault.cause


def test_a_single_class_that_is_the_black_of_a_mask_is_a_fault() -> None:
    counted = census((70, 30))
    fault = missing_classes.taken_away(described("coin", values=Values((0,), (255,), False)), counted)
    assert fault is not None
    assert "the only class, 'coin', has the label value 0, while 30.0% of the pixels are not counted" in fault.what
    assert missing_classes.taken_away(described("coin", values=Values((255,), (0,), True)), counted) is None


@pytest.mark.parametrize(
    "counted",
    [
        census((90, 10, 5)),  # both classes, and a border that is not counted
        census((90, 0, 0)),  # a rare class, and nothing that could be it
    ],
)
def test_two_classes_of_which_none_is_taken_away_are_no_fault(counted: Census) -> None:
    assert missing_classes.taken_away(described("background", "coin", values=SILENT), counted) is None


def test_many_rare_classes_in_few_files_are_no_fault() -> None:
    benchmark = catalog.load("ade20k:150")
    counts = np.zeros(151, int)
    counts[[1, 2, 12]], counts[-1] = 100, 90
    counted = Census.of(150)
    for _ in range(3):
        counted.add(counts)
    assert missing_classes.taken_away(benchmark, counted) is None
    assert list(missing_classes.shifted(benchmark, counted, [])) == []


def test_a_part_of_an_image_leaves_out_other_labels_on_purpose() -> None:
    counted = census((90, 0, 10))
    counted.parts = True
    assert missing_classes.taken_away(described("background", "coin", values=SILENT), counted) is None


def test_a_background_that_is_nowhere_while_pixels_are_ignored_is_a_fault() -> None:
    benchmark = described("background", "cat", "dog", "owl")
    (fault,) = missing_classes.shifted(benchmark, census(*[(0, 80, 10, 0, 5)] * 3), [])
    assert fault.sure
    assert fault.what.startswith("'background' never occurs in 3 label files")
    assert [one.sure for one in missing_classes.shifted(benchmark, census((0, 80, 10, 0, 5)), [])] == [False]


@pytest.mark.parametrize("name", ["void", "unlabeled", "__ignore__"])
def test_a_first_class_that_says_that_nothing_is_labelled_may_be_missing(name: str) -> None:
    counted = census(*[(0, 40, 30, 20, 10)] * 12)
    assert list(missing_classes.shifted(described(name, "cat", "dog", "owl"), counted, [])) == []
    (fault,) = missing_classes.shifted(described("fox", "cat", "dog", "owl"), counted, [])
    assert fault.sure


def test_a_rare_first_class_is_no_fault() -> None:
    few = census((0, 40, 0, 20, 10), (0, 40, 0, 0, 1))
    assert list(missing_classes.shifted(described("fox", "cat", "dog", "owl"), few, [])) == []


def test_the_first_ten_missing_labels_are_named() -> None:
    names = [f"name {number}" for number in range(15)]
    assert missing_classes.named(names, []) == "0 of 15 labels never occur"
    assert missing_classes.named(names, [3]) == "1 of 15 labels never occur: name 3"
    assert missing_classes.named(names, range(2, 15)).endswith("name 10, name 11, … and 3 more")


@pytest.mark.parametrize(("stated", "named"), [(False, True), (True, False)])
def test_the_last_of_many_classes_that_may_be_written_as_what_is_not_counted_is_noted(
    stated: bool, named: bool
) -> None:
    own = described(*"abcde", values=Values((0, 1, 2, 3, 4), (255,), stated))
    fault = missing_classes.taken_away(own, census(*[(60, 10, 10, 10, 0, 10)] * 3))
    assert (fault is not None) == named
    assert fault is None or ("'e' never occurs in 3 label files" in fault.what and not fault.sure)
    assert missing_classes.taken_away(own, census(*[(60, 10, 10, 0, 0, 10)] * 3)) is None, "rare classes"
    assert missing_classes.taken_away(own, census(*[(60, 10, 10, 10, 0, 1)] * 3)) is None, "a border"
