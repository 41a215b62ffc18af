"""Jobs: requests with several images, answered in the background. A bounded store keeps the answers for a while."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import HTTPException

from ovss_ray.config.limits import Limits
from ovss_ray.serve.intake.job_state import JobState, State

WAIT = 10.0
"""Maximum seconds for which `Jobs.further` waits for the next answer of a job"""
Run = Callable[[int], Awaitable[dict[str, Any]]]
"""Function that returns the answer for one image. The argument is the position of the image in the job, from 0."""


@dataclass
class Job:
    """A job: its answers so far, and the task that computes them."""

    id: str
    images: int
    size: int
    """number of bytes of the request's images and of all answers so far, added together"""
    key: str = ""
    """text by which a repeated request is recognised; "": every request begins a new job"""
    answers: list[dict[str, Any]] = field(default_factory=list)
    ended: float | None = None
    """seconds on the clock of `Jobs` when the last image was answered; None: the job is still running"""
    task: asyncio.Task[None] | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """event that is set at the next answer, and is then replaced by a new event"""

    def announce(self) -> None:
        """Wake all tasks that wait for the next answer."""
        self.news.set()
        self.news = asyncio.Event()


class Jobs:
    """All jobs of the service, stored in memory only. If the service restarts, all jobs are lost."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self.clock = limits, clock
        self._jobs: dict[str, Job] = {}

    def start(self, run: Run, images: int, size: int, key: str = "") -> JobState:
        """Begin a job and return the state of the job. `images`: number of images. `size`: bytes of the images.

        If `key` is not empty and a job with this key exists, return the state of the existing job.

        Raises HTTPException 429 if a new job would exceed `limits.jobs` or `limits.stored`.
        """
        self._expire()
        if key and (begun := next((job for job in self._jobs.values() if job.key == key), None)):
            return self.state(begun.id)
        held = sum(job.size for job in self._jobs.values())
        if len(self._jobs) >= self.limits.jobs or held + size > self.limits.stored:
            reason = f"too many jobs: {len(self._jobs)} are kept. Delete those that you have read, or try again later"
            raise HTTPException(429, reason, {"Retry-After": "10"})
        job = Job(secrets.token_urlsafe(24), images, size, key)
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._work(job, run))
        return self.state(job.id)

    async def _work(self, job: Job, run: Run) -> None:
        """Answer the images one by one. Between two images, the service can answer other requests."""
        for number in range(job.images):
            answer = await run(number)
            job.answers.append(answer)
            job.size += len(answer.get("body", b""))
            if number + 1 < job.images:
                job.announce()
        job.ended = self.clock()
        job.announce()

    def state(self, identifier: str) -> JobState:
        """Return the state of a job. Raises HTTPException 404 for an unknown job."""
        job = self._find(identifier)
        expires = None if job.ended is None else round(max(0.0, job.ended + self.limits.kept - self.clock()), 1)
        state: State = "running" if job.ended is None else "done"
        return JobState(id=job.id, state=state, images=job.images, answered=len(job.answers), expires=expires)

    def answers(self, identifier: str) -> Sequence[dict[str, Any]] | None:
        """Return the answers of a job. If the job still runs, return None.

        Raises HTTPException 404 for an unknown job.
        """
        job = self._find(identifier)
        return None if job.ended is None else job.answers

    async def further(self, identifier: str, first: int) -> Sequence[dict[str, Any]] | None:
        """Wait up to WAIT seconds for the answer at position `first`. Return the answers from `first` on.

        If the job still runs without that answer, return None. If the job has ended without that answer, return [].

        Raises HTTPException 404 for an unknown job.
        """
        job = self._find(identifier)
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT):
                while len(job.answers) <= first and job.ended is None:
                    await job.news.wait()
                    self._find(identifier)
        return job.answers[first:] if len(job.answers) > first or job.ended is not None else None

    def delete(self, identifier: str) -> None:
        """End a job and delete its answers. Raises HTTPException 404 for an unknown job."""
        job = self._find(identifier)
        if job.task:
            job.task.cancel()
        del self._jobs[identifier]
        job.announce()

    def _find(self, identifier: str) -> Job:
        self._expire()
        if identifier not in self._jobs:
            reason = "no such job: it is unknown, deleted or expired, or the service has started again since"
            raise HTTPException(404, reason)
        return self._jobs[identifier]

    def _expire(self) -> None:
        """Delete jobs that ended at least `limits.kept` seconds ago."""
        now = self.clock()
        for job in list(self._jobs.values()):
            if job.ended is not None and now - job.ended >= self.limits.kept:
                del self._jobs[job.id]
