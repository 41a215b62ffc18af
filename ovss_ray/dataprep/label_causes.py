"""Likely causes of unexpected values in label files: values that are neither classes nor ignored."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image

from ovss_ray.benchmarks.contract import Benchmark, Values
from ovss_ray.errors import OvssError
from ovss_ray.io import images
from ovss_ray.io.images import pillow_files
from ovss_ray.io.images.pillow_files import FORMATS

MARKS = (0, 254, 255, 459, 65534, 65535)
"""Values that common preparation scripts write for unlabelled pixels."""
SCALE = 257
"""Factor by which programs scale grey values from 8 to 16 bits: 65535 / 255."""
FEW_CLASSES = 4
"""Label files are recognised as black-and-white masks only if the benchmark has at most this number of classes."""
BRIGHT = (255, 65535)
"""Values of a white pixel in files of 8 and 16 bits."""
PLAIN = 1000
"""Factor in Cityscapes' instance ids: 26002 is instance 2 of class 26. A value below 1000 is the number of a class."""
INSTANCES = {256: "KITTI", PLAIN: "Cityscapes, KITTI MOTS"}
"""Factor → names of the data sets whose instance ids are factor · class + number of the instance."""
SMEARED = 0.9
"""Minimum share of pixels that are below 32 or above 223 to recognise a blurred black-and-white mask."""
_CUT = "an unfinished download or copy"


def cause(data: bytes, name: str, benchmark: Benchmark) -> str:
    """Return the likely cause of unexpected values in a label file; "" if no cause is likely."""
    if benchmark.values is None and benchmark.rules and _picture(data, name) is not None:
        return ""  # labels coded by colours: their reader reports the fault
    try:
        pixels = images.decode_labels(data, name)
    except OvssError as failure:
        return _of_mode(data, name, damaged=failure.__cause__ is not None)
    described = benchmark.values or Values(tuple(range(len(benchmark.labels))), (255, 65535), False)
    values = np.unique(pixels).astype(np.int64)
    unexpected = np.setdiff1d(values, (*described.classes, *described.ignore))
    if not len(unexpected):
        return ""
    return (
        _of_storing(pixels, values, unexpected, described)
        or _of_numbers(values, unexpected, described)
        or f"labels of another class list, or of another data set{_listed(values, described)}"
    )


def _listed(values: np.ndarray, described: Values) -> str:
    """Return the advice "write `values: […]`" if a file has as many values as the benchmark has classes; else ""."""
    present = values.tolist()
    if not 2 <= len(present) == len(described.classes):
        return ""
    return f". If {', '.join(map(str, present))} are the classes in this order, write `values: {present}`"


def _of_storing(pixels: np.ndarray, values: np.ndarray, unexpected: np.ndarray, described: Values) -> str:
    """Return the likely cause of unexpected values if a program changed the labels when it saved them; else "".

    `values`: the distinct values of `pixels`, sorted. `unexpected`: the elements of `values` that are neither classes
    nor ignored. `described`: the label values of the benchmark.
    """
    present, number = set(values.tolist()), len(described.classes)
    if number <= FEW_CLASSES and (mask := black_and_white(present, described)):
        return mask
    if len(values) > 1 and (values % SCALE == 0).all() and values.max() > 255:
        return "widened from 8 to 16 bits by a program that scales them: divide by 257"
    if _smeared(pixels, values, number):
        return (
            "a black-and-white mask that was saved as a JPEG or resized with smoothing, which leaves greys in between: "
            "save it again as PNG, resized to the nearest pixel, and write `values: [0, 255]`"
        )
    if len(unexpected) > 1 and present <= _greys():
        return "the palette was looked up and turned into grey: save the indices (Pillow: do not convert to L)"
    return ""


def black_and_white(present: set[int], described: Values) -> str:
    """Return advice on the YAML key `values` for black-and-white masks; "" if no advice is needed.

    `present`: the values in the label files.
    """
    bright = max(present, default=0)
    if (
        (not 2 <= bright <= 255 and bright not in BRIGHT)
        or bright in described.classes
        or not present <= {0, 1, bright}
    ):
        return ""
    away = ", and `ignore` takes it away" if bright in described.ignore else ""
    if 1 in present:
        masks = f"masks of 0, 1 and {bright}{away}. If {bright} is a class, write `values: [0, 1, {bright}]`"
        return masks if bright in BRIGHT else ""
    unwanted = sorted({0, bright} & {*described.ignore} if described.stated else ())
    left_out = f" and take {' and '.join(map(str, unwanted))} out of `ignore`" if unwanted else ""
    return f"black-and-white masks: {bright} is the object{away}. Write `values: [0, {bright}]`{left_out}"


def _smeared(pixels: np.ndarray, values: np.ndarray, number: int) -> bool:
    """Return whether a label file seems to be a black-and-white mask, blurred by JPEG or resizing.

    `number`: number of classes of the benchmark.
    """
    grey = len(values) > number and len(values) > 8 and values.min() < 16 and 240 <= values.max() <= 255
    return bool(grey and number <= FEW_CLASSES and ((pixels < 32) | (pixels > 223)).mean() >= SMEARED)


