"""Jobs: requests with several images, answered in the background. A bounded store keeps the answers for a while."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import HTTPException
from pydantic import BaseModel, Field

from ovss_ray.config.limits import Limits

State = Literal["running", "done"]
Run = Callable[[int], Awaitable[dict[str, Any]]]
"""Function that answers the image with a number, from 0"""


class JobState(BaseModel):
    """The state of a job."""

    id: str
    state: State
    images: int = Field(description="number of images in the request")
    answered: int = Field(description="number of images that are answered or refused")
    expires: float | None = Field(description="seconds until the answers are deleted; null while the job runs")


@dataclass
class Job:
    """A job: its answers so far, and the task that computes them."""

    id: str
    images: int
    size: int
    """bytes of the request, and of the answers so far"""
    answers: list[dict[str, Any]] = field(default_factory=list)
    ended: float | None = None
    """time.monotonic() at which the last image was answered"""
    task: asyncio.Task[None] | None = None


class Jobs:
    """All jobs of the service, in its memory. They end with the process."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self.clock = limits, clock
        self._jobs: dict[str, Job] = {}

    def start(self, run: Run, images: int, size: int) -> JobState:
        """Begin a job for some images, whose request has `size` bytes, and return its state.

        Raises HTTPException 429 if the store is full.
        """
        self._expire()
        held = sum(job.size for job in self._jobs.values())
        if len(self._jobs) >= self.limits.jobs or held + size > self.limits.stored:
            reason = f"too many jobs: {len(self._jobs)} are kept. Delete those that you have read, or try again later"
            raise HTTPException(429, reason, {"Retry-After": "10"})
        job = Job(secrets.token_urlsafe(24), images, size)
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._work(job, run))
        return self.state(job.id)

    async def _work(self, job: Job, run: Run) -> None:
        """Answer the images one by one, so that other requests find room between them."""
        for number in range(job.images):
            answer = await run(number)
            job.answers.append(answer)
            job.size += len(answer.get("body", b""))
        job.ended = self.clock()

    def state(self, identifier: str) -> JobState:
        """Return the state of a job. Raises HTTPException 404 for an unknown one."""
        job = self._find(identifier)
        expires = None if job.ended is None else round(max(0.0, job.ended + self.limits.kept - self.clock()), 1)
        state: State = "running" if job.ended is None else "done"
        return JobState(id=job.id, state=state, images=job.images, answered=len(job.answers), expires=expires)

    def answers(self, identifier: str) -> Sequence[dict[str, Any]] | None:
        """Return the answers of a job; None while it runs. Raises HTTPException 404 for an unknown job."""
        job = self._find(identifier)
        return None if job.ended is None else job.answers

    def delete(self, identifier: str) -> None:
        """End a job and delete its answers. Raises HTTPException 404 for an unknown job."""
        job = self._find(identifier)
        if job.task:
            job.task.cancel()
        del self._jobs[identifier]

    def _find(self, identifier: str) -> Job:
        self._expire()
        if identifier not in self._jobs:
            reason = "no such job: it is unknown, deleted or expired, or the service has started again since"
            raise HTTPException(404, reason)
        return self._jobs[identifier]

    def _expire(self) -> None:
        """Delete jobs whose answers have been kept for long enough."""
        now = self.clock()
        for job in list(self._jobs.values()):
            if job.ended is not None and now - job.ended >= self.limits.kept:
                del self._jobs[job.id]
