"""Refusals of requests: an HTTP status, a code for programs, and a reason for people, as a JSON document."""

import re
import uuid
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import Scope

from ovss_ray.serve.retries import DEADLINE, INTERNAL

CODES = {
    400: "malformed",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "slow_body",
    409: "running",
    413: "too_large",
    415: "unsupported",
    422: "invalid",
    429: "busy",
    500: INTERNAL,
    503: "not_ready",
    504: DEADLINE,
}
"""HTTP status → default code of a refusal with this status"""

REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
"""Pattern of a valid X-Request-ID, which the answer repeats. Ray Serve adds this header to requests without it"""


class Refusal(BaseModel):
    """The reason why a request was refused."""

    detail: str = Field(description="reason, for people")
    code: str = Field(description="reason, for programs: " + ", ".join(CODES.values()))
    request_id: str = Field(
        description="id of the request, as in the header X-Request-ID, for questions to the operator"
    )


MEANINGS = {
    400: "malformed form or Host header",
    401: "missing or wrong API key",
    403: "request from another machine or another site's page to a service without an API key",
    408: "the body did not arrive in time",
    413: "too many bytes or pixels",
    415: "not a JPEG, PNG or WebP",
    422: "damaged image, invalid classes, unknown model, or an image on which a stage failed",
    429: "too many requests; retry after the seconds in Retry-After",
    503: "not ready, or no worker was free in time; retry after the seconds in Retry-After",
    504: "deadline passed: the request took longer than the service allows; do not repeat it",
}
"""HTTP status → its causes, for the API's description"""
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": meaning, "model": Refusal} for status, meaning in MEANINGS.items()
}
GONE: dict[int | str, dict[str, Any]] = {404: {"description": "the named image is not cached", "model": Refusal}}


class Refused(HTTPException):
    """Refusal with a specific code, for an HTTP status that has several causes."""

    def __init__(self, status: int, detail: str, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.code = code


def answer(failure: AnyHTTPException, scope: Scope) -> JSONResponse:
    """Return the response to a refused request."""
    code = failure.code if isinstance(failure, Refused) else CODES.get(failure.status_code, "error")
    document = Refusal(detail=str(failure.detail), code=code, request_id=request_id(scope))
    return JSONResponse(document.model_dump(), failure.status_code, failure.headers)


def request_id(scope: Scope) -> str:
    """Return the id of a request. If the header X-Request-ID matches REQUEST_ID, the id is the value of this header.

    Otherwise, the id is random. The random id is stored in `scope`, so that the next call returns the same id.
    """
    stated = Headers(scope=scope).get("x-request-id", "")
    identifier: str = stated if REQUEST_ID.fullmatch(stated) else scope.setdefault("ovss.request_id", uuid.uuid4().hex)
    return identifier
