"""Requests with several images. /v1/batch returns the answers directly, and /v1/jobs begins a job.

Each image becomes a separate request inside the process, with the usual limits, quotas and refusals.
"""

import asyncio
import hashlib
import json
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode

from fastapi import FastAPI, HTTPException, Query, Request, Response
from starlette.datastructures import UploadFile

from ovss_ray.config.limits import Limits
from ovss_ray.serve import json_body, refusal
from ovss_ray.serve.http import photograph
from ovss_ray.serve.http.admission import LOG, STOPPING, Desk
from ovss_ray.serve.intake.job_state import JobState
from ovss_ray.serve.intake.jobs import Jobs
from ovss_ray.serve.refusal import ERRORS, Refused, request_id

Kind = Literal["segment", "regions"]
# few, to leave room for other requests
TOGETHER = 4
"""Maximum number of images of one request that are answered at the same time"""
HOW = (
    "Send a form with several files named image (curl -F image=@a.jpg -F image=@b.jpg -F classes=sky …), or JSON: "
    '{"images": ["BASE64", …], "classes": ["sky"]}'
)
UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"description": "no such job", "model": refusal.Refusal}}
RUNNING: dict[int | str, dict[str, Any]] = {409: {"description": "the job is running", "model": refusal.Refusal}}
UNREADY = {422: ERRORS[422]} | UNKNOWN | RUNNING
"""Error responses of the route that returns the answers of a job"""
FIRST = Query(ge=0, description="position of the first answer, from 0; the job may still run then")
PASSED = (b"host", b"authorization", b"origin", b"sec-fetch-site")
"""Headers that are copied from a request with several images to the request of each image"""
AGAIN = (429, 503)
"""HTTP statuses after which a job sends an image again: the service is busy, or has no worker"""
JOB_PATIENCE = 600.0
"""Maximum seconds for which a job sends the same image again while the service is busy or has no worker"""


@dataclass(frozen=True)
class Batch:
    """The images and fields of a request. `query` has the fields as a query string."""

    images: Sequence[bytes]
    query: str


