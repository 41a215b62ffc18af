"""The tags of TIFF files, read by hand: Pillow hides some that decide what a stored number means.

TIFF 6.0 (Adobe, 1992), §2 "TIFF structure" and §8 "Baseline field reference"; BigTIFF has wider offsets.
"""

import re
import struct

from ovss_ray.errors import OvssError
from ovss_ray.image_files import readable

Tags = dict[int, tuple[int, ...]]

(SUBFILE, OLD_SUBFILE, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION) = (254, 255, 258, 259, 262, 270)
(ORIENTATION, SAMPLES, COLOR_MAP, EXTRA, FORMAT) = (274, 277, 320, 338, 339)
WANTED = {*(SUBFILE, OLD_SUBFILE, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION)} | {
    *(ORIENTATION, SAMPLES, COLOR_MAP, EXTRA, FORMAT)
}
KINDS = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 16: "Q"}
"""Types of a tag's values that are whole numbers or bytes → how `struct` calls them."""
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
"""Compressions that need not give back the values that were saved."""
PHOTOMETRICS = {0: "WhiteIsZero", 4: "transparency mask", 5: "CMYK", 6: "YCbCr", 8: "CIELab", 32803: "CFA"}
"""Meanings of samples, besides 1 (BlackIsZero), 2 (RGB) and 3 (palette), that messages name."""
FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
"""Sample formats."""


def is_tiff(data: bytes) -> bool:
    """Whether a file begins as TIFF and BigTIFF files do."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def only_page(data: bytes, name: str) -> Tags:
    """Return the tags of a TIFF's one page, whose samples are whole numbers and kept exactly.

    Pages that are marked as reduced copies of it, as Cloud-Optimised GeoTIFFs have them, do not count. Raises OvssError
    for several pages, for a compression that changes values, and for samples that are not whole numbers.
    """
    with readable(name):
        pages = _pages(data)
    full = len(pages) if _reduced(pages[0]) else sum(not _reduced(page) for page in pages)
    full = max(full, _stack(pages[0]))
    if full > 1:
        raise OvssError(
            f"{name}: a TIFF with {full} pages, and a label map is one page. If they are one mask per class, make one "
            "image of class numbers of them; if one of them is the label map, save it alone: "
            "`picture.seek(page)`, then `picture.save('labels.png')` in Pillow"
        )
    if how := LOSSY.get(first(pages[0], COMPRESSION, 1)):
        raise OvssError(
            f"{name}: a TIFF with {how} compression, which is lossy: it does not keep the exact values of labels. "
            "Save labels as PNG, or as TIFF with deflate or LZW"
        )
    _plain_samples(pages[0], name)
    if _kept_backwards(pages[0], data):
        raise OvssError(f"{name}: a TIFF that is compressed, big-endian and signed, which is not read. Save it as PNG")
    return pages[0]


def _plain_samples(page: Tags, name: str) -> None:
    """Raise OvssError for samples that are not whole numbers, and for more of them than grey, index, RGB and alpha."""
    kinds = sorted({FORMATS.get(kind, f"format {kind}") for kind in page.get(FORMAT, (1,))})
    bits = first(page, BITS, 1)
    if kinds not in (["signed"], ["unsigned"]) or bits > 32:
        raise OvssError(
            f"{name}: its samples are {' and '.join(kinds)} numbers of {bits} bits. A label is a whole number of at "
            "most 32 bits: save them as such, as with `labels.astype(numpy.uint16)`"
        )
    meaning = first(page, PHOTOMETRIC, 0)
    if meaning > 3:
        kind = PHOTOMETRICS.get(meaning, str(meaning))
        raise OvssError(f"{name}: a TIFF of photometric {kind}, which is no way to keep labels. Save them as PNG")
    samples, colours = first(page, SAMPLES, 1), 3 if meaning == 2 else 1
    has_alpha = samples == colours + 1 and first(page, EXTRA, 2 if colours == 3 else 0) != 0
    if samples != colours and not has_alpha:
        raise OvssError(f"{name}: a TIFF with {samples} samples a pixel: which is the label? Save that one alone")


def _kept_backwards(page: Tags, data: bytes) -> bool:
    """Whether Pillow (up to 13.0 at least) takes the bytes of numbers in the wrong order."""
    wide_and_signed = first(page, FORMAT, 1) == 2 and first(page, BITS, 1) > 8
    return wide_and_signed and first(page, COMPRESSION, 1) != 1 and data[:2] == b"MM"


def first(page: Tags, tag: int, default: int) -> int:
    """Return the first value of a tag."""
    return page.get(tag, (default,))[0]


def _reduced(page: Tags) -> bool:
    """Whether a page is a smaller copy of another one."""
    return bool(first(page, SUBFILE, 0) & 1) or first(page, OLD_SUBFILE, 1) == 2


def _stack(page: Tags) -> int:
    """Return the number of images that ImageJ put behind one another under a single page."""
    count = re.match(rb"ImageJ=[^\0]*?\bimages=(\d{1,9})\b", bytes(value % 256 for value in page.get(DESCRIPTION, ())))
    return int(count[1]) if count else 1


def _pages(data: bytes) -> list[Tags]:
    """Read the tags of all pages. Raises struct.error for a file that is cut short, ValueError for no page."""
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
    """Read the wanted tags of the page at a place in the file, and the place of the next page, 0 for none."""
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
