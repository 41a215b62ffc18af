"""Metrics for Prometheus at /metrics: counts and durations of requests, and values that each replica reports.

Ray's own metrics are not used, since Ray serves them at another port, without an API key.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ovss_ray.serve.deployments.replica import Figures
from ovss_ray.serve.http.admission import Desk
from ovss_ray.serve.watch import Ask

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets in the histogram of request durations, in seconds"""
SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Upper bounds of the buckets in the histogram of batch sizes, in requests per batch"""
UNKNOWN_PATH = "other"
"""Value of the label "path" for unknown paths, so that clients cannot create an unlimited number of label values"""


class Traffic:
    """ASGI middleware that counts requests by path and status, and measures their duration."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry, paths: Iterable[str]) -> None:
        self.app, self.paths = app, frozenset(paths)
        self.requests = Counter("ovss_requests", "Requests answered", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "ovss_request_seconds", "From a request to its answer", ["path"], buckets=SECONDS, registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count the request with the status of the answer.

        If the client disconnects before the request is answered, the request is counted with the status 499.
        """
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun, status = time.perf_counter(), 500

        async def send_and_record(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, send_and_record)
        except asyncio.CancelledError:
            status = 499
            raise
        finally:
            path = self._path(scope)
            self.requests.labels(path, status).inc()
            self.seconds.labels(path).observe(time.perf_counter() - begun)

    def _path(self, scope: Scope) -> str:
        """Return the path of the request's route, such as /v1/jobs/{kind}, or UNKNOWN_PATH for an unknown path."""
        # a request that was refused before routing has no route, but perhaps a known path
        path = getattr(scope.get("route"), "path", scope["path"])
        return path if path in self.paths else UNKNOWN_PATH


class State(Collector):
    """Collector of current values: requests and pixels in progress, and the latest values of each replica."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.figures: Mapping[str, Sequence[Figures]] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield the current values, with a separate time series for each replica."""
        desk, labels = self.desk, ["pool", "replica"]
        yield GaugeMetricFamily("ovss_requests_in_hand", "Requests in progress", desk.waiting)
        yield CounterMetricFamily("ovss_pixels", "Pixels of decoded images", value=desk.pixels)
        yield GaugeMetricFamily("ovss_pixels_held", "Pixels of images in memory", desk.held)
        sizes = HistogramMetricFamily("ovss_batch_size", "Requests per batch", labels=labels)
        waiting = GaugeMetricFamily("ovss_requests_waiting", "Requests waiting for the next batch", labels=labels)
        caches = GaugeMetricFamily("ovss_cache_bytes", "Bytes in caches", labels=[*labels, "cache"])
        restarts = CounterMetricFamily(
            "ovss_replica_restarts", "Replicas that have started in the place of others", labels=["pool"]
        )
        # each replica has its own time series, since the counters of a new replica start at 0
        for pool, replicas in self.figures.items():
            restarts.add_metric([pool], desk.watch.restarts[pool])
            for figures in replicas:
                sizes.add_metric([pool, figures.replica], *_histogram(figures.batches))
                waiting.add_metric([pool, figures.replica], figures.waiting)
                for cache, size in figures.caches.items():
                    caches.add_metric([pool, figures.replica, cache], size)
        yield from (sizes, waiting, caches, restarts)


def _histogram(batches: Mapping[int, int]) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative buckets of batch sizes, and the number of requests in all batches together.

    A bucket is a pair: upper bound of the batch size, number of batches up to this size. `batches`: batch size in
    requests → number of batches with this size.
    """
    bounds = [*map(float, SIZES), float("inf")]
    within = [sum(count for size, count in batches.items() if size <= bound) for bound in bounds]
    names = [*map(str, bounds[:-1]), "+Inf"]
    return list(zip(names, within, strict=True)), sum(size * count for size, count in batches.items())


def add(app: FastAPI, desk: Desk, ask: Ask) -> None:
    """Make an application count its requests, and add the route /metrics. `ask` returns the values of the replicas."""
    registry, state = CollectorRegistry(), State(desk)
    registry.register(state)
    ProcessCollector(registry=registry)

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    async def metrics(request: Request) -> Response:
        state.figures = {pool: replicas or () for pool, replicas in (await ask()).items()}
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=kind)

    app.add_middleware(Traffic, registry=registry, paths=[getattr(route, "path", "") for route in app.routes])
