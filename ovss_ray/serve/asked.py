"""What a request asks: an image, and the classes that may be named in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile

from ovss_ray.datasets import benchmark as benchmarks
from ovss_ray.errors import OvssError
from ovss_ray.limits import Limits
from ovss_ray.serve.answer import Output
from ovss_ray.vocabulary import Vocabulary

FIELDS = ("classes", "benchmark", "output")
"""What may be given in the address or, in a form, beside the image."""
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        **{
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {"type": "string", "format": "binary"},
                    "classes": {"type": "array", "items": {"type": "string"}},
                    "benchmark": {"type": "string"},
                    "output": {"type": "string", "enum": list(get_args(Output))},
                },
            }
        },
    },
}
"""The body of a request, for the OpenAPI document: the bytes of an image, or a form."""


@dataclass(frozen=True)
class Asked:
    """A request, read and not looked at yet."""

    image: bytes
    classes: tuple[str, ...]
    benchmark: str | None
    output: Output


async def read(
    request: Request, classes: Sequence[str], benchmark: str | None, output: Output, limits: Limits
) -> Asked:
    """Read the body: an image, or a form whose fields go before what the address says.

    Raises HTTPException: 400 for a form that cannot be read, 422 for one with the wrong fields.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        return Asked(await request.body(), tuple(classes), benchmark, output)
    async with request.form(max_files=1, max_fields=limits.classes + len(FIELDS) + 1) as form:
        fields = {name: form.getlist(name) for name in form}
        if unknown := sorted(set(fields) - {"image", *FIELDS}):
            raise HTTPException(422, f"the form has {unknown[0]!r}; it may have image, {', '.join(FIELDS)}")
        image = form.get("image")
        if not isinstance(image, UploadFile):
            raise HTTPException(422, "the form has no file called image")
        content = await image.read()
    words = {name: [str(value) for value in fields.get(name, ())] for name in FIELDS}  # the one file is the image
    wanted: Any = (words["output"] or [output])[-1]
    if wanted not in get_args(Output):
        raise HTTPException(422, f"output: {wanted[:20]!r} is none of {', '.join(get_args(Output))}")
    chosen = words["benchmark"][-1] if words["benchmark"] else benchmark
    return Asked(content, tuple(words["classes"] or classes), chosen, wanted)


def vocabulary(asked: Asked, own: Sequence[str], limits: Limits) -> Vocabulary:
    """The classes of a request; several names of one are parted by tabs. `own` are benchmarks that the config names.

    Raises HTTPException 422 for none, too many, too long or empty ones, and for a benchmark that is not known.
    """
    if bool(asked.classes) == (asked.benchmark is not None):
        raise HTTPException(422, "name the classes, or a benchmark whose classes are meant: one of the two")
    if asked.benchmark is not None:
        return _of_benchmark(asked.benchmark, own, limits)
    if len(asked.classes) > limits.classes:
        raise HTTPException(422, f"{len(asked.classes):,} classes are asked for; at most {limits.classes:,} are taken")
    if (longest := max(map(len, asked.classes))) > limits.letters:
        raise HTTPException(422, f"a class is named in {longest:,} letters; at most {limits.letters:,} are taken")
    try:
        return Vocabulary.of(one.split("\t") for one in asked.classes)
    except OvssError as failure:
        raise HTTPException(422, str(failure)) from failure


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
