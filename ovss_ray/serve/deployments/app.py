"""The service on Ray Serve: one deployment for each pool of each model, and one for HTTP.

On one machine, run `ovss serve CONFIG`. On a cluster, run
`serve run ovss_ray.serve.deployments.app:build config=my.yaml`.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from ovss_ray.benchmarks import catalog
from ovss_ray.config import loading as configs
from ovss_ray.config.limits import Limits
from ovss_ray.config.run import RunConfig
from ovss_ray.config.shipped import find_config
from ovss_ray.engine.cluster import connection, ray_internals
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.errors import OvssError
from ovss_ray.io import digests
from ovss_ray.pipeline.stage import StageConfig
from ovss_ray.serve.deployments import batch, pools, share
from ovss_ray.serve.deployments.batch import Parts
from ovss_ray.serve.deployments.pools import Route
from ovss_ray.serve.deployments.replica import Replica
from ovss_ray.serve.http import api, guard, metrics
from ovss_ray.serve.http.admission import LOG, Model
from ovss_ray.serve.intake import keys
from ovss_ray.serve.row import Kind
from ovss_ray.structures.settings import Settings
from ovss_ray.structures.vocabulary import Vocabulary

ANSWERS: tuple[Kind, ...] = ("segment", "regions", "prompt", "words")
"""Kinds of answers listed in /v1/models"""
ONGOING = 1000
"""Maximum number of concurrent HTTP requests of all kinds.

Requests that run a model have a lower limit, `limits.waiting`."""
STARTS = 3
"""Maximum number of attempts to start a replica"""
WORDS = Vocabulary.of(["thing", "background"])
"""Class names for the warm-up (see batch.warm) of a model whose config lists no benchmark"""
HEALTH: dict[str, Any] = {
    "health_check_period_s": 2.0,
    "health_check_timeout_s": 10.0,
    "graceful_shutdown_wait_loop_s": 0.5,  # with Serve's default of 2 s, a replica would stop later
}
"""Options of Ray Serve for health checks and for stopping, in seconds.

Serve replaces a replica after three failed checks."""
LATE = 2  # after twice `limits.seconds`, all requests of a batch have timed out
"""Multiple of `limits.seconds` after which a batch without progress counts as hung.

If the config's `deadline` is shorter than LATE · `limits.seconds`, the batch counts as hung after the `deadline`."""
SERVE_RUN = "serve"
"""File name in sys.argv[0] if the command `serve run` calls `build`"""
LOOK = 2.0
"""Seconds between two checks of the cluster's size (see `Arguments.patience`)"""
QUIET = LoggingConfig(enable_access_log=False, log_level="ERROR")
"""Log settings of Ray Serve. The access log is off, since it contains data about clients."""


class Arguments(Settings):
    """Arguments of the service in the command `serve run` and in a config of Ray Serve."""

    config: str | tuple[str, ...]
    """one or several configs: path of a YAML file, or name of a shipped config"""
    set: tuple[str, ...] = ()
    """changes to the configs, each written KEY.SUB=VALUE as for `ovss evaluate --set`"""
    patience: float = 0
    """seconds to wait for nodes if the cluster is too small (on Kubernetes, the head starts before the workers)"""


class NotDeployed(OvssError, RayServeException):
    """Error that `build` raises. As it is a RayServeException, `serve status` prints only its message, no traceback."""


def build(arguments: Arguments) -> Application:
    """Return the service as a Ray Serve application.

    Raises NotDeployed if a config is invalid or does not fit the cluster. Under `serve run`, the function instead
    prints the error and exits with status 2.
    """
    try:
        return _built(arguments)
    except OvssError as failure:
        if Path(sys.argv[0]).name == SERVE_RUN:
            print(f"ovss: {failure}", file=sys.stderr, flush=True)
            sys.exit(2)
        advice = "Fix the cause and run the same `serve deploy` again"
        raise NotDeployed(f"the service could not start: {str(failure).rstrip('.')}. {advice}") from failure


def _built(arguments: Arguments) -> Application:
    files = (arguments.config,) if isinstance(arguments.config, str) else arguments.config
    loaded = configs.load_several(map(find_config, files), arguments.set)
    if not ray.is_initialized():
        connection.join()  # `serve run` would connect a moment later, but placement needs the cluster now
    _wait_for_nodes(loaded, arguments.patience)
    return application(loaded)


def _wait_for_nodes(served: Mapping[str, RunConfig], seconds: float) -> None:
    """Wait until the cluster is large enough, at most `seconds`."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(OvssError):
            share.place(served, connection.size(), 0)
            return
        time.sleep(LOOK)


@dataclass(frozen=True)
class Served:
    """A model of the service, before its Ray Serve deployments exist."""

    description: Mapping[str, Any]
    """the model's entry in /v1/models: `name`, `stages`, `answers`, `benchmarks`, …"""
    words: Vocabulary
    """class names for the warm-up image, and for prompts that name no classes"""
    parts: Sequence[Parts]
    """stages and output columns of each pool, by kind of answer"""


