"""The likeliest cause of label files that a benchmark cannot have: from the description's own values and the file."""

import io
import struct
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from ovss_ray.benchmarks import catalog
from ovss_ray.benchmarks.contract import Benchmark, Values
from ovss_ray.dataprep import label_causes
from ovss_ray.structures.vocabulary import Vocabulary


def described(number: int, offset: int = 0, ignore: tuple[int, ...] | None = None) -> Benchmark:
    """A benchmark of a user's own with so many classes."""
    names = Vocabulary.of([f"class {i}" for i in range(number)])
    values = Values(tuple(range(offset, offset + number)), (255,) if ignore is None else ignore, ignore is not None)
    return replace(catalog.load("camvid"), vocabulary=names, labels=(), index=(), values=values)


def saved(pixels: np.ndarray, kind: str = "PNG", **more: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind, **more)
    return sink.getvalue()


def labels(*values: int, dtype: type = np.uint8) -> np.ndarray:
    return np.array(values, dtype).repeat(40).reshape(-1, 20)


CAUSES = {
    "offset 1, and 0 is not ignored": (labels(0, 1, 2), described(2, 1), "write `ignore: [0, 255]`"),
    "offset 1, and 0 is not among what is ignored": (labels(0, 1, 2), described(2, 1, (9,)), "write `ignore: [0, 9]`"),
    "no offset, and what is not labelled comes after the classes": (
        labels(1, 2, 3, 4),
        described(3, 0, (3,)),
        "not shifted by one: 1 to 4 where 0 to 3 are expected. Write `offset: 1` and `ignore: 4`",
    ),
    "no offset": (
        labels(1, 2, 3),
        described(3),
        "not shifted by one: 1 to 3 where 0 to 2 are expected. Write `offset: 1`",
    ),
    "offset 1 for labels from 2": (
        labels(2, 3, 4),
        described(3, 1),
        "2 to 4 where 1 to 3 are expected. Write `offset: 2`",
    ),
    "offset 2 for labels from 1": (labels(1, 2, 3), described(3, 2), "shifted by one too often: 1 to 3 where 2 to 4"),
    "-1 is not labelled": (labels(-1, 0, 1, dtype=np.int32), described(2), "write `ignore: -1`"),
    "-1 besides a value": (labels(-1, 0, 1, 9, dtype=np.int32), described(2, 0, (9,)), "write `ignore: [-1, 9]`"),
    "255 that became 254": (labels(0, 1, 2, 254), described(5), "shifted by one twice"),
    "widened": (labels(0, 257, 514, dtype=np.uint16), described(5), "divide by 257"),
    "black and white": (labels(0, 255), described(2, 0, (7,)), "255 is the object. Write `values: [0, 255]`"),
    "0 ignored in black and white": (
        labels(0, 255),
        described(2, 0, (0,)),
        "Write `values: [0, 255]` and take 0 out of `ignore`",
    ),
    "nearly white": (labels(0, 254), described(2), "254 is the object. Write `values: [0, 254]`"),
    "black and grey": (labels(0, 128), described(2), "128 is the object. Write `values: [0, 128]`"),
    "white of 16 bits": (labels(0, 65535, dtype=np.uint16), described(2), "Write `values: [0, 65535]`"),
    "KITTI's instances": (
        labels(7 * 256, 26 * 256 + 1, 26 * 256 + 2, 11 * 256, dtype=np.uint16),
        described(19),
        "instance ids as of KITTI: the class is the value // 256",
    ),
    "MOTS's instances": (
        labels(0, 1001, 2003, 10000, dtype=np.uint16),
        described(3),
        "KITTI MOTS: the class is the value // 1000",
    ),
    "Cityscapes' instances": (
        labels(7, 11, 23, 24000, 26012, dtype=np.uint16),
        described(19),
        "the class is the value // 1000",
    ),
    "Cityscapes' ids": (labels(1, 7, 8, 23, 33), described(19), "files *_labelTrainIds.png"),
    "as many values as classes": (labels(0, 128, 255), described(3), "write `values: [0, 128, 255]`"),
    "another data set": (labels(0, 5, 77), described(4), "labels of another class list"),
}


@pytest.mark.parametrize("kind", CAUSES)
def test_the_cause_of_other_values_is_named(kind: str) -> None:
    pixels, benchmark, cause = CAUSES[kind]
    assert cause in label_causes.cause(saved(pixels, "TIFF"), "a.tif", benchmark)


