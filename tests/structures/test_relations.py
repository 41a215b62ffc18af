"""Relations between labels: class names and indices, and tables that do not fit the labels."""

import pytest

from ovss_ray.errors import OvssError
from ovss_ray.structures.relations import Relations

LABELS = ["wall", "grass", "plant, flora", "road, route", "path, route", "window ", "7", "wall"]


def test_a_class_is_a_label_one_of_its_names_or_an_index() -> None:
    relations = Relations.of(
        {"grass": ["plant, flora"], "path, route": ["road"], "5": ["0", "flora"]}, LABELS, "a.yaml"
    )
    assert relations.pairs == ((1, 2), (4, 3), (5, 0), (5, 2))
    assert relations.file == "a.yaml"
    assert relations.children.tolist() == [1, 4, 5, 5]
    assert relations.fathers.tolist() == [2, 3, 0, 2]


def test_spaces_around_a_label_do_not_matter_and_names_precede_indices() -> None:
    assert Relations.of({"window": [" grass "], "7": ["1"]}, LABELS).pairs == ((5, 1), (6, 1))


def test_the_digest_depends_on_the_pairs_alone() -> None:
    first = Relations.of({"grass": ["flora"], "5": ["0"]}, LABELS, "a.yaml")
    assert first.sha256 == Relations.of({"window": ["0"], "1": ["2"]}, LABELS, "b.yaml").sha256
    assert first.sha256 != Relations.of({"grass": ["flora"]}, LABELS).sha256


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"gras": ["plant"]},
            r"unknown class 'gras'\. Did you mean 'grass'\? Write a class name of the benchmark, or an",
        ),
        ({"grass": ["plants"]}, r"unknown class 'plants'\. Did you mean 'plant'\?"),
        ({"grass": ["-1"]}, r"unknown class '-1'\..* an index from 0 to 7"),
        ({"grass": ["8"]}, "unknown class 8: the benchmark has 8 classes, 0 to 7. Perhaps .* another benchmark"),
        ({"grass": ["wall"]}, "'wall' is the name of 2 classes. Write the index of one of them: 0, 7"),
        ({"grass": ["route"]}, "'route' is the name of 2 classes. Write the index of one of them: 3, 4"),
        ({"grass": ["grass"]}, r"'grass' \(1\) is listed as its own father"),
        ({"grass": ["plant", "1"]}, r"'grass' \(1\) is listed as its own father"),
        ({"grass": ["plant", "flora"]}, "'grass' has the same father twice: its fathers are the classes 2, 2"),
        ({"grass": []}, "'grass' has no father"),
        ({"grass": ["plant"], "1": ["0"]}, "class 1 is listed twice as a child, the second time as '1'"),
    ],
)
def test_a_table_that_does_not_fit_the_labels_is_refused(table: dict[str, list[str]], message: str) -> None:
    with pytest.raises(OvssError, match=message):
        Relations.of(table, LABELS)


def test_relations_fit_if_all_their_classes_are_among_the_labels() -> None:
    assert Relations(((1, 2),)).fits(3)
    assert not Relations(((1, 2),)).fits(2)
    assert Relations(()).fits(0)
