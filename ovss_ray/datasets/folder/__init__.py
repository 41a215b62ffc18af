"""Your own images and label files, described by a YAML file: benchmark `folder:PATH.yaml`.

Example files:

    fields/benchmark.yaml
    fields/photos/a1.jpg  fields/photos/a2.jpg
    fields/masks/a1_label.png  fields/masks/a2_label.png      8-bit: 1 soil, 2 crop, 3 weed, 0 not labelled

Content of benchmark.yaml; the benchmark's name is then `folder:fields/benchmark.yaml`:

    images: photos/*.jpg
    labels: masks/*.png
    label_suffix: _label
    classes: [soil, [crop, maize], weed]
    offset: 1
    ignore: 0

images, labels   patterns of photographs and of label files: one pattern or a list. Patterns are relative to the folder
                 of the YAML file. If no file there matches, they are relative to the data root. Wildcards, archives and
                 ranges such as {000..010} are described by `pydoc ovss_ray.datasets.folder.patterns`. All paths may be
                 URIs, such as s3://bucket/photos/*.jpg
image_suffix     end of the photographs' names, before the extension; default: none
label_suffix     end of the label files' names, before the extension; default: none
unpaired         error or skip: the treatment of photographs without a label file, and of label files without a
                 photograph. `error`: a run with such files is incomplete. `skip`: such files are left out, and the
                 run is complete. Default: error
table            Parquet files, such as hf://datasets/USER/NAME/data/validation-*.parquet, or a folder that Hugging
                 Face's `save_to_disk` wrote. With this key, `images` and `labels` are names of columns of the table. A
                 cell holds the bytes of an image file, or a struct with a field `bytes`
ids              only for `table`: column of the image ids; default: the number of the row
classes          a list of names. A class with several names is a nested list. In place of the list, write the path of
                 a file with one class per line. ovss_ray.datasets.folder.class_files describes other formats
offset           label value − offset = index of the class in `classes`; default: 0
values           label value of each class, in the order of `classes`, such as [7, 8, 11]; use it instead of `offset`
ignore           label values that are not counted: a number such as -1, a list of them, or [] for none. `ignore`
                 must not contain the value of a class. Default: 255. If 255 is in `values`, the default is []
encoding         index (one number per pixel; the default) or rgb (a colour per pixel; no `offset`, no `values`)
colours          only for rgb: a mapping from the name or index of a class to [red, green, blue]; `ignore` is then a
                 colour or a list of colours, by default none
title, domain, licence    texts for the report; optional

The image id is a file's name without suffix and extension. A photograph and a label file with the same image id form a
pair. If several photographs have the same id, each folder name that a wildcard matches is put before the id:
`seq1/0000`. If a file matches both `images` and `labels`, the file belongs
to the key with the longer suffix.

An image fails if a pixel has a label value or colour that is neither a class nor ignored.
"""

from functools import partial
from pathlib import PurePosixPath

import numpy as np

from ovss_ray.benchmarks.contract import Benchmark, Values
from ovss_ray.benchmarks.labels import colour_numbers, coloured, indexed, look_up, table_of
from ovss_ray.benchmarks.layout import split_folder
from ovss_ray.benchmarks.listing import LABELS, PHOTOGRAPHS, Item, Items
from ovss_ray.datasets.folder import class_files, description, sides, tables
from ovss_ray.datasets.folder.class_files import Listed
from ovss_ray.datasets.folder.description import Description
from ovss_ray.datasets.folder.patterns import expanded
from ovss_ray.datasets.folder.sides import Side
from ovss_ray.errors import OvssError, nearest
from ovss_ray.io import files, images
from ovss_ray.structures.columns import IGNORE
from ovss_ray.structures.vocabulary import Vocabulary

SPLIT = "all"
SHOWN = 24
"""Largest number of label values in a message."""


def benchmark(path: str) -> Benchmark:
    """Return the benchmark that a YAML file describes. Raises OvssError with the file's name and all of its faults."""
    if not path:
        raise OvssError("missing path: write folder:PATH.yaml; `pydoc ovss_ray.datasets.folder` has an example")
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
            raise OvssError(f"classes: no such file: {address}. To list classes in place of a file, write [road, sky]")
        return class_files.read(address)
    return class_files.inline(described.classes, "classes")


