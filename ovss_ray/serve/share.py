"""Several models on one machine: which configs one service can answer by, and where their pools run."""

import re
from collections.abc import Mapping

from ovss_ray import placement
from ovss_ray.config import Pool, RunConfig
from ovss_ray.errors import OvssError
from ovss_ray.limits import Limits
from ovss_ray.placement import Placed, Size

BATCH = 8
"""Requests that share a batch, where the config does not say."""
NAMES = re.compile(r"[\w.-]+")
"""What a model may be called: it stands in addresses and in the names of deployments."""


def limits(configs: Mapping[str, RunConfig]) -> Limits:
    """The limits of a service. Raises OvssError if configs differ in them, or are called what no model can be."""
    for name in configs:
        if not NAMES.fullmatch(name):
            raise OvssError(f"{name!r}: a model is called as its file is, in letters, digits, - . _. Rename the file")
    first, *others = configs.values()
    if any(other.limits != first.limits for other in others):
        raise OvssError(
            f"{', '.join(configs)} differ in `limits`, and one service has one set of them. Make them the same, such "
            "as by --set limits.seconds=60, which changes all"
        )
    return first.limits


def place(configs: Mapping[str, RunConfig], size: Size, weights: float) -> dict[str, list[Placed]]:
    """The pools of each model, placed on a cluster that all share; `weights` are the bytes that a worker loads at most.

    Raises OvssError if they do not fit.
    """
    pools = [(name, pool) for name, config in configs.items() for pool in config.pools]
    wanted = [_batched(pool) for _, pool in pools]
    placed = placement.place(_parted(wanted, size.gpus), size, weights)
    if lack := placement.unmet(placed, size):
        raise OvssError(lack)
    return {name: [one for (owner, _), one in zip(pools, placed, strict=True) if owner == name] for name in configs}


def _batched(pool: Pool) -> Pool:
    return pool.model_copy(update={"batch": BATCH}) if pool.batch == "auto" else pool


def _parted(pools: list[Pool], gpus: float) -> list[Pool]:
    """Where more pools want a GPU each than there are, each of them gets one worker with a part of one."""
    free = [pool for pool in pools if pool.gpus == "auto" and any(stage.kind().gpu for stage in pool.stages)]
    if not gpus or len(free) <= gpus:
        return pools
    each = {"gpus": int(100 / -(-len(free) // gpus)) / 100}
    return [
        pool.model_copy(update=each | ({"workers": 1} if pool.workers == "auto" else {})) if pool in free else pool
        for pool in pools
    ]
