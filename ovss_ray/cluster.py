"""The cluster that a run uses: found or started, and looked at before the workers are."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray
from ray.data import DataContext
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ovss_ray import files, placement
from ovss_ray.errors import OvssError
from ovss_ray.placement import Placed, Size
from ovss_ray.request import Request

HANDED_ON = ("OVSS_WEIGHTS", "OVSS_CACHE")
"""Environment variables that workers on other machines need as well."""


@contextmanager
def connect() -> Iterator[Size]:
    """Connect to the cluster that was started or that the job runs on, else start one here for as long as it is needed.

    Raises OvssError if there is one and it does not answer.
    """
    ours = not ray.is_initialized()
    if ours:
        _init()
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = ([node.get(kind, 0.0) for node in nodes] for kind in ("CPU", "GPU"))
        yield Size(sum(cpus), sum(gpus), max(cpus), max(gpus))
    finally:
        if ours:
            ray.shutdown()


def _init() -> None:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else a warning about Ray Data's own restarts
    settings = {"env_vars": {name: os.environ[name] for name in HANDED_ON if name in os.environ}}
    runtime = None if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else settings  # a job brings its own
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False, runtime_env=runtime)
    except ConnectionError as failure:
        raise OvssError(
            f"{failure}. The cluster of RAY_ADDRESS, or the one that `ray start` began on this machine, does not "
            "answer: it may have ended, or ask for a token (RAY_AUTH_MODE=token). RAY_ADDRESS=local does without it"
        ) from failure


def preflight(request: Request) -> None:
    """Have every node look for the run's folder, the first photograph and label file, and the weights.

    On a single node there is nothing to ask: this process has looked already. Raises OvssError that names the node
    and what it does not see.
    """
    first = [str(table[name][0]) for table in request.manifests.values() for name in ("image_uri", "truth_uri")]
    weights = [str(some[0]) for some in request.sources if some]
    wanted = [request.folder.file("identity.json"), *first, *weights]
    nodes = [node for node in ray.nodes() if node["Alive"]]
    for node in nodes if len(nodes) > 1 else ():
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(num_cpus=0)(_unseen).options(scheduling_strategy=there)
        if unseen := ray.get(task.remote(wanted)):
            raise OvssError(
                f"the node {node['NodeManagerAddress']} does not see {', '.join(unseen)}. Give --out, --data-root "
                "and weights as paths or addresses that every node of the cluster sees"
            )


def _unseen(uris: Sequence[str]) -> list[str]:
    return [uri for uri in uris if not files.exists(uri)]


def preflight_pools(pools: Sequence[Placed], size: Size) -> None:
    """Compare what the pools need with what the cluster has. Raises OvssError if it can never be met."""
    if lack := placement.unmet(pools, size):
        raise OvssError(lack)
