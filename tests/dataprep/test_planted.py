"""`ovss check` on real samples: right ones have no fault, and planted faults are found with their causes."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss_ray.config import loading as configs
from ovss_ray.dataprep import check
from ovss_ray.errors import OvssError
from ovss_ray.runs.plan import plan_run
from tests.checked import checked
from tests.real_sets import INDEXED, SAMPLES, change, describe, labels, rewrite, stored, write

Plant = Callable[[Path], object]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[int, str]]:
    """Check a benchmark; return how many faults there are, and what was printed."""

    def run(benchmark: str) -> tuple[int, str]:
        capsys.readouterr()
        number = checked(benchmark, str(Path(benchmark.removeprefix("folder:")).parent), None, None, False, 1)
        return number, capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", SAMPLES)
def test_a_right_sample_has_no_fault(
    name: str, shared: Path, tmp_path: Path, said: Callable[[str], tuple[int, str]]
) -> None:
    number, printed = said(describe(name, shared, tmp_path))
    assert number == 0, printed
    assert "no fault found" in printed


def moved_on(step: int) -> Plant:
    """Each image gets the label file `step` images later."""

    def plant(folder: Path) -> None:
        pixels = [stored(file) for file in labels(folder)]
        for place, file in enumerate(labels(folder)):
            rewrite(file, pixels[(place + step) % len(pixels)])

    return plant


def dealt_out(folder: Path) -> None:
    """The second half of the images gets the labels of the first, and the reverse, both from behind."""
    pixels = [stored(file) for file in labels(folder)]
    for file, other in zip(labels(folder), reversed(pixels), strict=True):
        rewrite(file, other)


def all_alike(folder: Path) -> None:
    """Each image gets the labels of the first."""
    first, *others = labels(folder)
    for file in others:
        rewrite(file, stored(first))


def every(new: Callable[[np.ndarray], np.ndarray]) -> Plant:
    return lambda folder: change(folder, new)


def shifted(down: int, right: int) -> Plant:
    return every(lambda values: np.roll(values, (down, right), (0, 1)))


GEOMETRY = {
    "the next frame's labels": (moved_on(1), "the labels are those of the next image"),
    "the frame before's labels": (moved_on(-1), "the labels are those of the image before"),
    "other photographs' labels": (dealt_out, "labels belong to other photographs"),
    "the first image's labels everywhere": (all_alike, "the same labels in all"),
    "a left-right flip": (every(lambda v: v[:, ::-1]), "the labels are flipped left to right"),
    "an up-down flip": (every(lambda v: v[::-1]), "the labels are flipped upside down"),
    "a half turn": (every(lambda v: v[::-1, ::-1]), "the labels are turned by 180°"),
    "a shift by 24 pixels": (shifted(0, 24), "to the right: with that undone"),
    "a shift up": (shifted(-24, 0), "pixels up: with that undone"),
    "a small shift to a corner": (shifted(-12, -12), "pixels to the left and 1"),
}
FRAMES = {"camvid": 12, "cwfid": None, "shapes": None, "membrane": None}
ANY = {"camvid": 6, "loveda": None, "suim": None, "isaid": None, "labelme_voc": None, "vaihingen": None}


def cases() -> list[tuple[str, str, int | None]]:
    frames = {fault for fault in GEOMETRY if "labels" in fault}
    return [
        (fault, name, most)
        for fault in GEOMETRY
        for name, most in (FRAMES if fault in frames else ANY).items()
        # Of four and five images dealt out from behind, most get those of a neighbour or keep their own.
        if not (fault == "other photographs' labels" and name == "shapes")
    ]


@pytest.mark.parametrize(("fault", "name", "most"), cases())
def test_labels_that_lie_elsewhere_are_found(
    fault: str, name: str, most: int | None, shared: Path, tmp_path: Path, said: Callable[[str], tuple[int, str]]
) -> None:
    plant, cause = GEOMETRY[fault]
    benchmark = describe(name, shared, tmp_path, most)
    plant(tmp_path)
    number, printed = said(benchmark)
    assert number > 0, printed
    assert cause in printed


def test_a_shift_is_measured_to_the_pixel_where_edges_are_sharp(
    shared: Path, tmp_path: Path, said: Callable[[str], tuple[int, str]]
) -> None:
    benchmark = describe("cwfid", shared, tmp_path)
    shifted(0, 24)(tmp_path)
    assert "shifted by 24 pixels to the right:" in said(benchmark)[1]


def test_transposed_labels_of_square_images_are_found(
    shared: Path, tmp_path: Path, said: Callable[[str], tuple[int, str]]
) -> None:
    benchmark = describe("loveda", shared, tmp_path)
    change(tmp_path, lambda values: values.T)
    assert "the labels are transposed (rows and columns are swapped)" in said(benchmark)[1]


@pytest.mark.parametrize(
    ("orientation", "to_stored", "cause"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT, "drawn on the stored pixels"),
        (3, Image.Transpose.ROTATE_180, "drawn on the stored pixels"),
        (4, Image.Transpose.FLIP_TOP_BOTTOM, "drawn on the stored pixels"),
        (5, Image.Transpose.TRANSPOSE, "EXIF orientation (5)"),
        (6, Image.Transpose.ROTATE_90, "EXIF orientation (6)"),
        (7, Image.Transpose.TRANSVERSE, "EXIF orientation (7)"),
        (8, Image.Transpose.ROTATE_270, "EXIF orientation (8)"),
    ],
)
def test_labels_drawn_on_pixels_that_exif_turns_are_found(
    orientation: int,
    to_stored: Image.Transpose,
    cause: str,
    shared: Path,
    tmp_path: Path,
    said: Callable[[str], tuple[int, str]],
) -> None:
    benchmark = describe("labelme_voc", shared, tmp_path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for file in (tmp_path / "images").iterdir():
        Image.open(file).transpose(to_stored).save(file, exif=exif, quality=95)
    assert said(benchmark)[0] == 0, "labels as the photographs are shown are right"
    for file in labels(tmp_path):
        Image.fromarray(stored(file)).transpose(to_stored).save(file)
    number, printed = said(benchmark)
    assert number > 0
    assert cause in printed


def unread(folder: Path) -> Path:
    """A label file that is not among those that are read to the last pixel."""
    every_file = labels(folder)
    read = set(check.spread(len(every_file), check.SAMPLE))
    return next(file for place, file in enumerate(every_file) if place not in read and place > 2)


def halved(file: Path) -> None:
    picture = Image.open(file)
    picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.NEAREST).save(file)


def cut(file: Path, left: float = 0.7) -> None:
    file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])


@pytest.mark.parametrize("name", ["camvid", "cwfid", "suim"])
@pytest.mark.parametrize(
    ("plant", "cause"),
    [(halved, "resized, or of another image"), (cut, "an unfinished download or copy")],
    ids=["half the size", "cut off"],
)
def test_one_wrong_file_is_found_wherever_it_is(
    name: str,
    plant: Callable[[Path], None],
    cause: str,
    shared: Path,
    tmp_path: Path,
    said: Callable[[str], tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name != "camvid":
        monkeypatch.setattr(check, "SAMPLE", 2)
    benchmark = describe(name, shared, tmp_path)
    file = unread(tmp_path)
    plant(file)
    number, printed = said(benchmark)
    assert number == 1, printed
    assert f"fault: {file}" in printed
    assert cause in printed


@pytest.mark.parametrize("ending", [".tif", ".bmp", ".gif"])
def test_a_cut_off_label_is_found_in_every_format(
    ending: str, shared: Path, tmp_path: Path, said: Callable[[str], tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "SAMPLE", 2)
    benchmark = describe("camvid", shared, tmp_path, 6)
    for file in labels(tmp_path):
        values = stored(file)
        file.unlink()
        rewrite(file.with_suffix(ending), values)
    assert said(benchmark)[0] == 0
    file = unread(tmp_path)
    cut(file)
    number, printed = said(benchmark)
    assert number == 1, printed
    assert f"fault: {file}" in printed


def test_a_cut_off_photograph_is_found_wherever_it_is(
    shared: Path, tmp_path: Path, said: Callable[[str], tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "SAMPLE", 2)
    benchmark = describe("labelme_voc", shared, tmp_path)
    file = max((tmp_path / "images").iterdir())
    cut(file, 0.95)
    number, printed = said(benchmark)
    assert number == 1, printed
    assert f"fault: {file}" in printed


def saturated(name: str, step: int) -> Plant:
    """Labels moved by `step`, where what leaves the list becomes the value that is not counted."""
    first = 1 if "offset: 1" in SAMPLES[name].more else 0
    void = 0 if first else {"camvid": 11}.get(name, 255)
    last = first + len(SAMPLES[name].classes) - 1

    def new(values: np.ndarray) -> np.ndarray:
        counted = (values >= first) & (values <= last)
        other = values.astype(int) + step
        out = np.where((other < first) | (other > last), void, other)
        return np.where(counted, out, values).astype(np.uint8)

    return every(new)


@pytest.mark.parametrize("name", ["camvid", "loveda", "labelme_voc", "cityscapes", "ade"])
def test_labels_shifted_by_one_into_what_is_not_counted_are_found(
    name: str, shared: Path, tmp_path: Path, said: Callable[[str], tuple[int, str]]
) -> None:
    benchmark = describe(name, shared, tmp_path, 5)
    saturated(name, 1)(tmp_path)
    number, printed = said(benchmark)
    assert number > 0, printed
    assert f"{SAMPLES[name].classes[0]!r} never occurs in" in printed
    assert "Usually: labels shifted by one" in printed


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "labelme_voc"])
def test_labels_shifted_by_one_once_too_often_are_found(
    name: str, shared: Path, tmp_path: Path, said: Callable[[str], tuple[int, str]]
) -> None:
    benchmark = describe(name, shared, tmp_path, 5)
    saturated(name, -1)(tmp_path)
    number, printed = said(benchmark)
    assert number > 0, printed
    assert "Usually: labels shifted by one" in printed


@pytest.mark.parametrize("name", ["camvid", "loveda", "labelme_voc"])
def test_labels_without_a_counted_pixel_are_found_and_no_run_starts(
    name: str, shared: Path, tmp_path: Path, said: Callable[[str], tuple[int, str]]
) -> None:
    benchmark = describe(name, shared, tmp_path, 5)
    void = {"camvid": 11, "loveda": 0}.get(name, 255)
    change(tmp_path, lambda values: np.full_like(values, void))
    number, printed = said(benchmark)
    assert number > len(labels(tmp_path))
    assert "all of its pixels are ignored" in printed
    with pytest.raises(OvssError, match="label files is counted"):
        ahead(benchmark, tmp_path)


def ahead(benchmark: str, folder: Path) -> list[str]:
    """What is said in front of a run."""
    asked = {"benchmarks": [benchmark], "data_root": str(folder), "pools": [{"stages": [{"use": "oracle"}]}]}
    plan = plan_run(configs.validate(asked, "test"), str(folder / "run"))
    return list(check.ahead(plan.benchmarks, plan.manifests))


@pytest.mark.parametrize("name", INDEXED)
def test_nothing_is_said_in_front_of_a_run_on_right_labels(name: str, shared: Path, tmp_path: Path) -> None:
    assert ahead(describe(name, shared, tmp_path, 8), tmp_path) == []


def masks(folder: Path, values: tuple[int, ...], classes: list[str], more: str = "", number: int = 3) -> str:
    """A set of photographs whose label files hold stripes of some values."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for place in range(number):
        stripes = np.array(values, np.uint8)[(np.arange(96)[None, :] + 8 * place) // 24 % len(values)].repeat(80, 0)
        shown = np.random.default_rng(place).integers(0, 255, (80, 96, 3)).astype(np.uint8)
        Image.fromarray(shown).save(folder / f"images/{place:02}.png")
        Image.fromarray(stripes).save(folder / f"labels/{place:02}.png")
    return write(folder, classes, more)


@pytest.mark.parametrize("more", ["", "ignore: 255", "ignore: [255]"])
def test_a_class_of_two_that_ignore_takes_away_is_a_fault_and_no_run_starts(
    more: str, tmp_path: Path, said: Callable[[str], tuple[int, str]]
) -> None:
    benchmark = masks(tmp_path, (0, 255), ["background", "coin"], more)
    number, printed = said(benchmark)
    assert number == 1, printed
    assert "'coin' never occurs in 3 label files, while" in printed
    with pytest.raises(OvssError, match="'coin' never occurs in 3 label files") as failure:
        ahead(benchmark, tmp_path)
    assert f"ovss check {benchmark}" in str(failure.value)
    assert "--set check=false" in str(failure.value)


def test_a_rare_class_beside_what_is_ignored_is_looked_for_in_more_files(
    tmp_path: Path, said: Callable[[str], tuple[int, str]]
) -> None:
    """Tiles with a border of 255, of which few show the object, look like masks of 0 and 255 in a sample of six."""
    benchmark = masks(tmp_path, (0, 255), ["background", "landslide"], "ignore: 255", number=60)
    with pytest.raises(OvssError, match="'landslide' never occurs"):
        ahead(benchmark, tmp_path)
    file = labels(tmp_path)[19]
    assert 19 not in check.spread(60, check.SAMPLE)
    rewrite(file, np.where(stored(file) == 0, 1, 255).astype(np.uint8))
    assert ahead(benchmark, tmp_path) == []
    assert said(benchmark)[0] == 0


def test_no_run_starts_on_label_files_that_are_all_refused_for_one_reason(tmp_path: Path) -> None:
    benchmark = masks(tmp_path, (0, 1), ["a", "b"])
    for file in labels(tmp_path):
        Image.fromarray(stored(file).astype(np.float32)).save(file.with_suffix(".tif"))
        file.unlink()
    with pytest.raises(OvssError, match="all 3 label files that were checked are wrong"):
        ahead(benchmark, tmp_path)


def test_masks_of_0_1_and_255_lose_the_third_class_and_not_a_border(
    tmp_path: Path, said: Callable[[str], tuple[int, str]]
) -> None:
    (tmp_path / "three").mkdir()
    (tmp_path / "two").mkdir()
    number, printed = said(masks(tmp_path / "three", (0, 1, 255), ["background", "cell", "wall"]))
    assert number == 1, printed
    assert "'wall' never occurs" in printed
    assert said(masks(tmp_path / "two", (0, 1, 255), ["background", "cell"]))[0] == 0


def test_classes_that_never_occur_are_named_also_from_a_sample(
    tmp_path: Path, said: Callable[[str], tuple[int, str]]
) -> None:
    benchmark = masks(tmp_path, (0, 1), ["a", "b", *(f"name {number}" for number in range(12))])
    assert "12 of 14 labels never occur: name 0, name 1," in said(benchmark)[1]
    assert "name 9, … and 2 more" in said(benchmark)[1]


def test_names_with_brackets_are_printed_in_full(tmp_path: Path, said: Callable[[str], tuple[int, str]]) -> None:
    benchmark = masks(tmp_path, (0, 1), ["road [wet]", "sign [/closed]", "[bold]"])
    printed = said(benchmark)[1]
    assert "road [wet] " in printed
    assert "sign [/closed] " in printed
    assert "never occur: [bold]" in printed


def test_a_set_of_files_that_end_as_they_should_is_not_read_in_full(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[str], tuple[int, str]]
) -> None:
    benchmark, read = describe("camvid", shared, tmp_path), []
    plain = check.inspect
    monkeypatch.setattr(check, "inspect", lambda *given: read.append(given) or plain(*given))
    assert said(benchmark)[0] == 0
    assert len(read) == check.SAMPLE


def test_a_file_with_bytes_behind_its_end_is_no_fault(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[str], tuple[int, str]]
) -> None:
    monkeypatch.setattr(check, "SAMPLE", 2)
    benchmark = describe("camvid", shared, tmp_path, 6)
    file = unread(tmp_path)
    file.write_bytes(file.read_bytes() + b"written by somebody else")
    shutil.copyfileobj(io.BytesIO(b"more"), (tmp_path / "notes.txt").open("wb"))
    assert said(benchmark)[0] == 0
