"""YAML file that describes a user's own data set: its keys and their validation (see `datasets.folder`)."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ovss_ray.benchmarks.contract import Values
from ovss_ray.errors import OvssError, nearest
from ovss_ray.io import files, strict_yaml, validation
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabulary

DEFAULT_IGNORE = 255
TEXT = ("table", "ids", "images", "labels", "classes", "image_suffix", "label_suffix", "title", "domain", "licence")
"""Keys whose values are read as text, even if YAML would read a number, as in `title: 2024`."""
# A run resumes only if `Description.rules` returns the same text as at its start, perhaps by an older release.
NEWER = ("values", "table", "ids")
"""Keys that older releases do not know.

If a key is unset, `Description.rules` omits the key. Runs that an older release has started can therefore resume.
"""


def _no_truth_value(value: Any) -> Any:
    """Reject true and false where a number is expected. YAML reads `yes`, `on` and similar words as true."""
    for inner in value if isinstance(value, list | tuple) else (value,):
        if isinstance(inner, bool):
            raise ValueError("expected a number (YAML reads `on`, `off`, `yes` and `no` as true or false)")
    return value


Byte = Annotated[int, Field(ge=0, le=255), BeforeValidator(_no_truth_value)]
Colour = tuple[Byte, Byte, Byte]
Value = Annotated[int, Field(ge=0, le=65535), BeforeValidator(_no_truth_value)]
Ignored = Annotated[int, Field(ge=-(2**31), le=65535), BeforeValidator(_no_truth_value)]


class Description(Settings):
    """Keys of a YAML file that describes a user's data set (documented in `datasets.folder`)."""

    table: str | tuple[str, ...] | None = None
    ids: str | None = None
    images: str | tuple[str, ...]
    labels: str | tuple[str, ...]
    classes: str | tuple[str | tuple[str, ...], ...]
    image_suffix: str = ""
    label_suffix: str = ""
    offset: Annotated[int, Field(ge=-65535, le=65535), BeforeValidator(_no_truth_value)] = 0
    ignore: Annotated[Ignored | tuple[Ignored, ...] | tuple[Colour, ...] | None, BeforeValidator(_no_truth_value)] = (
        None
    )
    encoding: Literal["index", "rgb"] = "index"
    colours: dict[str, Colour] = Field(default_factory=dict)
    values: tuple[Value, ...] | None = None
    title: str | None = None
    domain: str = "not stated"
    licence: str = "not stated"
    unpaired: Literal["error", "skip"] = "error"

    @model_validator(mode="after")
    def _agrees(self) -> "Description":
        nested = isinstance(self.ignore, tuple) and any(isinstance(value, tuple) for value in self.ignore)
        if self.encoding == "rgb" and (self.offset or self.values is not None or not self.colours):
            raise ValueError(
                "`encoding: rgb` needs the key `colours`, such as `colours: {road: [128, 64, 128]}`. The keys `offset` "
                "and `values` are not allowed with `encoding: rgb`"
            )
        if self.encoding == "index" and (self.colours or nested):
            raise ValueError(
                "`colours`, and colours in `ignore`, need `encoding: rgb`. Add `encoding: rgb`, or remove the colours"
            )
        if self.encoding == "rgb" and self.ignore is not None and not nested and np.size(self.ignore) not in (0, 3):
            raise ValueError("with `encoding: rgb`, `ignore` must be a colour [red, green, blue] or a list of colours")
        if self.values is not None and self.offset:
            raise ValueError("`values` and `offset` both define the label value of a class. Write only one of them")
        self._fits_table()
        for key in ("images", "labels", *(["table"] if self.table is not None else [])):
            if not all(pattern.strip() for pattern in self.patterns(key)) or not self.patterns(key):
                raise ValueError(f"`{key}` is empty. Write a pattern such as {key}/*.png")
        return self

    def _fits_table(self) -> None:
        """Raise ValueError if a key is not allowed with `table`, or if `ids` is set without `table`.

        With `table`, the keys image_suffix, label_suffix and unpaired must have their default values. `images` and
        `labels` must each be the name of one column.
        """
        if self.table is None and self.ids is not None:
            raise ValueError("`ids` names a column of a `table`. Add the key `table`, or remove `ids`")
        if self.table is not None and (self.image_suffix or self.label_suffix or self.unpaired != "error"):
            raise ValueError("image_suffix, label_suffix and unpaired do not apply to a `table`. Remove these keys")
        if self.table is not None and not (isinstance(self.images, str) and isinstance(self.labels, str)):
            raise ValueError("`images` and `labels` must each name one column of the `table`")

    def patterns(self, key: str) -> tuple[str, ...]:
        """Return the value of the key `images`, `labels` or `table` as a tuple.

        The value of `table` is a tuple of file patterns. If `table` is unset, the values of `images` and `labels` are
        also tuples of file patterns. If `table` is set, each of these two values is a tuple with one column name, such
        as ("photo",).
        """
        listed = getattr(self, key)
        return (listed,) if isinstance(listed, str) else listed

    def rules(self) -> str:
        """Return the settings that determine how files are found and decoded, as JSON.

        A run cannot resume if these settings have changed since its start.
        """
        unused = {key for key in NEWER if getattr(self, key) is None}
        elsewhere = {"title", "domain", "licence", "classes", "unpaired"}
        return self.model_dump_json(exclude=elsewhere | unused)