def _of_numbers(values: np.ndarray, unexpected: np.ndarray, described: Values) -> str:
    """Return the likely cause of unexpected values if the values suggest one, such as a shift by one; else "".

    `values`: the distinct values of the label file, sorted. `unexpected`: the elements of `values` that are neither
    classes nor ignored. `described`: the label values of the benchmark.
    """
    first, last = min(described.classes), max(described.classes)
    ignored = sorted({*described.ignore})
    if unexpected.tolist() == [-1]:
        return f"-1 marks unlabelled pixels: write `ignore: {[-1, *ignored] if described.stated else -1}`"
    if unexpected.tolist() == [0] and first > 0:
        return f"0 marks unlabelled pixels: write `ignore: {sorted({0, *ignored})}`"
    void = last + 1 in ignored  # the value of unlabelled pixels follows the classes, as in CamVid: it moves with them
    last += void
    if unexpected.tolist() == [last + 1]:
        more = f" and `ignore: {last + 1}`" if void else ""
        offset = f". Write `offset: {first + 1}`{more}" if first not in values else ""
        return f"not shifted by one: {first + 1} to {last + 1} where {first} to {last} are expected{offset}"
    if unexpected.tolist() == [first - 1]:
        return f"shifted by one too often: {first - 1} to {last - 1} where {first} to {last} are expected"
    if unexpected.tolist() == [254]:
        return "shifted by one twice: 255 has become 254"
    if instances := _of_instances(values, described):
        return instances
    if len(described.classes) == 19 and set(described.classes) == set(range(19)) and set(values.tolist()) <= _ids():
        return "Cityscapes' label ids (0 to 33) where its train ids (0 to 18) are expected: files *_labelTrainIds.png"
    if len(unexpected) == 1 and unexpected[0] in MARKS:
        return f"unlabelled pixels have the value {unexpected[0]} here, but the benchmark expects another value"
    return ""


def _of_instances(values: np.ndarray, described: Values) -> str:
    """Return the cause if the label values seem to be instance ids, made of class and number; else ""."""
    allowed = {*described.classes, *described.ignore, 0} | _ids()
    rests = {factor: (values[values >= factor] % factor).max() / factor for factor in INSTANCES if values[-1] >= factor}
    if not rests:
        return ""
    factor = min(rests, key=lambda tried: rests[tried])  # the factor that leaves small numbers of instances
    plain_classes = values[(values < factor) & (factor == PLAIN)]  # classes without instances, written as they are
    if rests[factor] >= 0.5 or not {*(values[values >= factor] // factor).tolist(), *plain_classes} <= allowed:
        return ""
    return (
        f"instance ids as of {INSTANCES[factor]}: the class is the value // {factor}, and the rest numbers the "
        f"instances. Save value // {factor}"
    )


def _ids() -> set[int]:
    """Return the label ids of Cityscapes, including its values for unlabelled pixels."""
    return {-1, *range(34), 255}


def _of_mode(data: bytes, name: str, damaged: bool) -> str:
    """Return the likely reason why a label file cannot be decoded; "" if the decoder's error message suffices.

    `damaged`: True if the decoder could not read the file, False if the decoder refused the kind of image.
    """
    if not data:
        return f"an empty file: {_CUT}"
    if data.startswith(b"\xff\xd8\xff"):
        return "labels saved as a JPEG, which changes values: export them again as PNG"
    mode = _mode(data)
    if mode == "F":
        return "floating-point labels, as interpolation and networks make them: save whole numbers (astype('uint8'))"
    if damaged:
        return _CUT
    if mode in ("", "1", "L", "P") or mode.startswith("I"):
        return ""
    picture = _picture(data, name)
    return "" if picture is None else _of_colours(picture)


def _picture(data: bytes, name: str) -> np.ndarray | None:
    """Decode a label file as colours (H, W, 3) uint8. Return None if the decoding fails."""
    try:
        return images.decode_colours(data, name)
    except OvssError:
        return None


def _of_colours(picture: np.ndarray) -> str:
    colours = np.unique(picture.reshape(-1, 3), axis=0)
    if set(map(tuple, colours.tolist())) <= set(palette()):
        return "the colours of the palette were saved in place of its indices (Pillow: do not convert to RGB)"
    return "an image for display, or labels coded by colours: those need `encoding: rgb` in a folder benchmark"


def _mode(data: bytes) -> str:
    """Return Pillow's mode of an image file, such as "RGB"; "" if it is not a supported image."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return picture.mode
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""


def orientation(data: bytes) -> int:
    """Return the EXIF orientation of a photograph, 1 to 8; 1 (upright) if it has none."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return pillow_files.orientation(picture) if picture.format != "TIFF" else 1  # Pillow turns a TIFF itself
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 1


def of_sizes(image: tuple[int, ...], truth: tuple[int, ...], orientation: int) -> str:
    """Return the usual cause if a label map and its photograph differ in size.

    `image`: shape (H, W, 3) of the photograph. `truth`: shape (H, W) of the label map. `orientation`: EXIF, 1 to 8.
    """
    if truth == image[1::-1] and orientation in (5, 6, 7, 8):
        return (
            f"the photograph is turned by its EXIF orientation ({orientation}), and the label file is not: turn the "
            "label file likewise, or remove the orientation from the photograph"
        )
    if truth == image[1::-1]:
        return "rows and columns are swapped: turn or transpose the label file"
    return "resized, or of another image"


@lru_cache(1)
def palette() -> tuple[tuple[int, int, int], ...]:
    """Return the 256 colours (R, G, B) of PASCAL VOC's label files."""
    # Bits 0, 1 and 2 of an index are the highest bits of red, green and blue. Bits 3, 4 and 5 are the next bits.
    index, bit = np.arange(256)[:, None], np.arange(8)
    red, green, blue = ((((index >> (3 * bit + c)) & 1) << (7 - bit)).sum(1).tolist() for c in range(3))
    return tuple(zip(red, green, blue, strict=True))


@lru_cache(1)
def _greys() -> frozenset[int]:
    """Return the grey values to which Pillow converts the 256 colours of PASCAL VOC's palette (see `palette`).

    Pillow converts colours to grey values by the formula of ITU-R 601-2.
    """
    return frozenset((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16 for r, g, b in palette())