def application(served: Mapping[str, RunConfig]) -> Application:
    """Return the service as a Ray Serve application for the connected cluster.

    `served`: name of a model → config. Raises OvssError if the cluster is too small or the configs cannot be served.
    """
    limits, plans = share.limits(served), {name: batch.plan(config) for name, config in served.items()}
    needed = {name: sources(config) for name, config in served.items()}
    sizes = [sum(file.stat().st_size for stage_files in files for file in stage_files) for files in needed.values()]
    placed = share.place(served, connection.size(), max(sizes))
    models, bound = [], []
    for name, config in served.items():
        benchmarks = catalog.expanded(config.benchmarks)
        words = [catalog.load(benchmark).vocabulary for benchmark in benchmarks] or [WORDS]
        description = {
            "name": name,
            "stages": [_description(stage) for stage in config.stages()],
            "weights": [digests.sha256_of(stage_files) for stage_files in needed[name] if stage_files],
            "exact": config.exact,
            "benchmarks": list(benchmarks),
            "answers": [kind for kind in ANSWERS if kind in plans[name][0]],
        }
        models.append(Served(description, words[0], plans[name]))
        for number, (pool, parts) in enumerate(zip(placed[name], plans[name], strict=True)):
            bound.append(_pool(_name(name, number), pool, parts, config, words))
    key, origins = os.environ.get("OVSS_API_KEY"), guard.origins(os.environ.get("OVSS_CORS_ORIGINS"))
    access = Access(guard.digest(key) if key else None, keys.read(os.environ.get("OVSS_API_KEYS")), origins)
    return _ingress(models, limits, access).bind(*bound)


def _pool(name: str, pool: Placed, parts: Parts, config: RunConfig, words: Sequence[Vocabulary]) -> Application:
    workers: dict[str, Any] = {"num_replicas": pool.least}
    if pool.most > pool.least:
        scale = {"min_replicas": pool.least, "max_replicas": pool.most, "target_ongoing_requests": pool.batch}
        workers = {"autoscaling_config": scale}
    pointing = any(batch.prompting(part.stages) for part in parts.values())
    if pointing:
        workers |= _by_image()
    deployment: Any = serve.deployment(
        Replica,
        name=name,
        ray_actor_options=pool.options(),
        # One batch is computed while the next gathers. Clicks overtake only requests that wait in the replica.
        max_ongoing_requests=config.limits.waiting if pointing else 2 * pool.batch,
        max_queued_requests=config.limits.waiting,
        graceful_shutdown_timeout_s=config.limits.seconds,
        max_constructor_retry_count=STARTS,
        logging_config=QUIET,
        **HEALTH,
        **workers,
    )
    late = min(config.deadline, LATE * config.limits.seconds)
    return deployment.bind(pool, parts, words, late, config.limits.remembered)


def _by_image() -> dict[str, Any]:
    """Return the Ray Serve options with which a deployment sends all requests for an image to the same replica."""
    try:
        from ovss_ray.serve.deployments.routing import ByImage
    except ImportError:
        ray_internals.report_missing("ray.serve.request_router", "A click may have to encode its image again")
        return {}
    return {"request_router_config": {"request_router_class": ByImage}}


def sources(config: RunConfig) -> list[tuple[Path, ...]]:
    """Return the files of each stage, such as weights.

    Raises OvssError if a file is missing and cannot be downloaded.
    """
    return [stage.kind().files(stage.settings()) for stage in config.stages()]


def _description(stage: StageConfig) -> dict[str, Any]:
    """Return a stage's entry in /v1/models, without the paths of its files."""
    return {"use": stage.use, "options": stage.settings().model_dump(mode="json", exclude=set(stage.kind().where))}


def _name(model: str, number: int) -> str:
    return f"{model}-{number}"


class Ingress:
    """Deployment that answers the HTTP requests. The decorator serve.ingress adds the FastAPI application."""

    app: FastAPI

    def __init__(self, *pools: DeploymentHandle) -> None:
        """Accept handles of the pools' deployments. They are not used, but make Serve start the pools first."""

    async def drain(self) -> None:
        """Refuse new requests, and return when all requests in progress are answered."""
        await self.app.state.desk.drain()

    async def lines(self) -> tuple[str, int, list[str]]:
        """Return the HTTP process's name, the number of deleted log lines, and the kept log lines (see Watch.lines)."""
        watch = self.app.state.desk.watch
        return watch.name, watch.dropped, watch.lines

    async def check_health(self) -> None:
        """Do nothing. Ray Serve calls this method in the event loop, so the call times out if the loop is blocked.

        Without this method, Serve would notice a blocked loop later.
        """


@dataclass(frozen=True)
class Access:
    """Keys and origins that may use the service."""

    key: bytes | None
    """SHA-256 of the API key in $OVSS_API_KEY, or None if the variable is not set. This API key has no quota"""
    keys: Sequence[keys.Key]
    """further keys, which may have quotas"""
    origins: Sequence[str]
    """web origins whose pages may use the service"""


def _ingress(models: Sequence[Served], limits: Limits, access: Access) -> Any:
    """Return the deployment that answers the HTTP requests."""

    def http_app() -> FastAPI:  # runs in the replica
        LOG.setLevel(logging.INFO)
        LOG.addHandler(logging.StreamHandler())
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # else it logs each malformed form
        routes = [_route(model) for model in models]
        served = [
            Model(
                model.description,
                partial(pools.through, route, limits.retry),
                model.words,
                [handle.deployment_name for handle, _ in route],
            )
            for model, route in zip(models, routes, strict=True)
        ]
        ask = partial(pools.figures, [handle for route in routes for handle, _ in route])
        app = api.build(served, limits, access.key, ask, access.keys, access.origins)
        metrics.add(app, app.state.desk, ask)
        return app

    return serve.deployment(
        serve.ingress(http_app)(Ingress),
        name=pools.HTTP,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=ONGOING,
        max_queued_requests=limits.waiting,
        graceful_shutdown_timeout_s=limits.seconds,
        max_constructor_retry_count=STARTS,
        logging_config=QUIET,
        **ray_internals.busy_answer(limits.retry),
        **HEALTH,
    )


def _route(model: Served) -> Route:
    """Return the deployment and the Parts of each pool of a model, in the order of the pools."""
    names = [_name(model.description["name"], number) for number in range(len(model.parts))]
    return [(serve.get_deployment_handle(name), parts) for name, parts in zip(names, model.parts, strict=True)]
