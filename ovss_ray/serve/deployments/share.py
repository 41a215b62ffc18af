"""Several models in one service: compatibility of their configs, and placement of their pools on a cluster."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovss_ray.config.limits import Limits
from ovss_ray.config.run import Pool, RunConfig
from ovss_ray.engine.cluster import placement
from ovss_ray.engine.cluster.nodes import Size
from ovss_ray.engine.cluster.placement import Placed
from ovss_ray.errors import OvssError

BATCH = 8
"""Maximum number of requests per batch if a pool has `batch: auto`"""
NAMES = re.compile(r"[\w.-]+")
"""Pattern of valid model names, which appear in URLs and in the names of deployments"""


def limits(configs: Mapping[str, RunConfig]) -> Limits:
    """Return the limits that all configs of a service share. `configs`: name of a model → config.

    Raises OvssError if the limits differ, or if the name of a model is invalid.
    """
    for name in configs:
        if not NAMES.fullmatch(name):
            raise OvssError(
                f"invalid model name {name!r}. A model is named after its config file; allowed are letters, digits, "
                "'-', '.' and '_' only. Rename the file"
            )
    first, *further = configs.values()
    if any(config.limits != first.limits for config in further):
        raise OvssError(
            f"the configs {', '.join(configs)} differ in `limits`, but all models of a service share one set of "
            "limits. Make the limits equal, for example with --set limits.seconds=60, which changes every config"
        )
    return first.limits


def place(configs: Mapping[str, RunConfig], size: Size, weights: float) -> dict[str, list[Placed]]:
    """Return name of a model → pools of the model. In the pools, numbers replace every "auto".

    The pools of all models share a cluster of the size `size`. `weights`: bytes of the weight files of the model with
    the largest weights. Raises OvssError if the cluster is too small.
    """
    pools = [(name, pool) for name, config in configs.items() for pool in config.pools]
    batched = [_batched(pool) for _, pool in pools]
    size = replace(size, grows=False)  # Serve adds replicas up to the maximum, whether or not they fit
    placed = placement.place(_parted(batched, size.gpus), size, weights)
    if shortage := placement.unmet(placed, size):
        raise OvssError(shortage)
    owners = [owner for owner, _ in pools]
    return {name: [pool for owner, pool in zip(owners, placed, strict=True) if owner == name] for name in configs}


def _batched(pool: Pool) -> Pool:
    return pool.model_copy(update={"batch": BATCH}) if pool.batch == "auto" else pool


def _parted(pools: list[Pool], gpus: float) -> list[Pool]:
    """Return the pools. In pools with a stage for GPUs, a number of GPUs per worker replaces `gpus: auto`.

    The parameter `gpus` is the number of GPUs of the cluster. n is the number of pools that have both `gpus: auto` and
    a stage for GPUs. All other pools remain unchanged.

    - If the cluster has no GPU, the n pools remain unchanged, too.
    - If the cluster has at least n GPUs, each of the n pools gets 1.0 GPUs per worker.
    - If the cluster has fewer than n GPUs, the n pools share the GPUs. For example, if n is 2 and the cluster has one
      GPU, both pools get 0.5 GPUs per worker. If one of the n pools has `workers: auto`, the pool gets `workers: 1`.
    """
    free = [pool for pool in pools if pool.gpus == "auto" and any(stage.kind().gpu for stage in pool.stages)]
    if not gpus:
        return pools
    part = len(free) > gpus
    changes: dict[str, Any] = {"gpus": int(100 / -(-len(free) // gpus)) / 100 if part else 1.0}
    single = {"workers": 1} if part else {}  # one worker for each pool that shares a GPU
    return [
        pool.model_copy(update=changes | (single if pool.workers == "auto" else {})) if pool in free else pool
        for pool in pools
    ]
