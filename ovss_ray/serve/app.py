"""The service on Ray Serve: one deployment for each pool of the config, and one that talks HTTP.

`ovss serve CONFIG` runs it here. On a cluster: `serve run ovss_ray.serve.app:build config=my.yaml`, or in a config of
Serve's `import_path: ovss_ray.serve.app:build` with `args: {config: /shared/my.yaml}`.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import ray
from fastapi import FastAPI, HTTPException
from ray import serve
from ray.exceptions import ObjectLostError, RayActorError
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from ovss_ray import cluster, placement, weights
from ovss_ray import config as configs
from ovss_ray.config import RunConfig
from ovss_ray.datasets import benchmark as benchmarks
from ovss_ray.errors import OvssError
from ovss_ray.limits import Limits
from ovss_ray.placement import Placed
from ovss_ray.serve import api, batch, guard
from ovss_ray.serve.api import LOG, Row
from ovss_ray.serve.pool import Replica
from ovss_ray.stage import Config, StageConfig
from ovss_ray.vocabulary import Vocabulary

BATCH = 8
"""Requests that share a batch, where the config does not say."""
ONGOING = 1000
"""Requests that the deployment that talks HTTP has in hand at most; it counts those that cost something by itself."""
STARTS = 3
"""How often the start of a replica is tried."""
WORDS = Vocabulary.of(["thing", "background"])
"""What a first image is asked for if the config names no benchmark."""
QUIET = LoggingConfig(enable_access_log=False, log_level="ERROR")
"""Serve's own log would have who asked; ours has sizes and times (api.LOG)."""


class Arguments(Config):
    """What `serve run` and a Serve config may say."""

    config: str
    """the path of a YAML file"""
    set: tuple[str, ...] = ()
    """KEY.SUB=VALUE, as with `ovss evaluate --set`"""


def build(arguments: Arguments) -> Application:
    """The service as an application of Ray Serve, for `serve run`. Its key is OVSS_API_KEY. Raises OvssError."""
    config = configs.load(arguments.config, arguments.set)
    if not ray.is_initialized():
        ray.init()  # `serve run` would do so a moment later, and the cluster has to be known before
    return application(config, Path(arguments.config).stem)


def application(config: RunConfig, name: str) -> Application:
    """The service of a config, placed on the cluster as it is. Raises OvssError if it cannot be served there."""
    keeps, sources = batch.plan(config), _sources(config)
    size = cluster.size()
    wanted = [one.model_copy(update={"batch": BATCH}) if one.batch == "auto" else one for one in config.pools]
    pools = placement.place(wanted, size, sum(file.stat().st_size for some in sources for file in some))
    if lack := placement.unmet(pools, size):
        raise OvssError(lack)
    words = [benchmarks.load(one).vocabulary for one in config.benchmarks] or [WORDS]
    numbered = zip(range(len(pools)), pools, keeps, strict=True)
    bound = [_pool(number, pool, keep, config, words) for number, pool, keep in numbered]
    model = {
        "name": name,
        "stages": [_told(stage) for stage in config.stages()],
        "weights": [weights.sha256_of(some) for some in sources if some],
        "exact": config.exact,
        "benchmarks": list(config.benchmarks),
    }
    key = os.environ.get("OVSS_API_KEY")
    return _ingress(len(pools), model, config.limits, guard.digest(key) if key else None, words[0]).bind(*bound)


def _pool(number: int, pool: Placed, keep: set[str], config: RunConfig, words: Sequence[Vocabulary]) -> Application:
    workers: dict[str, Any] = {"num_replicas": pool.least}
    if pool.most > pool.least:
        scale = {"min_replicas": pool.least, "max_replicas": pool.most, "target_ongoing_requests": pool.batch}
        workers = {"autoscaling_config": scale}
    deployment: Any = serve.deployment(
        Replica,
        name=_name(number),
        ray_actor_options={"num_cpus": pool.cpus, "num_gpus": pool.gpus},
        max_ongoing_requests=2 * pool.batch,  # one batch is computed, and another one gathers
        max_queued_requests=config.limits.waiting,
        graceful_shutdown_timeout_s=config.limits.seconds,
        max_constructor_retry_count=STARTS,
        logging_config=QUIET,
        **workers,
    )
    return deployment.bind(pool, keep, words, config.deadline)


def _sources(config: RunConfig) -> list[tuple[Path, ...]]:
    """The files of each stage, such as weights. Raises OvssError if one is not here and cannot be downloaded."""
    return [stage.kind().files(stage.settings()) for stage in config.stages()]


def _told(stage: StageConfig) -> dict[str, Any]:
    """What is told of a stage: not where its files lie."""
    return {"use": stage.use, "options": stage.settings().model_dump(mode="json", exclude=set(stage.kind().where))}


def _name(number: int) -> str:
    return f"pool-{number}"


def _ingress(pools: int, model: dict[str, Any], limits: Limits, key: bytes | None, words: Vocabulary) -> Any:
    """The deployment that talks HTTP."""

    def made() -> FastAPI:  # in the replica
        LOG.setLevel(logging.INFO)
        LOG.addHandler(logging.StreamHandler())
        handles = [serve.get_deployment_handle(_name(number)) for number in range(pools)]
        return api.build(partial(_through, handles, limits.retry), model, limits, key, words)

    return serve.deployment(
        serve.ingress(made)(),
        name="http",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=ONGOING,
        max_queued_requests=limits.waiting,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=limits.retry),
        graceful_shutdown_timeout_s=limits.seconds,
        max_constructor_retry_count=STARTS,
        logging_config=QUIET,
    )


async def _through(handles: Sequence[DeploymentHandle], retry: int, row: Row, words: Vocabulary) -> Row:
    """Send a row through the pools, from one to the next without coming back in between."""
    later = {"Retry-After": str(retry)}
    made: Any = row
    for handle in handles:
        made = handle.remote(made, words)
    try:
        return await made
    except BackPressureError as failure:
        raise HTTPException(429, "more requests than can wait", later) from failure
    except (RayActorError, ObjectLostError, DeploymentUnavailableError) as failure:
        raise HTTPException(503, "a worker was lost", later) from failure


def run(config: RunConfig, name: str, host: str, port: int) -> None:
    """Serve until an interrupt or SIGTERM comes. What is in hand then is lost; clients ask again. Raises OvssError."""
    _check_port(host, port)
    _sources(config)  # what is missing is said before Ray is started
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with cluster.connect():
        serve.start(
            proxy_location="HeadOnly",
            # A little more than the service's own limit, which also holds for who sends a header to lift this one.
            http_options={"host": host, "port": port, "request_timeout_s": config.limits.seconds + 5},
            logging_config=QUIET,
        )
        try:
            _start(application(config, name))
            print(f"ovss: {name} is served at http://{f'[{host}]' if ':' in host else host}:{port}/v1", flush=True)
            _wait()
        except KeyboardInterrupt:
            print("ovss: stopped", flush=True)
        finally:
            serve.shutdown()


def _start(service: Application) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)  # in the place of Ray's own handler, which ends at once
    try:
        serve.run(service, name="ovss")
    except RuntimeError as failure:
        raise OvssError(f"the service could not start: {failure}") from failure


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _wait() -> NoReturn:
    while cluster.answers():
        time.sleep(1)
    raise OvssError("the cluster that served has ended. Give the same command again")


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as failure:
        raise OvssError(f"{host}:{port} cannot be listened at: {failure.strerror}. Choose another --port") from failure
