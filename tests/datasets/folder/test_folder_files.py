"""Which files of a user's own data set become images, and what is said of the others."""

import shutil
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.contract import Benchmark
from ovss_ray.benchmarks.listing import Paired, left_out
from ovss_ray.benchmarks.selection import Selection
from ovss_ray.dataprep import check
from ovss_ray.errors import OvssError
from ovss_ray.io import files
from tests.checked import checked

FLAT = "images: images/*.jpg\nlabels: labels/*.png\nclasses: [a, b]\n"
DEEP = "images: images/**/*.jpg\nlabels: labels/**/*.png\nclasses: [a, b]\n"


def put(folder: Path, *names: str) -> None:
    """Write images of one kind or another: photographs are dark, label files 0 and 1."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.resize(np.array([0, 1], np.uint8), (4, 6))
        kind = {"png": "PNG", "tif": "TIFF", "bmp": "BMP"}.get(name.rpartition(".")[2].lower(), "JPEG")
        Image.fromarray(pixels).save(folder / name, kind)


def described(folder: Path, text: str) -> Benchmark:
    (folder / "benchmark.yaml").write_text(text)
    return catalog.load(f"folder:{folder}/benchmark.yaml")


def listed(folder: Path, text: str) -> Paired:
    items = described(folder, text).items(str(folder), "all")
    assert isinstance(items, Paired)
    return items


def pairs(folder: Path, text: str) -> dict[str, tuple[str, str]]:
    """Image id → photograph and label file below the folder."""
    short = len(str(folder)) + 1
    return {item.image_id: (item.image[short:], item.truth[short:]) for item in listed(folder, text)}


def counts(folder: Path, text: str) -> dict[str, int]:
    return {one.what.partition(" that fit")[0]: one.number for one in left_out(listed(folder, text))}


@pytest.fixture
def case(shared: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A writable copy of a case in the reference material."""
    shutil.copytree(shared / "cases/turn-2" / request.param, tmp_path / "case")
    return tmp_path / "case"


def ids(folder: Path) -> list[str]:
    items = catalog.load(f"folder:{folder}/benchmark.yaml").items(str(folder), "all")
    assert left_out(items) == ()
    return [item.image_id for item in items]


@pytest.mark.parametrize("case", ["dangling-links"], indirect=True)
def test_links_that_point_nowhere_belong_to_the_denominator(case: Path) -> None:
    subprocess.run(["sh", "make.sh"], cwd=case, check=True)
    assert ids(case) == ["0", "1", "2", "3"]
    name = f"folder:{case}/benchmark.yaml"
    assert checked(name, str(case), None, None, False, 1) > 0


@pytest.mark.parametrize("case", ["mixed-case-endings"], indirect=True)
def test_endings_fit_in_any_case(case: Path) -> None:
    assert ids(case) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("case", ["same-names-in-folders"], indirect=True)
def test_one_name_in_several_folders_pairs_by_its_path(case: Path) -> None:
    assert ids(case) == ["seq1/0000", "seq1/0001", "seq2/0000", "seq2/0001"]


@pytest.mark.parametrize("case", ["brackets-in-path"], indirect=True)
def test_a_folder_with_brackets_in_its_name_is_read(case: Path) -> None:
    assert ids(case / "data [2024]") == ["0", "1"]


@pytest.mark.parametrize("folder", ["what?", "a*b", "[0-9]", "data (1)", "{a,b}", "50%", "a#b", "~x", "$HOME", "a b"])
def test_no_character_of_a_folder_or_of_the_data_root_is_a_wildcard(tmp_path: Path, folder: str) -> None:
    own = tmp_path / folder
    put(own, "images/0.jpg", "labels/0.png")
    put(tmp_path, "whatX/images/1.jpg", "whatX/labels/1.png", "7/images/1.jpg", "7/labels/1.png")
    (own / "classes [x].txt").write_text("a\nb\n")
    text = FLAT.replace("[a, b]", "classes [x].txt")
    assert pairs(own, text) == {"0": ("images/0.jpg", "labels/0.png")}
    (tmp_path / "yamls").mkdir()
    described(tmp_path / "yamls", FLAT)
    items = catalog.load(f"folder:{tmp_path}/yamls/benchmark.yaml").items(str(own), "all")
    assert [item.image for item in items] == [f"{own}/images/0.jpg"]


