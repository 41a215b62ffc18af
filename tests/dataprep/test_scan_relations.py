"""Relations from made-up checkouts of SCAN's code: which table is taken, and that no line of it is executed."""

from pathlib import Path

import pytest

from ovss_ray.benchmarks import catalog
from ovss_ray.dataprep import scan_relations
from ovss_ray.errors import OvssError, UnknownName
from ovss_ray.runs import relations

SMALL = "# ADE-150\n# father_class = {9: 17, 19: [30, 31]}\n\n"
LARGE = "# ADE-847\nfather_class = {840: 1, 12: [16, 3], 5: 6, 12: 17, 840: 2,}\n\n"
CONTEXT = "# pc-459\n# father_class = {0: 261}\n"
OFFICIAL = f"import torch\n\n{SMALL}{LARGE}{CONTEXT}\n\nclass Evaluator:\n    pass\n"


def checkout(folder: Path, source: str) -> Path:
    file = folder / scan_relations.MODULE
    file.parent.mkdir(parents=True)
    file.write_text(source, "utf-8")
    return folder


def test_the_live_table_is_read_and_of_repeated_keys_the_last_counts(tmp_path: Path) -> None:
    extract = scan_relations.extract(checkout(tmp_path, OFFICIAL), "ade20k_847")
    assert extract.relations.pairs == ((5, 6), (12, 17), (840, 2))
    assert extract.repeated == (12, 840)
    assert extract.note == "repeated keys of the table, of which the last entry counts, as in Python: 12, 840"


def test_the_written_file_holds_the_same_relations_and_the_class_names(tmp_path: Path) -> None:
    extract = scan_relations.extract(checkout(tmp_path, OFFICIAL), "ade20k_847")
    file = tmp_path / "relations.yaml"
    file.write_text(extract.yaml(), "utf-8")
    labels = catalog.load("ade20k:847").labels
    (read,) = relations.read(file, {"ade20k:847": labels}).values()
    assert read.pairs == extract.relations.pairs
    assert f"  5: [6]  # {labels[5].strip()} → {labels[6].strip()}\n" in extract.yaml()
    assert "# repeated keys of the table" in extract.yaml()
    assert "CC BY-NC 4.0" in extract.yaml()


@pytest.mark.parametrize(("table", "line"), [("ade20k_150", 4), ("pascal_context_459", 10)])
def test_a_table_that_is_commented_out_is_an_error_that_says_what_to_do(table: str, line: int, tmp_path: Path) -> None:
    heading = scan_relations.TABLES[table].heading
    message = rf"the table {table} is commented out in line {line}\. Delete the `# ` .* leave the comment `{heading}`"
    with pytest.raises(OvssError, match=message):
        scan_relations.extract(checkout(tmp_path, OFFICIAL), table)


@pytest.mark.parametrize(
    ("table", "pairs"),
    [
        ("ade20k_150", ((9, 17), (19, 30), (19, 31))),
        ("pascal_context_459", ((0, 261),)),
        ("ade20k_847", ((5, 6), (12, 17), (840, 2))),
    ],
)
def test_of_several_live_tables_each_is_found_by_the_comment_above_it(
    table: str, pairs: tuple[tuple[int, int], ...], tmp_path: Path
) -> None:
    source = OFFICIAL.replace("# father_class", "father_class")
    assert scan_relations.extract(checkout(tmp_path, source), table).relations.pairs == pairs


def test_a_table_of_many_lines_is_read(tmp_path: Path) -> None:
    source = "# ADE-150\n\nfather_class = {\n    9: 17,  # grass\n    19: (30, 31),\n}\n"
    extract = scan_relations.extract(checkout(tmp_path, source), "ade20k_150")
    assert extract.relations.pairs == ((9, 17), (19, 30), (19, 31))
    assert extract.note == ""
    assert "repeated" not in extract.yaml()


def test_a_live_table_under_the_comment_of_another_data_set_does_not_fit_its_classes(tmp_path: Path) -> None:
    source = LARGE.replace("# ADE-847", "# ADE-150")
    with pytest.raises(OvssError, match="line 2: ade20k:150: unknown class 840: the benchmark has 150 classes"):
        scan_relations.extract(checkout(tmp_path, source), "ade20k_150")


def test_the_module_is_never_executed(tmp_path: Path) -> None:
    harm = f"open({str(tmp_path / 'harm')!r}, 'w').close()\nraise SystemExit(3)\n"
    extract = scan_relations.extract(checkout(tmp_path, harm + OFFICIAL), "ade20k_847")
    assert extract.relations.pairs
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "import torch\n",
            r"no table ade20k_150: expected `father_class = .*below the comment `# ADE-150`.*there: none",
        ),
        (LARGE, "no table ade20k_150: .* Tables there: ade20k_847"),
        ("father_class = {1: 2}\n", "no table ade20k_150: .* Tables there: none"),
        ("# ADE-150\nfather_class = {1: 2\n", "invalid Python"),
        ("# ADE-150\nfather_class = dict(a=1)\n", r"line 2: expected a dictionary such as .*, found dict\(a=1\)"),
        ("# ADE-150\nfather_class = {1: exit()}\n", r"line 2: expected a dictionary .*, found exit\(\)"),
        ("# ADE-150\nfather_class = {1: [2, 'a']}\n", r"line 2: expected a dictionary .*, found \[2, 'a'\]"),
        ("# ADE-150\nfather_class = {True: 2}\n", "line 2: expected a dictionary"),
        ("# ADE-150\nfather_class = {1: -2}\n", "line 2: expected a dictionary .*, found -2"),
        ("# ADE-150\nfather_class = {**other}\n", "line 2: expected a dictionary"),
        ("# ADE-150\nfather_class = {7: 7}\n", r"line 2: ade20k:150: the class '7' \(7\) is listed as its own father"),
    ],
)
def test_a_checkout_without_a_usable_table_is_an_error_with_the_file(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=f"{scan_relations.MODULE}: .*{message}"):
        scan_relations.extract(checkout(tmp_path, source), "ade20k_150")


def test_a_folder_that_is_no_checkout_and_an_unknown_table_are_errors(tmp_path: Path) -> None:
    with pytest.raises(OvssError, match=r"cannot be read: .* Run `git clone https://github\.com/yongliu20/SCAN"):
        scan_relations.extract(tmp_path, "ade20k_847")
    with pytest.raises(UnknownName, match=r"unknown table 'ade20k_848'\. Did you mean 'ade20k_847'"):
        scan_relations.extract(tmp_path, "ade20k_848")
