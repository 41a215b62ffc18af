"""The service as a FastAPI application. The models are Ray Serve deployments, or plain functions in tests."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException as AnyHTTPException

from ovss_ray.config.limits import Limits
from ovss_ray.serve import refusal
from ovss_ray.serve.http import answers, coco, guard, mask_answers, merging, own_words, page, photograph
from ovss_ray.serve.http import requests as questions
from ovss_ray.serve.http.admission import LOG, STOPPING, Desk, Model
from ovss_ray.serve.http.answers import Answer, Output, Word
from ovss_ray.serve.http.requests import Fields
from ovss_ray.serve.intake import pages, places, several
from ovss_ray.serve.intake.keys import Key, Ring
from ovss_ray.serve.refusal import ERRORS, GONE, Refused
from ovss_ray.serve.row import NO_IMAGE, Kind, Row, outside, pointed, row
from ovss_ray.serve.watch import Ask
from ovss_ray.structures.masks import polygons
from ovss_ray.structures.vocabulary import Vocabulary

BARE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}


def build(
    models: Sequence[Model], limits: Limits, key: bytes | None, ask: Ask | None = None, keys: Sequence[Key] = (),
    origins: Sequence[str] = (),
) -> FastAPI:  # fmt: skip
    """Return the FastAPI application that serves the models.

    `key`: SHA-256 of an API key, 32 bytes. `keys`: further API keys. Without API keys, only this machine may send
    requests. `ask` returns the state of the replicas. Without Ray, `ask` is None. `origins`: see guard.add.
    """
    desk = Desk(models, limits)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(desk.warm()), *([asyncio.create_task(desk.watch.look(ask))] if ask else [])]
        yield
        for task in tasks:
            task.cancel()

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
    guard.add(app, Ring(key, keys), limits, origins)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(AnyHTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    _status(app, desk)
    _segment(app, desk)
    _regions(app, desk)
    _prompt(app, desk)
    places.add(app, desk.places)
    several.add(app, desk)
    page.add(app, desk.benchmarks)
    return app


async def _refused(request: Request, failure: Exception) -> Response:
    """Return the response to a refused request."""
    assert isinstance(failure, AnyHTTPException)
    return refusal.answer(failure, request.scope)


async def _failed(request: Request, failure: Exception) -> Response:
    """Return the response (status 500) to a request that caused an error in the service. Starlette logs the error."""
    LOG.error("request %s failed: %s", refusal.request_id(request.scope), type(failure).__name__)
    return refusal.answer(HTTPException(500, "error in the service. Its log has the cause"), request.scope)


async def _invalid(request: Request, failure: Exception) -> Response:
    """Return a response with status 422 to a request with invalid fields. The response does not quote the values."""
    faults = failure.errors() if isinstance(failure, RequestValidationError) else ()
    detail = "; ".join(f"{fault['loc'][-1]}: {fault['msg']}" for fault in faults)
    return refusal.answer(HTTPException(422, detail), request.scope)


def _status(app: FastAPI, desk: Desk) -> None:
    """Add the routes that report the state of the service: health, readiness, models."""

    @app.head("/v1/health", include_in_schema=False)
    @app.get("/v1/health", summary="Report whether the service runs")
    async def health() -> dict[str, str]:
        return {"status": "running"}

    @app.head("/v1/ready", include_in_schema=False)
    @app.get(
        "/v1/ready", summary="Report whether the service can segment", responses={k: ERRORS[k] for k in (422, 503)}
    )
    async def ready(model: str | None = None) -> dict[str, str]:
        """Report whether each stage of `model` has a worker. Without `model`, check the stages of all models."""
        later = {"Retry-After": str(desk.limits.retry)}
        if model is not None and model not in desk.models:
            raise HTTPException(422, f"unknown model {model[:40]!r}; available: {', '.join(desk.models)}")
        if desk.draining:
            raise Refused(503, STOPPING, "stopping", later)
        if not desk.ready:
            raise HTTPException(503, desk.unready, later)
        served = [desk.models[model]] if model else list(desk.models.values())
        if missing := [pool for each in served for pool in desk.watch.unready(each.pools)]:
            raise HTTPException(503, f"no worker of {', '.join(missing)} runs; a new worker is being started", later)
        return {"status": "ready"}

    @app.get("/v1/models", summary="List the models and the limits")
    async def models() -> dict[str, Any]:
        descriptions = [
            {
                **model.description,
                "pixels_now": {kind: desk.pixels_now(model, kind) for kind in model.description["answers"]},
            }
            for model in desk.models.values()
        ]
        return {"models": descriptions, "limits": desk.limits.model_dump()}


async def _words(fields: Fields, desk: Desk) -> Vocabulary:
    return await asyncio.to_thread(questions.vocabulary, fields, desk.benchmarks, desk.limits)


def _log(route: str, begun: float, data: bytes, pixels: int, classes: int) -> None:
    spent = time.perf_counter() - begun
    LOG.info("%s: %d bytes, %d pixels, %d classes, %.3f s", route, len(data), pixels, classes, spent)


def _json(answer: BaseModel) -> Response:
    """Return an answer as JSON. Call this function in a thread."""
    # many masks take long, and would block the event loop outside of a thread
    return Response(answer.model_dump_json(), media_type="application/json")


def _masks(
    answer: mask_answers.Regions | mask_answers.Prompted, fields: questions.Masks, names: Sequence[str]
) -> Response:
    """Return an answer as JSON in the format `fields.output`. Call this function in a thread.

    `names`: the requested classes.
    """
    return _json(coco.document(answer, names, fields.file_name) if fields.output == "coco" else answer)


def _segment(app: FastAPI, desk: Desk) -> None:
    @app.post(
        "/v1/segment",
        summary="Name every pixel of an image",
        response_model=Answer,
        responses=ERRORS | BARE,
        openapi_extra={"requestBody": questions.body(questions.Segment)},
    )
    async def segment(request: Request, query: Annotated[questions.Segment, Query()]) -> Response:
        """Segment an image into the requested classes. Send a form, JSON, or the image's bytes with query parameters.

        Some models can find words in an image. If a request has neither classes nor a benchmark, such a model segments
        the image into the found words. With `add=1`, such a model segments the image into the found words and the
        requested classes. In both cases, the field `words` of the answer lists all words.

        If `output` is png or overlay, the header `Accept: image/png` requests a PNG file as the response. The text
        chunk "ovss_ray" of the PNG file contains the rest of the answer as JSON.
        """
        begun = time.perf_counter()
        async with desk.place(request):
            data, fields = await questions.read(request, query, desk.limits)
            finds = own_words.wanted(fields, desk)
            model = desk.model(fields.model, "words" if finds else "segment")
            named = not finds or bool(fields.classes) or fields.benchmark is not None
            words = await _words(fields, desk) if named else None
            merged = None
            if fields.map is not None:
                merged = await asyncio.to_thread(merging.read, fields.map, None if finds else words, desk.limits)
            bare = "image/png" in request.headers.get("accept", "") and fields.output in ("png", "overlay")
            async with desk.image(data, model, "segment") as image:
                listed = await own_words.find(desk, model, image, words) if finds else None
                words = words if listed is None else own_words.vocabulary(listed, fields.templates)
                result = await desk.send(model, row(image, words), words, "segment") if words else None
                result, words = (merged.applied(result), merged.words) if merged and result else (result, words)
                response = await asyncio.to_thread(
                    _segmented, result, words, image, fields.output, bare, desk.limits.corners, listed
                )
        _log("segment", begun, data, image.shape[0] * image.shape[1], len(words or ()))
        return response


def _segmented(
    result: Row | None, words: Vocabulary | None, image: np.ndarray, output: Output, bare: bool, corners: int,
    listed: Sequence[Word] | None,
) -> Response:  # fmt: skip
    """Return the response of /v1/segment. Call this function in a thread.

    `result`: row with the label map. `words`: classes of the label map. If the model found no words, `result` and
    `words` are None. `bare`: whether the response is a PNG. `listed`: the words that the JSON answer lists, if any.
    Raises HTTPException 422 if all polygons together have more than `corners` corners.
    """
    result = result or own_words.unnamed(image)
    words = words or Vocabulary.of(["nothing"])
    if output == "polygons" and (turns := polygons.count(result["prediction"])) > corners:
        raise HTTPException(422, f"polygons have {turns:,} corners; the limit is {corners:,}. Request output=rle")
    answer = answers.build(result, words, output)
    answer.words = None if listed is None else list(listed)
    if output in ("rle", "polygons"):
        return _json(answer)
    if bare:
        note = answer.model_dump_json(exclude_none=True)
        return Response(answers.picture(result, words, image, output, note), media_type="image/png")
    return _json(answers.with_picture(answer, output, answers.picture(result, words, image, output)))


def _regions(app: FastAPI, desk: Desk) -> None:
    kept = pages.Kept()

    @app.post(
        "/v1/regions",
        summary="Find all regions of an image, with names",
        response_model=mask_answers.Regions | coco.Coco,
        responses=ERRORS,
        openapi_extra={"requestBody": questions.body(questions.Regions)},
    )
    async def regions(request: Request, query: Annotated[questions.Regions, Query()]) -> Response:
        """Return the masks that SAM proposes without a prompt, each with its most probable classes.

        Masks may overlap. The largest mask comes first. To receive the masks page by page, set `first` and `count`.
        """
        begun = time.perf_counter()
        async with desk.place(request):
            data, fields = await questions.read(request, query, desk.limits)
            model, words = desk.model(fields.model, "regions"), await _words(fields, desk)
            name = await asyncio.to_thread(photograph.sha256, data)
            async with desk.image(data, model, "regions") as image:
                compute = partial(desk.send, model, row(image, words), words, "regions")
                key = (name, model.name, words.digest)
                result = await (kept.row(key, compute) if fields.count else compute())

            def write() -> Response:
                most = desk.limits.regions
                ranked = 0 if fields.output == "coco" else fields.ranked  # a document has no ranking
                page = slice(fields.first, fields.first + (fields.count or most))
                answer = mask_answers.everything(result, words, name, model.name, fields.top, most, ranked, page)
                return _masks(answer, fields, words.names)

            response = await asyncio.to_thread(write)
        _log("regions", begun, data, image.shape[0] * image.shape[1], len(words))
        return response


def _prompt(app: FastAPI, desk: Desk) -> None:
    @app.post(
        "/v1/prompt",
        summary="Segment the object at points or in a box",
        response_model=mask_answers.Prompted | coco.Coco,
        responses=ERRORS | GONE,
        openapi_extra={"requestBody": questions.body(questions.Prompt, required=False)},
    )
    async def prompt(request: Request, query: Annotated[questions.Prompt, Query()]) -> Response:
        """Send an image with points, a box or both.

        For further prompts on the same image, send the image's sha256 as `image` instead of the image. If the service
        no longer has the image, the status is 404. If the request has classes or a benchmark, the masks get class
        names.
        """
        begun = time.perf_counter()
        async with desk.place(request):
            data, fields = await questions.read(request, query, desk.limits)
            model, question = desk.model(fields.model, "prompt"), fields.question(desk.limits)
            named = bool(fields.classes) or fields.benchmark is not None
            words = await _words(fields, desk) if named else model.words
            name = await asyncio.to_thread(photograph.named, data, fields.image)
            kind: Kind = "prompt" if named else "masks"
            async with desk.image(data, model, kind) if data else nullcontext(NO_IMAGE) as image:
                if data and (error := outside(question, image)):
                    raise HTTPException(422, error)
                sent = pointed(image, words, {**question, "image": name})
                result = await desk.send(model, sent, words, kind)

            def write() -> Response:
                answer = mask_answers.prompted(result, words, name, model.name, fields.top)
                return _masks(answer, fields, words.names if named else ())

            response = await asyncio.to_thread(write)
        _log("prompt", begun, data, image.shape[0] * image.shape[1], len(words) if named else 0)
        return response