@pytest.mark.parametrize("side", ["images/2.jpg", "labels/2.png"])
def test_a_link_that_points_nowhere_on_one_side_is_an_image_too(tmp_path: Path, side: str) -> None:
    put(tmp_path, "images/0.jpg", "labels/0.png", "images/2.jpg", "labels/2.png")
    (tmp_path / side).unlink()
    (tmp_path / side).symlink_to("../.git/annex/objects/2")
    (item,) = [item for item in listed(tmp_path, FLAT) if item.image_id == "2"]
    with pytest.raises(OvssError, match=r"cannot be read: broken link to \.\./\.git/annex/objects/2"):
        files.read(tmp_path / side)
    assert item.image.endswith("images/2.jpg")


@pytest.mark.parametrize("text", [DEEP, DEEP.replace("**", "*"), DEEP.replace("**/*", "*/*")])
def test_a_link_to_a_folder_that_is_not_there_is_counted(tmp_path: Path, text: str) -> None:
    put(tmp_path, "images/s1/0.jpg", "labels/s1/0.png")
    for side in ("images", "labels"):
        (tmp_path / side / "s2").symlink_to(f"/mnt/disk-that-is-not-mounted/{side}/s2")
        (tmp_path / side / "notes.txt").symlink_to("../.git/annex/objects/notes")
    assert [(one.what, one.number) for one in left_out(listed(tmp_path, text))] == [
        ("broken links to folders of photographs", 1),
        ("broken links to folders of label files", 1),
    ]
    assert checked(f"folder:{tmp_path}/benchmark.yaml", str(tmp_path), None, None, False, 1) == 2


def test_a_folder_of_a_list_of_patterns_has_to_be_there(tmp_path: Path) -> None:
    put(tmp_path, "s1/i/0.jpg", "s1/l/0.png")
    text = "images: [s1/i/*.jpg, s2/i/*.jpg]\nlabels: [s1/l/*.png, s2/l/*.png]\nclasses: [a, b]\n"
    with pytest.raises(OvssError, match=r"images: no such folder: .*/s2\. Complete the data"):
        listed(tmp_path, text)
    put(tmp_path, "s2/i/1.jpg", "s2/l/1.png")
    assert len(listed(tmp_path, text)) == 2
    endings = text.replace("s2/i/*.jpg", "s1/i/*.png").replace("s2/l/*.png", "s2/l/*")
    assert len(listed(tmp_path, endings)) == 1, "nothing has to end so"


@pytest.mark.parametrize("text", [FLAT, "images: images\nlabels: labels\nclasses: [a, b]\n"])
def test_pairs_in_formats_that_are_not_read_are_counted(tmp_path: Path, text: str) -> None:
    put(tmp_path, *(f"images/{name}" for name in ("0.jpg", "1.heic", "2.HEIC", "0.npy", "depth.npy", "README.md")))
    put(tmp_path, *(f"labels/{name}" for name in ("0.png", "1.npy", "2.png", "0.npy", "all.npz", "README.md")))
    assert [(one.what, one.number) for one in left_out(listed(tmp_path, text))] == [
        ("label files without a photograph", 1),
        ("photographs in an unsupported format", 2),
        ("label files in an unsupported format", 1),
    ]


def test_links_to_folders_and_to_files_are_followed(tmp_path: Path) -> None:
    put(tmp_path, "disk/images/0.jpg", "disk/label.png")
    (tmp_path / "images").symlink_to("disk/images")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/0.png").symlink_to("../disk/label.png")
    assert pairs(tmp_path, FLAT) == {"0": ("images/0.jpg", "labels/0.png")}


