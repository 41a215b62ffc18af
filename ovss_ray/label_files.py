"""Label maps from image files: the numbers that are stored, and an error wherever a file can be read in two ways.

Between a file and an array lie palette, bit depth, alpha, pages, photometric tag and sample format. Pillow shows a
picture and so scales, looks up and drops; here each of them is looked at. Letters in shapes: H W pixels, C channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from PIL import ImageFile

from ovss_ray import plain_images, tiff_tags
from ovss_ray.errors import OvssError
from ovss_ray.image_files import EXACT, PIXELS, orientation, pixels_of

WIDENED = {2: 85, 4: 17}
"""Bits of a grey sample → what Pillow multiplies it by."""
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "I", "I;16", "I;16B", "I;16L")
"""Modes of Pillow that may hold labels."""


@dataclass(frozen=True)
class LabelFile:
    """An opened label file, and how its samples are stored."""

    picture: ImageFile.ImageFile
    data: bytes
    name: str
    page: tiff_tags.Tags | None
    """the tags of a TIFF"""
    bits: int
    """of a channel"""
    grey: bool
    """whether a pixel has one sample and nothing else"""


def decode_labels(data: bytes, name: str, *, cap: int = PIXELS) -> np.ndarray:
    """Decode a label map of one number per pixel to (H, W) uint16, or int32 if the numbers are signed or of 32 bits.

    Samples of 1, 2 and 4 bits are read as they are stored. Palettes give their indices, equal channels their value.

    Raises OvssError naming the file if its channels differ, or if its format may change values as JPEG does. Files
    that can be read in two ways are refused too, and the message names both readings: a grey palette that shows other
    values than its indices, a stored 0 that is white, several pages or frames, alpha that is not wholly opaque, and
    an EXIF orientation. For damaged files and the cap, see `images.decode`.
    """
    samples, palette = stored(data, name, cap)
    if palette is not None:
        _palette_is_its_indices(samples, palette, name)
    return _indices(samples, name)


def stored(data: bytes, name: str, cap: int = PIXELS) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the samples of a label map, (H, W, C), and its palette, (n, 3) uint8 RGB, or None. Raises OvssError."""
    with _opened(data, name, cap) as file:
        _one_zero(file)
        if file.bits not in (1, 2, 4, 8) and not file.grey:
            _refuse_depth(file)
        return _stored(file)


def decode_colours(data: bytes, name: str, *, cap: int = PIXELS) -> np.ndarray:
    """Decode a label map of one colour per pixel to (H, W, 3) uint8 RGB: palettes are looked up, grey is repeated.

    Raises OvssError for more than 8 bits a channel, for alpha that is not wholly opaque, for several pages or frames,
    for an EXIF orientation, and for formats that may change colours.
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
    """Open a file that holds one upright image and keeps the values that were saved. Raises OvssError for others."""
    page = tiff_tags.only_page(data, name) if tiff_tags.is_tiff(data) else None
    with pixels_of(data, name, cap) as picture:
        if picture.format not in EXACT:
            raise OvssError(
                f"{name}: a {picture.format}, which does not keep the exact values of labels. Save them as PNG or TIFF"
            )
        frames = getattr(picture, "n_frames", 1) if page is None else 1
        if frames > 1:
            raise OvssError(
                f"{name}: a {picture.format} of {frames} frames, and a label map is one image. Save one frame as PNG: "
                "`picture.seek(frame)`, then `picture.save('labels.png')` in Pillow"
            )
        if picture.format == "GIF" and picture.tile[0].extents != (0, 0, *picture.size):
            raise OvssError(f"{name}: a GIF whose frame does not cover the picture. Save the whole picture as PNG")
        _upright(picture, name)
        if plain_images.is_floating(data) or picture.mode not in MODES:
            kind = "floating-point numbers" if picture.mode == "F" else picture.mode
            raise OvssError(f"{name}: its pixels are {kind}; labels are whole numbers or RGB. Save them as PNG")
        yield LabelFile(picture, data, name, page, *_layout(picture, data, page))


def _layout(picture: ImageFile.ImageFile, data: bytes, page: tiff_tags.Tags | None) -> tuple[int, bool]:
    """Return the bits of a channel, and whether that is all that a pixel has."""
    if page is not None:
        return tiff_tags.first(page, tiff_tags.BITS, 1), tiff_tags.first(page, tiff_tags.SAMPLES, 1) == 1
    if picture.format == "PNG":
        if data[12:16] != b"IHDR":
            raise SyntaxError("a PNG that does not begin with its header")
        return data[24], data[25] in (0, 3)
    if picture.format == "BMP":
        return (5, False) if plain_images.bitmap_bits(data) == 16 else (8, False)
    if picture.format == "PPM":  # read to the last bit, whatever the greatest sample
        return (8 if plain_images.greatest(picture, data) in (1, 255) else 16), True
    return 8, True


def _upright(picture: ImageFile.ImageFile, name: str) -> None:
    """Raise OvssError for an image with an EXIF orientation, which some programs apply and others do not."""
    if picture.format == "PNG":
        picture.load()  # it may have the tag behind its pixels; a TIFF has it no more when it is loaded
    if (turned := orientation(picture)) in range(2, 9):
        raise OvssError(
            f"{name}: its EXIF orientation is {turned}: are the labels as they are stored, or as they are shown, "
            "turned? For what is shown, save `ImageOps.exif_transpose(picture)` of Pillow; for what is stored, remove "
            f"the tag: exiftool -Orientation= {name}"
        )


def _one_zero(file: LabelFile) -> None:
    """Raise OvssError for a file whose zero is white."""
    page = file.page
    kind = "a PBM, in which the stored 1 is black" if file.data[:2] in (b"P1", b"P4") else None
    if page is not None and tiff_tags.first(page, tiff_tags.PHOTOMETRIC, 0) == 0:
        kind = "a TIFF whose photometric tag is WhiteIsZero or missing, so that the stored 0 is white"
    if kind:
        raise OvssError(
            f"{file.name}: {kind}: is a label the stored number, or the grey value that is shown? Save it as PNG in "
            "Pillow: for what is shown `Image.open(file).save('labels.png')`, for what is stored "
            "`ImageOps.invert(Image.open(file)).save('labels.png')`"
        )


def _refuse_depth(file: LabelFile) -> NoReturn:
    depth = f"{file.bits} bits a channel"
    if file.picture.format == "PPM":
        depth = f"a greatest sample of {plain_images.greatest(file.picture, file.data)}"
    raise OvssError(
        f"{file.name}: {depth}; colours and alpha are read with 8 bits, 0 to 255. Save colours with 8 bits "
        "a channel, and labels of one number per pixel as grey PNG of 8 or 16 bits"
    )


def _stored(file: LabelFile) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the samples as they stand in a file, (H, W, C), and its palette, (n, 3) uint8 RGB, if it has one.

    Raises OvssError for a pixel that is not wholly opaque or not there.
    """
    picture = file.picture
    if picture.format == "PPM":
        return plain_images.portable(picture, file.data), None
    if picture.format == "BMP" and plain_images.bitmap_bits(file.data) <= 8:
        indices, palette = plain_images.bitmap(picture, file.data)
        return indices[..., None], palette
    samples = _samples(file)
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        _opaque(samples[..., -1], file.name)
        samples = samples[..., :-1]
    key = picture.info.get("transparency") if picture.format == "PNG" and picture.mode != "P" else None
    if key is not None and (samples == key).all(-1).any():
        _opaque(np.zeros(1), file.name)
    return samples, _palette(picture, file.page)


