"""What a request asks: an image, the classes that may be named in it, what somebody points at."""

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from starlette.datastructures import UploadFile

from ovss_ray.datasets import benchmark as benchmarks
from ovss_ray.errors import OvssError
from ovss_ray.limits import Limits
from ovss_ray.serve import photograph
from ovss_ray.serve.answer import Output
from ovss_ray.vocabulary import Vocabulary

IMAGES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
POINTS = TypeAdapter(list[tuple[FiniteFloat, FiniteFloat, Literal[0, 1]]])
BOX = TypeAdapter(tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat])
LETTERS = 200
"""Of JSON for each point, far more than one needs: what is longer is not even read."""
LISTS = TypeAdapter(list[str | Annotated[list[str], Field(min_length=1)]])
"""Classes as JSON: a name each, or a list of the names of a class"""
BRACKETS = ("[]", "{}")
"""First and last character of text that is meant as a list."""
SEPARATORS = re.compile("[,;|]")
"""Characters between the names of a list, which names may have as well: "door, double door" is a class of ADE20K."""
HOW = (
    "Send the bytes of the image as the body, with the rest in the address (curl --data-binary @photo.jpg "
    "'…?classes=sky&classes=road'), or a form, multipart/form-data (curl -F image=@photo.jpg -F classes=sky -F "
    "classes=road). JSON and base64 are not read"
)
Top = Annotated[int, Field(ge=1, le=10, description="names of each region, the best first")]


class Given(BaseModel):
    """What every request may say beside its image, in the address or in a form."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: list[str] = Field(
        default=[], description='one a class, several names separated by tabs; or JSON: ["sky", ["tree", "bush"]]'
    )
    benchmark: str | None = Field(default=None, description="whose classes are meant, such as ade20k:150")
    model: str | None = Field(default=None, description="a name of /v1/models; default: the first that can answer")


class Segment(Given):
    """A label map."""

    output: Output = Field(default="png", description="what is answered beside the classes")


class Regions(Given):
    """Everything with its names."""

    top: Top = 3


class Prompt(Given):
    """What somebody points at."""

    image: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="instead of an image: the sha256 of one sent before"
    )
    points: str | None = Field(
        default=None, description="JSON: [[x, y, label], …] in pixels of the image as it is shown; 1 inside, 0 outside"
    )
    box: str | None = Field(default=None, description="JSON: [x0, y0, x1, y1], likewise")
    multimask: bool | None = Field(
        default=None, description="three masks, for what can mean several things; default: of a single click alone"
    )
    top: Top = 3

    def question(self, limits: Limits) -> dict[str, Any]:
        """What the stage sam_prompt is asked. Raises HTTPException 422 if it is nothing, or nothing sensible."""
        points = _json("points", self.points, POINTS, "[[120, 80, 1], [30, 40, 0]]", limits.points)
        box = _json("box", self.box, BOX, "[10, 20, 110, 90]", 4)
        if not points and box is None:
            raise HTTPException(422, "point at something: give points, a box, or both")
        if len(points or ()) > limits.points:
            raise HTTPException(422, f"{len(points)} points are given; at most {limits.points:,} are taken")
        if box and not (box[0] < box[2] and box[1] < box[3]):
            raise HTTPException(422, f"box: {list(box)} is empty; write x0 y0 x1 y1 with x0 < x1 and y0 < y1")
        several = len(points or ()) == 1 and box is None if self.multimask is None else self.multimask
        question: dict[str, Any] = {"multimask": several}
        if points:
            question |= {"points": [[x, y] for x, y, _ in points], "labels": [label for *_, label in points]}
        return {**question, "box": list(box)} if box else question


SomeGiven = TypeVar("SomeGiven", bound=Given)


def _json(name: str, text: str | None, kind: TypeAdapter[Any], example: str, most: int) -> Any:
    """A field that is JSON. Raises HTTPException 422."""
    if text is None:
        return None
    if len(text) > LETTERS * most:
        raise HTTPException(422, f"{name}: {len(text):,} characters are more than are read")
    try:
        return kind.validate_json(text)
    except ValidationError as failure:
        raise HTTPException(422, f"{name}: write JSON such as {example}") from failure


def body(kind: type[Given], required: bool = True) -> dict[str, Any]:
    """The body of a request, for the OpenAPI document: the bytes of an image, or a form."""
    fields = kind.model_json_schema()["properties"]
    image = {"type": "string", "format": "binary", "description": "a JPEG, PNG or WebP"}
    either = {"anyOf": [image, fields["image"]]} if "image" in fields else image
    form = {"type": "object", "properties": {**fields, "image": either}, "additionalProperties": False}
    return {
        "required": required,
        "content": {
            **{name: {"schema": {"type": "string", "format": "binary"}} for name in IMAGES},
            "multipart/form-data": {"schema": {**form, "required": ["image"]}},
        },
    }


async def read(request: Request, given: SomeGiven, limits: Limits) -> tuple[bytes, SomeGiven]:
    """Read the body: an image, or a form whose fields go before what the address says. No image: no bytes.

    Raises HTTPException: 400 for a form that cannot be read, 415 for a body that is neither form nor image, 422 for a
    form with the wrong fields; RequestValidationError for fields with the wrong content.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        body = await request.body()
        if body and not photograph.taken(body):
            raise HTTPException(415, f"the body is no JPEG, PNG or WebP: it begins with {body[:8]!r}. {HOW}")
        return body, given
    known = type(given).model_fields
    async with request.form(max_files=1, max_fields=limits.classes + len(known) + 1) as form:
        fields: dict[str, Any] = {name: form.getlist(name) for name in form}
        if unknown := sorted(set(fields) - {"image", *known}):
            raise HTTPException(422, f"the form has {unknown[0]!r}; it may have {', '.join({'image': 0, **known})}")
        image = form.get("image")
        content = await image.read() if isinstance(image, UploadFile) else b""
    if isinstance(image, UploadFile):
        fields.pop("image")
    elif image is None or "image" not in known:
        text = "its field image is text. Send the file itself" if image is not None else "it has no file called image"
        raise HTTPException(422, f"the form cannot be answered: {text} (curl -F image=@photo.jpg)")
    fields = {name: values if name == "classes" else values[-1] for name, values in fields.items()}
    try:
        return content, type(given).model_validate({**given.model_dump(exclude_unset=True), **fields})
    except ValidationError as failure:
        raise RequestValidationError(failure.errors()) from failure