def test_a_link_to_its_own_folder_is_counted_and_costs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "images/0.jpg", "labels/0.png")
    (tmp_path / "images/again").symlink_to(".")
    assert list(pairs(tmp_path, DEEP)) == ["0"]
    assert left_out(listed(tmp_path, DEEP)) == ()
    _, faults = check.listed(f"folder:{tmp_path}/benchmark.yaml", described(tmp_path, DEEP), "", Selection("all"))
    assert [(str(fault), fault.sure) for fault in faults] == [
        (f"1 links to a parent folder were ignored, such as {tmp_path}/images/again.", False)
    ]


def test_other_known_endings_of_the_same_folder_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "images/0.jpg", "images/1.JPG", "images/2.jpeg", "images/3.jfif", "images/notes.txt")
    put(tmp_path, *(f"labels/{i}.png" for i in range(4)), "images/5.jpeg", "labels/5.tif")
    put(tmp_path, "images/0_depth.png", "labels/0_instances.tif")  # of no image that anybody would miss
    assert counts(tmp_path, FLAT) == {"label files without a photograph": 2, "photographs": 3, "label files": 1}
    assert sorted(pairs(tmp_path, FLAT)) == ["0", "1"]
    assert sorted(pairs(tmp_path, FLAT.replace("images/*.jpg", "images/*"))) == ["0", "1", "2", "3"]


def test_a_file_of_another_ending_that_is_used_otherwise_is_not_counted(tmp_path: Path) -> None:
    put(tmp_path, "d/0.jpg", "d/0.png", "d/0.bmp", "d/1.jpg", "d/1.png")
    assert counts(tmp_path, FLAT.replace("images/", "d/").replace("labels/", "d/")) == {}


def test_files_without_a_partner_are_counted_on_both_sides(tmp_path: Path) -> None:
    put(tmp_path, "images/0.jpg", "images/1.jpg", "images/3.jpg", "labels/0.png", "labels/2.png")
    left = left_out(listed(tmp_path, FLAT))
    assert [(one.what, one.number, Path(one.example).name) for one in left] == [
        ("photographs without a label file", 2, "1.jpg"),
        ("label files without a photograph", 1, "2.png"),
    ]


def test_unpaired_files_may_be_skipped_by_the_description(tmp_path: Path) -> None:
    put(tmp_path, "images/0.jpg", "images/1.jpg", "labels/0.png")
    name = f"folder:{tmp_path}/benchmark.yaml"
    assert described(tmp_path, FLAT).unpaired == "error"
    assert checked(name, str(tmp_path), None, None, False, 1) == 1
    skipping = described(tmp_path, FLAT + "unpaired: skip\n")
    assert skipping.unpaired == "skip"
    assert skipping.rules == described(tmp_path, FLAT).rules, "so that a run goes on"
    described(tmp_path, FLAT + "unpaired: skip\n")
    assert checked(name, str(tmp_path), None, None, False, 1) == 0
    with pytest.raises(OvssError, match="unpaired: expected 'error' or 'skip'"):
        described(tmp_path, FLAT + "unpaired: ignore\n")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("'*/Images/*.jpg'", "'*/Labels/*.png'"),
        ("seq*/Images", "seq*/Labels"),
        ("[seq9/Images/*.jpg, seq16/Images/*.jpg]", "[seq9/Labels/*.png, seq16/Labels/*.png]"),
    ],
)
def test_sequences_may_have_folders_of_photographs_and_labels_inside(tmp_path: Path, images: str, labels: str) -> None:
    for name in ("seq9/{}/0000", "seq9/{}/0001", "seq16/{}/0000"):
        put(tmp_path, f"{name.format('Images')}.jpg", f"{name.format('Labels')}.png")
    assert pairs(tmp_path, f"images: {images}\nlabels: {labels}\nclasses: [a, b]\n") == {
        "0001": ("seq9/Images/0001.jpg", "seq9/Labels/0001.png"),  # only one file has this name, which stays the id
        "seq16/0000": ("seq16/Images/0000.jpg", "seq16/Labels/0000.png"),
        "seq9/0000": ("seq9/Images/0000.jpg", "seq9/Labels/0000.png"),
    }


