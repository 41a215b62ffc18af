"""Access of the HTTP deployment to the pools of workers: it sends rows through pools, and collects metrics."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException
from ray.exceptions import ObjectLostError, RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from ovss_ray.engine.cluster import ray_internals
from ovss_ray.serve.deployments import batch
from ovss_ray.serve.deployments.batch import Parts
from ovss_ray.serve.deployments.replica import Figures
from ovss_ray.serve.http.admission import remaining
from ovss_ray.serve.refusal import Refused
from ovss_ray.serve.row import Delayed, Kind, Row, TooSlow
from ovss_ray.structures.vocabulary import Vocabulary

Route = Sequence[tuple[DeploymentHandle, Parts]]
"""Deployment and Parts of each pool of a model, in order (see batch.Parts)"""
HTTP = "http"
"""Name of the deployment that answers the HTTP requests"""
ANSWER = 1.0
"""Maximum number of seconds that a request reserves for returning the answer.

A request reserves a tenth of its remaining time, but at most ANSWER seconds."""
PATIENCE = 5.0
"""Timeout in seconds for collecting the metrics of all replicas. Prometheus itself stops waiting after 10 s."""


async def through(route: Route, retry: int, row: Row, words: Vocabulary, kind: Kind) -> Row:
    """Send a row through the pools that a `kind` of answer needs, and return the resulting row.

    `retry`: seconds for the header Retry-After. Raises HTTPException:

    - 429: the queue of a pool is full
    - 503: a worker was lost, or all workers were busy until the deadline
    - 504: the stages are too slow for this request
    """
    later = {"Retry-After": str(retry)}
    left = remaining()
    seconds = None if left == math.inf else max(0.0, left - min(ANSWER, left / 10))
    result: Any = row
    for handle, parts in route:
        if batch.prompting(parts[kind].stages):
            handle = handle.options(multiplexed_model_id=row["prompts"]["image"])  # see routing.ByImage
        if parts[kind].stages:
            result = handle.remote(result, words, kind, seconds)  # Ray passes the row directly from pool to pool
    try:
        return await result
    except BackPressureError as failure:
        raise HTTPException(429, "too many requests: the queue is full. Try again later", later) from failure
    except Delayed as failure:
        raise Refused(503, "timeout: all workers are busy. Try again later", "timeout", later) from failure
    except TooSlow as failure:
        raise HTTPException(
            504,
            "deadline passed: the stages need more time for this request than the service allows (limits.seconds). "
            "Send a smaller image or fewer classes",
        ) from failure
    except (RayActorError, ObjectLostError, DeploymentUnavailableError) as failure:
        reason = "a worker died or was unavailable. Send the request again"
        raise Refused(503, reason, "worker_lost", later) from failure


async def figures(handles: Sequence[DeploymentHandle]) -> dict[str, list[Figures] | None]:
    """Return name of a pool → Figures of each replica of the pool.

    If no replica of a pool runs, the list is empty. If the Figures cannot be obtained, the value is None.
    """
    of_pools = await asyncio.gather(*map(_figures_of, handles))
    return {handle.deployment_name: replicas for handle, replicas in zip(handles, of_pools, strict=True)}


async def _figures_of(handle: DeploymentHandle) -> list[Figures] | None:
    try:
        replies = await ray_internals.ask_replicas(handle, "figures", PATIENCE)
    except DeploymentUnavailableError:
        return []  # no replica runs
    except (TimeoutError, RayError, RayServeException):
        return None
    if not replies:
        return None  # this release of Ray cannot ask them
    return [reply for reply in replies if isinstance(reply, Figures)]
