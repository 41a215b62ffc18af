"""Admission of requests: limits on concurrent requests, on their duration, and on decoded pixels in memory."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from ovss_ray.config.limits import Limits
from ovss_ray.serve.deployments.replica import REST, give_back
from ovss_ray.serve.http import photograph
from ovss_ray.serve.intake import places
from ovss_ray.serve.refusal import Refused, request_id
from ovss_ray.serve.row import FORGOTTEN, SPECIMEN, Kind, Row, row
from ovss_ray.serve.watch import Watch
from ovss_ray.structures.vocabulary import Vocabulary

Send = Callable[[Row, Vocabulary, Kind], Awaitable[Row]]
"""Function that runs a model's stages on a row and returns the resulting row

Raises HTTPException 429, 503 or 504 (see pools.through)."""
UNTIL: ContextVar[float] = ContextVar("UNTIL", default=math.inf)
"""Deadline of the current request, as a value of time.monotonic()"""
LOG = logging.getLogger("ovss_ray.serve")
STOPPING = "the service is being stopped"
LOADING = "the models are being loaded. Try again later"
FAILED = "the test image failed with {}. See the log of the service for the error"
SMALLEST_WITH_SAM = "sam_alpha_clip_tiny"
"""Name of the smallest shipped config that can answer `regions` requests and prompt requests"""


@dataclass(frozen=True)
class Model:
    """A model of the service. The service runs the stages of the model's config. Requests select a model by `name`."""

    description: Mapping[str, Any]
    """the model's entry in /v1/models: `name`, `stages`, `answers`, `benchmarks`, …"""
    send: Send
    words: Vocabulary
    """class names for the warm-up image, and for prompts that name no classes"""
    pools: Sequence[str] = ()
    """names of the pools that run the stages of the model"""

    @property
    def name(self) -> str:
        """Return the model's name."""
        return str(self.description["name"])


def remaining() -> float:
    """Return the seconds that the current request has left; infinity outside of a request."""
    return UNTIL.get() - time.monotonic()


