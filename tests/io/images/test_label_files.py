"""Label maps: the stored numbers come back, and files that can be read in two ways are refused, naming both."""

import io
import itertools
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovss_ray.errors import OvssError
from ovss_ray.io import images

SIDES = (3, 5)
RGB = np.random.default_rng(0).integers(0, 256, (*SIDES, 3), np.uint8)


def values(bits: int) -> np.ndarray:
    """Samples of a number of bits, the least and the greatest among them."""
    drawn = np.random.default_rng(bits).integers(0, 1 << bits, SIDES)
    drawn.flat[:2] = 0, (1 << bits) - 1
    return drawn


def saved(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(sink, kind, **options)
    return sink.getvalue()


def packed(samples: np.ndarray, bits: int, order: str = ">") -> bytes:
    """Rows of samples (H, n), each filled up to whole bytes; of 8 bits or more in a byte order."""
    if bits in (8, 16, 32, 64):
        kind = samples.dtype.kind if samples.dtype.kind == "f" else "i" if samples.min() < 0 else "u"
        return samples.astype(f"{order}{kind}{bits // 8}").tobytes()
    digits = (samples[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def png(samples: np.ndarray, bits: int, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of samples (H, W) or (H, W, C), with further chunks before its pixels."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    lines = packed(rows, bits)
    length = len(lines) // height
    raw = b"".join(b"\0" + lines[i * length : (i + 1) * length] for i in range(height))
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )


Tag = tuple[int, str, Sequence[int]]


def tiff(*pages: tuple[bytes, Sequence[Tag]], order: str = "<", big: bool = False) -> bytes:
    """A TIFF of pages, each its pixels and tags: number, struct's name of the type, values."""
    kinds = {"B": 1, "H": 3, "I": 4, "b": 6, "h": 8, "Q": 16}
    offset, room, counter = ("Q", 8, "Q") if big else ("I", 4, "H")
    mark = b"II" if order == "<" else b"MM"
    file = mark + (struct.pack(order + "HHHQ", 43, 8, 0, 0) if big else struct.pack(order + "HI", 42, 0))
    link = len(file) - room
    for pixels, tags in pages:
        place, file = len(file), file + pixels
        entries = b""
        strip = [(273, "I", [place]), (279, "I", [len(pixels)])]
        all_tags = {tag[0]: tag for tag in [*strip, *tags]}
        for number, kind, content in sorted(all_tags.values()):
            value = struct.pack(f"{order}{len(content)}{kind}", *content)
            if len(value) > room:
                value, file = struct.pack(order + offset, len(file)), file + value
            entries += struct.pack(order + "HH" + offset, number, kinds[kind], len(content)) + value.ljust(room, b"\0")
        here = struct.pack(order + offset, len(file))
        file = file[:link] + here + file[link + room :]
        file += struct.pack(order + counter, len(all_tags)) + entries
        link, file = len(file), file + b"\0" * room
    return file


def page(
    samples: np.ndarray, bits: int, photometric: int = 1, order: str = "<", squeeze: bool = False, **more: Sequence[int]
) -> tuple[bytes, list[Tag]]:
    """A page of samples (H, W) or (H, W, C), compressed with deflate if they are to be squeezed."""
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    pixels = packed(samples.reshape(len(samples), -1), bits, order)
    tags: dict[int, tuple[str, Sequence[int]]] = {
        256: ("I", [samples.shape[1]]),
        257: ("I", [samples.shape[0]]),
        258: ("H", [bits] * channels),
        259: ("H", [8 if squeeze else 1]),
        262: ("H", [photometric]),
        277: ("H", [channels]),
        278: ("I", [samples.shape[0]]),
    }
    tags |= {int(name[1:]): ("H", content) for name, content in more.items()}
    return (zlib.compress(pixels) if squeeze else pixels), [(tag, *rest) for tag, rest in tags.items() if rest[1]]


def bmp(indices: np.ndarray, bits: int, palette: Sequence[Sequence[int]], down: bool = False) -> bytes:
    """A BMP of at most 8 bits with a palette of RGB; its rows run upwards, or downwards."""
    rows = packed(indices if down else indices[::-1], bits)
    length = len(rows) // len(indices)
    lines = b"".join(rows[i * length : (i + 1) * length].ljust(-(-length // 4) * 4, b"\0") for i in range(len(indices)))
    colours = b"".join(bytes([b, g, r, 0]) for r, g, b in palette)
    start, height = 54 + len(colours), len(indices)
    sizes = (indices.shape[1], -height if down else height)
    info = struct.pack("<IiiHHIIiiII", 40, *sizes, 1, bits, 0, len(lines), 0, 0, len(palette), 0)
    return struct.pack("<2sIHHI", b"BM", start + len(lines), 0, 0, start) + info + colours + lines


def greys(levels: Sequence[int]) -> list[tuple[int, int, int]]:
    return [(level, level, level) for level in levels]


def plte(palette: Sequence[Sequence[int]]) -> tuple[bytes, bytes]:
    return b"PLTE", bytes(itertools.chain.from_iterable(palette))


def labels(data: bytes) -> np.ndarray:
    return images.decode_labels(data, "a.file")


def refused(data: bytes) -> str:
    with pytest.raises(OvssError, match=r"^a\.file: ") as caught:
        labels(data)
    return str(caught.value)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_pngs_of_every_depth_give_their_samples(bits: int) -> None:
    found = labels(png(values(bits), bits, 0))
    assert found.dtype == np.uint16
    assert np.array_equal(found, values(bits))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_coloured_palette_gives_its_indices(bits: int) -> None:
    palette = [(i, 255 - i, 7) for i in range(1 << bits)]
    assert np.array_equal(labels(png(values(bits), bits, 3, plte(palette))), values(bits))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grey_palette_of_its_own_indices_gives_them(bits: int) -> None:
    assert np.array_equal(labels(png(values(bits), bits, 3, plte(greys(range(1 << bits))))), values(bits))


def test_a_grey_palette_of_other_values_is_refused_and_both_readings_are_named() -> None:
    indices = np.array([[0, 1, 2]])
    for data in (
        png(indices, 8, 3, plte(greys([0, 3, 7]))),
        png(indices, 2, 3, plte(greys([0, 3, 7]))),
        bmp(indices, 8, greys([0, 3, 7])),
        bmp(indices, 4, greys([0, 3, 7])),
        saved(paletted(indices, greys([0, 3, 7])), "GIF", optimize=False),
        tiff(page(indices, 8, 3, x320=[257 * level for level in [0, 3, 7, *[0] * 253] * 3])),
    ):
        message = refused(data)
        assert "displays index 1 as grey 3" in message
        assert "the indices or the grey values." in message


def test_a_grey_palette_matters_only_where_its_entries_occur() -> None:
    palette = greys([0, 1, 9])
    assert np.array_equal(labels(png(np.array([[0, 1]]), 8, 3, plte(palette))), [[0, 1]])
    assert "displays index 2 as grey 9" in refused(png(np.array([[0, 2]]), 8, 3, plte(palette)))


def paletted(indices: np.ndarray, palette: Sequence[Sequence[int]]) -> Image.Image:
    picture = Image.fromarray(indices.astype(np.uint8)).convert("P")
    picture.putpalette(list(itertools.chain.from_iterable(palette)))
    return picture


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_bitmaps_with_a_palette_give_their_indices(bits: int, down: bool, grey: bool) -> None:
    palette = greys(range(1 << bits)) if grey else [(i, 255 - i, 7) for i in range(1 << bits)]
    assert np.array_equal(labels(bmp(values(bits), bits, palette, down)), values(bits))


def test_black_and_white_bitmaps_are_refused_whatever_their_depth() -> None:
    for bits in (1, 4, 8):
        assert "displays index 1 as grey 255" in refused(bmp(values(1), bits, greys([0, 255])))


def test_colours_of_16_bits_in_a_bitmap_are_refused() -> None:
    header = struct.pack("<2sIHHI", b"BM", 58, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, 2, 1, 1, 16, 0, 4, 0, 0, 0, 0
    )
    for read in (images.decode_labels, images.decode_colours):
        with pytest.raises(OvssError, match="5 bits per channel"):
            read(header + b"\x21\x04" * 2, "x")


def test_a_gif_gives_its_indices() -> None:
    palette = [(i, 255 - i, 7) for i in range(256)]
    assert np.array_equal(labels(saved(paletted(values(8), palette), "GIF", optimize=False)), values(8))
    assert np.array_equal(labels(saved(paletted(values(8), greys(range(256))), "GIF", optimize=False)), values(8))


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_several_frames_are_refused_and_counted(kind: str) -> None:
    frames = [paletted(values(bits), [(i, 0, 9) for i in range(256)]) for bits in (1, 2, 3)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert f"a {kind} of 3 frames" in refused(data)
    with pytest.raises(OvssError, match="3 frames"):
        images.decode_colours(data, "x")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_three_equal_channels_are_one_label(kind: str) -> None:
    assert np.array_equal(labels(saved(np.dstack([values(8)] * 3).astype(np.uint8), kind)), values(8))
    assert "RGB with unequal channels" in refused(saved(RGB, kind))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_dropped_if_it_is_opaque_and_refused_if_it_is_not(kind: str, channels: int) -> None:
    layers = np.dstack([values(8)] * channels + [np.full(SIDES, 255)]).astype(np.uint8)
    assert np.array_equal(labels(saved(layers, kind)), values(8))
    layers[1, 1, -1] = 254
    assert "alpha channel is not fully opaque" in refused(saved(layers, kind))


def test_a_transparent_grey_of_a_png_is_refused_where_it_occurs() -> None:
    assert "not fully opaque" in refused(png(np.array([[0, 3]]), 2, 0, (b"tRNS", b"\0\3")))
    assert np.array_equal(labels(png(np.array([[0, 2]]), 2, 0, (b"tRNS", b"\0\3"))), [[0, 2]])


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bits_in_several_channels_are_refused(colour_type: int, channels: int) -> None:
    data = png(np.dstack([values(16)] * channels), 16, colour_type)
    assert "16 bits per channel" in refused(data)
    with pytest.raises(OvssError, match="16 bits per channel"):
        images.decode_colours(data, "x")


@pytest.mark.parametrize("greatest", [1, 2, 3, 7, 15, 100, 127, 200, 254, 255, 256, 1000, 4095, 65534, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_every_sample_of_a_pgm_is_read_as_it_stands(greatest: int, plain: bool) -> None:
    samples = np.arange(greatest + 1)[None]
    wide = ">u2" if greatest > 255 else np.uint8
    pixels = " ".join(map(str, samples[0])).encode() if plain else samples.astype(wide).tobytes()
    header = f"P{2 if plain else 5}\n# a comment 9\n{samples.size} 1 # another\n{greatest}\n"
    found = labels(header.encode() + pixels)
    assert found.dtype == np.uint16
    assert np.array_equal(found, samples)


def test_samples_beyond_the_greatest_of_a_pgm_are_refused() -> None:
    assert "outside 0 to 7" in refused(b"P5 2 1 7\n\x07\x08")
    assert "damaged" in refused(b"P2 2 1 7\n7 8")
    assert "truncated" in refused(b"P5 2 1 7\n\x07")


def test_a_ppm_of_equal_channels_is_read_as_it_stands() -> None:
    assert np.array_equal(labels(b"P6 2 1 9\n\x01\x01\x01\x09\x09\x09"), [[1, 9]])
    assert np.array_equal(labels(b"P3 2 1 9\n1 1 1 9 9 9"), [[1, 9]])


@pytest.mark.parametrize("data", [b"P1 3 1\n0 1 1", b"P4 3 1\n\x60"])
def test_a_pbm_is_refused_because_its_one_is_black(data: bytes) -> None:
    message = refused(data)
    assert "stored 1 is black" in message
    assert "the displayed grey values or the stored numbers." in message


def test_floating_point_numbers_are_refused_as_such() -> None:
    for data in (
        b"Pf\n2 1\n-1.0\n" + np.array([1, 2], "<f4").tobytes(),
        b"PF\n1 1\n-1.0\n" + np.array([1, 2, 3], "<f4").tobytes(),
        tiff(page(np.ones(SIDES, np.float32), 32, x339=[3])),
        tiff(page(np.ones(SIDES), 64, x339=[3])),
    ):
        assert "floating-point numbers" in refused(data)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("big", [False, True])
def test_unsigned_samples_of_a_tiff_are_exact(bits: int, order: str, squeeze: bool, big: bool) -> None:
    data = tiff(page(values(bits), bits, order=order, squeeze=squeeze), order=order, big=big)
    if big and order == ">":  # Pillow does not read it
        assert "a TIFF of an unsupported kind" in refused(data)
        return
    found = labels(data)
    assert found.dtype == np.uint16
    assert np.array_equal(found, values(bits))


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("squeeze", [False, True])
def test_signed_samples_of_a_tiff_keep_their_sign(bits: int, order: str, squeeze: bool) -> None:
    samples = np.array([[-1, 0, 5, (1 << bits - 1) - 1, -(1 << bits - 1)]])
    data = tiff(page(samples, bits, order=order, squeeze=squeeze, x339=[2]), order=order)
    if bits > 8 and order == ">" and squeeze:  # Pillow takes the bytes in the wrong order
        assert "compressed, big-endian and signed" in refused(data)
        return
    found = labels(data)
    assert found.dtype == np.int32
    assert np.array_equal(found, samples)


def test_12_bits_are_exact() -> None:
    samples = np.array([[0, 1, 700, 4095]])
    assert np.array_equal(labels(tiff(page(samples, 12))), samples)


@pytest.mark.parametrize("squeeze", [False, True])
def test_unsigned_numbers_of_32_bits_never_become_negative(squeeze: bool) -> None:
    samples = np.array([[0, 70000, 2**31 - 1]])
    found = labels(tiff(page(samples, 32, squeeze=squeeze)))
    assert found.dtype == np.int32
    assert np.array_equal(found, samples)
    assert f"label {2**31}" in refused(tiff(page(np.array([[0, 2**31]]), 32, squeeze=squeeze)))


def test_64_bits_are_refused_by_name() -> None:
    assert "unsigned numbers of 64 bits" in refused(tiff(page(values(8), 64)))


def test_pages_of_a_tiff_are_refused_and_counted() -> None:
    data = tiff(page(values(1), 8), page(values(2), 8), page(values(3), 8))
    assert "a TIFF with 3 pages" in refused(data)
    with pytest.raises(OvssError, match="3 pages"):
        images.decode_colours(data, "x")
    stack = page(values(8), 8)
    said = (270, "B", list(b"ImageJ=1.53t\nimages=3\nslices=3\n\0"))
    assert "3 pages" in refused(tiff((stack[0] * 3, [*stack[1], said])))


def test_smaller_copies_in_a_tiff_are_no_pages() -> None:
    smaller = page(values(8)[::2, ::2], 8, x254=[1])
    assert np.array_equal(labels(tiff(page(values(8), 8), smaller, smaller)), values(8))
    assert np.array_equal(labels(tiff(page(values(8), 8), page(values(8)[::2], 8, x255=[2]))), values(8))
    assert "2 pages" in refused(tiff(smaller, page(values(8), 8)))
    assert "2 pages" in refused(tiff(page(values(8), 8), page(values(1), 1, x254=[4])))


@pytest.mark.parametrize("photometric", [[0], []])
@pytest.mark.parametrize("bits", [1, 4, 8, 16])
def test_white_as_zero_is_refused_and_both_readings_are_named(photometric: list[int], bits: int) -> None:
    message = refused(tiff(page(values(bits), bits, x262=photometric)))
    assert "WhiteIsZero" in message
    assert "the displayed grey values or the stored numbers." in message


@pytest.mark.parametrize(("photometric", "name"), [(4, "transparency mask"), (5, "CMYK"), (6, "YCbCr"), (8, "CIELab")])
def test_other_meanings_of_samples_are_refused_by_name(photometric: int, name: str) -> None:
    for read in (images.decode_labels, images.decode_colours):
        with pytest.raises(OvssError, match=f"photometric tag is {name}"):
            read(tiff(page(RGB, 8, photometric)), "x")


@pytest.mark.parametrize("scale", [1, 256, 257])
def test_a_tiff_with_a_coloured_palette_gives_its_indices(scale: int) -> None:
    palette = [scale * level for level in (*range(256), *range(255, -1, -1), *[9] * 256)]
    assert np.array_equal(labels(tiff(page(values(8), 8, 3, x320=palette))), values(8))
    grey = [scale * level for level in [*range(256)] * 3]
    assert np.array_equal(labels(tiff(page(values(8), 8, 3, x320=grey))), values(8))


def test_samples_beside_the_label_are_refused() -> None:
    two = np.dstack([values(8), values(8)])
    assert "2 samples per pixel" in refused(tiff(page(two, 8, x338=[0])))
    assert "2 samples per pixel" in refused(tiff(page(two, 8)))
    four = np.dstack([values(8)] * 4)
    assert "4 samples per pixel" in refused(tiff(page(four, 8, 2, x338=[0])))
    assert "not fully opaque" in refused(tiff(page(four, 8, 2)))
    assert "5 samples per pixel" in refused(tiff(page(np.dstack([values(8)] * 5), 8, 2, x338=[0, 0])))


def test_channels_that_are_kept_in_planes_are_read() -> None:
    equal = np.stack([values(8)] * 3).astype(np.uint8)
    assert np.array_equal(labels(planar(equal)), values(8))
    assert np.array_equal(images.decode_colours(planar(RGB.transpose(2, 0, 1)), "x"), RGB)


def planar(layers: np.ndarray) -> bytes:
    """A TIFF of colours (3, H, W), a strip for each."""
    pixels, tags = page(layers.reshape(-1, layers.shape[2]), 8, 2)
    sizes = {257: [layers.shape[1]], 258: [8] * 3, 277: [3], 278: [layers.shape[1]], 284: [2]}
    known = {number: (kind, content) for number, kind, content in tags}
    known |= {number: ("H", content) for number, content in sizes.items()}
    known |= {273: ("I", [8 + i * layers[0].size for i in range(3)]), 279: ("I", [layers[0].size] * 3)}
    return tiff((pixels, [(number, *rest) for number, rest in known.items()]))


@pytest.mark.parametrize(
    ("compression", "name"), [(6, "old-style JPEG"), (7, "JPEG"), (34712, "JPEG 2000"), (50001, "WebP")]
)
def test_lossy_compression_inside_a_tiff_is_refused_as_such(compression: int, name: str) -> None:
    message = refused(tiff(page(values(8), 8, x259=[compression])))
    assert f"{name} compression, which is lossy" in message


def test_a_real_tiff_with_jpeg_inside_is_refused_as_lossy() -> None:
    assert "JPEG compression, which is lossy" in refused(saved(RGB[..., 0], "TIFF", compression="jpeg"))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "JPEG2000"])
def test_formats_for_photographs_are_refused_by_name(kind: str) -> None:
    data = saved(RGB, kind)
    assert f"{kind} may change label values" in refused(data)
    with pytest.raises(OvssError, match=kind):
        images.decode_colours(data, "x")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_an_orientation_is_refused_and_both_readings_are_named(kind: str) -> None:
    for turned, fits in ((1, True), (6, False), (3, False)):
        tag = Image.Exif()
        tag[0x0112] = turned
        data = saved(RGB[..., 0], kind, exif=tag)
        if fits:
            assert np.array_equal(labels(data), RGB[..., 0])
        else:
            assert f"EXIF orientation is {turned}. It is unclear whether the labels are the stored" in refused(data)


def test_an_orientation_behind_the_pixels_of_a_png_is_seen() -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    data = saved(RGB[..., 0], exif=tag)
    at = data.index(b"eXIf") - 4
    (length,) = struct.unpack_from(">I", data, at)
    chunk, rest = data[at : at + 12 + length], data[:at] + data[at + 12 + length :]
    assert "EXIF orientation is 6" in refused(rest[:-12] + chunk + rest[-12:])


def test_colours_are_read_from_every_plain_layout() -> None:
    palette = [(i, 255 - i, 7) for i in range(256)]
    looked_up = np.array(palette, np.uint8)[values(4)]
    for data in (
        png(values(4), 4, 3, plte(palette[:16])),
        bmp(values(4), 4, palette[:16]),
        saved(paletted(values(4), palette), "GIF"),
        saved(looked_up, "PPM"),
        saved(np.dstack([looked_up, np.full(SIDES, 255, np.uint8)])),
    ):
        assert np.array_equal(images.decode_colours(data, "x"), looked_up)
    for scale in (1, 256, 257):
        colour_map = [scale * colour[channel] for channel in range(3) for colour in palette]
        assert np.array_equal(images.decode_colours(tiff(page(values(4), 8, 3, x320=colour_map)), "x"), looked_up)
    grey = np.repeat(values(4)[..., None], 3, 2)
    assert np.array_equal(images.decode_colours(png(values(4), 4, 0), "x"), grey * 17)
    assert np.array_equal(images.decode_colours(bmp(values(4), 4, greys(range(16))), "x"), grey)


def test_transparent_colours_are_refused() -> None:
    palette = [(i, 255 - i, 7) for i in range(4)]
    for data in (
        saved(np.dstack([RGB, RGB[..., 0]])),
        png(np.array([[0, 1]]), 2, 3, plte(palette), (b"tRNS", b"\0")),
    ):
        with pytest.raises(OvssError, match="not fully opaque"):
            images.decode_colours(data, "x")


def test_a_ppm_whose_colours_are_scaled_is_refused() -> None:
    with pytest.raises(OvssError, match="maximum sample of 100"):
        images.decode_colours(b"P6 1 1 100\n\x01\x02\x03", "x")


def test_the_three_public_cases_are_right(shared: Path) -> None:
    cases = shared / "cases/turn-2"
    for name, said in (("grey-palette-png", "displays index 1 as grey 3"), ("tiff-pages", "3 pages")):
        for file in sorted((cases / name / "labels").iterdir()):
            assert said in refused(file.read_bytes())
    for file in sorted((cases / "grey-png-4-bit/labels").iterdir()):
        right = np.array(Image.open(cases / "grey-png-4-bit/pred" / file.name))
        assert np.array_equal(labels(file.read_bytes()), right)


def test_bits_are_those_of_the_labels_that_are_read(tmp_path: Path) -> None:
    grey = np.full(SIDES, 3, np.uint8)
    for number, (data, bits) in enumerate(
        [
            (png(values(4), 4, 0), 8),
            (saved(grey), 8),
            (saved(np.dstack([grey, grey])), 8),
            (saved(grey.astype(np.uint16)), 16),
            (tiff(page(values(8), 32)), 32),
            (saved(RGB), 24),
        ]
    ):
        (tmp_path / str(number)).write_bytes(data)
        assert images.bits(tmp_path / str(number)) == bits


@pytest.mark.parametrize("head", [b"P5\n2 1\n255\n\0\1", b"P5\n2 1\n300\n\0\0\0\1", b"P2\n2 1\n255\n0 1\n"])
def test_several_images_in_one_pgm_are_refused(head: bytes) -> None:
    assert images.decode_labels(head, "a.pgm").tolist() == [[0, 1]]
    with pytest.raises(OvssError, match="several images in one file"):
        images.decode_labels(head + head, "a.pgm")