def test_frames_of_one_name_are_never_paired_across_sequences(tmp_path: Path) -> None:
    put(tmp_path, "images/s1/0.jpg", "images/s2/0.jpg", "images/s1/1.jpg")
    put(tmp_path, "labels/s1/0.png", "labels/s2/0.png", "labels/s2/1.png")
    assert sorted(pairs(tmp_path, DEEP)) == ["s1/0", "s2/0"]
    assert sum(counts(tmp_path, DEEP).values()) == 2


def test_suffixes_are_cut_off_in_folders_of_sequences_too(tmp_path: Path) -> None:
    put(tmp_path, "images/s1/0_rgb.jpg", "images/s2/0_rgb.jpg", "labels/s1/0_gt.png", "labels/s2/0_gt.png")
    assert sorted(pairs(tmp_path, DEEP + "image_suffix: _rgb\nlabel_suffix: _gt\n")) == ["s1/0", "s2/0"]


def test_one_folder_for_each_image_gives_it_its_name(tmp_path: Path) -> None:
    put(tmp_path, "a/image.jpg", "a/mask.png", "b/image.jpg", "b/mask.png")
    found = pairs(tmp_path, "images: '*/image.jpg'\nlabels: '*/mask.png'\nclasses: [a, b]\n")
    assert found == {"a": ("a/image.jpg", "a/mask.png"), "b": ("b/image.jpg", "b/mask.png")}


def test_two_files_that_would_be_one_image_are_an_error(tmp_path: Path) -> None:
    put(tmp_path, "images/s1/0.jpg", "images/s2/0.jpg", "labels/0.png")
    with pytest.raises(OvssError, match=r"s1/0\.jpg and .*s2/0\.jpg both have the image id '0'"):
        listed(tmp_path, DEEP)
    put(tmp_path, "images/s1/0.jpeg", "labels/s1/0.png", "labels/s2/0.png")
    with pytest.raises(OvssError, match="both have the image id 's1/0'"):
        listed(tmp_path, DEEP.replace("*.jpg", "*"))


def test_photograph_and_mask_in_one_folder_are_told_apart_by_the_suffix(tmp_path: Path) -> None:
    put(tmp_path, "d/0.png", "d/0_mask.png", "d/1.png", "d/1_mask.png")
    text = "images: d/*.png\nlabels: d/*.png\nlabel_suffix: _mask\nclasses: [a, b]\n"
    assert pairs(tmp_path, text) == {i: (f"d/{i}.png", f"d/{i}_mask.png") for i in "01"}
    assert counts(tmp_path, text) == {}
    assert counts(tmp_path, text.replace("d/*.png", "d")) == {}


def test_photographs_may_be_the_ones_with_the_suffix(tmp_path: Path) -> None:
    put(tmp_path, "d/0_image.png", "d/0.png")
    text = "images: d/*.png\nlabels: d/*.png\nimage_suffix: _image\nclasses: [a, b]\n"
    assert pairs(tmp_path, text) == {"0": ("d/0_image.png", "d/0.png")}
    assert counts(tmp_path, text) == {}


@pytest.mark.parametrize("labels", ["d/*.png", "d", "d/0.png"])
def test_one_file_cannot_be_photograph_and_label(tmp_path: Path, labels: str) -> None:
    put(tmp_path, "d/0.png", "d/1.png")
    with pytest.raises(OvssError, match=r"d/0\.png: fits both `images` and `labels`.*label_suffix"):
        listed(tmp_path, f"images: d/*.png\nlabels: {labels}\nclasses: [a, b]\n")