def read(path: str) -> Description:
    """Read and validate the YAML file of a data set. Raises OvssError that lists all faults."""
    raw = strict_yaml.load(files.read(path), path, TEXT)
    try:
        return Description.model_validate(raw)
    except ValidationError as failure:
        lines = validation.faults(failure, raw, lambda place: nearest(str(place[-1]), Description.model_fields))
        raise OvssError(f"{path}: {'; '.join(lines)}") from failure


def values(described: Description, vocabulary: Vocabulary) -> Values:
    """Return the label value of each class, and the ignored label values.

    Raises OvssError if the number of label values differs from the number of classes. Raises OvssError if a class's
    label value is ignored, is not from 0 to 65535, or belongs to two classes.
    """
    names = vocabulary.names
    by_offset = tuple(range(described.offset, described.offset + len(names)))
    classes = by_offset if described.values is None else described.values
    stated = described.ignore is not None
    ignore = tuple(np.array(described.ignore, np.int64).ravel().tolist()) if stated else (DEFAULT_IGNORE,)
    if described.values is not None and not stated and DEFAULT_IGNORE in classes:
        ignore = ()
    if wrong := next(_contradictions(described, names, classes, ignore), None):
        raise OvssError(wrong)
    return Values(classes, ignore, stated)


def _contradictions(
    described: Description, names: tuple[str, ...], classes: tuple[int, ...], ignore: tuple[int, ...]
) -> Iterator[str]:
    if len(classes) != len(names):
        yield f"values: {len(classes)} label values for {len(names)} classes. Give each class one, in the same order"
    first: dict[int, str] = {}
    for name, value in zip(names, classes, strict=False):
        if not 0 <= value <= 65535:
            yield (
                f"offset: {described.offset} gives the class {name!r} the label value {value}, which must be from "
                "0 to 65535. Label value − offset = index of the class, counted from 0"
            )
        if value in first:
            yield f"values: {value} is the label value of two classes, {first[value]!r} and {name!r}"
        if value in ignore and described.ignore is not None:
            yield (
                f"ignore: {value} is the label value of the class {name!r}, which would never be counted. Remove it "
                "from `ignore`, or set `offset` or `values` to the values in the label files"
            )
        if value in ignore:
            yield (
                f"the class {name!r} has the label value {value}, which is ignored by default. Write "
                "`ignore: []` if every value is a class, or `ignore:` and the value of unlabelled pixels"
            )
        first[value] = name
