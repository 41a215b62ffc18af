"""The service as a FastAPI application, whatever segments: Ray Serve's deployments, or a function in tests."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from ovss_ray.limits import Limits
from ovss_ray.serve import answer as answers
from ovss_ray.serve import asked as questions
from ovss_ray.serve import photograph
from ovss_ray.serve.answer import Answer, Output
from ovss_ray.serve.guard import Guard
from ovss_ray.vocabulary import Vocabulary

Row = dict[str, Any]
"""Column → value, of one image"""
Segment = Callable[[Row, Vocabulary], Awaitable[Row]]
"""Sends the row of one request through the pipeline. Raises HTTPException if that is not possible just now."""
LOG = logging.getLogger("ovss_ray.serve")


class Refusal(BaseModel):
    """Why there is no answer."""

    detail: str


MEANINGS = {
    400: "a form that cannot be read",
    401: "no key, or a wrong one",
    403: "another machine, of a service without a key",
    413: "too many bytes or pixels",
    415: "neither JPEG nor PNG nor WebP",
    422: "a damaged image, classes that cannot be asked for, or an image that a stage failed on",
    429: "too many requests at once; Retry-After says when to come again",
    503: "not answered in time, or not ready; Retry-After says when to come again",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": meaning, "model": Refusal} for status, meaning in MEANINGS.items()
}
GIVEN = ("image_id", "vocabulary", "error", "image", "size")
"""The columns that a request fills: no file, no truth, no benchmark."""
SPECIMEN = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
"""An image (H, W, 3) uint8 that is sent through the pipeline before the first request is."""


def row(image: np.ndarray, vocabulary: Vocabulary) -> Row:
    """What the pipeline is given of an image (H, W, 3) uint8 RGB: the columns GIVEN."""
    size = np.array(image.shape[:2], np.int32)
    return {"image_id": "request", "vocabulary": vocabulary.digest, "error": "", "image": image, "size": size}


class Desk:
    """Takes requests: so many at once, within a time, decoded only while there is room for their pixels."""

    def __init__(self, segment: Segment, limits: Limits) -> None:
        self.segment, self.limits = segment, limits
        self.waiting, self.held, self.ready = 0, 0, False
        self.changed = asyncio.Condition()

    @asynccontextmanager
    async def place(self, request: Request) -> AsyncIterator[None]:
        """A place for one request. Raises HTTPException 429 if none is free, 503 if what is inside takes too long."""
        later = {"Retry-After": str(self.limits.retry)}
        if self.waiting >= self.limits.waiting:
            async for _ in request.stream():  # else the client, still sending, might not see the answer
                pass
            raise HTTPException(429, f"{self.waiting} requests are in hand, as many as are taken", later)
        self.waiting += 1
        try:
            async with asyncio.timeout(self.limits.seconds):
                yield
        except TimeoutError as failure:
            raise HTTPException(503, f"not answered within {self.limits.seconds:g} s", later) from failure
        finally:
            self.waiting -= 1

    @asynccontextmanager
    async def room(self, pixels: int) -> AsyncIterator[None]:
        """Room for the pixels of one image, waited for."""
        async with self.changed:
            await self.changed.wait_for(lambda: not self.held or self.held + pixels <= self.limits.held)
            self.held += pixels
        try:
            yield
        finally:
            self.held -= pixels
            async with self.changed:
                self.changed.notify_all()

    async def answer(self, asked: questions.Asked, words: Vocabulary, bare: bool) -> tuple[Answer | bytes, int]:
        """Answer a request, with its picture alone if it is to be `bare`; and say how many pixels it had."""
        height, width = photograph.size(asked.image, self.limits)
        async with self.room(height * width):
            image = await asyncio.to_thread(photograph.decode, asked.image, self.limits)
            done = await self.segment(row(image, words), words)
            if done["error"]:
                raise HTTPException(422, f"{photograph.NAME} could not be segmented: {done['error']}")
            return await asyncio.to_thread(_answer, done, words, image, asked.output, bare), height * width

    async def warm(self, words: Vocabulary) -> None:
        """Send an image through the whole pipeline, and say that the service is ready once it has come out."""
        while not self.ready:
            try:
                done = await self.segment(row(SPECIMEN, words), words)
                self.ready = not done["error"]
                if done["error"]:
                    LOG.error("not ready: %s", done["error"])
            except HTTPException as failure:
                LOG.warning("not ready yet: %s", failure.detail)
            await asyncio.sleep(self.limits.retry)


def _answer(done: Row, words: Vocabulary, image: np.ndarray, output: Output, bare: bool) -> Answer | bytes:
    found = answers.build(done, words, output)
    if output == "rle":
        return found
    if bare:
        return answers.picture(done, words, image, output, found.model_dump_json(exclude_none=True))
    return answers.with_picture(found, output, answers.picture(done, words, image, output))


def build(segment: Segment, model: Mapping[str, Any], limits: Limits, key: bytes | None, words: Vocabulary) -> FastAPI:
    """The application.

    `model` is what /v1/models says of it, `key` the digest of its key (see Guard), `words` what a first image is asked
    for, before the service is ready.
    """
    desk = Desk(segment, limits)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(desk.warm(words))
        yield
        warming.cancel()

    app = FastAPI(
        title="ovss_ray",
        version=version("ovss_ray"),
        description="Open-vocabulary semantic segmentation",
        openapi_url="/v1/openapi.json",
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
        lifespan=life,
    )
    app.add_middleware(Guard, key=key, body=limits.body)
    app.add_exception_handler(RequestValidationError, _refuse)
    _say(app, desk, model)
    _segment(app, desk, model["benchmarks"])
    return app


async def _refuse(request: Request, failure: Exception) -> Response:
    """What is wrong in the address, in the form of all refusals and without what was sent."""
    faults = failure.errors() if isinstance(failure, RequestValidationError) else ()
    detail = "; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in faults)
    return JSONResponse({"detail": detail}, 422)


def _say(app: FastAPI, desk: Desk, model: Mapping[str, Any]) -> None:
    """Add what tells of the service itself."""

    @app.get("/v1/health", summary="Whether it runs")
    async def health() -> dict[str, str]:
        return {"status": "running"}

    @app.get("/v1/ready", summary="Whether it can segment", responses={503: ERRORS[503]})
    async def ready() -> dict[str, str]:
        if not desk.ready:
            raise HTTPException(503, "the stages are being loaded", {"Retry-After": str(desk.limits.retry)})
        return {"status": "ready"}

    @app.get("/v1/models", summary="What segments, and within which limits")
    async def models() -> dict[str, Any]:
        return {"models": [dict(model)], "limits": desk.limits.model_dump()}


def _segment(app: FastAPI, desk: Desk, own: list[str]) -> None:
    @app.post(
        "/v1/segment",
        summary="Name every pixel of an image",
        response_model=Answer,
        responses=ERRORS,
        openapi_extra={"requestBody": questions.BODY},
    )
    async def segment(
        request: Request,
        classes: Annotated[list[str] | None, Query(description="one a class; several names parted by tabs")] = None,
        benchmark: Annotated[str | None, Query(description="whose classes are meant, such as ade20k:150")] = None,
        output: Annotated[Output, Query(description="what is answered beside the classes")] = "png",
    ) -> Any:
        """Send an image, and the classes that may be named in it: as bytes with the rest in the address, or as a form.

        With `Accept: image/png` the answer is the picture alone, the rest of the answer in its text "ovss_ray".
        """
        begun = time.perf_counter()
        async with desk.place(request):
            asked = await questions.read(request, classes or (), benchmark, output, desk.limits)
            words = await asyncio.to_thread(questions.vocabulary, asked, own, desk.limits)
            bare = "image/png" in request.headers.get("accept", "") and asked.output != "rle"
            made, pixels = await desk.answer(asked, words, bare)
        spent = time.perf_counter() - begun
        LOG.info("segment: %d bytes, %d pixels, %d classes, %.3f s", len(asked.image), pixels, len(words), spent)
        return Response(made, media_type="image/png") if isinstance(made, bytes) else made
