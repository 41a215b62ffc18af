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

images, labels   patterns, or lists of them; `**` stands for any folders. They are relative to the YAML's folder or, if
                 nothing fits there, to the data root. Photograph and label file belong together if their stems (names
                 without ending) are equal once `image_suffix` and `label_suffix` are cut off; the stem is the image id
classes          a list of names, several names of one class as a list of their own; or a text file, one class a line
offset           label value − offset = index of the class in `classes`; 0 if left out
ignore           label value or values that are not counted; 255 if left out
encoding         index (one number per pixel; if left out) or rgb (a colour per pixel; no `offset`)
colours          for rgb: a table of name or index of a class → [red, green, blue]; `ignore` is then a colour or a list
                 of colours, none if left out
title, domain, licence    for the report; may be left out

A label value or a colour that is neither a class nor ignored is an error of its image.
"""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain
from pathlib import PurePosixPath
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from ovss_ray import files, images, strict_yaml
from ovss_ray.columns import IGNORE
from ovss_ray.datasets.benchmark import Benchmark, look_up, split_folder, value_table
from ovss_ray.errors import OvssError, nearest
from ovss_ray.listing import LABELS, PHOTOGRAPHS, Item, Items, paired, stems
from ovss_ray.stage import Config
from ovss_ray.vocabulary import Vocabulary

SPLIT = "all"
Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]
Value = Annotated[int, Field(ge=0, le=65535)]


class Description(Config):
    """What the YAML file may say (see the module's docstring)."""

    images: str | tuple[str, ...]
    labels: str | tuple[str, ...]
    classes: str | tuple[str | tuple[str, ...], ...]
    image_suffix: str = ""
    label_suffix: str = ""
    offset: Annotated[int, Field(ge=-65535, le=65535)] = 0
    ignore: Value | tuple[Value, ...] | tuple[Colour, ...] | None = None
    encoding: Literal["index", "rgb"] = "index"
    colours: dict[str | int, Colour] = Field(default_factory=dict)
    title: str | None = None
    domain: str = "not stated"
    licence: str = "not stated"

    @model_validator(mode="after")
    def _one_encoding(self) -> "Description":
        nested = isinstance(self.ignore, tuple) and any(isinstance(value, tuple) for value in self.ignore)
        if self.encoding == "rgb" and (self.offset or not self.colours):
            raise ValueError("encoding: rgb needs a table `colours`, and has no `offset`")
        if self.encoding == "index" and (self.colours or nested):
            raise ValueError("colours are for `encoding: rgb`; label values are numbers")
        if self.encoding == "rgb" and self.ignore is not None and not nested and np.size(self.ignore) != 3:
            raise ValueError("with `encoding: rgb`, `ignore` is a colour [red, green, blue] or a list of colours")
        return self


def benchmark(path: str) -> Benchmark:
    """Make a benchmark of a YAML file. Raises OvssError that names the file and every fault found."""
    if not path:
        raise OvssError("which folder? Write folder:PATH.yaml; `pydoc ovss_ray.datasets.folder` has an example")
    told = read(path)
    try:
        return _made(told, path)
    except OvssError as failure:
        raise OvssError(f"{path}: {failure}") from failure


def _made(told: Description, path: str) -> Benchmark:
    base = files.absolute(path).rpartition("/")[0]
    vocabulary = Vocabulary.of(_classes(told, base))
    return Benchmark(
        title=told.title or PurePosixPath(path).stem,
        domain=told.domain,
        licence=told.licence,
        source=path,
        counts={},
        vocabulary=vocabulary,
        items=partial(items, told, base),
        truth=_truth(told, vocabulary),
        rules=told.model_dump_json(exclude={"title", "domain", "licence", "classes"}),
        split=SPLIT,
    )


def read(path: str) -> Description:
    """Read and check the YAML file. Raises OvssError."""
    raw = strict_yaml.load(files.read(path), path)
    try:
        return Description.model_validate(raw)
    except ValidationError as failure:
        raise OvssError(f"{path}: {'; '.join(_explain(failure))}") from failure


def _explain(failure: ValidationError) -> Iterator[str]:
    for error in failure.errors():
        where = ".".join(str(step) for step in error["loc"])
        if error["type"] == "extra_forbidden":
            yield f"{where}: unknown.{nearest(where, Description.model_fields)}"
        else:
            yield f"{where or 'all'}: {error['msg']}, and found {error['input']!r}"


def _classes(told: Description, base: str) -> Iterable[str | tuple[str, ...]]:
    if not isinstance(told.classes, str):
        return told.classes
    address = _address(base, told.classes)
    try:
        lines = files.read(address).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
        return [line for line in lines if line.strip()]
    except UnicodeDecodeError as failure:
        raise OvssError(f"{address}: a list of classes is text in UTF-8, one class a line: {failure}") from failure


def items(told: Description, base: str, root: str, split: str) -> Items:
    """List the images, from the YAML's folder or else the data root. Raises OvssError if there are none."""
    split_folder(split, {SPLIT: ""})
    bases = [base, files.absolute(root)]
    kinds = (told.images, told.image_suffix, PHOTOGRAPHS), (told.labels, told.label_suffix, LABELS)
    found = paired(*(_stems(bases, *kind) for kind in kinds))
    if not len(found):
        photographs, truths = (sorted(stem for stem, _ in _stems(bases, *kind)) for kind in kinds)
        raise OvssError(
            f"{len(photographs)} photographs fit {told.images!r}, {len(truths)} label files fit {told.labels!r}, but "
            f"no two have one stem: {next(iter(photographs), None)!r}, {next(iter(truths), None)!r}. Looked for below "
            f"{base!r} and the data root {root!r}. Mend the patterns, or set label_suffix to how label files end"
        )
    return found


def _stems(
    bases: list[str], patterns: str | tuple[str, ...], suffix: str, endings: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """Stem without suffix, and address, from the first base that has any file that fits."""
    listed = [patterns] if isinstance(patterns, str) else patterns
    for base in bases:
        found = stems((uri for pattern in listed for uri in matching(base, pattern)), endings)
        if first := next(found, None):
            fitting = ((stem, uri) for stem, uri in chain([first], found) if stem.endswith(suffix))
            return ((stem.removesuffix(suffix), uri) for stem, uri in fitting)
    return iter(())


def matching(base: str, pattern: str) -> Iterator[str]:
    """The addresses of the files below `base` that a pattern fits, in no order; `**` is any number of folders."""
    steps = _address(base, pattern).split("/")
    fixed = next((i for i, step in enumerate(steps) if set(step) & set("*?[")), len(steps) - 1)
    folder, rest = "/".join(steps[:fixed]), steps[fixed:]
    listed = files.scan(folder, recursive=len(rest) > 1)
    return (uri for uri in listed if _fits(uri[len(folder) :].strip("/").split("/"), rest))


def _fits(path: list[str], pattern: list[str]) -> bool:
    if not path or not pattern:
        return not path and not pattern
    if pattern[0] == "**":
        return _fits(path, pattern[1:]) or _fits(path[1:], pattern)
    return fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


def _address(base: str, path: str) -> str:
    return path if path.startswith("/") or "://" in path else files.join(base, path)


def _truth(told: Description, vocabulary: Vocabulary) -> partial[np.ndarray]:
    if told.encoding == "rgb":
        return partial(coloured, _colours(told, vocabulary))
    ignore = (255,) if told.ignore is None else tuple(np.atleast_1d(told.ignore).tolist())
    return partial(indexed, value_table(len(vocabulary), told.offset, ignore))


def _colours(told: Description, vocabulary: Vocabulary) -> dict[int, int]:
    """Colour as one number → label index or IGNORE. Raises OvssError unless every class has a colour of its own."""
    position = {key: i for i, name in enumerate(vocabulary.names) for key in (i, name)}
    if unknown := [key for key in told.colours if key not in position]:
        near = nearest(str(unknown[0]), vocabulary.names)
        raise OvssError(f"colours.{unknown[0]}: no such class.{near}")
    ignored = () if told.ignore is None else np.reshape(told.ignore, (-1, 3)).tolist()
    pairs = [(colour, position[key]) for key, colour in told.colours.items()] + [(c, IGNORE) for c in ignored]
    table = {_number(np.array(colour)).item(): index for colour, index in pairs}
    if len(table) < len(pairs) or set(table.values()) - {IGNORE} != set(range(len(vocabulary))):
        raise OvssError(f"`colours` must give each of the {len(vocabulary)} classes a colour of its own")
    return table


def _number(colours: np.ndarray) -> np.ndarray:
    return colours.astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def indexed(table: np.ndarray, item: Item, data: bytes) -> np.ndarray:
    """Decode label values to (H, W) uint16 by a table (see benchmark.value_table). Raises OvssError."""
    return look_up(images.decode_labels(data, item.truth), table, item.truth)


def coloured(table: dict[int, int], item: Item, data: bytes) -> np.ndarray:
    """Decode label colours to (H, W) uint16. Raises OvssError for a colour that the table does not have."""
    found = images.decode_colours(data, item.truth)
    numbers, known = _number(found), np.array(sorted(table), np.int32)
    place = np.searchsorted(known, numbers).clip(max=len(known) - 1)
    if (odd := known[place] != numbers).any():
        unknown = np.unique(numbers[odd]).tolist()
        red, rest = divmod(unknown[0], 65536)
        raise OvssError(f"{item.truth}: {len(unknown)} colours not in `colours`, such as {[red, *divmod(rest, 256)]}")
    return np.array([table[number] for number in known.tolist()], np.uint16)[place]
