"""Your own images and label files, described by a YAML file: benchmark `folder:PATH.yaml`.

A worked example. With the files

    fields/benchmark.yaml
    fields/photos/a1.jpg  fields/photos/a2.jpg
    fields/masks/a1_label.png  fields/masks/a2_label.png      8 bit: 1 soil, 2 crop, 3 weed, 0 not labelled

this is benchmark.yaml, and `folder:fields/benchmark.yaml` the benchmark:

    images: photos/*.jpg
    labels: masks/*.png
    label_suffix: _label
    classes: [soil, [crop, maize], weed]
    offset: 1
    ignore: 0

images, labels   patterns, or lists of them, relative to the YAML's folder or, if nothing fits there, to the data root.
                 `**` stands for any folders, endings fit in any case, a folder stands for all files below it, and a
                 step that exists under exactly this name is no pattern: `data [2024]/*.jpg`. Photograph and label file
                 belong together if their stems (names without ending) are equal once `image_suffix` and `label_suffix`
                 are cut off; the stem is the image id. Of stems that several files have, the folders that wildcards
                 stand for have to be equal too, and are part of the id: `seq1/0000`. A file that fits both patterns
                 belongs to the side with the longer suffix
unpaired         error or skip: whether files without a partner make a run incomplete; error if left out
classes          a list of names, several names of one class as a list of their own; or a file, one class a line (see
                 ovss_ray.class_files for others that are read). Names are text, also on, no and 1
offset           label value − offset = index of the class in `classes`; 0 if left out
values           the label value of each class, in their order, in the place of `offset`: [0, 255], [7, 8, 11]
ignore           label value or values that are not counted, such as -1, or [] for none; 255 if left out, unless a class
                 has it in `values`. The value of a class is refused here
encoding         index (one number per pixel; if left out) or rgb (a colour per pixel; no `offset`, no `values`)
colours          for rgb: a table of name or index of a class → [red, green, blue]; `ignore` is then a colour or a list
                 of colours, none if left out
title, domain, licence    for the report; may be left out

A label value or a colour that is neither a class nor ignored is an error of its image.
"""

from functools import partial
from pathlib import PurePosixPath

import numpy as np

from ovss_ray import class_files, description, files, images, sides
from ovss_ray.class_files import Listed
from ovss_ray.columns import IGNORE
from ovss_ray.datasets.benchmark import Benchmark, Values, look_up, split_folder, table_of
from ovss_ray.description import Description
from ovss_ray.errors import OvssError, nearest
from ovss_ray.listing import LABELS, PHOTOGRAPHS, Item, Items
from ovss_ray.sides import Side
from ovss_ray.vocabulary import Vocabulary

SPLIT = "all"
SHOWN = 24
"""Label values that a message lists at most."""


def benchmark(path: str) -> Benchmark:
    """Make a benchmark of a YAML file. Raises OvssError that names the file and every fault found."""
    if not path:
        raise OvssError("which folder? Write folder:PATH.yaml; `pydoc ovss_ray.datasets.folder` has an example")
    described = description.read(path)
    try:
        return _benchmark(described, path)
    except OvssError as failure:
        raise OvssError(f"{path}: {failure}") from failure


def _benchmark(described: Description, path: str) -> Benchmark:
    base = files.absolute(path).rpartition("/")[0]
    listed = _classes(described, base)
    vocabulary = Vocabulary.of(listed.names)
    values = None if described.encoding == "rgb" else description.values(described, vocabulary)
    if values and listed.numbers not in (None, values.classes):
        raise _other_numbers(described, listed, values)
    return Benchmark(
        title=described.title or PurePosixPath(path).stem,
        domain=described.domain,
        licence=described.licence,
        source=path,
        counts={},
        vocabulary=vocabulary,
        items=partial(items, described, base),
        truth=_indexed(values) if values else partial(coloured, _colours(described, vocabulary)),
        rules=described.rules(),
        split=SPLIT,
        values=values,
        unpaired=described.unpaired,
    )


def _classes(described: Description, base: str) -> Listed:
    if isinstance(described.classes, str):
        address = _address(base, described.classes)
        if not files.exists(address):
            raise OvssError(f"classes: there is no file {address}. A list is written [road, sky]")
        return class_files.read(address)
    return class_files.inline(described.classes, "classes")


def _other_numbers(described: Description, listed: Listed, values: Values) -> OvssError:
    """The error for a list of classes that has other label values than the description."""
    numbers = listed.numbers or ()
    row = numbers == tuple(range(numbers[0], numbers[0] + len(numbers)))
    shown = ", ".join(map(str, numbers[:SHOWN])) + (", …" if len(numbers) > SHOWN else "")
    advice = f"offset: {numbers[0]}" if row else f"values: [{shown}]"
    source = described.classes if isinstance(described.classes, str) else "classes"
    at = next(i for i, pair in enumerate(zip(numbers, values.classes, strict=True)) if pair[0] != pair[1])
    return OvssError(
        f"{source} numbers its classes, {listed.names[at]!r} as {numbers[at]}, and by the description this class has "
        f"the label value {values.classes[at]}. Write `{advice}`, or take the numbers out of the list. A number that "
        "belongs to a name is kept in a list of its own: [[1 euro], [2 euro]]"
    )