@pytest.mark.parametrize(
    ("photograph", "label"),
    [
        ("Gebäude", unicodedata.normalize("NFD", "Gebäude")),
        (unicodedata.normalize("NFD", "é"), "É"),
        ("IMG_001", "img_001"),
    ],
)
def test_names_that_look_the_same_are_paired(tmp_path: Path, photograph: str, label: str) -> None:
    put(tmp_path, f"images/{photograph}.jpg", f"labels/{label}.png", "images/0.jpg", "labels/0.png")
    assert pairs(tmp_path, FLAT)[photograph] == (f"images/{photograph}.jpg", f"labels/{label}.png")
    assert counts(tmp_path, FLAT) == {}


def test_names_that_look_the_same_are_counted_where_three_do(tmp_path: Path) -> None:
    put(tmp_path, "images/A.jpg", "images/a.jpg", "labels/A.png", "images/B.jpg", "images/b.jpg", "labels/B.PNG")
    (tmp_path / "labels/B.PNG").rename(tmp_path / "labels/ｂ.PNG")
    assert sorted(pairs(tmp_path, FLAT)) == ["A"]
    assert counts(tmp_path, FLAT) == {"photographs without a label file": 3, "label files without a photograph": 1}


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        (
            FLAT.replace("*.png", "*.npy"),
            ["labels/0.npy"],
            r"1 other files have an unsupported extension: \.npy\. Supported: \.png",
        ),
        (FLAT.replace("*.png", "*"), ["labels/0.nii.gz"], r"1 other files have an unsupported extension: \.nii\.gz"),
        (
            FLAT.replace("*.png", "*.webp"),
            ["labels/0.webp"],
            r"unsupported extension: \.webp \(JPEG and WebP may change",
        ),
        (FLAT.replace("*.png", "*.json"), ["labels/0.json"], r"unsupported extension: \.json \(convert outlines"),
        (FLAT.replace("*.png", "*.mat"), ["labels/0.MAT"], r"unsupported extension: \.mat"),
        (FLAT, ["labels/0.tif"], r"1 other files end in \.tif\. Write \*\.tif in the pattern"),
        (
            FLAT,
            ["labels/0.h5"],
            r"0 label files fit `labels: labels/\*\.png`\. 1 other files have an unsupported extension: \.h5",
        ),
        (
            FLAT,
            ["labels/0.tif", "labels/0.txt", "labels/1.txt"],
            r"1 other files end in \.tif\. Write \*\.tif in the pattern",
        ),
        (FLAT, ["masks/0.png"], r"0 label files fit `labels: labels/\*\.png`\. Searched below '.*'"),
    ],
)
def test_files_that_are_not_read_are_named_by_their_ending(
    tmp_path: Path, text: str, names: list[str], message: str
) -> None:
    put(tmp_path, "images/0.jpg", *names)
    with pytest.raises(OvssError, match=message):
        listed(tmp_path, text)


def test_a_neighbour_of_the_yaml_is_not_searched_for_other_endings(tmp_path: Path) -> None:
    """What does not lie beside the YAML is looked for below the data root, where the photographs decide."""
    put(tmp_path, "yamls/images/logo.png", "data/images/0.jpg", "data/labels/0.png")
    items = described(tmp_path / "yamls", FLAT).items(str(tmp_path / "data"), "all")
    assert left_out(items) == ()


def test_ids_are_sorted_however_files_were_paired(tmp_path: Path) -> None:
    put(tmp_path, "images/b.jpg", "images/C.jpg", "images/a.jpg", "labels/b.png", "labels/c.png", "labels/a.png")
    assert [item.image_id for item in listed(tmp_path, FLAT)] == ["C", "a", "b"]


