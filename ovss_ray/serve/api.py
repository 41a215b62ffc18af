"""The service as a FastAPI application, whatever segments: Ray Serve's deployments, or a function in tests."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
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
from ovss_ray.serve import masks, outlines, page
from ovss_ray.serve.answer import Answer, Output
from ovss_ray.serve.asked import Given
from ovss_ray.serve.desk import LOG, STOPPING, Desk, Model
from ovss_ray.serve.guard import Guard
from ovss_ray.serve.row import NO_IMAGE, Row, pointed, row
from ovss_ray.vocabulary import Vocabulary


class Refusal(BaseModel):
    """Why there is no answer."""

    detail: str


MEANINGS = {
    400: "a form that cannot be read",
    401: "no key, or a wrong one",
    403: "another machine, of a service without a key",
    413: "too many bytes or pixels",
    415: "neither JPEG nor PNG nor WebP",
    422: "a damaged image, classes or a model that cannot be asked for, or an image that a stage failed on",
    429: "too many requests at once; Retry-After says when to come again",
    503: "not answered in time, or not ready; Retry-After says when to come again",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": meaning, "model": Refusal} for status, meaning in MEANINGS.items()
}
BARE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}
GONE: dict[int | str, dict[str, Any]] = {404: {"description": "the image is not held any more", "model": Refusal}}


def build(models: Sequence[Model], limits: Limits, key: bytes | None) -> FastAPI:
    """The application. `key` is the digest of its key (see Guard)."""
    desk = Desk(models, limits)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        warming = asyncio.create_task(desk.warm())
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
    app.state.desk = desk
    app.add_middleware(Guard, key=key, body=limits.body)
    app.add_exception_handler(RequestValidationError, _refuse)
    _say(app, desk)
    _segment(app, desk)
    _regions(app, desk)
    _prompt(app, desk)
    page.add(app, desk.benchmarks)
    return app


async def _refuse(request: Request, failure: Exception) -> Response:
    """What is wrong in the address or a form, in the form of all refusals and without what was sent."""
    faults = failure.errors() if isinstance(failure, RequestValidationError) else ()
    detail = "; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in faults)
    return JSONResponse({"detail": detail}, 422)


def _say(app: FastAPI, desk: Desk) -> None:
    """Add what tells of the service itself."""

    @app.get("/v1/health", summary="Whether it runs")
    async def health() -> dict[str, str]:
        return {"status": "running"}

    @app.get("/v1/ready", summary="Whether it can segment", responses={503: ERRORS[503]})
    async def ready() -> dict[str, str]:
        if desk.draining or not desk.ready:
            why = STOPPING if desk.draining else "the stages are being loaded"
            raise HTTPException(503, why, {"Retry-After": str(desk.limits.retry)})
        return {"status": "ready"}

    @app.get("/v1/models", summary="What segments, and within which limits")
    async def models() -> dict[str, Any]:
        told = [dict(model.told) for model in desk.models.values()]
        return {"models": told, "limits": desk.limits.model_dump()}


async def _words(given: Given, desk: Desk) -> Vocabulary:
    return await asyncio.to_thread(questions.vocabulary, given, desk.benchmarks, desk.limits)


def _log(what: str, begun: float, data: bytes, pixels: int, classes: int) -> None:
    spent = time.perf_counter() - begun
    LOG.info("%s: %d bytes, %d pixels, %d classes, %.3f s", what, len(data), pixels, classes, spent)


def _json(made: BaseModel) -> Response:
    """An answer, written where it does not hold up others: it may have many masks."""
    return Response(made.model_dump_json(), media_type="application/json")


def _segment(app: FastAPI, desk: Desk) -> None:
    @app.post(
        "/v1/segment",
        summary="Name every pixel of an image",
        response_model=Answer,
        responses=ERRORS | BARE,
        openapi_extra={"requestBody": questions.body(questions.Segment)},
    )
    async def segment(request: Request, given: Annotated[questions.Segment, Query()]) -> Response:
        """Send an image, and the classes that may be named in it: as bytes with the rest in the address, or as a form.

        With `Accept: image/png` the answer is the picture alone, the rest of the answer in its text "ovss_ray".
        """
        begun = time.perf_counter()
        async with desk.place(request):
            data, asked = await questions.read(request, given, desk.limits)
            model, words = desk.model(asked.model, "segment"), await _words(asked, desk)
            bare = "image/png" in request.headers.get("accept", "") and asked.output in ("png", "overlay")
            async with desk.image(data) as image:
                done = await desk.send(model, row(image, words), words, "segment")
                made = await asyncio.to_thread(_segmented, done, words, image, asked.output, bare, desk.limits.corners)
        _log("segment", begun, data, image.shape[0] * image.shape[1], len(words))
        return made


def _segmented(done: Row, words: Vocabulary, image: np.ndarray, output: Output, bare: bool, corners: int) -> Response:
    if output == "polygons" and (turns := outlines.count(done["prediction"])) > corners:
        raise HTTPException(422, f"the outlines turn in {turns:,} places; {corners:,} are told. Ask for output=rle")
    found = answers.build(done, words, output)
    if output in ("rle", "polygons"):
        return _json(found)
    if bare:
        note = found.model_dump_json(exclude_none=True)
        return Response(answers.picture(done, words, image, output, note), media_type="image/png")
    return _json(answers.with_picture(found, output, answers.picture(done, words, image, output)))


def _regions(app: FastAPI, desk: Desk) -> None:
    @app.post(
        "/v1/regions",
        summary="Find everything in an image, with names",
        response_model=masks.Regions,
        responses=ERRORS,
        openapi_extra={"requestBody": questions.body(questions.Regions)},
    )
    async def regions(request: Request, given: Annotated[questions.Regions, Query()]) -> Response:
        """The masks that SAM proposes by itself, which may overlap, each with its most probable classes."""
        begun = time.perf_counter()
        async with desk.place(request):
            data, asked = await questions.read(request, given, desk.limits)
            model, words = desk.model(asked.model, "regions"), await _words(asked, desk)
            name = await asyncio.to_thread(_sha256, data)
            async with desk.image(data) as image:
                done = await desk.send(model, row(image, words), words, "regions")

            def tell() -> Response:
                return _json(masks.everything(done, words, name, model.name, asked.top, desk.limits.regions))

            made = await asyncio.to_thread(tell)
        _log("regions", begun, data, image.shape[0] * image.shape[1], len(words))
        return made


def _prompt(app: FastAPI, desk: Desk) -> None:
    @app.post(
        "/v1/prompt",
        summary="Outline what somebody points at",
        response_model=masks.Prompted,
        responses=ERRORS | GONE,
        openapi_extra={"requestBody": questions.body(questions.Prompt, required=False)},
    )
    async def prompt(request: Request, given: Annotated[questions.Prompt, Query()]) -> Response:
        """Send an image and points, a box or both; then further ones with `image`, its sha256, in the image's place.

        Where classes or a benchmark are given, masks get names. If the image is not held any more, the answer is 404.
        """
        begun = time.perf_counter()
        async with desk.place(request):
            data, asked = await questions.read(request, given, desk.limits)
            model, question = desk.model(asked.model, "prompt"), asked.question(desk.limits)
            named = bool(asked.classes) or asked.benchmark is not None
            words = await _words(asked, desk) if named else model.words
            name = await asyncio.to_thread(_named, data, asked.image)
            async with desk.image(data) if data else nullcontext(NO_IMAGE) as image:
                sent = pointed(image, words, {**question, "image": name})
                done = await desk.send(model, sent, words, "prompt" if named else "masks")

            def tell() -> Response:
                return _json(masks.prompted(done, words, name, model.name, asked.top))

            made = await asyncio.to_thread(tell)
        _log("prompt", begun, data, image.shape[0] * image.shape[1], len(words) if named else 0)
        return made


def _named(data: bytes, given: str | None) -> str:
    """What the image of a prompt is called. Raises HTTPException 422 if it is not sent, or sent and named."""
    if bool(data) == (given is not None):
        raise HTTPException(422, "send an image, or the sha256 of one sent before as `image`: one of the two")
    return given or _sha256(data)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
