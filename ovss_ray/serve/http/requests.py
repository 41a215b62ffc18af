"""Reading of requests: the image, the classes, and the points or box of a prompt."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from starlette.datastructures import UploadFile

from ovss_ray.config.limits import Limits
from ovss_ray.errors import OvssError
from ovss_ray.serve import json_body
from ovss_ray.serve.http import photograph
from ovss_ray.serve.http.answers import Output
from ovss_ray.serve.intake import benchmarks
from ovss_ray.structures.vocabulary import Vocabulary

IMAGES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
POINTS = TypeAdapter(list[tuple[FiniteFloat, FiniteFloat, Literal[0, 1]]])
BOX = TypeAdapter(tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat])
LETTERS = 200
"""Number of characters that suffice for the JSON of one point. For n points, `_json` allows n · LETTERS characters"""
BASE = TypeAdapter(list[str])
"""Validator for the field `base` of a prompt: a JSON list of class names"""
LISTS = TypeAdapter(list[str | Annotated[list[str], Field(min_length=1)]])
"""Validator for a JSON list of classes. A class is a name, or a list of synonyms."""
BRACKETS = ("[]", "{}")
"""Brackets that mark the text of a field `classes` as JSON. Only a JSON list is valid, so text in {} is refused"""
SEPARATORS = re.compile("[,;|]")
"""Characters that make the text of a field `classes` ambiguous: `door, bell` may be one class name or two."""
TEMPLATES = 32
"""Maximum number of templates; each class is embedded with each of them"""
SEVERAL = ("classes", "templates")
"""Fields that a request may have several times"""
HOW = (
    "Send the bytes of the image as the body with query parameters (curl --data-binary @photo.jpg "
    "'…?classes=sky&classes=road'), or a multipart/form-data form (curl -F image=@photo.jpg -F classes=sky -F "
    "classes=road), or JSON with the type application/json: " + json_body.EXAMPLE
)
NAME = 255
"""Maximum number of characters in the name of an image"""
Form = Literal["json", "coco"]
"""Format of an answer with masks. `json` is the service's own JSON format, and `coco` is a COCO document"""
Top = Annotated[int, Field(ge=1, le=10, description="names per region, best first")]