def test_a_name_that_stands_for_two_classes_is_noted_by_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "images/0.jpg", "labels/0.png")
    described(tmp_path, FLAT.replace("[a, b]", "[a, b, A]"))
    assert checked(f"folder:{tmp_path}/benchmark.yaml", str(tmp_path), None, None, False, 1) == 0
    assert "the name 'a' stands for the classes 0 and 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (FLAT + "label_suffix: _mask.png\n", "A suffix must not include the extension: write _mask"),
        (FLAT.replace("images/", "images" + chr(92)), r"Write / instead of \ between folders"),
    ],
)
def test_what_keeps_every_file_from_fitting_is_named(tmp_path: Path, text: str, advice: str) -> None:
    put(tmp_path, "images/0.jpg", "labels/0_mask.png")
    with pytest.raises(OvssError) as failure:
        listed(tmp_path, text)
    assert advice in str(failure.value)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        ([[255, 0, 0], [0, 0, 0]], "With red and blue swapped they match: OpenCV writes BGR"),
        ([[0, 0, i] for i in range(20)], "The usual cause is smoothing or JPEG"),
        ([[9, 9, 9], [0, 0, 0]], "Add them to a class in `colours`, or to `ignore`"),
    ],
)
def test_colours_that_are_not_listed_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pixels: list[list[int]], said: str
) -> None:
    put(tmp_path, "images/0.jpg")
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.resize(np.array(pixels, np.uint8), (4, 6, 3))).save(tmp_path / "labels/0.png")
    described(tmp_path, FLAT + "encoding: rgb\ncolours: {a: [0, 0, 0], b: [0, 0, 255]}\n")
    assert checked(f"folder:{tmp_path}/benchmark.yaml", str(tmp_path), None, None, False, 1) == 1
    printed = capsys.readouterr().out
    assert said in printed
    assert "Usually" not in printed


def test_an_empty_label_file_is_an_unfinished_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "images/0.jpg", "labels/0.png")
    (tmp_path / "labels/0.png").write_bytes(b"")
    described(tmp_path, FLAT)
    assert checked(f"folder:{tmp_path}/benchmark.yaml", str(tmp_path), None, None, False, 1) == 1
    assert "Usually: an empty file: an unfinished download or copy" in capsys.readouterr().out


def test_a_sequence_that_a_link_shows_again_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "images/s1/0.jpg", "labels/s1/0.png")
    for side in ("images", "labels"):
        (tmp_path / side / "latest").symlink_to("s1")
    assert pairs(tmp_path, DEEP) == {"0": ("images/s1/0.jpg", "labels/s1/0.png")}
    assert checked(f"folder:{tmp_path}/benchmark.yaml", str(tmp_path), None, None, False, 1) == 0
    assert (
        f"note: 1 folders were ignored since a link leads to them a second time, such as {tmp_path}/images/latest"
        in (capsys.readouterr().out)
    )


def test_folders_of_unlike_depth_are_sent_to_patterns_that_name_the_same_ones(tmp_path: Path) -> None:
    put(tmp_path, *(f"images/{s}/cam/0.jpg" for s in "ab"), *(f"labels/{s}/0.png" for s in "ab"))
    with pytest.raises(OvssError, match="wildcards stand for the same folders on both sides"):
        listed(tmp_path, DEEP)
    assert sorted(pairs(tmp_path, DEEP.replace("images/**", "images/*/cam").replace("**", "*"))) == ["a/0", "b/0"]


@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (("images/1.jpeg", "labels/1.png"), "cameras use several extensions"),
        (("images/1.jpg", "labels/1.tif"), "labels were saved in two formats"),
        (("images/1.heic", "labels/1.png"), "Save them as JPEG or PNG"),
        (("images/1.jpg", "labels/1.npy"), "an export for another program"),
        (("images/1.jpg",), "an incomplete copy"),
    ],
)
def test_files_that_are_left_out_have_a_cause_of_their_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, ...], cause: str
) -> None:
    put(tmp_path, "images/0.jpg", "labels/0.png", *names)
    described(tmp_path, FLAT)
    assert checked(f"folder:{tmp_path}/benchmark.yaml", str(tmp_path), None, None, False, 1) > 0
    assert cause in capsys.readouterr().out
