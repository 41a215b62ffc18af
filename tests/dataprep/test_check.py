"""`ovss check`: real samples pass, and each of twelve planted faults is found and its cause named."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.listing import Item
from ovss_ray.cli import app
from ovss_ray.config import loading as configs
from ovss_ray.dataprep import check, label_causes, plausibility
from ovss_ray.dataprep.inspection import inspect
from ovss_ray.errors import OvssError
from ovss_ray.runs.plan import plan_run
from tests.checked import checked

CAMVID = ("0016E5_07959", "0016E5_08019", "0016E5_08079", "0016E5_08139", "0016E5_08159")


@pytest.fixture
def root(shared: Path, tmp_path: Path) -> Path:
    """Copies of real samples: five images of CamVid, three of ADE20K in the prepared form, one of VOC."""
    real = shared / "data/real"
    for image in CAMVID:
        for folder in ("val", "valannot"):
            (tmp_path / "CamVid" / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(real / f"CamVid/{folder}/{image}.png", tmp_path / "CamVid" / folder)
    ade, official = tmp_path / "ADEChallengeData2016", real / "ADEChallengeData2016"
    (ade / "images").mkdir(parents=True)
    shutil.copytree(official / "images/validation", ade / "images/validation")
    (ade / "annotations_detectron2/validation").mkdir(parents=True)
    for file in (official / "annotations/validation").iterdir():
        rewrite(file, lambda v: v - np.uint8(1), ade / "annotations_detectron2/validation" / file.name)
    voc = tmp_path / "VOCdevkit/VOC2012"
    (voc / "ImageSets/Segmentation").mkdir(parents=True)
    (voc / "ImageSets/Segmentation/val.txt").write_text("2007_000129\n")
    for folder in ("JPEGImages", "SegmentationClass"):
        shutil.copytree(real / "VOC2012" / folder, voc / folder)
    return tmp_path


def rewrite(file: Path, change: Callable[[np.ndarray], np.ndarray], target: Path | None = None) -> None:
    Image.fromarray(change(np.array(Image.open(file)))).save(target or file)


def labels(root: Path, benchmark: str) -> list[Path]:
    folders = {"camvid": "CamVid/valannot", "ade20k:150": "ADEChallengeData2016/annotations_detectron2/validation"}
    return sorted((root / folders.get(benchmark, "VOCdevkit/VOC2012/SegmentationClass")).iterdir())


def every(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[list[Path]], None]:
    def change_all(found: list[Path]) -> None:
        for file in found:
            rewrite(file, change)

    return change_all


def swapped(values: np.ndarray) -> np.ndarray:
    table = np.arange(256, dtype=np.uint8)
    table[[0, 3]] = 3, 0  # sky and road
    return table[values]


def colours(found: list[Path], mode: str) -> None:
    picture = Image.open(found[0]).convert("RGB").convert(mode)
    picture.save(found[0])


def halved(found: list[Path]) -> None:
    picture = Image.open(found[0])
    picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.NEAREST).save(found[0])


PLANTED = {
    "labels that were not shifted": ("ade20k:150", every(lambda v: v + np.uint8(1)), "not shifted"),
    "two classes swapped": ("camvid", every(swapped), "are swapped"),
    "a palette read as values": ("voc:20", lambda f: colours(f, "L"), "the palette was looked up and turned into grey"),
    "an RGB label": ("voc:20", lambda f: colours(f, "RGB"), "the colours of the palette were saved"),
    "a truncated file": ("camvid", lambda f: f[2].write_bytes(f[2].read_bytes()[:700]), "an unfinished download"),
    "a missing label": ("camvid", lambda f: f[1].unlink(), "1 photographs without a label file"),
    "an extra image": (
        "camvid",
        lambda f: shutil.copy(f[0].parents[1] / "val" / f[0].name, f[0].parents[1] / "val/other.png"),
        "1 photographs without a label file, such as",
    ),
    "a wrong bit depth": ("camvid", every(lambda v: v.astype(np.uint16) * 257), "widened from 8 to 16 bits"),
    "a wrong ignore value": (
        "ade20k:150",
        every(lambda v: np.where(v == 255, 0, v).astype(np.uint8)),
        "another value for unlabelled pixels",
    ),
    "a resized label": ("camvid", halved, "resized, or of another image"),
    "a duplicated stem": ("camvid", lambda f: shutil.copy(f[0], f[0].with_suffix(".bmp")), "both have the image id"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_and_its_cause_named(
    fault: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark, plant, said = PLANTED[fault]
    limit = {"camvid": 5, "ade20k:150": 3}.get(benchmark, 1)
    assert checked(benchmark, str(root), None, limit, False, 1) == 0, capsys.readouterr().out
    plant(labels(root, benchmark))
    capsys.readouterr()
    limit -= fault == "a missing label"
    assert checked(benchmark, str(root), None, limit, False, 1) > 0
    assert said in capsys.readouterr().out


def test_labels_of_voc_are_compared_with_those_of_the_other_folder(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = labels(root, "voc:20")
    aug = file.parent.with_name("SegmentationClassAug") / file.name
    aug.parent.mkdir()
    rewrite(file, lambda v: v, aug)
    assert checked("voc:20", str(root), None, 1, False, 1) == 0
    assert "note" not in capsys.readouterr().out
    rewrite(file, lambda v: np.where(v == 255, 0, v).astype(np.uint8), aug)
    assert checked("voc:21", str(root), None, 1, False, 1) == 0
    assert (
        f"note: {file}: labels differ from those in {aug}. Usually: the two files have different sources"
        in capsys.readouterr().out
    )


def folder_yaml(root: Path, names: list[str]) -> str:
    file = root / "CamVid/mine.yaml"
    file.write_text(f"images: val/*.png\nlabels: valannot/*.png\nignore: 11\nclasses: [{', '.join(names)}]\n")
    return f"folder:{file}"


def test_a_wrong_order_of_the_class_list_is_found(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = list(catalog.load("camvid").labels)
    assert checked(folder_yaml(root, names), str(root), None, None, False, 1) == 0
    assert "another order" not in capsys.readouterr().out
    assert checked(folder_yaml(root, sorted(names)), str(root), None, None, False, 1) == 1
    said = capsys.readouterr().out
    assert "its 11 classes are those of camvid in another order" in said
    assert "for this: the labels are in the order of camvid" in said


def test_labels_of_too_many_classes_for_their_bits_are_found(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "ADE20K_2021_17_01"
    for folder, kind in (("images_detectron2", "jpg"), ("annotations_detectron2", "tif")):
        (base / folder / "validation").mkdir(parents=True)
        flat = np.zeros((40, 60, 3) if kind == "jpg" else (40, 60), np.uint8)
        Image.fromarray(flat).save(base / folder / f"validation/a.{kind}")
    assert checked("ade20k:847", str(tmp_path), None, 1, False, 1) > 0
    assert "8 bits per pixel, too few for 847 labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("benchmark", "limit"), [("camvid", None), ("ade20k:150", 3), ("suim", 4), ("scenes:all", 20), ("scenes:seen", 8)]
)
def test_untouched_samples_pass(
    benchmark: str, limit: int | None, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(benchmark, str(shared / "data/real"), None, limit, False, 1) == 0, capsys.readouterr().out


def test_an_incomplete_set_is_a_fault_unless_part_of_it_is_asked_for(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked("camvid", str(root), None, None, False, 1) == 1
    assert "5 images, but the split val has 101" in capsys.readouterr().out


def test_the_full_check_looks_at_all_files_by_several_processes_and_counts_the_labels(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shared / "data/real/CamVid", tmp_path / "CamVid")
    damaged = labels(tmp_path, "camvid")[37]
    damaged.write_bytes(damaged.read_bytes()[:500])
    assert checked("camvid", str(tmp_path), None, None, True, 2) == 1
    said = capsys.readouterr().out
    assert f"{damaged}: the image is damaged" in said
    assert "0 of 11 labels never occur" in said


def test_an_image_without_counted_pixels_is_a_fault(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(labels(root, "camvid")[0], lambda v: np.full_like(v, 11))
    assert checked("camvid", str(root), None, 5, False, 1) == 1
    assert f"fault: {labels(root, 'camvid')[0]}: all of its pixels are ignored" in capsys.readouterr().out


def test_a_part_of_an_image_without_counted_pixels_is_only_noted(root: Path) -> None:
    (file, *_) = labels(root, "camvid")
    rewrite(file, lambda v: np.full_like(v, 11))
    photograph = str(file.parents[1] / "val" / file.name)
    (fault,) = inspect(catalog.load("camvid"), Item("a", photograph, str(file), "a part")).faults
    assert not fault.sure


def test_a_run_whose_labels_are_all_wrong_does_not_start(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in labels(root, "camvid"):
        rewrite(file, lambda v: v.astype(np.uint16) * 257)
    asked = ["evaluate", "san_tiny", "--benchmark", "camvid", "--data-root", str(root), "--limit", "5"]
    with pytest.raises(SystemExit) as end:
        app.main([*asked, "--out", str(root / "run")])
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert "all 5 label files that were checked are wrong" in said
    assert "divide by 257" in said
    assert "ovss check camvid" in said
    assert not (root / "run").exists()


def test_colours_of_the_palette_are_those_of_voc_files(shared: Path) -> None:
    stored = Image.open(shared / "data/real/VOC2012/SegmentationClass/2007_000129.png").getpalette()
    assert stored is not None
    assert [*sum(label_causes.palette(), ())][: len(stored)] == stored


def test_looks_need_enough_votes_and_a_clear_verdict() -> None:
    jury = plausibility.PlausibilityTest(["sky", "road", "cat"])
    right = plausibility.ClassStats(np.array([0, 1]), np.array([0.2, 0.8]), np.zeros(2))
    wrong = plausibility.ClassStats(np.array([0, 1]), np.array([0.8, 0.2]), np.zeros(2))
    assert jury.verdict([right] * 9, {}) == []
    assert jury.verdict([wrong], {}) == []
    assert "'sky' and 'road' are swapped" in str(*jury.verdict([wrong] * 2, {}))
    assert "in the order of X" in str(*jury.verdict([wrong] * 2, {"X": [1, 0, 2]}))
    assert [jury.verdict([wrong] * number, {})[0].sure for number in (2, 4)] == [False, True]


def test_plants_that_shine_red_in_infrared_are_no_sign() -> None:
    generator = np.random.default_rng(0)
    truth = np.repeat([0, 1], 60)[:, None].repeat(120, 1).astype(np.uint16)
    jury = plausibility.PlausibilityTest(["street", "tree"])
    for shade, seen in ((200, 60, 60), [True, False]), ((66, 54, 66), [True, True]):
        image = np.where(truth[..., None] == 1, shade, (70, 80, 90)) + generator.integers(0, 5, (120, 120, 3))
        shown = plausibility.look(image.astype(np.uint8), truth, 2)
        assert (~np.isnan(shown.green)).tolist() == seen
        assert len(jury.verdict([shown] * 30, {})) == (0 if not all(seen) else 1)


def test_places_mean_nothing_where_no_class_is_above() -> None:
    jury = plausibility.PlausibilityTest(["background", "road", "water"])
    upper = plausibility.ClassStats(np.array([1, 2]), np.array([0.1, 0.2]), np.zeros(2))
    assert jury.verdict([upper] * 20, {}) == []


def test_few_signs_are_a_hint_and_many_are_a_fault() -> None:
    jury = plausibility.PlausibilityTest(["sky", "road"])
    pair = [plausibility.ClassStats(np.array([0, 1]), np.array(rows), np.zeros(2)) for rows in ([0.2, 0.8], [0.8, 0.2])]
    (hint,), (claim,) = jury.verdict(pair * 3, {}), jury.verdict(pair * 6, {})
    assert str(hint).startswith("the labels may not look like their names: only 50% of 12 votes are for them")
    assert str(claim).startswith("the labels do not look like their names: only 50% of 24 votes are for them")
    assert (hint.sure, claim.sure) == (False, True)
    assert all("no other order that was tried fits better" in str(one) for one in (hint, claim))


def test_a_doubt_in_front_of_a_run_says_what_to_type(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in labels(root, "camvid"):
        rewrite(file, swapped)
    asked = {"benchmarks": ["camvid"], "data_root": str(root), "limit": 5, "pools": [{"stages": [{"use": "oracle"}]}]}
    plan = plan_run(configs.validate(asked, "test"), str(root / "run"))
    (note,) = check.ahead(plan.benchmarks, plan.manifests)
    assert note.startswith("camvid: the labels do not look like their names: only ")
    assert note.endswith("This was a check of 5 images. For a larger one, type: ovss check camvid")


def test_an_unknown_benchmark_is_an_error() -> None:
    with pytest.raises(OvssError, match="Did you mean 'camvid'"):
        checked("camvit", "/data", None, None, False, 1)