class Fields(BaseModel):
    """Fields that every kind of request has besides the image. They are query parameters, or fields of the body."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: list[str] = Field(
        default=[], description='one per class, synonyms separated by tabs; or JSON: ["sky", ["tree", "bush"]]'
    )
    benchmark: str | None = Field(default=None, description="benchmark whose classes to use, such as ade20k:150")
    templates: list[str] = Field(
        default=[], max_length=TEMPLATES, description="one per sentence with {} for the name; default: the model's"
    )
    model: str | None = Field(default=None, description="name from /v1/models; default: the first that can answer")


class Segment(Fields):
    """Request for a label map."""

    output: Output = Field(default="png", description="form of the masks, besides the classes")
    add: bool = Field(default=False, description="add the classes to the words that the model finds in the image")
    map: str | None = Field(
        default=None, description='JSON: requested class → class of the answer, or null: {"sedan": "car"}'
    )


class Masks(Fields):
    """Request for masks with class names."""

    top: Top = 3
    output: Form = Field(default="json", description="form of the answer: its own JSON, or a COCO document")
    file_name: str | None = Field(
        default=None, max_length=NAME, description="name of the image in a COCO document; default: its sha256"
    )


class Regions(Masks):
    """Request for all regions with their class names."""

    ranked: int = Field(
        default=0, ge=0, le=100, description="regions per class in `ranking` (not in a COCO document); 0: no ranking"
    )
    first: int = Field(default=0, ge=0, description="position of the first region of a page, from 0")
    count: int | None = Field(default=None, ge=1, description="regions of a page; default: all up to the limit")


class Prompt(Masks):
    """Request for the object that a prompt of SAM describes: points, a box, or both."""

    top: Top = 5
    image: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="instead of an image: the sha256 of an earlier one"
    )
    points: str | None = Field(
        default=None, description="JSON: [[x, y, label], …] in pixels of the upright image; label 1 inside, 0 outside"
    )
    box: str | None = Field(default=None, description="JSON: [x0, y0, x1, y1] in pixels of the upright image")
    multimask: bool | None = Field(
        default=None, description="three masks for an ambiguous prompt; default: true for a single point only"
    )
    base: str | None = Field(
        default=None,
        description="JSON list of names seen in training, for models with scores of head and CLIP; other models ignore "
        "it. Default: those of the model's config",
    )

    def question(self, limits: Limits) -> dict[str, Any]:
        """Return the prompt as a value of the column `prompts`, which stages such as `sam_prompt` read.

        The key `multimask` is always present. The other keys are present if the request has their values:

        - `points` [[x, y], …] and `labels` [0 or 1, …]
        - `box` [x0, y0, x1, y1]
        - `base`, class names that the model has seen in training

        Raises HTTPException 422 if points and box are both missing, or if a value is invalid.
        """
        points = _json("points", self.points, POINTS, "[[120, 80, 1], [30, 40, 0]]", limits.points)
        box = _json("box", self.box, BOX, "[10, 20, 110, 90]", 4)
        if not points and box is None:
            raise HTTPException(422, "missing prompt: pass points, a box, or both")
        if len(points or ()) > limits.points:
            raise HTTPException(422, f"too many points: {len(points)}; the limit is {limits.points:,}")
        if box and not (box[0] < box[2] and box[1] < box[3]):
            raise HTTPException(422, f"box: {list(box)} is empty; pass x0 y0 x1 y1 with x0 < x1 and y0 < y1")
        base = _json("base", self.base, BASE, '["person", "car"]', limits.classes * limits.letters // LETTERS)
        if len(base or ()) > limits.classes:
            raise HTTPException(422, f"base: too many names: {len(base):,}; the limit is {limits.classes:,}")
        several = len(points or ()) == 1 and box is None if self.multimask is None else self.multimask
        question: dict[str, Any] = {"multimask": several}
        if points:
            question |= {"points": [[x, y] for x, y, _ in points], "labels": [label for *_, label in points]}
        if base is not None:
            question["base"] = base
        return {**question, "box": list(box)} if box else question


FieldsT = TypeVar("FieldsT", bound=Fields)


def _json(name: str, text: str | None, kind: TypeAdapter[Any], example: str, most: int) -> Any:
    """Return the value of a field that contains JSON. If `text`, the JSON, is None, return None.

    `example`: valid JSON for the error message. The JSON may have at most `most` · LETTERS characters.

    Raises HTTPException 422 if the JSON is invalid or too long.
    """
    if text is None:
        return None
    if len(text) > LETTERS * most:
        raise HTTPException(422, f"{name} is too long: {len(text):,} characters; the limit is {LETTERS * most:,}")
    try:
        return kind.validate_json(text)
    except ValidationError as failure:
        raise HTTPException(422, f"{name}: invalid value; pass JSON such as {example}") from failure


def body(kind: type[Fields], required: bool = True) -> dict[str, Any]:
    """Return the OpenAPI description of a request's body. `required`: whether every request must have a body."""
    fields = kind.model_json_schema()["properties"]
    image = {"type": "string", "format": "binary", "description": "a JPEG, PNG or WebP"}
    either = {"anyOf": [image, fields["image"]]} if "image" in fields else image
    form = {"type": "object", "properties": {**fields, "image": either}, "additionalProperties": False}
    return {
        "required": required,
        "content": {
            **{name: {"schema": {"type": "string", "format": "binary"}} for name in IMAGES},
            "multipart/form-data": {"schema": {**form, "required": ["image"]}},
            "application/json": {"schema": {"type": "object"}, "example": json.loads(json_body.EXAMPLE)},
        },
    }