def test_a_mask_that_went_through_a_jpeg_is_recognised() -> None:
    disc = (np.hypot(*np.mgrid[-50:50, -50:50]) < 30).astype(np.uint8) * 255
    blurred = np.array(Image.open(io.BytesIO(saved(disc, "JPEG", quality=60))))
    assert len(np.unique(blurred)) > 8
    assert "saved as a JPEG or resized with smoothing" in label_causes.cause(saved(blurred), "a.png", described(2))


def test_labels_in_a_jpeg_are_no_photograph() -> None:
    assert "labels saved as a JPEG" in label_causes.cause(saved(labels(0, 1), "JPEG"), "a.jpg", described(2))


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (saved(labels(0, 1).astype(np.float32), "TIFF"), "floating-point labels"),
        (saved(np.dstack([labels(0, 90, 200), labels(1, 1, 1), labels(0, 9, 4)])), "`encoding: rgb`"),
        (saved(np.dstack([labels(0, 128, 0), labels(0, 0, 128), labels(0, 0, 0)])), "the colours of the palette"),
        (b"", "an empty file"),
        (saved(labels(0, 1))[:50], "an unfinished download"),
    ],
    ids=["float", "colours", "palette", "empty", "cut"],
)
def test_the_cause_of_another_kind_of_file_is_named(data: bytes, cause: str) -> None:
    assert cause in label_causes.cause(data, "a", described(3))


@pytest.mark.parametrize("value", [1000, 1792, 459])
def test_a_value_that_no_viewer_shows_as_white_is_no_mask(value: int) -> None:
    values = described(2).values
    assert values
    assert label_causes.black_and_white({0, value}, values) == ""


def test_right_labels_have_no_cause() -> None:
    assert label_causes.cause(saved(labels(0, 1, 255)), "a.png", described(2)) == ""


@pytest.mark.parametrize(
    ("image", "truth", "orientation", "cause"),
    [
        ((24, 32, 3), (32, 24), 6, "turned by its EXIF orientation (6)"),
        ((24, 32, 3), (32, 24), 1, "rows and columns are swapped"),
        ((24, 32, 3), (12, 16), 6, "resized, or of another image"),
    ],
)
def test_the_cause_of_another_size_is_named(
    image: tuple[int, ...], truth: tuple[int, ...], orientation: int, cause: str
) -> None:
    assert cause in label_causes.of_sizes(image, truth, orientation)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_orientation_of_a_photograph_is_read(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert label_causes.orientation(saved(labels(0, 1), kind, exif=exif)) == 6
    assert label_causes.orientation(saved(labels(0, 1), kind)) == 1
    assert label_causes.orientation(b"no image") == 1


def test_a_label_file_that_claims_a_huge_size_is_blamed_without_being_opened() -> None:
    header = b"IHDR" + (50_000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    chunk = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    assert label_causes.cause(b"\x89PNG\r\n\x1a\n" + chunk + bytes(40), "a.png", described(3)) == label_causes._CUT
    assert label_causes.orientation(b"\x89PNG\r\n\x1a\n" + chunk + bytes(40)) == 1


def test_a_file_that_is_refused_for_its_kind_is_no_unfinished_download() -> None:
    content = bytearray(saved(np.zeros((4, 6), np.int32), "TIFF"))
    bits = content.find(struct.pack("<HHIH", 258, 3, 1, 32))
    content[bits + 8] = 64
    assert label_causes.cause(bytes(content), "a.tif", described(2)) == ""
    assert "unfinished" in label_causes.cause(saved(labels(0, 1))[:60], "a.png", described(2))


def test_equal_channels_of_16_bits_are_not_sent_to_a_program_that_drops_the_low_byte() -> None:
    _, content = cv2.imencode(".png", np.full((4, 6, 3), 2, np.uint16))
    assert label_causes.cause(content.tobytes(), "a.png", described(3)) == ""


@pytest.mark.parametrize(("kind", "mode"), [("WEBP", "RGB"), ("TIFF", "YCbCr"), ("PNG", "LA")])
def test_a_file_that_is_refused_for_its_format_is_not_sent_to_another_cure(kind: str, mode: str) -> None:
    sink = io.BytesIO()
    Image.fromarray(labels(0, 1)).convert("RGB" if mode != "LA" else "L").convert(mode).save(sink, kind)
    content = sink.getvalue() if mode != "LA" else saved(np.zeros((4, 6, 2), np.uint8))
    assert label_causes.cause(content, "a", described(3)) == ""
