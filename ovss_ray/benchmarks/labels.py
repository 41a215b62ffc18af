"""Conversion of label values (the numbers in label files) to label indices (0 for the first label)."""

from collections.abc import Iterable, Sequence

import numpy as np

from ovss_ray.benchmarks.listing import Item
from ovss_ray.errors import OvssError
from ovss_ray.io import images
from ovss_ray.structures.columns import IGNORE

INVALID = 65533
"""Label index that marks an invalid label value, in tables of label value → label index."""


def value_table(labels: int, offset: int = 0, ignore: Iterable[int] = ()) -> np.ndarray:
    """Return a table (65536,) uint16: label value → label index, IGNORE, or INVALID.

    `labels`: number of labels. The label value `offset` + i becomes label index i. Label values in `ignore` always
    become IGNORE. All other label values become INVALID.
    """
    return table_of(range(offset, offset + labels), ignore)


def table_of(values: Sequence[int], ignore: Iterable[int] = ()) -> np.ndarray:
    """Return a table (65536,) uint16: label value → label index, IGNORE, or INVALID.

    The label value `values[i]` becomes label index i. If `values[i]` is not in 0 to 65535, no label value becomes label
    index i. Label values in `ignore` always become IGNORE. All other label values become INVALID.
    """
    table = np.full(65536, INVALID, np.uint16)
    listed = np.array(values, np.int64)
    fits = (listed >= 0) & (listed < len(table))
    table[listed[fits]] = np.flatnonzero(fits)
    table[[value for value in ignore if value >= 0]] = IGNORE
    return table


def look_up(values: np.ndarray, table: np.ndarray, name: str) -> np.ndarray:
    """Convert a map of label values, (H, W) integers, to a map of label indices and IGNORE, (H, W) uint16.

    `table`: label value → label index, IGNORE or INVALID (see `table_of`). `name`: file that the error message names.
    Raises OvssError if a label value is INVALID in the table, or does not fit into 16 bits.
    """
    if values.dtype != np.uint16 and ((values < 0) | (values >= len(table))).any():
        wrong = values[(values < 0) | (values >= len(table))]
        raise OvssError(f"{name}: the label {wrong[0]} does not fit into 16 bits. Use label values from 0 to 65535")
    labels = table[values]
    if (labels == INVALID).any():
        allowed = _ranges(np.flatnonzero(table != INVALID))
        wrong = values[labels == INVALID]
        raise OvssError(f"{name}: {len(wrong)} pixels have invalid labels such as {wrong[0]}; allowed: {allowed}")
    return labels


def _ranges(numbers: np.ndarray) -> str:
    """Return sorted numbers as text such as "0 to 10, 255"."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def indexed(table: np.ndarray, item: Item, data: bytes) -> np.ndarray:
    """Decode a label file to a map of label indices and IGNORE, (H, W) uint16.

    `table`: label value → label index, IGNORE or INVALID (see `value_table`). Raises OvssError if the label file is
    damaged or has a label value that is INVALID in the table.
    """
    return look_up(images.decode_labels(data, item.truth), table, item.truth)


def colour_numbers(colours: np.ndarray) -> np.ndarray:
    """Return colours (…, 3) as numbers red · 65536 + green · 256 + blue, (…) int32."""
    return colours.astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def coloured(table: dict[int, int], item: Item, data: bytes) -> np.ndarray:
    """Decode a label file coded by colours to label indices, (H, W) uint16. Raises OvssError for an unknown colour.

    `table` maps red · 65536 + green · 256 + blue to a label index or IGNORE.
    """
    picture = images.decode_colours(data, item.truth)
    numbers, known = colour_numbers(picture), np.array(sorted(table), np.int32)
    place = np.searchsorted(known, numbers).clip(max=len(known) - 1)
    if (is_unknown := known[place] != numbers).any():
        unknown = np.unique(numbers[is_unknown]).tolist()
        message = f"{item.truth}: {len(unknown)} colours not in `colours`, such as {_channels(unknown[0])}"
        raise OvssError(f"{message}. {_of_unknown(unknown, table)}")
    return np.array([table[number] for number in known.tolist()], np.uint16)[place]


def _channels(colour: int) -> list[int]:
    red, rest = divmod(colour, 65536)
    return [red, *divmod(rest, 256)]


def _of_unknown(unknown: list[int], table: dict[int, int]) -> str:
    """Return the likely cause of unknown colours, and a remedy, as text."""
    if all(colour_numbers(np.array(_channels(colour)[::-1])).item() in table for colour in unknown):
        return "With red and blue swapped they match: OpenCV writes BGR, so use cv2.cvtColor before cv2.imwrite"
    if len(unknown) > 2 * len(table):
        return "The usual cause is smoothing or JPEG: export the labels again as PNG, resized to the nearest pixel"
    return "Add them to a class in `colours`, or to `ignore` if they should not be counted"
