"""What usually made a label file what it is: the likeliest cause of values that a benchmark cannot have."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image

from ovss_ray import image_files, images
from ovss_ray.datasets.benchmark import Benchmark, Values
from ovss_ray.errors import OvssError
from ovss_ray.image_files import FORMATS

MARKS = (0, 254, 255, 459, 65534, 65535)
"""Values that this or that preparation writes where nothing is labelled."""
SCALE = 257
"""65535 / 255: what a viewer multiplies by when it widens 8 bits to 16."""
FEW_CLASSES = 4
"""Sets of at most so many classes may consist of masks."""
BRIGHT = (255, 65535)
"""Values by which white is stored."""
PLAIN = 1000
INSTANCES = {256: "KITTI", PLAIN: "Cityscapes, KITTI MOTS"}
"""Factor of a class in an instance id (factor · class + number of the instance) → data sets that use it."""
SMEARED = 0.9
"""Share of the pixels of a black-and-white mask that stay near black or white when it is saved as a JPEG."""
_CUT = "an unfinished download or copy"


def cause(data: bytes, name: str, benchmark: Benchmark) -> str:
    """Say what usually leads to a label file with values that a benchmark does not have; "" if nothing is likely."""
    if benchmark.values is None and benchmark.rules and _picture(data, name) is not None:
        return ""  # coded by colours: their reader says what is wrong with them
    try:
        pixels = images.decode_labels(data, name)
    except OvssError as failure:
        return _of_mode(data, name, damaged=failure.__cause__ is not None)
    described = benchmark.values or Values(tuple(range(len(benchmark.labels))), (255, 65535), False)
    values = np.unique(pixels).astype(np.int64)
    odd = np.setdiff1d(values, (*described.classes, *described.ignore))
    if not len(odd):
        return ""
    return (
        _of_storing(pixels, values, odd, described)
        or _of_numbers(values, odd, described)
        or f"labels of another class list, or of another data set{_listed(values, described)}"
    )


def _listed(values: np.ndarray, described: Values) -> str:
    """Say how to describe values of which there are as many as classes."""
    held = values.tolist()
    if not 2 <= len(held) == len(described.classes):
        return ""
    return f". If {', '.join(map(str, held))} are the classes in this order, write `values: {held}`"


def _of_storing(pixels: np.ndarray, values: np.ndarray, odd: np.ndarray, described: Values) -> str:
    """Recognise values that a program changed when it saved the file; "" for others."""
    held, number = set(values.tolist()), len(described.classes)
    if number <= FEW_CLASSES and (mask := black_and_white(held, described)):
        return mask
    if len(values) > 1 and (values % SCALE == 0).all() and values.max() > 255:
        return "widened from 8 to 16 bits by a program that scales them: divide by 257"
    if _smeared(pixels, values, number):
        return (
            "a black-and-white mask that was saved as a JPEG or resized with smoothing, which leaves greys in between: "
            "save it anew as PNG, resized to the nearest pixel, and write `values: [0, 255]`"
        )
    if len(odd) > 1 and held <= _greys():
        return "the palette was looked up and turned into grey: save the indices (Pillow: do not convert to L)"
    return ""


def black_and_white(held: set[int], described: Values) -> str:
    """Say how to describe files of a few values that are those of a mask; "" if they are not, or are described."""
    bright = max(held, default=0)
    if (not 2 <= bright <= 255 and bright not in BRIGHT) or bright in described.classes or not held <= {0, 1, bright}:
        return ""
    away = ", and `ignore` takes it away" if bright in described.ignore else ""
    if 1 in held:
        masks = f"masks of 0, 1 and {bright}{away}. If {bright} is a class, write `values: [0, 1, {bright}]`"
        return masks if bright in BRIGHT else ""
    unwanted = sorted({0, bright} & {*described.ignore} if described.stated else ())
    left_out = f" and take {' and '.join(map(str, unwanted))} out of `ignore`" if unwanted else ""
    return f"black-and-white masks: {bright} is the object{away}. Write `values: [0, {bright}]`{left_out}"


def _smeared(pixels: np.ndarray, values: np.ndarray, number: int) -> bool:
    """Return whether nearly all pixels are near black or white, with greys in between that no class has."""
    grey = len(values) > number and len(values) > 8 and values.min() < 16 and 240 <= values.max() <= 255
    return bool(grey and number <= FEW_CLASSES and ((pixels < 32) | (pixels > 223)).mean() >= SMEARED)


def _of_numbers(values: np.ndarray, odd: np.ndarray, described: Values) -> str:
    """Say what label values may mean that no class has; "" if nothing is likely."""
    first, last = min(described.classes), max(described.classes)
    ignored = sorted({*described.ignore})
    if odd.tolist() == [-1]:
        return f"-1 is what is not labelled: write `ignore: {[-1, *ignored] if described.stated else -1}`"
    if odd.tolist() == [0] and first > 0:
        return f"0 is what is not labelled: write `ignore: {sorted({0, *ignored})}`"
    void = last + 1 in ignored  # what is not labelled is counted on from the classes, as in CamVid: it moves with them
    last += void
    if odd.tolist() == [last + 1]:
        more = f" and `ignore: {last + 1}`" if void else ""
        offset = f". Write `offset: {first + 1}`{more}" if first not in values else ""
        return f"not shifted by one: {first + 1} to {last + 1} where {first} to {last} are expected{offset}"
    if odd.tolist() == [first - 1]:
        return f"shifted by one too often: {first - 1} to {last - 1} where {first} to {last} are expected"
    if odd.tolist() == [254]:
        return "shifted by one twice: 255 has become 254"
    if instances := _of_instances(values, described):
        return instances
    if len(described.classes) == 19 and set(described.classes) == set(range(19)) and set(values.tolist()) <= _ids():
        return "Cityscapes' label ids (0 to 33) where its train ids (0 to 18) are expected: files *_labelTrainIds.png"
    if len(odd) == 1 and odd[0] in MARKS:
        return f"what is not labelled is written as {odd[0]} here, and the benchmark expects another value for it"
    return ""


def _of_instances(values: np.ndarray, described: Values) -> str:
    """Recognise label values that hold the number of an instance besides the class."""
    allowed = {*described.classes, *described.ignore, 0} | _ids()
    rests = {factor: (values[values >= factor] % factor).max() / factor for factor in INSTANCES if values[-1] >= factor}
    if not rests:
        return ""
    factor = min(rests, key=lambda tried: rests[tried])  # the one that leaves small numbers of instances
    alone = values[(values < factor) & (factor == PLAIN)]  # classes without instances, written as they are
    if rests[factor] >= 0.5 or not {*(values[values >= factor] // factor).tolist(), *alone} <= allowed:
        return ""
    return (
        f"instance ids as of {INSTANCES[factor]}: the class is the value // {factor}, and the rest numbers the "
        f"instances. Save value // {factor}"
    )


def _ids() -> set[int]:
    """The label ids of Cityscapes, and what is written where there is none."""
    return {-1, *range(34), 255}


def _of_mode(data: bytes, name: str, damaged: bool) -> str:
    """Say why a label file is not of whole numbers; "" if its error says it.

    `damaged`: reading it has failed; else it was refused for what it is.
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
    """Read labels that are coded by colours, (H, W, 3) uint8; None for a file that cannot be such labels."""
    try:
        return images.decode_colours(data, name)
    except OvssError:
        return None


