"""Fields of requests, as the client sends them: classes, prompts and the image."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from ovss_ray.errors import OvssError

Classes = Sequence[str | Sequence[str]]
"""List of classes. A class is a name, or a list of synonyms"""
Points = Sequence[tuple[float, float, int]]
"""Points (x, y, label). x and y are pixels of the upright image

The label is 1 for a point inside the object, and 0 for a point outside."""
Fields = list[tuple[str, Any]]
"""Parts of a form, (name, value). The value of a file is (file name, bytes, media type)"""


class Prompting(TypedDict, total=False):
    """Options of a request for a label map, in addition to classes, benchmark and model."""

    templates: Sequence[str]
    """sentences with {} in place of the class name; default: the templates of the model"""
    map: Mapping[str, str | None] | None
    """requested class → class of the answer, such as "horse" → "animal"

    Pixels of a class that maps to None get no class. A class without an entry keeps its name.
    """
    add: bool
    """True: the classes are added to the words that the model finds in the image"""


def words(classes: Classes | None, benchmark: str | None, model: str | None, **more: Unpack[Prompting]) -> Fields:
    """Return the form fields for classes, benchmark, model and options.

    Raises OvssError for an unknown option, and if `classes` or `templates` is a string.
    """
    if unknown := sorted(more.keys() - Prompting.__annotations__.keys()):
        raise OvssError(f"unknown options: {', '.join(unknown)}; allowed: {', '.join(Prompting.__annotations__)}")
    for name, value in (("classes", classes), ("templates", more.get("templates"))):
        if isinstance(value, str):
            raise OvssError(f"{name} must be a list, got the string {value!r}. Write [{value!r}]")
    listed = [names if isinstance(names, str) else list(names) for names in classes or ()]
    mapped = more.get("map")
    # In JSON, a name may contain commas and brackets without being parsed as a list.
    fields = {
        "classes": json.dumps(listed, ensure_ascii=False) if listed else None,
        "benchmark": benchmark,
        "model": model,
        "map": None if mapped is None else json.dumps(dict(mapped), ensure_ascii=False),
        "add": "true" if more.get("add") else None,
    }
    templates = [("templates", template) for template in more.get("templates") or ()]
    return [*((name, value) for name, value in fields.items() if value is not None), *templates]


def regions(classes: Classes | None, benchmark: str | None, model: str | None, top: int, ranked: int) -> Fields:
    """Return the form fields of a `regions` request. Raises OvssError if `classes` is a string.

    `top`: number of class names per region. `ranked`: number of regions per class in the answer's ranking. If `ranked`
    is 0, the answer has no ranking.
    """
    fields = [*words(classes, benchmark, model), ("top", str(top))]
    return fields + ([("ranked", str(ranked))] if ranked else [])


def question(points: Points, box: Sequence[float] | None, multimask: bool | None) -> Fields:
    """Return the form fields of a prompt.

    `box`: x0, y0, x1, y1 in pixels of the upright image. `multimask`: True for three masks, False for one mask. If
    `multimask` is None, a single point without a box gets three masks, and any other prompt gets one mask.
    """
    pointed = [[float(x), float(y), int(label)] for x, y, label in points]
    fields: Fields = [("points", json.dumps(pointed))] if pointed else []
    fields += [("box", json.dumps(list(map(float, box))))] if box is not None else []
    return fields + ([("multimask", str(multimask).lower())] if multimask is not None else [])


def file(data: bytes) -> tuple[str, Any]:
    """Return the form field of an image."""
    return "image", ("image", data, "application/octet-stream")
