"""Decoder of label maps. It returns the numbers in the file, and raises an error for ambiguous files.

Pillow changes some of the numbers for display. Dimensions: H W pixels, C channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from PIL import ImageFile

from ovss_ray.errors import OvssError
from ovss_ray.io.images import plain_formats, tiff_tags
from ovss_ray.io.images.pillow_files import EXACT, PIXELS, orientation, pixels_of

WIDENED = {2: 85, 4: 17}
"""Bits of a grey sample → factor by which Pillow multiplies the sample."""
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "I", "I;16", "I;16B", "I;16L")
"""Pillow modes of images that may be label maps."""


@dataclass(frozen=True)
class LabelFile:
    """Opened label file, and the format of its samples."""

    picture: ImageFile.ImageFile
    data: bytes
    name: str
    page: tiff_tags.Tags | None
    """tags of the only page of a TIFF; None for other formats"""
    bits: int
    """bits per channel"""
    grey: bool
    """True for PGM, PPM, GIF, and for PNG or TIFF with one number per pixel (grey value or palette index)

    If `grey` is True, `decode_labels` accepts any number of bits. If `grey` is False, `decode_labels` accepts only 1,
    2, 4 or 8 bits per channel."""


def decode_labels(data: bytes, name: str, *, cap: int = PIXELS) -> np.ndarray:
    """Return the labels of a label map, (H, W) uint16. If the file has signed or 32-bit numbers, labels are int32.

    Labels are the numbers in the file. In a palette image, labels are the palette indices. In an RGB image, the three
    channels of a pixel must be equal. The label is then the value of one channel.

    Raises OvssError for a damaged file, a lossy or unsupported format, or more than `cap` pixels. Also raises OvssError
    for unequal channels, a label above 2^31 - 1, or an ambiguous file. A file is ambiguous if it has:

    - a grey palette that displays an index as another number, such as index 1 as grey 255
    - an encoding in which 0 is white
    - several pages or frames
    - transparent pixels
    - an EXIF orientation
    """
    samples, palette = stored(data, name, cap)
    if palette is not None:
        _palette_is_its_indices(samples, palette, name)
    return _indices(samples, name)


def stored(data: bytes, name: str, cap: int = PIXELS) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the integer samples of a label map, (H, W, C), and the palette, (n, 3) uint8 RGB or None.

    A palette has n colours. Raises OvssError for the files that `decode_labels` refuses, with three exceptions: unequal
    channels, labels above 2^31 - 1, and grey palettes whose grey values are not the indices.
    """
    with _opened(data, name, cap) as file:
        _one_zero(file)
        if file.bits not in (1, 2, 4, 8) and not file.grey:
            _refuse_depth(file)
        return _stored(file)


def decode_colours(data: bytes, name: str, *, cap: int = PIXELS) -> np.ndarray:
    """Return the colour of each pixel of a label map, (H, W, 3) uint8 RGB. Palette indices and grey become RGB.

    Channels must have 1, 2, 4 or 8 bits. In the header of a PGM or PPM, the maximum sample must be 1 or 255. Raises
    OvssError for any other number of bits or maximum sample. Also raises OvssError for a damaged file, a lossy or
    unsupported format, or more than `cap` pixels. Several pages or frames, a transparent pixel, and an EXIF
    orientation raise OvssError, too.
    """
    with _opened(data, name, cap) as file:
        if file.bits not in (1, 2, 4, 8):
            _refuse_depth(file)
        if file.picture.format == "BMP" or (file.page and file.picture.mode in ("P", "PA")):  # Pillow misreads some
            samples, palette = _stored(file)
            return samples if palette is None else palette[samples[..., 0]]
        if file.picture.has_transparency_data:
            _opaque(np.array(file.picture.convert("RGBA"))[..., 3], name)
        return np.array(file.picture.convert("RGB"))


