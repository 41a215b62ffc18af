"""Reader of TIFF tags. Pillow hides some tags that decide the meaning of stored numbers.

Source: TIFF 6.0 (Adobe, 1992), §2 "TIFF structure" and §8 "Baseline field reference".
"""

import re
import struct

from ovss_ray.errors import OvssError
from ovss_ray.io.images.pillow_files import readable

Tags = dict[int, tuple[int, ...]]

(SUBFILE, OLD_SUBFILE, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION) = (254, 255, 258, 259, 262, 270)
(ORIENTATION, SAMPLES, COLOR_MAP, EXTRA, FORMAT) = (274, 277, 320, 338, 339)
WANTED = {*(SUBFILE, OLD_SUBFILE, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION)} | {
    *(ORIENTATION, SAMPLES, COLOR_MAP, EXTRA, FORMAT)
}
KINDS = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 16: "Q"}
"""TIFF type of integer or byte values → format character of `struct`."""
LOSSY = {
    6: "old-style JPEG",
    7: "JPEG",
    32809: "ThunderScan",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "JPEG",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""TIFF number of a lossy compression, which may change values → name of the compression."""
# The supported interpretations BlackIsZero (1), RGB (2) and palette (3) occur in no message.
PHOTOMETRICS = {0: "WhiteIsZero", 4: "transparency mask", 5: "CMYK", 6: "YCbCr", 8: "CIELab", 32803: "CFA"}
"""Number of a photometric interpretation → name of the interpretation in messages."""
FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
"""Sample format → its name in messages."""


def is_tiff(data: bytes) -> bool:
    """Return whether a file has the first bytes of TIFF or BigTIFF."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def only_page(data: bytes, name: str) -> Tags:
    """Return the tags of the only page of a TIFF. Smaller copies of the page do not count as pages.

    Raises OvssError for a damaged file, several pages, lossy compression, or unsupported samples.
    """
    with readable(name):
        pages = _pages(data)
    # Cloud-Optimised GeoTIFFs contain smaller copies of a page.
    full = len(pages) if _reduced(pages[0]) else sum(not _reduced(page) for page in pages)
    full = max(full, _stack(pages[0]))
    if full > 1:
        raise OvssError(
            f"{name}: a TIFF with {full} pages; a label map is one page. If the pages are one mask per class, convert "
            "them to one image of class numbers. If one page is the label map, save this page with Pillow: "
            "`picture = Image.open(file)`, `picture.seek(number)`, then `picture.save('labels.png')`. The first page "
            "has the number 0"
        )
    if compression := LOSSY.get(first(pages[0], COMPRESSION, 1)):
        raise OvssError(
            f"{name}: a TIFF with {compression} compression, which is lossy: it may change label values. "
            "Save labels as PNG, or as TIFF with deflate or LZW"
        )
    _plain_samples(pages[0], name)
    if _kept_backwards(pages[0], data):
        raise OvssError(f"{name}: a compressed, big-endian and signed TIFF is not supported. Save it as PNG")
    return pages[0]


def _plain_samples(page: Tags, name: str) -> None:
    """Raise OvssError unless the samples are integers of at most 32 bits, for grey, palette indices or RGB.

    A further sample per pixel is allowed if the sample is alpha.
    """
    kinds = sorted({FORMATS.get(kind, f"format {kind}") for kind in page.get(FORMAT, (1,))})
    bits = first(page, BITS, 1)
    if kinds not in (["signed"], ["unsigned"]) or bits > 32:
        raise OvssError(
            f"{name}: its samples are {' and '.join(kinds)} numbers of {bits} bits. Labels must be whole numbers of at "
            "most 32 bits: convert them with `labels.astype(numpy.uint16)`"
        )
    meaning = first(page, PHOTOMETRIC, 0)
    if meaning > 3:
        kind = PHOTOMETRICS.get(meaning, str(meaning))
        raise OvssError(
            f"{name}: a TIFF whose photometric tag is {kind} is not supported for labels. Save the labels as PNG"
        )
    samples, colours = first(page, SAMPLES, 1), 3 if meaning == 2 else 1
    has_alpha = samples == colours + 1 and first(page, EXTRA, 2 if colours == 3 else 0) != 0
    if samples != colours and not has_alpha:
        raise OvssError(
            f"{name}: a TIFF with {samples} samples per pixel; only one sample can be the label. Save that sample alone"
        )


def _kept_backwards(page: Tags, data: bytes) -> bool:
    """Return whether Pillow (at least up to 13.0) reads the samples of a page in the wrong byte order."""
    wide_and_signed = first(page, FORMAT, 1) == 2 and first(page, BITS, 1) > 8
    return wide_and_signed and first(page, COMPRESSION, 1) != 1 and data[:2] == b"MM"


def first(page: Tags, tag: int, default: int) -> int:
    """Return the first value of a tag, or `default` if the page does not have the tag."""
    return page.get(tag, (default,))[0]


def _reduced(page: Tags) -> bool:
    """Return whether a page is a smaller copy of another page."""
    return bool(first(page, SUBFILE, 0) & 1) or first(page, OLD_SUBFILE, 1) == 2


def _stack(page: Tags) -> int:
    """Return the number of images that ImageJ has stored as a single page; 1 for files of other programs."""
    count = re.match(rb"ImageJ=[^\0]*?\bimages=(\d{1,9})\b", bytes(value % 256 for value in page.get(DESCRIPTION, ())))
    return int(count[1]) if count else 1


def _pages(data: bytes) -> list[Tags]:
    """Return the tags of all pages. Raises struct.error for a truncated file, ValueError for a file without pages."""
    order = "<" if data[:1] == b"I" else ">"
    big = 43 in data[2:4]
    (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    pages: list[Tags] = []
    seen: set[int] = set()
    while place and place not in seen:
        seen.add(place)
        page, place = _page(data, place, order, big)
        pages.append(page)
    if not pages:
        raise ValueError("a TIFF without a page")
    return pages


def _page(data: bytes, place: int, order: str, big: bool) -> tuple[Tags, int]:
    """Return the tags of the page at offset `place`, and the offset of the next page. Only tags in WANTED are read.

    After the last page, the returned offset is 0. `order` is the byte order, "<" or ">". `big` is True for a BigTIFF.
    """
    # A BigTIFF has the same structure as a TIFF, with wider numbers.
    counter, offset, room = ("Q", "Q", 8) if big else ("H", "I", 4)
    (entries,) = struct.unpack_from(order + counter, data, place)
    place += struct.calcsize(order + counter)
    page: Tags = {}
    for _ in range(entries):
        tag, kind, count = struct.unpack_from(order + "HH" + offset, data, place)
        at = place + 4 + room
        place = at + room
        if tag in WANTED and kind in KINDS and count:
            form = f"{order}{count}{KINDS[kind]}"
            (start,) = (at,) if struct.calcsize(form) <= room else struct.unpack_from(order + offset, data, at)
            page[tag] = struct.unpack_from(form, data, start)
    return page, struct.unpack_from(order + offset, data, place)[0]
