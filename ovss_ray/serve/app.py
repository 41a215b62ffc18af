"""The service on Ray Serve: one deployment for each pool of each model, and one that talks HTTP.

`ovss serve CONFIG` runs it here (see `command`). On a cluster: `serve run ovss_ray.serve.app:build config=my.yaml`, or
in a config of Serve's `import_path: ovss_ray.serve.app:build` with `args: {config: /shared/my.yaml}`.
"""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI, HTTPException
from ray import serve
from ray.exceptions import ObjectLostError, RayActorError, RayError
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from ovss_ray import cluster, weights
from ovss_ray import config as configs
from ovss_ray.config import RunConfig
from ovss_ray.datasets import benchmark as benchmarks
from ovss_ray.limits import Limits
from ovss_ray.placement import Placed
from ovss_ray.serve import api, batch, guard, metrics, share
from ovss_ray.serve.batch import PROMPT, Parts
from ovss_ray.serve.desk import LOG, Model
from ovss_ray.serve.pool import Figures, Replica
from ovss_ray.serve.routing import ByImage
from ovss_ray.serve.row import Kind, Row
from ovss_ray.shipped import find_config
from ovss_ray.stage import Config, StageConfig
from ovss_ray.vocabulary import Vocabulary

ANSWERS: tuple[Kind, ...] = ("segment", "regions", "prompt")
"""What a model may be able to answer, as far as it is told."""
ONGOING = 1000
"""Requests that the deployment that talks HTTP has in hand at most; it counts those that cost something by itself."""
STARTS = 3
"""How often the start of a replica is tried."""
WORDS = Vocabulary.of(["thing", "background"])
"""What a first image is asked for if the config names no benchmark."""
HEALTH: dict[str, Any] = {"health_check_period_s": 5.0, "health_check_timeout_s": 10.0}
"""How often a replica is asked whether it is well, and how long it may take to say so; at the third fault it is
replaced"""
LATE = 2
"""A batch that takes so many times as long as a request may take is hung: nobody waits for it any more."""
PATIENCE = 5.0
"""Seconds in which the replicas tell their figures; Prometheus waits for 10."""
QUIET = LoggingConfig(enable_access_log=False, log_level="ERROR")
"""Serve's own log would have who asked; ours has sizes and times (desk.LOG)."""


class Arguments(Config):
    """What `serve run` and a Serve config may say."""

    config: str | tuple[str, ...]
    """the path of a YAML file or the name of one that comes with the project, or several"""
    set: tuple[str, ...] = ()
    """KEY.SUB=VALUE, as with `ovss evaluate --set`"""


def build(arguments: Arguments) -> Application:
    """The service as an application of Ray Serve, for `serve run`. Its key is OVSS_API_KEY. Raises OvssError."""
    files = (arguments.config,) if isinstance(arguments.config, str) else arguments.config
    loaded = configs.load_several(map(find_config, files), arguments.set)
    if not ray.is_initialized():
        cluster.join()  # `serve run` would do so a moment later, and the cluster has to be known before
    return application(loaded)


@dataclass(frozen=True)
class Served:
    """A model, before its deployments are there."""

    told: Mapping[str, Any]
    """see desk.Model"""
    words: Vocabulary
    """likewise"""
    parts: Sequence[Parts]
    """of each pool"""


def application(asked: Mapping[str, RunConfig]) -> Application:
    """The service of configs, by name, placed on the cluster as it is. Raises OvssError if it cannot be there."""
    limits, plans = share.limits(asked), {name: batch.plan(config) for name, config in asked.items()}
    needed = {name: sources(config) for name, config in asked.items()}
    sizes = [sum(file.stat().st_size for some in files for file in some) for files in needed.values()]
    placed = share.place(asked, cluster.size(), max(sizes))
    models, bound = [], []
    for name, config in asked.items():
        words = [benchmarks.load(one).vocabulary for one in config.benchmarks] or [WORDS]
        told = {
            "name": name,
            "stages": [_told(stage) for stage in config.stages()],
            "weights": [weights.sha256_of(some) for some in needed[name] if some],
            "exact": config.exact,
            "benchmarks": list(config.benchmarks),
            "answers": [kind for kind in ANSWERS if kind in plans[name][0]],
        }
        models.append(Served(told, words[0], plans[name]))
        for number, (pool, parts) in enumerate(zip(placed[name], plans[name], strict=True)):
            bound.append(_pool(_name(name, number), pool, parts, config, words))
    key = os.environ.get("OVSS_API_KEY")
    return _ingress(models, limits, guard.digest(key) if key else None).bind(*bound)