def items(described: Description, base: str, root: str, split: str) -> Items:
    """List the images, from the YAML's folder or else the data root. Raises OvssError if there are none."""
    split_folder(split, {SPLIT: ""})
    bases = list(dict.fromkeys([base, files.absolute(root)]))
    photographs = Side("images", described.patterns("images"), described.image_suffix, PHOTOGRAPHS)
    truths = Side("labels", described.patterns("labels"), described.label_suffix, LABELS)
    return sides.items(photographs, truths, bases)


def _address(base: str, path: str) -> str:
    return path if path.startswith("/") or "://" in path else files.join(base, path)


def _indexed(values: Values) -> partial[np.ndarray]:
    below = tuple(value for value in values.ignore if value < 0)
    table = table_of(values.classes, values.ignore)
    return partial(signed, table, below) if below else partial(indexed, table)


def _colours(described: Description, vocabulary: Vocabulary) -> dict[int, int]:
    """Colour as one number → label index or IGNORE. Raises OvssError unless every class has a colour of its own."""
    ignored = np.array(() if described.ignore is None else described.ignore).reshape(-1, 3)
    table = dict.fromkeys(_number(ignored).tolist(), IGNORE)
    for key, colour in described.colours.items():
        index, number = _position(key, vocabulary.names), _number(np.array(colour)).item()
        if number in table:
            other = table[number]
            owner = "`ignore`" if other == IGNORE else f"the class {vocabulary.names[other]!r}"
            raise OvssError(
                f"colours.{key}: {list(colour)} belongs to {owner}, too. Give each class a colour of its own"
            )
        table[number] = index
    if bare := sorted(set(range(len(vocabulary))) - set(table.values())):
        raise OvssError(f"colours: the class {vocabulary.names[bare[0]]!r} has none. Give each a colour of its own")
    return table


def _position(key: str, names: tuple[str, ...]) -> int:
    """The index of the class that a key of `colours` stands for. Raises OvssError if it may stand for two or none."""
    named = [i for i, name in enumerate(names) if name == key]
    counted = next((i for i in range(len(names)) if str(i) == key), None)
    if len({*named, counted} - {None}) > 1:
        raise OvssError(
            f"colours.{key}: may be the class called {key!r} (number {named[0]}) or another one. Name classes by words "
            "that differ"
        )
    if named:
        return named[0]
    if counted is None:
        raise OvssError(f"colours.{key}: no such class.{nearest(key, names)}")
    return counted


def _number(colours: np.ndarray) -> np.ndarray:
    return colours.astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def indexed(table: np.ndarray, item: Item, data: bytes) -> np.ndarray:
    """Decode label values to (H, W) uint16 by a table (see benchmark.value_table). Raises OvssError."""
    return look_up(images.decode_labels(data, item.truth), table, item.truth)


def signed(table: np.ndarray, below: tuple[int, ...], item: Item, data: bytes) -> np.ndarray:
    """Decode label values as `indexed` does, those of `below`, which are under 0, not being counted."""
    values = images.decode_labels(data, item.truth)
    counted = ~np.isin(values, below)
    labels = np.full(values.shape, IGNORE, np.uint16)
    labels[counted] = look_up(values[counted], table, item.truth)
    return labels


def coloured(table: dict[int, int], item: Item, data: bytes) -> np.ndarray:
    """Decode label colours to (H, W) uint16. Raises OvssError for a colour that the table does not have."""
    found = images.decode_colours(data, item.truth)
    numbers, known = _number(found), np.array(sorted(table), np.int32)
    place = np.searchsorted(known, numbers).clip(max=len(known) - 1)
    if (odd := known[place] != numbers).any():
        unknown = np.unique(numbers[odd]).tolist()
        what = f"{item.truth}: {len(unknown)} colours not in `colours`, such as {_channels(unknown[0])}"
        raise OvssError(f"{what}. {_of_unknown(unknown, table)}")
    return np.array([table[number] for number in known.tolist()], np.uint16)[place]


def _channels(colour: int) -> list[int]:
    red, rest = divmod(colour, 65536)
    return [red, *divmod(rest, 256)]


def _of_unknown(unknown: list[int], table: dict[int, int]) -> str:
    """What colours that are not listed usually are, and what to do."""
    if all(_number(np.array(_channels(colour)[::-1])).item() in table for colour in unknown):
        return "With red and blue swapped they are there: OpenCV writes BGR, so use cv2.cvtColor before cv2.imwrite"
    if len(unknown) > 2 * len(table):
        return "So many come of smoothing or of JPEG: export the labels again as PNG, resized to the nearest pixel"
    return "Give them to a class in `colours`, or write them into `ignore` if they are not to be counted"