class Desk:
    """Admission of requests to models. A request that names no model goes to the first model that can answer it."""

    def __init__(self, models: Sequence[Model], limits: Limits) -> None:
        self.models, self.limits = {model.name: model for model in models}, limits
        self.waiting, self.held, self.ready, self.draining = 0, 0, False, False
        self.unready = LOADING
        self.pixels = 0
        """number of pixels of all images decoded so far, for /metrics"""
        self.changed = asyncio.Condition()
        self.resting: asyncio.TimerHandle | None = None
        self.watch = Watch()
        self.places = places.Places(self.watch.seconds, limits.waiting)
        self.benchmarks = list(dict.fromkeys(name for model in models for name in model.description["benchmarks"]))
        """names of the benchmarks in the configs"""

    def model(self, name: str | None, answer: str) -> Model:
        """Return the model called `name`. If `name` is None, return the first model that can give the answer.

        `answer`: kind of answer, such as "regions". Raises HTTPException 422:

        - no model is called `name`
        - the model called `name` cannot give this kind of answer
        - `name` is None, and no model can give this kind of answer
        """
        able = [model for model in self.models.values() if answer in model.description["answers"]]
        if name is not None and name not in self.models:
            raise HTTPException(422, f"unknown model {name[:40]!r}; available: {', '.join(self.models)}")
        for model in able:
            if name in (None, model.name):
                return model
        names = name or ", ".join(self.models)
        if answer == "words":
            raise HTTPException(
                422, f"{names} cannot propose class names. Pass classes or a benchmark, and omit the field `add`"
            )
        further = f"Serve one too: ovss serve {' '.join(self.models)} {SMALLEST_WITH_SAM}"
        advice = f"Pass model={able[0].name}" if able else further
        raise HTTPException(422, f"{names} cannot answer {answer} requests, which need a model with SAM. {advice}")

    @asynccontextmanager
    async def place(self, request: Request) -> AsyncIterator[None]:
        """Receive the body of a request, then count the request as in progress until the `with` block ends.

        Raises HTTPException:

        - 400: the client closes the connection
        - 408: the body does not arrive within `limits.upload` seconds
        - 429: `limits.waiting` requests are already in progress
        - 503: the block takes longer than `limits.seconds`, or the service is being stopped
        """
        later = {"Retry-After": str(self.limits.retry)}
        await self.receive(request)  # before the request counts, so that slow senders do not block other requests
        if self.draining:
            raise Refused(503, STOPPING, "stopping", later)
        if self.waiting >= self.limits.waiting:
            raise HTTPException(429, f"too many requests: {self.waiting} in progress. Try again later", later)
        self.waiting += 1
        UNTIL.set(time.monotonic() + self.limits.seconds)
        try:
            with self.places.entered(request_id(request.scope)):
                async with asyncio.timeout(self.limits.seconds):
                    yield
        except TimeoutError as failure:
            reason = f"timeout: no worker has answered the request within {self.limits.seconds:g} s. Try again later"
            raise Refused(503, reason, "timeout", later) from failure
        finally:
            self.waiting -= 1

    async def receive(self, request: Request) -> None:
        """Read the whole body of a request; the request object stores the body.

        Raises HTTPException 408 if the body does not arrive within `limits.upload` seconds. Raises HTTPException 400 if
        the client closes the connection.
        """
        try:
            async with asyncio.timeout(self.limits.upload):
                await request.body()
        except TimeoutError as failure:
            reason = f"the body of the request did not arrive within {self.limits.upload:g} s. Send a smaller image"
            raise HTTPException(408, reason, {"Connection": "close"}) from failure
        except ClientDisconnect as failure:
            raise HTTPException(400, "the connection was closed before the body was complete") from failure

    async def drain(self) -> None:
        """Refuse new requests, and return when all requests in progress are answered or have timed out."""
        self.draining = True
        while self.waiting:
            await asyncio.sleep(0.05)

    def pixels_now(self, model: Model, kind: Kind) -> int:
        """Return how many pixels an image may have, so that the model answers within `limits.seconds`.

        The result depends on the current load, and is at most `limits.pixels`.
        """
        return self.watch.pixels(model.pools, kind, self.limits.seconds, self.limits.pixels)

    @asynccontextmanager
    async def image(self, data: bytes, model: Model, kind: Kind) -> AsyncIterator[np.ndarray]:
        """Decode an image, and yield the pixels (H, W, 3) uint8 RGB.

        If the image and all other images in memory together have more than `limits.held` pixels, wait before decoding.
        An image does not wait if no other image is in memory.

        Raises HTTPException:

        - 413: the image is too large (see `limits` and `pixels_now`), or a JPEG has too many scans
        - 415: the image is not a JPEG, PNG or WebP
        - 422: the image is damaged
        """
        height, width = photograph.size(data, self.limits)
        pixels = height * width
        if pixels > (most := self.pixels_now(model, kind)):
            raise Refused(
                413,
                f"the image has {width} × {height} = {pixels:,} pixels; at present, {model.name} can process at most "
                f"{most:,} pixels in {self.limits.seconds:g} s (see pixels_now in /v1/models). Send a smaller image",
                "too_slow",
            )
        places.note(model.pools, kind, pixels)
        async with self.changed:
            await self.changed.wait_for(lambda: not self.held or self.held + pixels <= self.limits.held)
            self.held += pixels
        self.pixels += pixels
        try:
            yield await asyncio.to_thread(photograph.decode, data, self.limits)
        finally:
            self.held -= pixels
            async with self.changed:
                self.changed.notify_all()
            self._rest()

    def _rest(self) -> None:
        """Start a timer of REST seconds, and cancel the previous timer.

        When the timer ends, unused memory is returned to the operating system.
        """
        if self.resting:
            self.resting.cancel()
        loop = asyncio.get_running_loop()
        self.resting = loop.call_later(REST, loop.run_in_executor, None, give_back)

    async def send(self, model: Model, request: Row, words: Vocabulary, kind: Kind) -> Row:
        """Run a model's stages on the row of a request, and return the resulting row.

        Raises HTTPException: 404 if the request names an image that is no longer cached, 422 if a stage failed.
        """
        answer = await model.send(request, words, kind)
        if answer["error"] == FORGOTTEN:
            raise HTTPException(404, FORGOTTEN)
        if answer["error"]:
            raise HTTPException(422, f"the image could not be segmented: {answer['error']}")
        return answer

    async def warm(self) -> None:
        """Run every model on a test image every `limits.retry` seconds until all succeed. Then set `ready`.

        If a model reports an error for the test image, `unready` becomes an error message. The message has the names of
        all models that reported an error.
        """
        while not self.ready:
            try:
                answers = {
                    name: await model.send(row(SPECIMEN, model.words), model.words, "segment")
                    for name, model in self.models.items()
                }
                errors = {name: answer["error"] for name, answer in answers.items() if answer["error"]}
                self.ready, self.unready = not errors, FAILED.format(", ".join(errors)) if errors else LOADING
                for name, error in errors.items():
                    LOG.error("not ready: %s: %s", name, error)
            except HTTPException as failure:
                self.unready = LOADING
                LOG.warning("not ready yet: %s", failure.detail)
            await asyncio.sleep(self.limits.retry)
