"""Places of requests in the queue, and the seconds until their answers. Clients read both at /v1/queue."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from fastapi import FastAPI
from pydantic import BaseModel, Field

from ovss_ray.serve.row import Kind

Seconds = Callable[[Sequence[str], Kind, int], tuple[float, int]]
"""Function that estimates the time for one image. The function returns (seconds, replicas).

The first argument has the names of the pools through which the image passes. The other arguments are the kind of
answer and the number of pixels. `replicas` is the number of replicas of the pool that has the fewest replicas."""


@dataclass
class Entry:
    """A request in progress."""

    request: str
    """id of the request (see refusal.request_id)"""
    pools: Sequence[str] = ()
    kind: Kind = "segment"
    pixels: int = 0
    """number of pixels of the image in the request; 0: not known yet"""


ENTRY: ContextVar[Entry | None] = ContextVar("ENTRY", default=None)
"""Entry of the current request"""


class Place(BaseModel):
    """The place of a request in the queue."""

    ahead: int | None = Field(description="requests in progress that came earlier; null: no such request")
    seconds: float | None = Field(description="estimate of the seconds that it and those ahead take; null: unknown")
    in_progress: int = Field(description="number of requests in progress")
    limit: int = Field(description="largest number of requests in progress, limits.waiting")


class Places:
    """All requests in progress, in the order in which they came."""

    def __init__(self, seconds: Seconds, limit: int) -> None:
        """Begin without requests.

        `seconds`: function that estimates how long one image takes. `limit`: maximum number of requests in progress.
        """
        self._entries: dict[int, Entry] = {}
        self._seconds, self.limit = seconds, limit

    @contextmanager
    def entered(self, request: str) -> Iterator[None]:
        """Count a request as in progress while the `with` block runs. `request`: id of the request."""
        entry = Entry(request)
        self._entries[id(entry)] = entry
        ENTRY.set(entry)
        try:
            yield
        finally:
            del self._entries[id(entry)]

    def place(self, request: str) -> Place:
        """Return the place of the request with this id.

        If no request in progress has this id, the fields `ahead` and `seconds` of the place are None.
        """
        entries = list(self._entries.values())
        number = next((number for number, entry in enumerate(entries) if entry.request == request), None)
        seconds = None if number is None else self._expected(entries[:number], entries[number])
        return Place(ahead=number, seconds=seconds, in_progress=len(entries), limit=self.limit)

    def _expected(self, ahead: Sequence[Entry], entry: Entry) -> float | None:
        """Return the estimated seconds until the request `entry` is answered.

        `ahead`: requests that came before `entry`. If the time for the image of `entry` is not known yet, return None.
        """
        total = 0.0
        for earlier in ahead:
            spent, replicas = self._seconds(earlier.pools, earlier.kind, earlier.pixels)
            total += spent / max(1, replicas)  # replicas work in parallel
        spent, _ = self._seconds(entry.pools, entry.kind, entry.pixels)
        return round(total + spent, 3) if spent else None


def note(pools: Sequence[str], kind: Kind, pixels: int) -> None:
    """Store the three arguments in the Entry of the current request, so that `Places` can estimate the waiting time.

    `pools`: names of the pools through which the image passes. `kind`: kind of answer. `pixels`: number of pixels of
    the image. If the current request has no Entry, do nothing.
    """
    if entry := ENTRY.get():
        entry.pools, entry.kind, entry.pixels = pools, kind, pixels


def add(app: FastAPI, places: Places) -> None:
    """Add the route that reports the place of a request."""

    @app.get("/v1/queue", summary="Tell the place of a request in the queue")
    async def queue(request: str = "") -> Place:
        """Return the place of a request in the queue, and the estimated seconds until the request is answered.

        `request`: X-Request-ID of the request in the queue.
        """
        return places.place(request)
