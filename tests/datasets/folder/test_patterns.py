"""Patterns of file names: which files fit, and what tells them apart."""

from pathlib import Path

import pytest

from ovss_ray.datasets.folder.patterns import Search
from ovss_ray.io import files


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def fitting(folder: Path, *patterns: str, suffix: str = "") -> list[str]:
    found = {match.uri for match in Search(str(folder), patterns, suffix) if match.exact}
    return sorted(uri.removeprefix(f"{folder}/") for uri in found)


def paths(folder: Path, *patterns: str, suffix: str = "") -> list[str]:
    return sorted("/".join((*match.folders, match.stem)) for match in Search(str(folder), patterns, suffix))


@pytest.mark.parametrize("name", ["0.jpg", "0.JPG", "0.Jpg"])
def test_an_ending_fits_in_any_case(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"images/{name}")
    assert fitting(tmp_path, "images/*.jpg") == fitting(tmp_path, "images/*.JPG") == [f"images/{name}"]


def test_the_case_of_the_name_itself_counts(tmp_path: Path) -> None:
    touch(tmp_path, "a_RGB.png", "a_rgb.png")
    assert fitting(tmp_path, "*_rgb.png") == ["a_rgb.png"]


@pytest.mark.parametrize("pattern", ["images", "images/", "./images", "images/**", "images/**/*"])
def test_a_folder_stands_for_all_files_below_it(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path, "images/0.jpg", "images/deep/er/1.png", "labels/0.png")
    assert fitting(tmp_path, pattern) == ["images/0.jpg", "images/deep/er/1.png"]


def test_folders_that_wildcards_find_are_folders_too(tmp_path: Path) -> None:
    touch(tmp_path, "s1/images/0.jpg", "s1/labels/0.png", "s2/images/more/0.jpg")
    assert fitting(tmp_path, "*/images") == ["s1/images/0.jpg", "s2/images/more/0.jpg"]
    assert paths(tmp_path, "*/images") == ["s1/0", "s2/more/0"]


@pytest.mark.parametrize("folder", ["data [2024]", "what?", "a*b", "[ab]", "**x"])
def test_the_folder_where_a_search_begins_is_no_pattern(tmp_path: Path, folder: str) -> None:
    touch(tmp_path, f"{folder}/images/0.jpg", "whatX/images/1.jpg", "aXb/images/1.jpg", "a/images/1.jpg")
    assert fitting(tmp_path / folder, "images/*.jpg") == ["images/0.jpg"]
    assert fitting(tmp_path, f"{tmp_path}/{folder}/images/*.jpg") == [f"{folder}/images/0.jpg"]


@pytest.mark.parametrize(("folder", "other"), [("data [2024]", "data 2"), ("what?", "whatX"), ("a*b", "aXb")])
def test_a_step_that_exists_as_it_is_written_is_that_one(tmp_path: Path, folder: str, other: str) -> None:
    touch(tmp_path, f"{folder}/0.jpg", f"{other}/1.jpg", f"s/{folder}/0.jpg", f"s/{other}/1.jpg")
    assert fitting(tmp_path, f"{folder}/*.jpg") == [f"{folder}/0.jpg"]
    assert fitting(tmp_path, f"s*/{folder}/*.jpg") == [f"s/{folder}/0.jpg"]
    assert fitting(tmp_path, folder) == [f"{folder}/0.jpg"]


@pytest.mark.parametrize("name", ["a[1].jpg", "a?.jpg", "a*.jpg"])
def test_a_file_that_exists_as_it_is_written_is_that_one(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "a1.jpg", "ab.jpg")
    assert fitting(tmp_path, name) == [name]


def test_wildcards_work_where_nothing_is_called_so(tmp_path: Path) -> None:
    touch(tmp_path, "s1/0.jpg", "s2/0.jpg", "s3/0.jpg", "s1/x/0.jpg")
    assert fitting(tmp_path, "s[12]/?.jpg") == ["s1/0.jpg", "s2/0.jpg"]


def test_hidden_files_and_folders_are_entered_only_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "0.jpg", ".1.jpg", ".ipynb_checkpoints/0-checkpoint.jpg")
    assert fitting(tmp_path, "**/*.jpg") == ["0.jpg"]
    assert fitting(tmp_path, ".ipynb_checkpoints/*.jpg") == [".ipynb_checkpoints/0-checkpoint.jpg"]