def _samples(file: LabelFile) -> np.ndarray:
    """Read the pixels, and undo what Pillow does to those of few bits and to signs: (H, W, C)."""
    samples = np.array(file.picture)
    samples = samples[..., None] if samples.ndim == 2 else samples
    if file.picture.mode == "L" and file.bits in WIDENED:
        samples //= WIDENED[file.bits]
    signed = file.page is not None and tiff_tags.first(file.page, tiff_tags.FORMAT, 1) == 2
    if signed and file.bits == 8:
        return samples.view(np.int8)
    return samples.view(np.uint32) if samples.dtype == np.int32 and not signed else samples


def _palette(picture: ImageFile.ImageFile, page: tiff_tags.Tags | None) -> np.ndarray | None:
    """Return the palette that a file has, (n, 3) uint8 RGB, or None."""
    if picture.mode not in ("P", "PA"):
        return None
    if page is None:
        return np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colours = np.array(page[tiff_tags.COLOR_MAP]).reshape(3, -1).T
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)  # some programs write 8 bits of 16


def _opaque(alpha: np.ndarray, name: str) -> None:
    """Raise OvssError unless all of an alpha channel, uint8, is opaque."""
    if (alpha < 255).any():
        raise OvssError(
            f"{name}: it has an alpha channel that is not wholly opaque: is a transparent pixel labelled, or is it "
            "without a label? Give pixels without a label a value of their own, and remove the alpha channel: "
            "`picture.convert('RGB')` in Pillow, or of grey `picture.convert('L')`"
        )


def _palette_is_its_indices(indices: np.ndarray, palette: np.ndarray, name: str) -> None:
    """Raise OvssError for a grey palette in which an index that occurs is shown as another grey value."""
    if (palette != palette[:, :1]).any():
        return
    used = np.unique(indices)
    used = used[used < len(palette)]
    other = used[palette[used, 0] != used]
    if len(other):
        index, grey = other[0], palette[other[0], 0]
        raise OvssError(
            f"{name}: a palette of grey values, in which the index {index} is shown as grey {grey}: is the label the "
            f"index or the grey value? Save it as grey PNG: for the grey values "
            "`Image.open(file).convert('L').save('labels.png')` in Pillow, for the indices "
            "`Image.fromarray(numpy.array(Image.open(file))).save('labels.png')`"
        )


def _indices(samples: np.ndarray, name: str) -> np.ndarray:
    """Bring samples (H, W, C) of any whole numbers to labels (H, W), uint16 or int32. Raises OvssError for colours."""
    labels = samples[..., 0]
    if samples.shape[2] > 1 and (samples != samples[..., :1]).any():
        raise OvssError(
            f"{name}: a label map holds one whole number per pixel, and this file is RGB, with unequal channels. "
            "Colour-coded labels need a table of their colours: `encoding: rgb` in the YAML of a folder benchmark"
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
