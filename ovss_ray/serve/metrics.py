"""What the service tells Prometheus at /metrics: what requests cost, and what the replicas of its pools do.

Ray has metrics of its own, which an agent on each node offers at another port, without our guard; in the clusters
that `ovss` starts they are off (cluster.OURS). So the deployment that talks HTTP counts what passes through it, and
when it is asked asks every replica.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ovss_ray.serve.desk import Desk
from ovss_ray.serve.pool import Figures

Ask = Callable[[], Awaitable[Mapping[str, Sequence[Figures]]]]
"""Pool → the figures of those of its replicas that answer just now"""
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Bounds of the buckets of the histograms: seconds of a request, requests of a batch."""
OTHER = "other"
"""The path of requests that nothing answers: as a label, what anybody may type would fill the memory."""


class Traffic:
    """ASGI middleware that counts requests by path and status, and how long they take."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, paths: Iterable[str]) -> None:
        self.app, self.paths = app, frozenset(paths)
        self.requests = Counter("ovss_requests", "Requests answered", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "ovss_request_seconds", "From a request to its answer", ["path"], buckets=SECONDS, registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it when it is answered: as 499 if the client has gone away."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except asyncio.CancelledError:
            status = 499
            raise
        finally:
            path = self._path(scope)
            self.requests.labels(path, status).inc()
            self.seconds.labels(path).observe(time.perf_counter() - begun)

    def _path(self, scope: Scope) -> str:
        """The route's, not the address's; of a request that was refused on the way there is no route."""
        path = getattr(scope.get("route"), "path", scope["path"])
        return path if path in self.paths else OTHER


class State(Collector):
    """What the desk has in hand, and the figures of the pools' replicas as they were told last."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.told: Mapping[str, Sequence[Figures]] = {}

    def collect(self) -> Iterator[Metric]:
        """Numbers as they are now; each replica has series of its own, since they begin anew with it."""
        desk, labels = self.desk, ["pool", "replica"]
        yield GaugeMetricFamily("ovss_requests_in_hand", "Requests that are being answered", desk.waiting)
        yield CounterMetricFamily("ovss_pixels", "Pixels of the images that were decoded", value=desk.pixels)
        yield GaugeMetricFamily("ovss_pixels_held", "Pixels of the images in hand", desk.held)
        sizes = HistogramMetricFamily("ovss_batch_size", "Requests that were computed together", labels=labels)
        waiting = GaugeMetricFamily("ovss_requests_waiting", "Requests that wait for the next batch", labels=labels)
        caches = GaugeMetricFamily("ovss_cache_bytes", "Bytes kept to be used again", labels=[*labels, "cache"])
        for pool, replicas in self.told.items():
            for one in replicas:
                sizes.add_metric([pool, one.replica], *_histogram(one.batches))
                waiting.add_metric([pool, one.replica], one.waiting)
                for cache, held in one.caches.items():
                    caches.add_metric([pool, one.replica, cache], held)
        yield from (sizes, waiting, caches)


def _histogram(batches: Mapping[int, int]) -> tuple[list[tuple[str, float]], float]:
    """Size → number of batches, as cumulative buckets and the sum of the sizes."""
    bounds = [*map(float, SIZES), float("inf")]
    within = [sum(count for size, count in batches.items() if size <= bound) for bound in bounds]
    names = [*map(str, bounds[:-1]), "+Inf"]
    return list(zip(names, within, strict=True)), sum(size * count for size, count in batches.items())


def add(app: FastAPI, desk: Desk, ask: Ask) -> None:
    """Count the requests of an application, and tell of them at /metrics."""
    registry, state = CollectorRegistry(), State(desk)
    registry.register(state)
    ProcessCollector(registry=registry)

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        state.told = await ask()
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=kind)

    app.add_middleware(Traffic, registry=registry, paths=[getattr(route, "path", "") for route in app.routes])
