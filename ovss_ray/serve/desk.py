"""Where requests are taken in hand: so many at once, within a time, decoded while there is room for their pixels."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import HTTPException, Request

from ovss_ray.limits import Limits
from ovss_ray.serve import photograph
from ovss_ray.serve.row import FORGOTTEN, SPECIMEN, Kind, Row, row
from ovss_ray.vocabulary import Vocabulary

Send = Callable[[Row, Vocabulary, Kind], Awaitable[Row]]
"""Sends the row of one request through the pipeline. Raises HTTPException if that is not possible just now."""
LOG = logging.getLogger("ovss_ray.serve")
STOPPING = "the service is being stopped"
BESIDE = "sam_alpha_clip_tiny"
"""The smallest of the configs that come with the project that can tell regions and answer prompts."""


@dataclass(frozen=True)
class Model:
    """A config that is served."""

    told: Mapping[str, Any]
    """what /v1/models says of it: its name, its stages, what it `answers`, its benchmarks, …"""
    send: Send
    words: Vocabulary
    """what its first image is asked for, and whoever asks for no names"""

    @property
    def name(self) -> str:
        """What it is called."""
        return str(self.told["name"])


class Desk:
    """Takes requests for models, the first of which is meant where none is named."""

    def __init__(self, models: Sequence[Model], limits: Limits) -> None:
        self.models, self.limits = {model.name: model for model in models}, limits
        self.waiting, self.held, self.ready, self.draining = 0, 0, False, False
        self.pixels = 0
        """decoded so far"""
        self.changed = asyncio.Condition()
        self.benchmarks = list(dict.fromkeys(name for model in models for name in model.told["benchmarks"]))
        """that the configs name"""

    def model(self, name: str | None, answer: str) -> Model:
        """The model of a name, or the first that can answer so. Raises HTTPException 422 if there is none."""
        able = [model for model in self.models.values() if answer in model.told["answers"]]
        if name is not None and name not in self.models:
            raise HTTPException(422, f"there is no model {name[:40]!r} here. There are: {', '.join(self.models)}")
        for model in able:
            if name in (None, model.name):
                return model
        asked = name or ", ".join(self.models)
        there = f"Ask with model={able[0].name}" if able else f"Serve one beside it: ovss serve {asked} {BESIDE}"
        raise HTTPException(422, f"{asked} has no SAM that proposes regions, so it cannot answer {answer}. {there}")

    @asynccontextmanager
    async def place(self, request: Request) -> AsyncIterator[None]:
        """A place for one request.

        Raises HTTPException 429 if none is free, 503 if what is inside takes too long or the service is being stopped.
        """
        later = {"Retry-After": str(self.limits.retry)}
        if self.draining or self.waiting >= self.limits.waiting:
            async for _ in request.stream():  # else the client, still sending, might not see the answer
                pass
            if self.draining:
                raise HTTPException(503, STOPPING, later)
            raise HTTPException(429, f"{self.waiting} requests are in hand, as many as are taken", later)
        self.waiting += 1
        try:
            async with asyncio.timeout(self.limits.seconds):
                yield
        except TimeoutError as failure:
            raise HTTPException(503, f"not answered within {self.limits.seconds:g} s", later) from failure
        finally:
            self.waiting -= 1

    async def drain(self) -> None:
        """Take no more requests; return when those in hand are answered, for each of which there is a time limit."""
        self.draining = True
        while self.waiting:
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def image(self, data: bytes) -> AsyncIterator[np.ndarray]:
        """The image of a request, (H, W, 3) uint8 RGB, once there is room for its pixels. Raises HTTPException."""
        height, width = photograph.size(data, self.limits)
        pixels = height * width
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

    async def send(self, model: Model, asked: Row, words: Vocabulary, kind: Kind) -> Row:
        """Send a row through a model's pipeline. Raises HTTPException: 404 for an image that is forgotten, 422."""
        done = await model.send(asked, words, kind)
        if done["error"] == FORGOTTEN:
            raise HTTPException(404, FORGOTTEN)
        if done["error"]:
            raise HTTPException(422, f"{photograph.NAME} could not be segmented: {done['error']}")
        return done

    async def warm(self) -> None:
        """Send an image through every pipeline, and say that the service is ready once all have come out."""
        while not self.ready:
            try:
                done = [await one.send(row(SPECIMEN, one.words), one.words, "segment") for one in self.models.values()]
                errors = [one["error"] for one in done if one["error"]]
                self.ready = not errors
                for error in errors:
                    LOG.error("not ready: %s", error)
            except HTTPException as failure:
                LOG.warning("not ready yet: %s", failure.detail)
            await asyncio.sleep(self.limits.retry)
