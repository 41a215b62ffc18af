"""Photographs and label maps from bytes."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovss_ray.errors import OvssError
from ovss_ray.io import images

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
GREY = RGB[..., 0]


def saved(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(sink, kind, **options)
    return sink.getvalue()


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_come_back_as_they_were_saved(kind: str) -> None:
    assert np.array_equal(images.decode(saved(RGB, kind), "x"), RGB)


def test_grey_is_repeated_and_alpha_is_dropped() -> None:
    assert np.array_equal(images.decode(saved(GREY), "x"), np.repeat(GREY[..., None], 3, 2))
    assert np.array_equal(images.decode(saved(np.dstack([RGB, GREY])), "x"), RGB)


def test_a_palette_is_looked_up() -> None:
    picture = Image.fromarray(GREY % 2).convert("L")
    picture.putpalette([10, 20, 30, 40, 50, 60])
    assert images.decode(saved(picture), "x")[GREY % 2 == 1].tolist()[0] == [40, 50, 60]


def test_16_bit_grey_keeps_its_high_byte() -> None:
    deep = np.array([[0, 255, 256, 65535]], np.uint16)
    assert images.decode(saved(deep), "x")[0, :, 0].tolist() == [0, 0, 1, 255]


def test_cmyk_becomes_rgb() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(images.decode(saved(red, "JPEG"), "x")[4, 4].astype(int) - [255, 0, 0]).max() < 4


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, RGB),
        (2, RGB[:, ::-1]),
        (3, RGB[::-1, ::-1]),
        (4, RGB[::-1]),
        (5, RGB.swapaxes(0, 1)),
        (6, RGB[::-1].swapaxes(0, 1)),
        (7, RGB[::-1, ::-1].swapaxes(0, 1)),
        (8, RGB[:, ::-1].swapaxes(0, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_exif_orientation_is_applied_to_pixels_and_size(
    tmp_path: Path, kind: str, orientation: int, upright: np.ndarray
) -> None:
    data = saved(RGB, kind, exif=exif(orientation))
    (tmp_path / "x").write_bytes(data)
    assert np.array_equal(images.decode(data, "x"), upright)
    assert images.size(tmp_path / "x") == upright.shape[:2]


def test_the_orientation_can_be_left_alone() -> None:
    assert np.array_equal(images.decode(saved(RGB, exif=exif(6)), "x", upright=False), RGB)


def test_a_broken_orientation_does_not_cost_the_image() -> None:
    assert np.array_equal(images.decode(saved(RGB, exif=b"Exif\0\0MM\0*\xff\xff"), "x"), RGB)


def test_the_content_decides_and_not_the_name() -> None:
    assert images.decode(saved(RGB), "png_called.jpg").shape == RGB.shape


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "empty"),
        (b"<!doctype html><p>not found", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "%!PS"),
    ],
)
def test_what_is_no_image_is_named_and_described(data: bytes, found: str) -> None:
    with pytest.raises(OvssError, match=r"photo\.jpg.*") as caught:
        images.decode(data, "photo.jpg")
    assert found in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF"])
def test_a_file_that_was_cut_short_is_an_error_that_names_it(kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    data = saved(noise, kind)
    with pytest.raises(OvssError, match="half"):
        images.decode(data[: len(data) // 2], "half")


def test_a_changed_bit_of_a_png_is_never_another_picture() -> None:
    for picture, read in ((RGB, images.decode), (GREY, images.decode_labels)):
        data = saved(picture)
        for place in range(len(data)):
            damaged = bytearray(data)
            damaged[place] ^= 1 << place % 8
            with contextlib.suppress(OvssError):
                assert np.array_equal(read(bytes(damaged), "x"), picture), place


def test_what_follows_the_end_of_a_png_does_not_matter() -> None:
    assert np.array_equal(images.decode(saved(RGB) + b"trailing bytes", "x"), RGB)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM"]), st.integers(0, 400), st.binary(max_size=9)
)
def test_damage_anywhere_is_an_image_or_an_ovss_error(kind: str, place: int, put: bytes) -> None:
    data = bytearray(saved(RGB, kind))
    data[place % len(data) : place % len(data) + len(put)] = put
    for read in (images.decode, images.decode_labels, images.decode_colours):
        with contextlib.suppress(OvssError):
            assert read(bytes(data), "x", cap=10_000).size <= 30_000


def bomb(side: int) -> bytes:
    """A PNG of a few bytes whose header claims a square of that side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 100_000])
def test_an_image_bomb_is_an_error_that_names_file_and_cap(side: int) -> None:
    for read in (images.decode, images.decode_labels, images.decode_colours):
        with pytest.raises(OvssError, match=r"bomb\.png.*100,000,000"):
            read(bomb(side), "bomb.png")


def test_the_cap_can_be_set_and_is_exact() -> None:
    assert images.decode(saved(RGB), "x", cap=35).shape == (5, 7, 3)
    with pytest.raises(OvssError, match="7 × 5 pixels, more than the limit of 34"):
        images.decode(saved(RGB), "x", cap=34)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_label_maps_of_8_and_16_bits_are_exact(kind: str) -> None:
    for values in (GREY, GREY.astype(np.uint16) * 257):
        found = images.decode_labels(saved(values, kind), "x")
        assert found.dtype == np.uint16
        assert np.array_equal(found, values)


def test_label_maps_of_32_bits_are_exact() -> None:
    values = np.array([[-1, 70000]], np.int32)
    assert np.array_equal(images.decode_labels(saved(values, "TIFF"), "x"), values)


def test_a_palette_label_map_gives_indices_and_not_colours() -> None:
    picture = Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8))
    picture.putpalette([(7 * i) % 256 for i in range(768)])
    assert images.decode_labels(saved(picture), "x").tolist() == [[0, 1, 2, 255]]


def test_the_official_voc_label_file_gives_its_classes(shared: Path) -> None:
    label = next((shared / "data/real/VOC2012/SegmentationClass").glob("*.png"))
    assert np.unique(images.decode_labels(label.read_bytes(), str(label))).tolist() == [0, 2, 15, 255]


def test_an_rgb_label_file_is_an_error_that_says_so() -> None:
    with pytest.raises(OvssError, match=r"this file is RGB.*encoding: rgb"):
        images.decode_labels(saved(RGB), "x.png")


def test_a_jpeg_label_file_is_an_error_that_says_why() -> None:
    with pytest.raises(OvssError, match=r"JPEG may change label values"):
        images.decode_labels(saved(GREY, "JPEG"), "x.jpg")


def test_the_size_is_read_without_the_pixels(tmp_path: Path) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
    for kind in ("JPEG", "PNG"):
        (tmp_path / kind).write_bytes(saved(photo, kind)[:2000])
        assert images.size(tmp_path / kind) == (300, 400)


def test_the_size_of_a_missing_or_broken_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"no image")
    for name in ("missing", "broken"):
        with pytest.raises(OvssError, match=name):
            images.size(tmp_path / name)


def test_real_photographs_have_the_size_that_their_header_says(shared: Path) -> None:
    photos = sorted((shared / "data/real/photos").rglob("*.jpg"))
    assert len(photos) == 6
    for photo in photos:
        assert images.decode(photo.read_bytes(), str(photo)).shape[:2] == images.size(photo)