async def read(request: Request, query: FieldsT, limits: Limits) -> tuple[bytes, FieldsT]:
    """Return the bytes of a request's image, and the fields of the request. Without an image, the bytes are empty.

    Fields of the body replace those of the query. Raises HTTPException 400, 415 or 422 for an invalid body, and
    RequestValidationError for invalid values of fields.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        body = await request.body()
        if kind == "application/json" and not photograph.taken(body):
            return _validated(*json_body.read(body, type(query).model_fields), query)
        if body and not photograph.taken(body):
            raise HTTPException(415, f"the body is not a JPEG, PNG or WebP: it begins with {body[:8]!r}. {HOW}")
        return body, query
    allowed = type(query).model_fields
    async with request.form(max_files=1, max_fields=limits.classes + TEMPLATES + len(allowed) + 1) as form:
        fields: dict[str, Any] = {name: form.getlist(name) for name in form}
        if unknown := sorted(set(fields) - {"image", *allowed}):
            fields_allowed = ", ".join({"image": 0, **allowed})
            raise HTTPException(422, f"unknown form field {unknown[0]!r}; allowed: {fields_allowed}")
        image = form.get("image")
        content = await image.read() if isinstance(image, UploadFile) else b""
    if isinstance(image, UploadFile):
        fields.pop("image")
    elif image is None or "image" not in allowed:
        text = "its field `image` is text. Send the file itself" if image is not None else "send a file named image"
        raise HTTPException(422, f"the form has no image: {text}, for example with curl -F image=@photo.jpg")
    return _validated(
        content, {name: values if name in SEVERAL else values[-1] for name, values in fields.items()}, query
    )


def _validated(content: bytes, fields: Mapping[str, Any], query: FieldsT) -> tuple[bytes, FieldsT]:
    """Return `content`, and the fields of the request. A field in `fields` replaces the same field in `query`.

    Raises RequestValidationError for an invalid value.
    """
    try:
        return content, type(query).model_validate({**query.model_dump(exclude_unset=True), **fields})
    except ValidationError as failure:
        raise RequestValidationError(failure.errors()) from failure


def vocabulary(fields: Fields, configured: Sequence[str], limits: Limits) -> Vocabulary:
    """Return the classes and templates of a request.

    A request may name a benchmark of ovss_ray, or a benchmark in `configured`. Raises HTTPException 422 for invalid or
    too many classes, an unknown benchmark, or an invalid template.
    """
    words = _classes(fields, configured, limits)
    if (longest := max(map(len, fields.templates), default=0)) > limits.letters:
        raise HTTPException(422, f"a template has {longest:,} characters; the limit is {limits.letters:,}")
    try:
        return replace(words, templates=tuple(fields.templates))
    except OvssError as failure:
        raise HTTPException(422, str(failure)) from failure


def _classes(fields: Fields, configured: Sequence[str], limits: Limits) -> Vocabulary:
    """Return the classes of a request, without templates.

    Raises HTTPException 422 for invalid or too many classes, and for an unknown benchmark. Raises HTTPException 422 if
    the request has both classes and a benchmark, or neither.
    """
    if bool(fields.classes) == (fields.benchmark is not None):
        raise HTTPException(422, "pass either classes or a benchmark (exactly one of the two)")
    if fields.benchmark is not None:
        return benchmarks.vocabulary(fields.benchmark, configured, limits)
    classes = [name for field in fields.classes for name in _listed(field, alone=len(fields.classes) == 1)]
    if len(classes) > limits.classes:
        raise HTTPException(422, f"too many classes: {len(classes):,}; the limit is {limits.classes:,}")
    if (longest := max(map(len, classes), default=0)) > limits.letters:
        raise HTTPException(422, f"a class name has {longest:,} characters; the limit is {limits.letters:,}")
    try:
        return Vocabulary.of(name.split("\t") for name in classes)
    except OvssError as failure:
        raise HTTPException(422, str(failure)) from failure


def _listed(field: str, alone: bool) -> list[str]:
    """Return the classes in a field `classes`. The text in `field` is a JSON list of classes, or a single class.

    `alone`: whether the request has no further field `classes`. Raises HTTPException 422 in two cases:

    - The text is in brackets (see BRACKETS), but is not a JSON list of classes.
    - The text is not in brackets, `alone` is True, and the text contains one of the characters in SEPARATORS.
    """
    # a refused text, taken as a single class, would be predicted for the whole image
    text, whole = field.strip(), json.dumps([field], ensure_ascii=False)
    if text[:1] + text[-1:] in BRACKETS:
        try:
            listed = LISTS.validate_json(text)
        except ValidationError as failure:
            raise HTTPException(
                422,
                f"classes: {field[:40]!r} is in brackets, but is not a JSON list of names. {_advice(['sky', 'road'])}. "
                f"If the brackets are part of a class name, pass JSON: classes={whole}",
            ) from failure
        return [names if isinstance(names, str) else "\t".join(names) for names in listed]
    if alone and SEPARATORS.search(field):
        names = [name.strip() for name in SEPARATORS.split(field)]
        raise HTTPException(
            422,
            f"classes: {field[:40]!r} is ambiguous. {_advice(names)}. To send a single class with this name, pass "
            f"JSON: classes={whole}",
        )
    return [field]


def _advice(names: list[str]) -> str:
    """Return a sentence that states the two ways to pass a list of classes, with `names` as the example."""
    listed = json.dumps(names, ensure_ascii=False)
    return (
        f"To send a list of names, pass one field per class ({'&'.join(f'classes={name}' for name in names)}), "
        f"or JSON: classes={listed}"
    )
