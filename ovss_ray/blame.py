"""What usually made a label file what it is: the likeliest cause of values that a benchmark cannot have."""

from functools import lru_cache

import numpy as np

from ovss_ray import images
from ovss_ray.errors import OvssError

MARKS = (0, 254, 255, 459, 65534, 65535)
"""Values that this or that preparation writes where nothing is labelled."""
SCALE = 257
"""65535 / 255: what a viewer multiplies by when it widens 8 bits to 16."""


def cause(data: bytes, name: str, labels: int) -> str:
    """Say what usually leads to a label file with values that do not belong to `labels` classes, or nothing."""
    try:
        values = np.unique(images.decode_labels(data, name))
    except OvssError:
        return _of_colours(data, name)
    odd = values[(values >= labels) & (values != 255) & (values != 65535)]
    if len(values) > 1 and (values % SCALE == 0).all() and values.max() > 255:
        return "widened from 8 to 16 bits by a program that scales them: divide by 257"
    if len(odd) > 1 and set(values.tolist()) <= _greys():
        return "the palette was looked up and turned into grey: save the indices (Pillow: do not convert to L)"
    if odd.tolist() == [labels]:
        return f"not shifted by one: 1 to {labels} where 0 to {labels - 1} are expected"
    if odd.tolist() == [254]:
        return "shifted by one twice: 255 has become 254"
    if len(odd) == 1 and odd[0] in MARKS:
        return f"what is not labelled is written as {odd[0]} here, and the benchmark expects another value for it"
    return "labels of another class list, or of another data set"


def _of_colours(data: bytes, name: str) -> str:
    """What usually makes a label file an image in colour, or nothing."""
    try:
        colours = np.unique(images.decode(data, name, upright=False).reshape(-1, 3), axis=0)
    except OvssError:
        return "an unfinished download or copy" if data else "an empty file: an unfinished download or copy"
    if set(map(tuple, colours.tolist())) <= set(palette()):
        return "the colours of the palette were saved in place of its indices (Pillow: do not convert to RGB)"
    return "an image made to be looked at, or labels coded by colours: those need `encoding: rgb` in a folder benchmark"


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