def test_links_that_point_nowhere_are_files_and_links_to_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "annex/s1/0.jpg")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/s1").symlink_to("../annex/s1")
    (tmp_path / "images/1.jpg").symlink_to("../annex/objects/1.jpg")
    (tmp_path / "images/2.jpg").symlink_to("2.jpg")
    assert fitting(tmp_path, "images/**/*.jpg") == ["images/1.jpg", "images/2.jpg", "images/s1/0.jpg"]


@pytest.mark.parametrize("target", [".", "..", "../images"])
def test_a_link_to_a_folder_that_contains_it_is_ignored_and_counted(tmp_path: Path, target: str) -> None:
    touch(tmp_path, "images/0.jpg", "images/s/1.jpg")
    (tmp_path / "images/loop").symlink_to(target)
    search = Search(str(tmp_path), ["images/**/*.jpg"])
    assert sorted(match.stem for match in search) == ["0", "1"]
    assert search.loops == [f"{tmp_path}/images/loop"]


def test_files_are_listed_once_however_many_links_show_their_folder(tmp_path: Path) -> None:
    touch(tmp_path, "images/a/0.jpg", "images/b/1.jpg", "images/s1/2.jpg")
    (tmp_path / "images/a/b").symlink_to("../b")
    (tmp_path / "images/b/a").symlink_to("../a")
    (tmp_path / "images/latest").symlink_to("s1")
    search = Search(str(tmp_path), ["images/**/*.jpg", "images/*/*.jpg"])
    assert sorted({match.stem for match in search}) == ["0", "1", "2"]
    assert len({Path(match.uri).resolve() for match in search}) == len({match.uri for match in search}) == 3
    assert f"{tmp_path}/images/latest" in search.again
    assert f"{tmp_path}/images/s1/2.jpg" in {match.uri for match in Search(str(tmp_path), ["images/**/*.jpg"])}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["images/**/*.png"], ["s1/0", "s2/0"]),
        (["*/s?/*.png"], ["images/s1/0", "images/s2/0"]),
        (["images/s1/*.png", "images/s2/*.png"], ["s1/0", "s2/0"]),
        (["images/s1/*.png", "images/s2/**/*.png"], ["0", "0"]),
        (["images/*/0.png"], ["s1", "s2"]),
        (["images/s1/0.png"], ["0"]),
    ],
)
def test_files_are_told_apart_by_what_wildcards_and_lists_stand_for(
    tmp_path: Path, patterns: list[str], expected: list[str]
) -> None:
    touch(tmp_path, "images/s1/0.png", "images/s2/0.png")
    assert paths(tmp_path, *patterns) == expected


def test_what_only_the_ending_keeps_from_fitting_is_marked(tmp_path: Path) -> None:
    touch(tmp_path, "images/0.jpg", "images/1.jpeg", "images/2.JFIF", "images/a_mask.png", "other/3.jpeg")
    found = {match.uri.rpartition("/")[2]: match.exact for match in Search(str(tmp_path), ["images/*.jpg"])}
    assert found == {"0.jpg": True, "1.jpeg": False, "2.JFIF": False, "a_mask.png": False}


def test_a_suffix_is_cut_off_and_files_without_it_do_not_fit(tmp_path: Path) -> None:
    touch(tmp_path, "0_mask.png", "0.png", "0_mask.nii.gz")
    assert fitting(tmp_path, "*.png", suffix="_mask") == ["0_mask.png"]
    assert {(match.stem, match.ending) for match in Search(str(tmp_path), ["*"], "_mask")} == {
        *(("0", ".png"), ("0", ".nii.gz"))
    }


def test_patterns_are_searched_in_other_file_systems_too() -> None:
    for name in ("s1/0.JPG", "s2/deep/1.jpg", "x [1]/2.jpg"):
        files.write(f"memory://patterns/{name}", b"")
    assert {match.uri for match in Search("memory://patterns", ["**/*.jpg"])} == {
        *("memory://patterns/s1/0.JPG", "memory://patterns/s2/deep/1.jpg", "memory://patterns/x [1]/2.jpg")
    }
    assert [match.uri for match in Search("memory://patterns", ["x [1]/*.jpg"])] == ["memory://patterns/x [1]/2.jpg"]


def test_a_folder_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    assert fitting(tmp_path, "nowhere/**/*.jpg", "nowhere/*.jpg", "nowhere") == []