def vocabulary(asked: Given, own: Sequence[str], limits: Limits) -> Vocabulary:
    """The classes of a request; several names of one are separated by tabs. `own` are benchmarks that configs name.

    Raises HTTPException 422 for none, too many, too long or empty ones, for a list that cannot be read, and for a
    benchmark that is not known.
    """
    if bool(asked.classes) == (asked.benchmark is not None):
        raise HTTPException(422, "name the classes, or a benchmark whose classes are meant: one of the two")
    if asked.benchmark is not None:
        return _of_benchmark(asked.benchmark, own, limits)
    classes = [name for field in asked.classes for name in _listed(field, alone=len(asked.classes) == 1)]
    if len(classes) > limits.classes:
        raise HTTPException(422, f"{len(classes):,} classes are asked for; at most {limits.classes:,} are taken")
    if (longest := max(map(len, classes), default=0)) > limits.letters:
        raise HTTPException(422, f"a class is named in {longest:,} letters; at most {limits.letters:,} are taken")
    try:
        return Vocabulary.of(name.split("\t") for name in classes)
    except OvssError as failure:
        raise HTTPException(422, str(failure)) from failure


def _listed(field: str, alone: bool) -> list[str]:
    """Return the classes of a field: the items of a JSON list, else the field itself.

    `alone`: the request has no other field with classes.

    Raises HTTPException 422 for text that looks like a list and is no JSON: read as a name, it would fill the image.
    """
    text, whole = field.strip(), json.dumps([field], ensure_ascii=False)
    if text[:1] + text[-1:] in BRACKETS:
        try:
            listed = LISTS.validate_json(text)
        except ValidationError as failure:
            what = f"classes: {field[:40]!r} is no JSON list of names. {_write(['sky', 'road'])}"
            raise HTTPException(422, f"{what}. A name with brackets around it: classes={whole}") from failure
        return [names if isinstance(names, str) else "\t".join(names) for names in listed]
    if alone and SEPARATORS.search(field):
        names = [name.strip() for name in SEPARATORS.split(field)]
        what = f"classes: {field[:40]!r} is read as a single class. If it is a list: {_write(names)}"
        raise HTTPException(422, f"{what}. If it is the name of a single class, write JSON: classes={whole}")
    return [field]


def _write(names: list[str]) -> str:
    """Return what to type for a list of classes."""
    listed = json.dumps(names, ensure_ascii=False)
    return f"Write a field for each ({'&'.join(f'classes={name}' for name in names)}), or JSON: classes={listed}"


def _of_benchmark(name: str, own: Sequence[str], limits: Limits) -> Vocabulary:
    """Only names that are listed are looked up: others could be files or modules of this machine."""
    offered = [*benchmarks.known(), *own]
    base = name if name in own else name.partition("@")[0]
    if len(name) > limits.letters or (base.startswith("folder:") and name not in own):
        raise HTTPException(422, f"there is no benchmark {name[:40]!r} here")
    if base not in offered:
        raise HTTPException(422, f"there is no benchmark {name!r}. Known: {', '.join(offered)}")
    try:
        return benchmarks.load(name).vocabulary
    except OvssError as failure:
        raise HTTPException(422, str(failure)) from failure
