"""Faults of label files and of their class list, each planted in CamVid and in other real samples, with its cause."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss_ray.dataprep import label_causes
from tests.checked import checked
from tests.real_sets import SAMPLES, change, describe, labels, rewrite, stored, write

Plant = Callable[[Path, str], None]
VOID = {"camvid": 11, "ade": 0, "loveda": 0}
"""Label value of what is not labelled; 255 in the other samples."""


def values(new: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """Change the values of every label file."""
    return lambda folder, name: change(folder, new)


def coloured(pixels: np.ndarray, mode: str) -> np.ndarray:
    """Look values up in VOC's palette, and convert what it shows."""
    picture = Image.fromarray(pixels, "P")
    picture.putpalette([part for colour in label_causes.palette() for part in colour])
    return np.array(picture.convert("RGB").convert(mode))


def in_colours(folder: Path, name: str) -> None:
    rewrite(labels(folder)[0], coloured(stored(labels(folder)[0]), "RGB"))


def another_void(folder: Path, name: str) -> None:
    void = VOID.get(name, 255)
    other = 254 if void == 255 else 255
    change(folder, lambda pixels: np.where(pixels == void, other, pixels).astype(np.uint8))


def swapped(folder: Path, name: str) -> None:
    first, second = (SAMPLES[name].classes.index(word) for word in ("sky", "road"))
    table = np.arange(256, dtype=np.uint8)
    table[[first, second]] = second, first
    change(folder, lambda pixels: table[pixels])


def halved(folder: Path, name: str) -> None:
    for file in labels(folder):
        picture = Image.open(file)
        picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.NEAREST).save(file)


def one_more(folder: Path, name: str) -> None:
    photograph = min((folder / "images").iterdir())
    shutil.copy(photograph, photograph.with_name(f"other{photograph.suffix}"))


def twice(folder: Path, name: str) -> None:
    rewrite(labels(folder)[0].with_suffix(".bmp"), stored(labels(folder)[0]))


def of_the_alphabet(folder: Path, name: str) -> None:
    write(folder, sorted(SAMPLES[name].classes), SAMPLES[name].more)


FAULTS: dict[str, tuple[Plant, str, tuple[str, ...]]] = {
    "labels that were not shifted": (values(lambda v: v + np.uint8(1)), "not shifted by one", ("loveda", "ade")),
    "a palette read as values": (
        values(lambda v: coloured(v, "L")),
        "the palette was looked up and turned into grey",
        ("loveda", "labelme_voc", "cityscapes", "voc"),
    ),
    "an RGB label": (
        in_colours,
        "the colours of the palette were saved in place of its indices",
        ("loveda", "labelme_voc", "cityscapes", "ade", "voc"),
    ),
    "a missing label": (
        lambda folder, name: labels(folder)[1].unlink(),
        "1 photographs without a label file",
        ("labelme_voc", "ade"),
    ),
    "an extra image": (one_more, "1 photographs without a label file", ("labelme_voc", "loveda", "ade")),
    "a wrong bit depth": (
        values(lambda v: v.astype(np.uint16) * 257),
        "widened from 8 to 16 bits",
        ("labelme_voc", "loveda", "ade", "cityscapes"),
    ),
    "a wrong ignore value": (another_void, "255", ("labelme_voc", "ade", "cityscapes")),
    "a resized label": (halved, "resized, or of another image", ("labelme_voc", "loveda", "ade")),
    "a duplicated stem": (twice, "both have the image id", ("labelme_voc", "loveda", "ade")),
    "two classes swapped": (swapped, "are swapped", ()),
    "another order of the class list": (of_the_alphabet, "look like their names", ()),
}
"""Fault → how it is planted, the cause that is named, and the samples besides CamVid in which it is a fault."""


@pytest.mark.parametrize(
    ("fault", "name"), [(fault, name) for fault, (_, _, names) in FAULTS.items() for name in ("camvid", *names)]
)
def test_a_planted_fault_is_found_and_its_cause_named(
    fault: str, name: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant, cause, _ = FAULTS[fault]
    benchmark = describe(name, shared, tmp_path, 12)
    plant(tmp_path, name)
    assert checked(benchmark, str(tmp_path), None, None, False, 1) > 0
    assert cause in capsys.readouterr().out


def test_colours_of_two_classes_that_were_swapped_are_found(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark = describe("cwfid", shared, tmp_path)
    right = "soil: [0, 0, 0], weed: [255, 0, 0]"
    assert right in SAMPLES["cwfid"].more
    wrong = SAMPLES["cwfid"].more.replace(right, "soil: [255, 0, 0], weed: [0, 0, 0]")
    write(tmp_path, SAMPLES["cwfid"].classes, wrong)
    assert checked(benchmark, str(tmp_path), None, None, False, 1) == 1
    assert "'weed' and 'soil' are swapped" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["camvid", "loveda", "ade"])
def test_labels_of_too_few_bits_for_the_classes_are_found(
    name: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    describe(name, shared, tmp_path, 5)
    classes = [*SAMPLES[name].classes, *(f"name {number}" for number in range(300))]
    more = "ignore: []" if name == "camvid" else SAMPLES[name].more
    assert checked(write(tmp_path, classes, more), str(tmp_path), None, None, False, 1) >= len(labels(tmp_path))
    assert f"8 bits per pixel, too few for {len(classes)} labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "plant", "cause"),
    [
        ("cityscapes", swapped, "'road' and 'sky' are swapped"),
        ("cityscapes", of_the_alphabet, "its 19 classes are those of cityscapes:19 in another order"),
        ("labelme_voc", of_the_alphabet, "its 21 classes are those of voc:21 in another order"),
    ],
)
def test_of_few_images_what_only_names_show_is_a_note(
    name: str, plant: Plant, cause: str, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One street has five signs, and photographs of buses none; a fault takes eight."""
    benchmark = describe(name, shared, tmp_path)
    assert checked(benchmark, str(tmp_path), None, None, False, 1) == 0
    assert cause not in capsys.readouterr().out
    plant(tmp_path, name)
    assert checked(benchmark, str(tmp_path), None, None, False, 1) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if cause in line]
    assert line.startswith("note: ")
