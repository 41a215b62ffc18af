"""The YAML file that describes a user's own data set: its keys, and whether they agree (see datasets/folder.py)."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ovss_ray import explain, files, strict_yaml
from ovss_ray.datasets.benchmark import Values
from ovss_ray.errors import OvssError, nearest
from ovss_ray.stage import Config
from ovss_ray.vocabulary import Vocabulary

DEFAULT_IGNORE = 255
TEXT = ("images", "labels", "classes", "image_suffix", "label_suffix", "title", "domain", "licence")
"""Keys whose values are text, whatever YAML would make of them."""
NEWER = ("values",)
"""Keys that came later: left out of the rules of a benchmark that does not use them, so that old runs go on."""


def _no_truth_value(value: Any) -> Any:
    """Refuse `yes`, `on` and the like, which YAML reads as true, in the place of a number."""
    for inner in value if isinstance(value, list | tuple) else (value,):
        if isinstance(inner, bool):
            raise ValueError("a number is expected (YAML reads on, off, yes and no as true or false)")
    return value


Byte = Annotated[int, Field(ge=0, le=255), BeforeValidator(_no_truth_value)]
Colour = tuple[Byte, Byte, Byte]
Value = Annotated[int, Field(ge=0, le=65535), BeforeValidator(_no_truth_value)]
Ignored = Annotated[int, Field(ge=-(2**31), le=65535), BeforeValidator(_no_truth_value)]


class Description(Config):
    """The keys of the YAML file."""

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
            raise ValueError("encoding: rgb needs a table `colours`, and has no `offset` and no `values`")
        if self.encoding == "index" and (self.colours or nested):
            raise ValueError("colours are for `encoding: rgb`; label values are numbers")
        if self.encoding == "rgb" and self.ignore is not None and not nested and np.size(self.ignore) not in (0, 3):
            raise ValueError("with `encoding: rgb`, `ignore` is a colour [red, green, blue] or a list of colours")
        if self.values is not None and self.offset:
            raise ValueError("`values` and `offset` both say which label value a class has. Write one of them")
        for key in ("images", "labels"):
            if not all(pattern.strip() for pattern in self.patterns(key)) or not self.patterns(key):
                raise ValueError(f"`{key}` is empty. Write a pattern such as {key}/*.png")
        return self

    def patterns(self, key: str) -> tuple[str, ...]:
        """The patterns of `images` or `labels`."""
        listed = getattr(self, key)
        return (listed,) if isinstance(listed, str) else listed

    def rules(self) -> str:
        """How label files are read, for the identity of a run."""
        unused = {key for key in NEWER if getattr(self, key) is None}
        elsewhere = {"title", "domain", "licence", "classes", "unpaired"}
        return self.model_dump_json(exclude=elsewhere | unused)


def read(path: str) -> Description:
    """Read and check the YAML file. Raises OvssError that names every fault."""
    raw = strict_yaml.load(files.read(path), path, TEXT)
    try:
        return Description.model_validate(raw)
    except ValidationError as failure:
        lines = explain.faults(failure, raw, lambda place: nearest(str(place[-1]), Description.model_fields))
        raise OvssError(f"{path}: {'; '.join(lines)}") from failure


def values(described: Description, vocabulary: Vocabulary) -> Values:
    """The label value of each class, and those that are not counted. Raises OvssError where they contradict."""
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
        yield f"values: {len(classes)} label values for {len(names)} classes. Give each class one, in their order"
    first: dict[int, str] = {}
    for name, value in zip(names, classes, strict=False):
        if not 0 <= value <= 65535:
            yield (
                f"offset: {described.offset} gives the class {name!r} the label value {value}, and classes have "
                "0 to 65535. Label value − offset = index of the class, counted from 0"
            )
        if value in first:
            yield f"values: {value} is given to the classes {first[value]!r} and {name!r}"
        if value in ignore and described.ignore is not None:
            yield (
                f"ignore: {value} is the label value of the class {name!r}, which then never counts. Take it out of "
                "`ignore`, or set `offset` or `values` to what the label files have"
            )
        if value in ignore:
            yield (
                f"the class {name!r} has the label value {value}, which is not counted unless you say so. Write "
                "`ignore: []` if every value is a class, or `ignore:` and the value that is not labelled"
            )
        first[value] = name