async def read(request: Request, desk: Desk) -> Batch:
    """Return the images and fields of a request.

    Raises HTTPException:

    - 400: the form is malformed, or the client closes the connection
    - 408: the body does not arrive within `limits.upload` seconds
    - 415: the body is neither a form nor JSON
    - 422: the request has no images or too many images, or an image is not base64
    - 503: the service is being stopped
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    await desk.receive(request)
    if desk.draining:
        raise Refused(503, STOPPING, "stopping", {"Retry-After": str(desk.limits.retry)})
    limits = desk.limits
    if kind == "multipart/form-data":
        async with request.form(max_files=limits.images + 1, max_fields=2 * limits.classes) as form:
            images = [await item.read() for item in form.getlist("image") if isinstance(item, UploadFile)]
            fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    elif kind == "application/json":
        images, fields = _document(await request.body())
    else:
        raise HTTPException(415, f"the body is neither a form nor JSON. {HOW}")
    if not 1 <= len(images) <= limits.images:
        raise HTTPException(422, f"expected 1 to {limits.images} images, found {len(images)}. {HOW}")
    return Batch(images, urlencode([*parse_qsl(request.url.query, keep_blank_values=True), *fields]))


def _document(body: bytes) -> tuple[list[bytes], list[tuple[str, str]]]:
    """Return the images of a JSON document, and the other fields as pairs (name, text).

    A value that is not a string becomes JSON text.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as failure:
        raise Refused(415, f"the body is not valid JSON. {HOW}", "invalid_json") from failure
    images = document.pop("images", None) if isinstance(document, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise HTTPException(422, f"the JSON has no list of images in base64. {HOW}")
    fields = [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in document.items()
        if value is not None
    ]
    return [json_body.decoded(image) for image in images], fields


async def sent(request: Request, batch: Batch, path: str, number: int, limits: Limits) -> dict[str, Any]:
    """Send the image at position `number` of `batch` to a path of this application, and return the answer.

    The answer is a dict. `status` is the HTTP status, and `body` is a JSON document as bytes.
    """
    scope, body = request.scope, batch.images[number]
    headers = [(name, value) for name, value in scope["headers"] if name in PASSED]
    identifier = f"{request_id(scope)[:56]}.{number}"
    headers += [(b"x-request-id", identifier.encode()), (b"content-type", b"application/octet-stream")]
    headers += [(b"content-length", str(len(body)).encode())]
    kept = ("type", "asgi", "http_version", "scheme", "client", "server", "root_path")
    inner = {name: scope[name] for name in kept if name in scope} | {
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": batch.query.encode(),
        "headers": headers,
    }
    try:
        photograph.size(body, limits)
    except HTTPException as failure:
        return {"status": failure.status_code, "body": bytes(refusal.answer(failure, inner).body)}
    parts, status = [], 500
    left: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> MutableMapping[str, Any]:
        if not left:
            await asyncio.Event().wait()  # the client of an image never disconnects
        return left.pop()

    async def send(message: MutableMapping[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    outcomes: Sequence[Any] = await asyncio.gather(request.app(inner, receive, send), return_exceptions=True)
    if error := outcomes[0]:  # the application has answered 500, and raises its error again for the log
        LOG.error("request %s failed", identifier, exc_info=error)
    return {"status": status, "body": b"".join(parts)}


def _repeated(request: Request, kind: Kind, batch: Batch) -> str:
    """Return the text by which a repeated request for a job is recognised.

    If the header Idempotency-Key is missing or empty, return "". Otherwise, the text depends on the header, the API
    key, the kind of answer, the fields and the images.
    """
    if not (key := request.headers.get("idempotency-key", "")):
        return ""
    digest = hashlib.sha256(request.headers.get("authorization", "").encode())
    for part in (kind.encode(), batch.query.encode(), *batch.images):
        digest.update(hashlib.sha256(part).digest())
    return f"{digest.hexdigest()} {key}"


def document(answers: Sequence[dict[str, Any]]) -> Response:
    """Return the response with all answers. The `body` of each answer is JSON, and is copied without being parsed."""
    items = [b'{"status":%d,"answer":%s}' % (answer["status"], answer["body"] or b"null") for answer in answers]
    return Response(b'{"answers":[' + b",".join(items) + b"]}", media_type="application/json")


async def _patiently(request: Request, batch: Batch, path: str, number: int, limits: Limits) -> dict[str, Any]:
    """Send an image, and return the answer. If the status of the answer is in AGAIN, send the image again.

    If every answer in JOB_PATIENCE seconds has a status in AGAIN, stop sending the image, and return the last answer.
    """
    until = asyncio.get_running_loop().time() + JOB_PATIENCE
    while True:
        answer = await sent(request, batch, path, number, limits)
        if answer["status"] not in AGAIN or asyncio.get_running_loop().time() > until:
            return answer
        await asyncio.sleep(max(0.1, limits.retry))


def add(app: FastAPI, desk: Desk) -> None:
    """Add the routes for several images and for jobs."""

    @app.post("/v1/batch/{kind}", summary="Answer several images", responses=ERRORS)
    async def together(kind: Kind, request: Request) -> Response:
        """Send several images as files named `image`. The other fields apply to all images.

        If `kind` is segment, the other fields are those of /v1/segment. If `kind` is regions, the other fields are
        those of /v1/regions. For each image, the response has a status, and either an answer or a refusal.
        """
        batch, room = await read(request, desk), asyncio.Semaphore(TOGETHER)

        async def answered(number: int) -> dict[str, Any]:
            async with room:
                return await sent(request, batch, f"/v1/{kind}", number, desk.limits)

        return document(await asyncio.gather(*map(answered, range(len(batch.images)))))

    _job_routes(app, desk, Jobs(desk.limits))


def _job_routes(app: FastAPI, desk: Desk, jobs: Jobs) -> None:
    @app.post("/v1/jobs/{kind}", status_code=202, summary="Begin a job for several images", responses=ERRORS)
    async def begin(kind: Kind, request: Request, response: Response) -> JobState:
        """Begin a job with the fields of /v1/batch, and return the id of the job at once.

        The answers are kept for `limits.kept` seconds after the end of the job. If the service restarts, all jobs are
        lost. If an unchanged request is repeated with the same Idempotency-Key, no second job begins.
        """
        batch = await read(request, desk)

        async def run(number: int) -> dict[str, Any]:
            return await _patiently(request, batch, f"/v1/{kind}", number, desk.limits)

        size = sum(map(len, batch.images))
        state = jobs.start(run, len(batch.images), size, await asyncio.to_thread(_repeated, request, kind, batch))
        response.headers["Location"] = f"/v1/jobs/{state.id}"
        return state

    @app.get("/v1/jobs/{identifier}", summary="Tell the state of a job", responses=UNKNOWN)
    async def state(identifier: str) -> JobState:
        return jobs.state(identifier)

    @app.get("/v1/jobs/{identifier}/result", summary="Return the answers of a job", responses=UNREADY)
    async def result(identifier: str, first: Annotated[int | None, FIRST] = None) -> Response:
        """Return the answers of a job in the form of /v1/batch. The status 409 means: try again after Retry-After.

        If `first` is missing, return all answers. In this case, the status is 409 while the job runs. If `first` is
        given, wait up to 10 seconds for the answer at position `first`. Then return the answers from `first` on. If
        the job still runs without the answer at position `first`, the status is 409.
        """
        answers = jobs.answers(identifier) if first is None else await jobs.further(identifier, first)
        if answers is None:
            raise Refused(
                409, "the job still runs. Try again later", "running", {"Retry-After": str(max(1, desk.limits.retry))}
            )
        return document(answers)

    @app.delete("/v1/jobs/{identifier}", status_code=204, summary="End a job and delete its answers", responses=UNKNOWN)
    async def delete(identifier: str) -> None:
        jobs.delete(identifier)