def _other_numbers(described: Description, listed: Listed, values: Values) -> OvssError:
    """Return the error for a class list whose label values, `listed.numbers`, differ from `values.classes`."""
    numbers = listed.numbers or ()
    row = numbers == tuple(range(numbers[0], numbers[0] + len(numbers)))
    shown = ", ".join(map(str, numbers[:SHOWN])) + (", …" if len(numbers) > SHOWN else "")
    advice = f"offset: {numbers[0]}" if row else f"values: [{shown}]"
    source = described.classes if isinstance(described.classes, str) else "classes"
    at = next(i for i, pair in enumerate(zip(numbers, values.classes, strict=True)) if pair[0] != pair[1])
    return OvssError(
        f"{source}: the class {listed.names[at]!r} has the number {numbers[at]} in this list, but the label value "
        f"{values.classes[at]} in the description. Write `{advice}`, or remove the numbers from the list. If a number "
        "is part of the name, write a nested list: [[1 euro], [2 euro]]"
    )


def items(described: Description, base: str, root: str, split: str) -> Items:
    """List the images of a user's data set. Raises OvssError if there are no images.

    The files of the keys `images`, `labels` and `table` are searched independently. Each search is below `base`, the
    folder of the YAML file. If no file fits there, the search is below the data root, `root`.

    If `root` is a range of addresses such as shards/{000..010}.tar, photographs and label files are searched only
    there. Tables are then searched only below `base`.
    """
    split_folder(split, {SPLIT: ""})
    roots = list(expanded(files.absolute(root)))
    bases = list(dict.fromkeys([base, *roots])) if len(roots) == 1 else [base]
    if described.table is not None:
        return tables.items(described, bases)
    images, labels = (described.patterns(key) for key in ("images", "labels"))
    if len(roots) > 1:  # such as shards/{000..010}.tar: all of them are searched
        images, labels = (tuple(_address(place, of) for place in roots for of in side) for side in (images, labels))
    photographs = Side("images", images, described.image_suffix, PHOTOGRAPHS)
    truths = Side("labels", labels, described.label_suffix, LABELS)
    return sides.items(photographs, truths, bases)


def _address(base: str, path: str) -> str:
    return path if path.startswith("/") or "://" in path else files.join(base, path)


def _indexed(values: Values) -> partial[np.ndarray]:
    below = tuple(value for value in values.ignore if value < 0)
    table = table_of(values.classes, values.ignore)
    return partial(signed, table, below) if below else partial(indexed, table)


def _colours(described: Description, vocabulary: Vocabulary) -> dict[int, int]:
    """Return a table: red · 65536 + green · 256 + blue → label index or IGNORE.

    Raises OvssError for a class without a colour, or a repeated colour.
    """
    ignored = np.array(() if described.ignore is None else described.ignore).reshape(-1, 3)
    table = dict.fromkeys(colour_numbers(ignored).tolist(), IGNORE)
    for key, colour in described.colours.items():
        index, number = _position(key, vocabulary.names), colour_numbers(np.array(colour)).item()
        if number in table:
            other = table[number]
            owner = "`ignore`" if other == IGNORE else f"the class {vocabulary.names[other]!r}"
            raise OvssError(
                f"colours.{key}: {list(colour)} is also the colour of {owner}. Give each class a different colour"
            )
        table[number] = index
    if bare := sorted(set(range(len(vocabulary))) - set(table.values())):
        raise OvssError(f"colours: the class {vocabulary.names[bare[0]]!r} has no colour. Add its colour to `colours`")
    return table


def _position(key: str, names: tuple[str, ...]) -> int:
    """Return the index of the class whose name or index is `key`. Raises OvssError for an unknown or ambiguous key."""
    named = [i for i, name in enumerate(names) if name == key]
    counted = [i for i in range(len(names)) if str(i) == key]
    if len(fitting := sorted({*named, *counted})) > 1:
        raise OvssError(
            f"colours.{key}: ambiguous key. Classes {fitting} have {key!r} as their name or index (the first index is "
            f"0). Rename class {named[0]}"
        )
    if not fitting:
        raise OvssError(
            f"colours.{key}: unknown class.{nearest(key, names)} Write the name or the index of a class (the first "
            "index is 0)"
        )
    return fitting[0]


def signed(table: np.ndarray, below: tuple[int, ...], item: Item, data: bytes) -> np.ndarray:
    """Decode a label file to label indices or IGNORE, (H, W) uint16.

    `table` gives the label index, IGNORE or INVALID for each label value from 0 to 65535 (see `table_of`). The negative
    label values in `below`, such as -1, become IGNORE. Raises OvssError for a damaged file or an invalid label value.
    """
    values = images.decode_labels(data, item.truth)
    counted = ~np.isin(values, below)
    labels = np.full(values.shape, IGNORE, np.uint16)
    labels[counted] = look_up(values[counted], table, item.truth)
    return labels