@contextmanager
def _opened(data: bytes, name: str, cap: int) -> Iterator[LabelFile]:
    """Open a file with one upright image in a lossless format. Raises OvssError for other files."""
    page = tiff_tags.only_page(data, name) if tiff_tags.is_tiff(data) else None
    with pixels_of(data, name, cap) as picture:
        if picture.format not in EXACT:
            raise OvssError(f"{name}: {picture.format} may change label values. Save the labels as PNG or TIFF")
        frames = getattr(picture, "n_frames", 1) if page is None else 1
        if frames > 1:
            raise OvssError(
                f"{name}: a {picture.format} of {frames} frames; a label map is one image. Save one frame as PNG with "
                "Pillow: `picture = Image.open(file)`, `picture.seek(number)`, then `picture.save('labels.png')`. The "
                "first frame has the number 0"
            )
        if picture.format == "GIF" and picture.tile[0].extents != (0, 0, *picture.size):
            raise OvssError(f"{name}: a GIF whose frame does not cover the whole image. Save the image as PNG")
        _upright(picture, name)
        if plain_formats.is_floating(data) or picture.mode not in MODES:
            kind = "floating-point numbers" if picture.mode == "F" else picture.mode
            raise OvssError(f"{name}: its pixels are {kind}, expected whole numbers or RGB. Save labels as PNG")
        yield LabelFile(picture, data, name, page, *_layout(picture, data, page))


def _layout(picture: ImageFile.ImageFile, data: bytes, page: tiff_tags.Tags | None) -> tuple[int, bool]:
    """Return the fields `bits` and `grey` of a LabelFile."""
    if page is not None:
        return tiff_tags.first(page, tiff_tags.BITS, 1), tiff_tags.first(page, tiff_tags.SAMPLES, 1) == 1
    if picture.format == "PNG":
        if data[12:16] != b"IHDR":
            raise SyntaxError("the PNG does not begin with its header")
        return data[24], data[25] in (0, 3)
    if picture.format == "BMP":
        return (5, False) if plain_formats.bitmap_bits(data) == 16 else (8, False)
    if picture.format == "PPM":  # all bits are read, for any maximum sample
        return (8 if plain_formats.greatest(picture, data) in (1, 255) else 16), True
    return 8, True


def _upright(picture: ImageFile.ImageFile, name: str) -> None:
    """Raise OvssError for an image with an EXIF orientation, which some programs apply and others ignore."""
    if picture.format == "PNG":
        picture.load()  # a PNG may store the tag after its pixels; a loaded TIFF has lost it
    if (turned := orientation(picture)) in range(2, 9):
        raise OvssError(
            f"{name}: its EXIF orientation is {turned}. It is unclear whether the labels are the stored pixels, or the "
            "pixels after EXIF has turned the image. If the labels are the turned pixels, save these pixels with "
            "Pillow: `ImageOps.exif_transpose(Image.open(file)).save('labels.png')`. If the labels are the stored "
            f"pixels, remove the EXIF orientation. Run `exiftool -Orientation= {name}`"
        )


def _one_zero(file: LabelFile) -> None:
    """Raise OvssError for a file whose encoding displays the stored number 0 as white."""
    page = file.page
    kind = "a PBM, in which a stored 1 is black" if file.data[:2] in (b"P1", b"P4") else None
    if page is not None and tiff_tags.first(page, tiff_tags.PHOTOMETRIC, 0) == 0:
        kind = "a TIFF whose photometric tag is WhiteIsZero or missing, so that a stored 0 is white"
    if kind:
        raise OvssError(
            f"{file.name}: {kind}. It is unclear whether the labels are the displayed grey values or the stored "
            "numbers. Convert the file to PNG with Pillow. If the labels are the displayed grey values: "
            "`Image.open(file).save('labels.png')`. If the labels are the stored numbers: "
            "`ImageOps.invert(Image.open(file)).save('labels.png')`"
        )


def _refuse_depth(file: LabelFile) -> NoReturn:
    depth = f"{file.bits} bits per channel"
    if file.picture.format == "PPM":
        depth = f"a maximum sample of {plain_formats.greatest(file.picture, file.data)}"
    raise OvssError(
        f"{file.name}: found {depth}, which is not supported for colours or alpha. If the pixels are colours, save "
        "them with 8 bits per channel (0 to 255). If the pixels are labels, save a grey PNG of 8 or 16 bits without "
        "alpha"
    )