def _pool(name: str, pool: Placed, parts: Parts, config: RunConfig, words: Sequence[Vocabulary]) -> Application:
    workers: dict[str, Any] = {"num_replicas": pool.least}
    if pool.most > pool.least:
        scale = {"min_replicas": pool.least, "max_replicas": pool.most, "target_ongoing_requests": pool.batch}
        workers = {"autoscaling_config": scale}
    pointing = any(PROMPT in part.stages for part in parts.values())
    if pointing:
        workers["request_router_config"] = {"request_router_class": ByImage}
    deployment: Any = serve.deployment(
        Replica,
        name=name,
        ray_actor_options={"num_cpus": pool.cpus, "num_gpus": pool.gpus},
        # One batch is computed, and another one gathers. Clicks overtake others, but only those that wait there.
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


def sources(config: RunConfig) -> list[tuple[Path, ...]]:
    """The files of each stage, such as weights. Raises OvssError if one is not here and cannot be downloaded."""
    return [stage.kind().files(stage.settings()) for stage in config.stages()]


def _told(stage: StageConfig) -> dict[str, Any]:
    """What is told of a stage: not where its files lie."""
    return {"use": stage.use, "options": stage.settings().model_dump(mode="json", exclude=set(stage.kind().where))}


def _name(model: str, number: int) -> str:
    return f"{model}-{number}"


class Ingress:
    """The deployment that talks HTTP, beside what it says: serve.ingress adds that."""

    app: FastAPI

    def __init__(self, *pools: DeploymentHandle) -> None:
        """Need the pools: so Serve starts them before this."""

    async def drain(self) -> None:
        """Take no more requests, and return when those in hand are answered."""
        await self.app.state.desk.drain()

    async def check_health(self) -> None:
        """Answer, which shows that the event loop turns: Serve's own way to see that takes a quarter of an hour."""


def _ingress(models: Sequence[Served], limits: Limits, key: bytes | None) -> Any:
    """The deployment that talks HTTP."""

    def made() -> FastAPI:  # in the replica
        LOG.setLevel(logging.INFO)
        LOG.addHandler(logging.StreamHandler())
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # else a line for each form that cannot be read
        ways = [_way(one) for one in models]
        there = [
            Model(one.told, partial(_through, way, limits.retry), one.words)
            for one, way in zip(models, ways, strict=True)
        ]
        app = api.build(there, limits, key)
        metrics.add(app, app.state.desk, partial(_figures, [handle for way in ways for handle, _ in way]))
        return app

    return serve.deployment(
        serve.ingress(made)(Ingress),
        name="http",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=ONGOING,
        max_queued_requests=limits.waiting,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=limits.retry),
        graceful_shutdown_timeout_s=limits.seconds,
        max_constructor_retry_count=STARTS,
        logging_config=QUIET,
        **HEALTH,
    )


def _way(model: Served) -> list[tuple[DeploymentHandle, Parts]]:
    """The deployments that a row may go through, and what each does."""
    names = [_name(model.told["name"], number) for number in range(len(model.parts))]
    return [(serve.get_deployment_handle(name), parts) for name, parts in zip(names, model.parts, strict=True)]


async def _through(
    way: Sequence[tuple[DeploymentHandle, Parts]], retry: int, row: Row, words: Vocabulary, kind: Kind
) -> Row:
    """Send a row through the pools that its kind of answer needs, from one to the next without coming back between."""
    later = {"Retry-After": str(retry)}
    made: Any = row
    for handle, parts in way:
        if PROMPT in parts[kind].stages:
            handle = handle.options(multiplexed_model_id=row["prompts"]["image"])  # see routing.ByImage
        if parts[kind].stages:
            made = handle.remote(made, words, kind)
    try:
        return await made
    except BackPressureError as failure:
        raise HTTPException(429, "more requests than can wait", later) from failure
    except (RayActorError, ObjectLostError, DeploymentUnavailableError) as failure:
        raise HTTPException(503, "a worker was lost", later) from failure


async def _figures(handles: Sequence[DeploymentHandle]) -> dict[str, list[Figures]]:
    """What the replicas tell of themselves; those of a pool that has none just now, or a hung one, are left out."""
    told = await asyncio.gather(*map(_told_by, handles))
    return {handle.deployment_name: replicas for handle, replicas in zip(handles, told, strict=True)}


async def _told_by(handle: DeploymentHandle) -> list[Figures]:
    try:
        told = await handle.broadcast("figures").results_async(timeout_s=PATIENCE, return_exceptions=True)
    except (TimeoutError, RayError, RayServeException):
        return []
    return [one for one in told if isinstance(one, Figures)]