def _of_colours(picture: np.ndarray) -> str:
    colours = np.unique(picture.reshape(-1, 3), axis=0)
    if set(map(tuple, colours.tolist())) <= set(palette()):
        return "the colours of the palette were saved in place of its indices (Pillow: do not convert to RGB)"
    return "an image made to be looked at, or labels coded by colours: those need `encoding: rgb` in a folder benchmark"


def _mode(data: bytes) -> str:
    """Pillow's name of a file's kind of pixels; "" if it is no image that is read."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return picture.mode
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""


def orientation(data: bytes) -> int:
    """Return the EXIF orientation of a photograph, 1 to 8; 1 (upright) if it states none."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return image_files.orientation(picture) if picture.format != "TIFF" else 1  # Pillow turns a TIFF itself
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 1


def of_sizes(image: tuple[int, ...], truth: tuple[int, ...], orientation: int) -> str:
    """Say what usually makes labels (H, W) of another size than their image (H, W, 3)."""
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
    """The 256 colours of PASCAL VOC's label files: the bits of an index, dealt out to red, green and blue in turn."""
    index, bit = np.arange(256)[:, None], np.arange(8)
    red, green, blue = ((((index >> (3 * bit + c)) & 1) << (7 - bit)).sum(1).tolist() for c in range(3))
    return tuple(zip(red, green, blue, strict=True))


@lru_cache(1)
def _greys() -> frozenset[int]:
    """What Pillow's conversion to grey makes of those colours (ITU-R 601-2, as its documentation states)."""
    return frozenset((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16 for r, g, b in palette())