def _stored(file: LabelFile) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the stored samples, (H, W, C), and the palette, (n, 3) uint8 RGB or None.

    Raises OvssError for a transparent pixel.
    """
    picture = file.picture
    if picture.format == "PPM":
        return plain_formats.portable(picture, file.data), None
    if picture.format == "BMP" and plain_formats.bitmap_bits(file.data) <= 8:
        indices, palette = plain_formats.bitmap(picture, file.data)
        return indices[..., None], palette
    samples = _samples(file)
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        _opaque(samples[..., -1], file.name)
        samples = samples[..., :-1]
    # The transparency of palette colours is ignored.
    key = picture.info.get("transparency") if picture.format == "PNG" and picture.mode != "P" else None
    if key is not None and (samples == key).all(-1).any():
        _opaque(np.zeros(1), file.name)
    return samples, _palette(picture, file.page)


def _samples(file: LabelFile) -> np.ndarray:
    """Return the samples as they are stored in the file, (H, W, C)."""
    samples = np.array(file.picture)
    samples = samples[..., None] if samples.ndim == 2 else samples
    if file.picture.mode == "L" and file.bits in WIDENED:
        samples //= WIDENED[file.bits]
    # Pillow returns signed samples of 8 bits as unsigned, and unsigned samples of 32 bits as signed.
    signed = file.page is not None and tiff_tags.first(file.page, tiff_tags.FORMAT, 1) == 2
    if signed and file.bits == 8:
        return samples.view(np.int8)
    return samples.view(np.uint32) if samples.dtype == np.int32 and not signed else samples


def _palette(picture: ImageFile.ImageFile, page: tiff_tags.Tags | None) -> np.ndarray | None:
    """Return the palette of a file, (n, 3) uint8 RGB; None for a file without a palette."""
    if picture.mode not in ("P", "PA"):
        return None
    if page is None:
        return np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colours = np.array(page[tiff_tags.COLOR_MAP]).reshape(3, -1).T
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)  # some programs write 8 bits of 16


def _opaque(alpha: np.ndarray, name: str) -> None:
    """Raise OvssError unless an alpha channel, uint8, is fully opaque."""
    if (alpha < 255).any():
        raise OvssError(
            f"{name}: its alpha channel is not fully opaque. It is unclear whether transparent pixels have a label. "
            "Give pixels without a label a separate value. Then remove the alpha channel with Pillow: "
            "`Image.open(file).convert('RGB').save('labels.png')`. For a grey image, write 'L' instead of 'RGB'"
        )


def _palette_is_its_indices(indices: np.ndarray, palette: np.ndarray, name: str) -> None:
    """Raise OvssError if a grey palette displays one of `indices` as another number, such as index 1 as grey 255."""
    if (palette != palette[:, :1]).any():
        return
    used = np.unique(indices)
    used = used[used < len(palette)]
    other = used[palette[used, 0] != used]
    if len(other):
        index, grey = other[0], palette[other[0], 0]
        raise OvssError(
            f"{name}: its palette displays index {index} as grey {grey}. It is unclear whether the labels are the "
            "indices or the grey values. Save the file as grey PNG with Pillow. For grey values: "
            "`Image.open(file).convert('L').save('labels.png')`. For indices: "
            "`Image.fromarray(numpy.array(Image.open(file))).save('labels.png')`"
        )


def _indices(samples: np.ndarray, name: str) -> np.ndarray:
    """Return integer samples (H, W, C) as labels (H, W): int32 for signed or 32-bit samples, otherwise uint16.

    Raises OvssError if the channels of a pixel are not equal, or if a label is above 2^31 - 1.
    """
    labels = samples[..., 0]
    if samples.shape[2] > 1 and (samples != samples[..., :1]).any():
        raise OvssError(
            f"{name}: a label map has one whole number per pixel, but this file is RGB with unequal channels. "
            "If each colour stands for a class, set `encoding: rgb` in the YAML of a folder benchmark. In the same "
            "YAML, list the colour of each class under `colours`"
        )
    if (
        labels.dtype.kind == "u"
        and labels.dtype.itemsize == 4
        and labels.size
        and labels.max() > np.iinfo(np.int32).max
    ):
        raise OvssError(f"{name}: the label {labels.max()} does not fit into 31 bits. Save labels with 8 or 16 bits")
    wide = labels.dtype.kind == "i" or labels.dtype.itemsize == 4
    return labels.astype(np.int32 if wide else np.uint16)
