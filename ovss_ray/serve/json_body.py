"""Requests as a JSON document: the image in base64 next to the fields that a form would have."""

import base64
import binascii
import json
import re
from collections.abc import Collection
from typing import Any

from fastapi import HTTPException

from ovss_ray.serve.refusal import Refused

AS_JSON = ("points", "box", "map", "base")
"""Fields whose value is JSON text in a form, but a list or object in a JSON document"""
PREFIX = re.compile(r"data:image/[\w.+-]+;base64,")
"""Beginning of a data URL. Browsers write this text before an image in base64"""
DIGEST = re.compile("[0-9a-f]{64}")
"""Pattern of the SHA-256 of an earlier image, which a prompt request may contain instead of an image"""
EXAMPLE = '{"image": "BASE64", "classes": ["sky", ["tree", "bush"]]}'


def read(body: bytes, allowed: Collection[str]) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of the image, and the other fields with the values that a form would have.

    `allowed`: names of the other fields. If `allowed` has "image", the document may contain the SHA-256 of an earlier
    image instead of an image. In this case, return b"", and return the SHA-256 as the field `image`.

    Raises HTTPException: 415 if the body is not a JSON object; 422 for unknown fields, or if the image is missing or
    not base64.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as failure:
        raise Refused(415, f"the body is not valid JSON. Send {EXAMPLE}", "invalid_json") from failure
    if not isinstance(document, dict):
        raise Refused(415, f"the body is a JSON {type(document).__name__}. Send an object: {EXAMPLE}", "invalid_json")
    fields = {name: value for name, value in document.items() if value is not None}
    if unknown := sorted(set(fields) - {"image", *allowed}):
        names = ", ".join(dict.fromkeys(["image", *allowed]))
        raise HTTPException(422, f"unknown field {unknown[0][:40]!r}; allowed: {names}")
    image = fields.pop("image", None)
    if not isinstance(image, str):
        raise HTTPException(422, f"the JSON has no image in base64. Send {EXAMPLE}")
    for name in AS_JSON:
        if name in fields and not isinstance(fields[name], str):
            fields[name] = _text(fields[name])
    if "classes" in fields:
        fields["classes"] = [_text(fields["classes"])]
    if "image" in allowed and DIGEST.fullmatch(image):
        return b"", {**fields, "image": image}
    return decoded(image), fields


def decoded(text: str) -> bytes:
    """Return the bytes of base64 text, or of a data URL. Raises HTTPException 422 for other text."""
    begin = PREFIX.match(text[:100])
    try:
        return base64.b64decode(text[begin.end() :] if begin else text, validate=True)
    except (binascii.Error, ValueError) as failure:
        raise HTTPException(422, "the field `image` is not base64: encode the bytes of the file") from failure


def _text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError as failure:
        raise Refused(415, f"the JSON is nested too deeply. Send {EXAMPLE}", "invalid_json") from failure
